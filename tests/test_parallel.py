"""Rows of two processes are the rows of one, bit for bit; gloo, over the machine's own loopback."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from tests.cases import blob_network, blobs
from wfbench import Labeled, Network, WfbenchError, WoodFisher, fisher_rows
from wfbench.curvature import rows
from wfbench.curvature.parallel import Shares, in_parallel
from wfbench.execution.worker import Worker
from wfbench.sparsity import Target

ASKED: dict[str, dict[str, Any]] = {
    "empirical": {"kind": "empirical"},
    "mini-batch": {"kind": "empirical", "batch": 5},
    "sampled": {"kind": "sampled", "draws": 2},
    "probes": {"kind": "logits", "probes": 3},
    "few": {"kind": "empirical"},
}
"""By name; of 100 samples, which are four tiles and for batches of 5 one share alone, or of 2."""


def results() -> dict[str, torch.Tensor]:
    """What is compared: rows of each kind, and what a method makes of them."""
    x, y = blobs(100, 5)
    data = Labeled(x, y)
    found = {
        name: fisher_rows(Network(blob_network()), Labeled(x[:2], y[:2]) if name == "few" else data, **asked)
        for name, asked in ASKED.items()
    }
    pruned = WoodFisher(damping=1e-3, update="joint").fit(Network(blob_network()), data).prune(Target(0.5))
    return found | {f"pruned {name}": tensor for name, tensor in pruned.state.items()}


def one_of_two(request: tuple[int, Path]) -> tuple[dict[str, bytes], int]:
    """The bits of the results, and of how many samples this process computed the gradients."""
    rank, folder = request
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    counted, compute = [], rows.per_sample_gradients
    rows.per_sample_gradients = lambda net, x, *more: (counted.append(len(x)), compute(net, x, *more))[1]
    with in_parallel():
        found = results()
    distributed.destroy_process_group()
    return bits(found), sum(counted)


def bits(found: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in found.items()}


def test_two_processes_have_the_bits_of_one_and_share_the_work(tmp_path: Path) -> None:
    workers = [Worker(one_of_two) for _ in range(2)]
    try:
        with ThreadPoolExecutor() as both:
            pair = both.map(lambda worker, rank: worker.ask((rank, tmp_path)), workers, (0, 1))
            (one, ours), (other, theirs) = pair
    finally:
        for worker in workers:
            worker.end()
    assert one == other == bits(results())
    assert (ours, theirs) == (64 * 4 + 100 + 2, 36 * 4)


def test_shares_are_whole_tiles_and_whole_batches() -> None:
    assert list(Shares(100, 32, 1)) == [0, 32, 64, 96]

    class Group:
        def __init__(self, rank: int) -> None:
            self.rank, self.size = lambda: rank, lambda: 3

    def of(n: int, batch: int) -> list[list[int]]:
        shares = [Shares(n, 32, batch) for _ in range(3)]
        for rank, one in enumerate(shares):
            one._group = Group(rank)  # type: ignore[assignment]
        return [list(one) for one in shares]

    assert of(200, 1) == [[0, 96, 192], [32, 128], [64, 160]]
    assert of(200, 8) == [[0, 96, 192], [32, 128], [64, 160]]
    assert of(200, 20) == [[0, 32, 64, 96, 128], [160, 192], []]  # 160 samples are 5 tiles and 8 batches


def test_without_a_group_it_says_what_to_call() -> None:
    with pytest.raises(WfbenchError, match="init_process_group"), in_parallel():
        pass
