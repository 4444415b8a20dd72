"""What the conformance kit checks on: small problems, and one method run on one of them."""

import inspect
import random
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wfbench.channels.pattern import Filter
from wfbench.data import Labeled
from wfbench.errors import BrokenRule, CaseFailed, WfbenchError, kind_and_text
from wfbench.execution.devices import seeded_generators
from wfbench.harness.case import Case
from wfbench.harness.isolation import caught
from wfbench.harness.record import Record, fields_of
from wfbench.harness.runner import Runner
from wfbench.licence import handed
from wfbench.network import Network
from wfbench.pruned import Pruned
from wfbench.pruner import Pruner
from wfbench.recoveries.base import NoRecovery, Recovery
from wfbench.sparsity import Target
from wfbench.tasks.task import Task

BUDGET = 8
TIMES = fields_of("time")
"""The fields of a record that two runs of one case may fill differently."""


class CheckFailed(AssertionError):
    """The method does not keep what the check asks for; the message says what, and what to do."""


class Crash(CheckFailed):
    """The method raised what is no refusal; the message says what, and where in the method's own file.

    Args:
        place: `FILE:LINE, in FUNCTION`, by which a crash that comes again is known.
    """

    def __init__(self, method: Pruner[Any], error: BaseException) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        file = inspect.getsourcefile(type(method))
        at = ([one for one in frames if one.filename == file] or frames)[-1]
        self.place = f"{at.filename}:{at.lineno}, in {at.name}"
        super().__init__(f"the method crashes: {kind_and_text(error)} ({self.place})")


class Skipped(Exception):
    """The check says nothing about this method; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What a check found: `ok`, `failed` or `skipped`, with the reason."""

    method: str
    check: str
    status: str
    reason: str = ""


@cache
def problems() -> dict[str, Task]:
    """The kit's tasks, each with two dense networks: a small convolutional network, and a perceptron."""
    return {
        "convolutional": _task("check-convolutional", (2, 6, 6), _convolutional),
        "perceptron": _task("check-perceptron", (6,), _perceptron),
    }


def _convolutional() -> nn.Module:
    first = [nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    second = [nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(24, 3))


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))


def _task(name: str, shape: tuple[int, ...], build: Callable[[], nn.Module]) -> Task:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, *shape, generator=generator)

    def split(n: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(3, (n,), generator=generator)
        return centres[labels] + 0.8 * torch.randn(n, *shape, generator=generator), labels

    train, test = split(96), split(48)
    return Task(name, tuple(_trained(build, *train, seed) for seed in (0, 1)), train=train, test=test)


def _trained(build: Callable[[], nn.Module], x: Tensor, y: Tensor, seed: int) -> nn.Module:
    with seeded_generators(seed, torch.device("cpu")):
        module = build()
        optimizer = torch.optim.Adam(module.parameters(), 0.02)
        for _ in range(30):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x), y).backward()
            optimizer.step()
    return module.eval()


@dataclass(frozen=True)
class Trial:
    """One method on one problem, through the harness as a suite would run it."""

    pruner: Pruner[Any]
    task: Task
    device: str = "cpu"

    def case(
        self,
        sparsity: float = 0.5,
        *,
        budget: int = BUDGET,
        seed: int = 0,
        replicate: int = 0,
        recovery: Recovery[Any] | None = None,
    ) -> Case:
        target = self.target(sparsity)
        return Case(self.task, budget, seed, replicate, target, self.pruner, recovery or NoRecovery())

    def target(self, sparsity: float) -> Target:
        """Of single weights where the method reaches that pattern, else of whole channels."""
        if "unstructured" in self.pruner.patterns:
            return Target(sparsity, scope=self.pruner.scope)
        return Target(sparsity, Filter.of(self.split("train")[0]), self.pruner.scope, "filters")

    def prune(self, sparsity: float = 0.5, runner: Runner | None = None, **chosen: Any) -> Pruned:
        """The pruned network of one case; a refusal (WfbenchError) skips, any other failure fails the check."""
        return self._pruned(self.case(sparsity, **chosen), runner or Runner(self.device))

    @cached_property
    def first(self) -> Pruned:
        """What the method makes of the problem as it is, computed once; checks hold what they change against it."""
        return self.prune()

    def _pruned(self, case: Case, runner: Runner) -> Pruned:
        try:
            return runner.prune(case)[0]
        except BrokenRule as broken:
            raise CheckFailed(str(broken)) from broken
        except CaseFailed as failure:
            if isinstance(failure.__cause__, WfbenchError):
                raise Skipped(f"the method refuses: {failure.__cause__}") from failure
            if failure.__cause__ is not None:
                raise Crash(self.pruner, failure.__cause__) from failure
            raise CheckFailed(f"the method fails: {failure}") from failure

    def run(self, case: Case, runner: Runner | None = None) -> Record:
        """The record of one case; a failed one fails the check."""
        runner = runner or Runner(self.device)
        try:
            record = runner.run(case)
        except BrokenRule as broken:
            raise CheckFailed(str(broken)) from broken
        if record.status != "ok":
            with suppress(Skipped):
                self._pruned(case, runner)  # a record does not say where the method crashed
            raise CheckFailed(f"the method fails: {record.reason}")
        return record

    def network(self, dtype: torch.dtype | None = None) -> Network:
        """The first dense network, on the device."""
        return Network(Network(self.task.dense(0)).module().to(self.device, dtype))

    def split(self, name: str) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the split `name`, the task's own storage."""
        found = getattr(self.task, name)
        assert isinstance(found, tuple)
        return found

    def samples(self) -> Labeled:
        """The first training samples, as many as the kit's budget."""
        inputs, labels = self.split("train")
        return Labeled(inputs[:BUDGET].clone(), labels[:BUDGET].clone())

    def alone(self, network: Network, data: Labeled) -> Pruned:
        """Without the harness: fit and prune, half of the weights."""
        try:
            return self.pruner.fit(network, handed(self.pruner.licence, data)).prune(self.target(0.5))
        except WfbenchError:
            raise
        except BaseException as error:
            raise Crash(self.pruner, caught(error)) from error


def trial_of(pruner: Pruner[Any], device: str = "cpu") -> Trial:
    """The first of the kit's problems that the method takes.

    Raises:
        Skipped: it refuses all of them.
        Crash: it crashes on one, and so would on every check.
    """
    reasons = []
    for name, task in problems().items():
        trial = Trial(pruner, task, device)
        try:
            _ = trial.first
        except Skipped as refusal:
            reasons.append(f"{name}: {refusal}")
        except Crash:
            raise
        except CheckFailed:
            return trial
        else:
            return trial
    raise Skipped("; ".join(reasons))


def science(record: Record) -> dict[str, Any]:
    """What a record says, without its timings."""
    return {name: value for name, value in asdict(record).items() if name not in TIMES}


@contextmanager
def altered(*tensors: Tensor) -> Iterator[None]:
    """What is done to the tensors in place is undone at the end."""
    copies = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, copy in zip(tensors, copies, strict=True):
            tensor.copy_(copy)


def bits(pruned: Pruned) -> dict[str, bytes]:
    """State and mask, byte for byte."""
    tensors = {**pruned.state, **{f"mask of {name}": mask for name, mask in pruned.mask.items()}}
    return {name: tensor.detach().cpu().contiguous().numpy().tobytes() for name, tensor in tensors.items()}


def same(first: Pruned, second: Pruned, otherwise: str) -> None:
    """Fails the check where two pruned networks differ in a bit; `otherwise` says what that means."""
    one, two = bits(first), bits(second)
    different = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
    if different:
        raise CheckFailed(f"{otherwise} ({', '.join(different[:3])} differ)")


def random_states() -> tuple[bytes, bytes, str]:
    """Of the global generators of torch, numpy and Python."""
    numpy: Any = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), numpy[1].tobytes() + bytes([numpy[2] % 256]), str(random.getstate())
