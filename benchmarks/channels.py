"""`python -m benchmarks.channels`: greedy removal of channels to half the MACs, against refactorising at every step."""

import argparse
import time
from collections.abc import Callable

import torch
from tabulate import tabulate
from torch import nn

from benchmarks.__main__ import gemm_rate
from wfbench.channels.pattern import Filter
from wfbench.data import Unlabeled
from wfbench.harness.record import cpu_name
from wfbench.network import Network
from wfbench.sparsity import Target
from wfbench.tasks.models import mobilenetv1, resnet20
from wfbench.woodfisher.channel_surgeon import Coordinates
from wfbench.woodfisher.channel_variants import FittedWoodFisherFilter, WoodFisherFilterUnlabeled

SHAPE = (1, 28, 28)


def measured(build: Callable[[], nn.Module], k: int, rate: float) -> dict[str, object]:
    """One row: k sampled labels, one a sample; random weights and inputs."""
    torch.manual_seed(0)
    net = Network(build())
    pattern = Filter(SHAPE)
    fitted = WoodFisherFilterUnlabeled().fit(net, Unlabeled(torch.randn(k, *SHAPE)))
    assert isinstance(fitted, FittedWoodFisherFilter)
    groups = pattern.groups(net)
    began = time.perf_counter()
    pruned = fitted.prune(Target(0.5, pattern, of="macs"))
    ours = time.perf_counter() - began
    removed = sum(len(gone) for gone in pruned.removed_channels.values())
    began = time.perf_counter()
    blocks = fitted._blocks(groups, Coordinates(net, groups))
    start = time.perf_counter() - began
    began = time.perf_counter()
    for block in blocks.values():  # what every step costs without downdates
        block.refresh()
        block.scores()
    step = time.perf_counter() - began
    rows = fitted.columns.shape[1]
    shares = sum(block.own.numel() for block in blocks.values())
    once = 2 * rows**2 * (shares + sum(len(block.moving) for block in blocks.values()))
    solves = removed * 2.5 * sum(len(block.own) for block in blocks.values()) / len(blocks) * rows**3 / 3
    return {
        "network": build.__name__,
        "k": rows,
        "channels": sum(group.size for group in groups),
        "removed": removed,
        "greedy s": ours,
        "of it start s": start,
        "from scratch s": step * removed,
        "ratio": step * removed / ours,
        "floor GFLOP": (once + solves) / 1e9,
        "floor s": (once + solves) / rate,
    }


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.channels", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 128, 256], help="k (default 64 128 256)")
    options = parser.parse_args()
    rate = gemm_rate()
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, GEMM {rate / 1e9:.0f} GFLOP/s")
    print("From scratch: one step of refactorising and rescoring every group, times the channels removed.")
    print(
        "Floor: Gram products of U and of every channel once; 2.5 groups of mean size factorised a removal, k³/3 each."
    )
    found = [measured(build, k, rate) for build in (resnet20, mobilenetv1) for k in options.rows]
    print(tabulate(found, headers="keys", floatfmt=".3g"))


if __name__ == "__main__":
    main()
