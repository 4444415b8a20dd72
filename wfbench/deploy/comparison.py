"""A pruned network beside the dense one: zeros, parameters, multiply-accumulates, bytes, latency, agreement."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from wfbench.channels.footprint import footprint
from wfbench.channels.latency import Timing, latencies
from wfbench.data import Dataset
from wfbench.deploy.direct import source_of
from wfbench.deploy.packed import file_bytes
from wfbench.network import Network
from wfbench.tasks.evaluate import Agreement, agreement

NOT_FASTER = "zeros are not faster on dense kernels: take out whole channels for speed, or use a sparse runtime"
RIGHT = ("left", "right", "right")


@dataclass(frozen=True)
class Comparison:
    """Of the dense network and the pruned one, in this order; printed as a table.

    Args:
        zeros: among the prunable weights.
        weights: the prunable weights.
        params: parameters.
        macs: multiply-accumulates of one sample.
        bytes: of a file of the whole state.
        packed: bytes of the pruned network's file with its zeros packed.
        latency: of each batch size, the two timed in turn: see `channels.latency`.
        agreement: of the pruned network with the dense one on the inputs of the comparison.
    """

    zeros: tuple[int, int]
    weights: tuple[int, int]
    params: tuple[int, int]
    macs: tuple[int, int]
    bytes: tuple[int, int]
    packed: int
    latency: list[Timing]
    agreement: Agreement | None

    @property
    def smaller(self) -> bool:
        """Whether whole channels are gone."""
        return self.params[1] < self.params[0]

    def rows(self, packed: bool = True) -> list[list[str]]:
        """What is compared, dense, pruned; `packed` is whether a packed file stands there too."""
        shares = [f"{100 * part / whole:.1f} %" for part, whole in zip(self.zeros, self.weights, strict=True)]
        found = [
            ["zeros among the weights", *shares],
            ["parameters", *(f"{count:,}" for count in self.params)],
            ["MACs", *(f"{count:,}" for count in self.macs)],
            ["file [kB]", *(f"{size / 1000:,.1f}" for size in self.bytes)],
        ]
        if packed:
            found.append(["file with packed zeros [kB]", "", f"{self.packed / 1000:,.1f}"])
        for timing in self.latency:
            batch, times = timing["batch"], (f"{1e3 * timing[name]:.3f}" for name in ("dense_latency", "latency"))
            found.append([f"latency [ms], batch {batch}", *times])
            speed = f"{timing['median']:.2f} [{timing['low']:.2f}, {timing['high']:.2f}]"
            found.append([f"times as fast, batch {batch}", "", speed])
        return found

    def as_json(self) -> dict[str, Any]:
        """The figures by name; of pairs the dense network's has `dense_` before it."""
        pairs = ("zeros", "weights", "params", "macs", "bytes")
        dense = {f"dense_{name}": getattr(self, name)[0] for name in pairs}
        pruned = {name: getattr(self, name)[1] for name in pairs}
        return {**dense, **pruned, "packed": self.packed, "latency": self.latency}

    def __str__(self) -> str:
        rows = self.rows()
        if self.agreement is not None:
            on = f"agreement on {self.agreement.total} inputs"
            rows.append([on, "", f"{100 * self.agreement.agreement:.1f} %"])
            rows.append(["KL(dense‖pruned) there, nats", "", f"{self.agreement.loss:.3g}"])
        return table(rows) + ("" if self.smaller else f"\n{NOT_FASTER}")


def compare_networks(dense: nn.Module, pruned: nn.Module, samples: Any) -> Comparison:
    """What pruning brought and cost; times are of this machine, on torch's threads.

    Args:
        samples: inputs, as for `wfbench.prune`, that agreement is counted on; those that the network was pruned with
            flatter it.
    """
    data = Dataset(source_of(samples, Network(dense)))
    x = data.take([0]).inputs.to(Network(dense).device)
    return replace(costs_of(dense, pruned, x), agreement=agreement(deepcopy(pruned), deepcopy(dense), data))


def costs_of(dense: nn.Module, pruned: nn.Module, x: Tensor, latency: list[Timing] | None = None) -> Comparison:
    """The same without the agreement.

    Args:
        x: one input `[1, *input]`, on the networks' device.
        latency: as measured before; by default it is measured here.
    """
    nets = Network(dense), Network(pruned)
    modules = [net.module() for net in nets]
    costs = [footprint(module, x) for module in modules]
    states = [module.state_dict() for module in modules]
    zeros, weights = zip(*((_count(net, lambda w: w == 0), _count(net, torch.ones_like)) for net in nets), strict=True)
    return Comparison(
        zeros=zeros,
        weights=weights,
        params=(costs[0]["params"], costs[1]["params"]),
        macs=(costs[0]["macs"], costs[1]["macs"]),
        bytes=(len(file_bytes(states[0], {})), len(file_bytes(states[1], {}))),
        packed=len(file_bytes(states[1], {}, sparse=True)),
        latency=latency or latencies(modules[0], modules[1], x),
        agreement=None,
    )


def _count(net: Network, which: Callable[[Tensor], Tensor]) -> int:
    return sum(int(which(weight).sum()) for weight in net.weights.values())


def table(rows: list[list[str]]) -> str:
    """Rows of what, dense, pruned."""
    return tabulate(rows, headers=["", "dense", "pruned"], disable_numparse=True, colalign=RIGHT)
