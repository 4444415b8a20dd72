"""What is kept of a network changes no bit, has a bound, and nobody can spoil it for others."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.cases import trained_looking
from tests.test_repair import magnitude
from wfbench import Labeled, Network, Unlabeled
from wfbench.linalg import KERNEL, PANEL, self_product
from wfbench.memo import Memo, bytes_of, digest_of
from wfbench.recoveries.correction import ScaleAndBias
from wfbench.recoveries.repair import LeastSquaresRepair
from wfbench.walk import second_moments


def small() -> nn.Module:
    first = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 2, groups=2)]
    return nn.Sequential(*first, nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))


def samples(seed: int) -> Tensor:
    return torch.randn(6, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


LABELS = torch.arange(6) % 3
ASKED: dict[str, Callable[[Network, Tensor], dict[str, Tensor]]] = {
    "second moments": second_moments,
    "repair": lambda net, x: LeastSquaresRepair().apply(net, magnitude(net, 0.5), Unlabeled(x)).state,
    "correction": lambda net, x: ScaleAndBias().apply(net, magnitude(net, 0.5), Unlabeled(x)).state,
    "change": lambda net, x: {"kl": torch.tensor(net.change(magnitude(net, 0.5).state, Unlabeled(x)))},
    "rise": lambda net, x: {
        "nats": torch.tensor(net.change(magnitude(net, 0.5).state, Labeled(x, torch.arange(6) % 3)))
    },
}


@pytest.mark.parametrize("what", ASKED)
def test_the_same_bits_with_and_without_room_and_for_other_samples_between(what: str) -> None:
    ask, without = ASKED[what], Network(trained_looking(small))
    without.memo.most = 0
    alone = [ask(without, samples(seed)) for seed in (0, 1)]
    assert not without.memo._large
    net = Network(trained_looking(small))
    for seed in (0, 1, 0, 1):
        found = ask(net, samples(seed))
        assert all(torch.equal(tensor, alone[seed][name]) for name, tensor in found.items())
    assert any((alone[0][name] != alone[1][name]).any() for name in alone[0])
    assert net.memo._large


def test_who_writes_into_what_is_handed_out_writes_into_a_copy() -> None:
    net, x = Network(trained_looking(small)), samples(0)
    before = {name: moment.clone() for name, moment in second_moments(net, x).items()}
    for moment in second_moments(net, x).values():
        moment.zero_()
    assert all(torch.equal(moment, before[name]) for name, moment in second_moments(net, x).items())


def test_what_was_asked_for_longest_ago_goes_first() -> None:
    memo, made = Memo(most=16 * 8), list[str]()

    def ask(name: str, numbers: int = 8) -> None:
        memo.take_large(name, lambda: made.append(name) or [torch.zeros(numbers, dtype=torch.float64)])  # type: ignore[func-returns-value]

    for name in "abacab":  # c takes the room of b
        ask(name)
    assert made == ["a", "b", "c", "b"]
    ask("large", 17)
    ask("large", 17)
    assert made[4:] == ["large", "large"]
    assert not memo._large


def test_seconds_that_were_saved_are_those_of_the_first_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((1.0, 4.0))
    monkeypatch.setattr("wfbench.memo.time.perf_counter", lambda: next(clock))
    memo = Memo()
    assert [int(memo.take_large("x", lambda: torch.ones(1))) for _ in range(3)] == [1, 1, 1]
    assert memo.saved == 6.0


def test_what_making_has_saved_counts_as_what_it_takes() -> None:
    memo, kept = Memo(), dict[str, tuple[Tensor, float]]()

    def make() -> Tensor:
        memo.saved += 100  # as whoever takes rows of another budget does
        return torch.ones(1)

    for times in (1, 2):
        memo.take_in(kept, "fit", make)
        assert 100 * times <= memo.saved < 100 * times + 1


def test_digests_tell_shapes_types_and_bits_apart() -> None:
    x = torch.zeros(2, 3)
    others = [x.reshape(3, 2), x.to(torch.int32), -x, torch.zeros(2, 3, dtype=torch.float64)]
    assert len({digest_of(one) for one in (x, *others)}) == 5
    assert digest_of(x.T) == digest_of(x.T.contiguous())
    assert digest_of(torch.tensor(1.0)) != digest_of(torch.tensor(2.0))
    assert bytes_of({"a": [torch.zeros(3), (torch.zeros(2, dtype=torch.float64), 1)]}) == 28


@pytest.mark.parametrize("columns", [KERNEL, PANEL + KERNEL, 4 * PANEL, PANEL + 1])
def test_the_product_of_rows_with_themselves(columns: int) -> None:
    rows = torch.randn(2, 50, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = self_product(rows)
    torch.testing.assert_close(found, torch.einsum("gmi,gmj->gij", rows, rows), rtol=1e-12, atol=1e-12)
    if columns % KERNEL == 0:
        assert torch.equal(found, found.mT)


def test_a_state_takes_over_what_is_known_of_the_layers() -> None:
    net, x = Network(trained_looking(small)), samples(0)
    second_moments(net, x)
    halved = {name: tensor / 2 if tensor.is_floating_point() else tensor for name, tensor in net.state().items()}
    other = net.with_state(halved)
    assert other.memo._kept.keys() == {"patches"}
    assert all(torch.equal(weight, net.weights[name] / 2) for name, weight in other.weights.items())
