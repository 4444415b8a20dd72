"""What a method will cost on a task, counted before anything runs: passes, FLOPs, bytes, memory and time."""

from dataclasses import asdict, dataclass
from math import inf
from types import NoneType
from typing import Any, Literal, TypeAlias

from jaxtyping import Shaped
from tabulate import tabulate
from torch import Tensor

from wfbench.channels.pattern import Filter
from wfbench.curvature.memory import PASS, ROWS, fits
from wfbench.deploy.machine import Machine, channel_seconds, moment_seconds, pass_seconds
from wfbench.errors import WfbenchError
from wfbench.layers import PATCH_NUMBERS
from wfbench.network import Network
from wfbench.operations.asked import Asked, Steps
from wfbench.operations.channel_curvature import movable, rows_of_channels
from wfbench.operations.layerwise import LAYERWISE, moments
from wfbench.operations.methods import channels, steps_of
from wfbench.operations.recoveries import recovery_steps
from wfbench.operations.shapes import Shapes, shapes_of
from wfbench.operations.woodfisher import rows_of
from wfbench.operations.work import Work, in_files, total
from wfbench.pruner import Pruner
from wfbench.recoveries.base import Recovery
from wfbench.sparsity import Unstructured
from wfbench.tasks.evaluate import EVALUATION_BATCH
from wfbench.tiles import HOST
from wfbench.woodfisher.channel_variants import WoodFisherFilter, WoodFisherFilterUnlabeled
from wfbench.woodfisher.variants import WoodFisher, WoodFisherUnlabeled

VECTORS = 20
"""float64 vectors of all parameters that there are at a time; the network's copies are among them."""
BATCHES = 4
"""The same of batches of blocks, and of what is computed of them."""
SQUARES = 4
"""The same of the square matrices of a layer-wise method: second moments, and their inverses with what makes them."""
HEAP = 1.25
"""What a process holds of a byte in use, as it keeps what it has freed: 521 MB where 417 were in use; measured."""
TIMED = 4
"""Samples of the pass that is timed."""
WHOLE_BATCHES = ("forward", "norms", "dense outputs", "logits", "steps", "held-out samples")
"""Steps that take as long for a FLOP as a forward pass."""
MOMENTS = ("second moments", "moments")
"""Steps that take as long for what they are estimated to take as second moments of a few samples."""
Of: TypeAlias = Literal["weights", "macs"]


@dataclass(frozen=True)
class Step:
    """One line of the plan.

    Args:
        seconds: estimated.
        floor: seconds, if the machine did nothing but compute or move bytes, whichever takes longer.
    """

    name: str
    work: Work
    seconds: float
    floor: float


@dataclass(frozen=True)
class Plan:
    """What will be done, where it will lie, and how long it may take.

    Args:
        steps: None where the method is not counted.
        of: what the sparsity is of: weights, or MACs.
        passes: passes of 32 samples, forward and backward.
        rows: how many, of how many numbers; None for methods without.
        limit: bytes for rows, Grams and factors.
        facts: what lies where, a line each.
        left_out: parameters of two axes or more that no method can prune: name, numbers, and why.
    """

    task: str
    method: str
    samples: int
    sparsity: float
    of: str
    machine: Machine
    steps: tuple[Step, ...] | None
    passes: tuple[int, int]
    rows: tuple[int, int] | None
    limit: int
    facts: tuple[str, ...]
    left_out: tuple[tuple[str, int, str], ...]

    def as_json(self) -> dict[str, Any]:
        steps = None if self.steps is None else [{**asdict(step), **asdict(step.work)} for step in self.steps]
        for step in steps or ():
            del step["work"]
        return {**asdict(self), "steps": steps}

    def __str__(self) -> str:
        about = f"{self.method} on {self.samples} samples of {self.task}, {self.sparsity:g} of the {self.of}, "
        parts = [about + f"on {self.machine.name}"]
        if self.steps is None:
            known = "WoodFisher, K-FAC, layer-wise methods, methods on channels, norms, repair and distillation"
            parts.append(f"the steps of {self.method} are not counted; those of {known} are")
        elif self.steps:
            whole = Step("in all", total([one.work for one in self.steps]), *map(sum, _times(self.steps)))
            rows = [_line(step) for step in (*self.steps, whole)]
            heads = ["step", "GFLOP float32", "GFLOP float64", "GB moved", "operations", "seconds", "at least"]
            parts.append(tabulate(rows, headers=heads, disable_numparse=True, colalign=("left", *["right"] * 6)))
            most = max(self.steps, key=lambda step: step.seconds)
            kind = (
                "computing"
                if self.machine.computing(most.work) > most.work.moved / self.machine.bandwidth
                else "moving"
            )
            share = 100 * most.seconds / max(whole.seconds, 1e-300)
            parts.append(f"{most.name} takes most of the time, {share:.0f} %, bound by {kind}")
        else:
            parts.append(f"{self.method} reads no samples: nothing to count")
        parts += ["\n".join(self.facts)]
        if self.left_out:
            listed = [f"  {name}: {numbers}, {reason}" for name, numbers, reason in self.left_out]
            parts.append("\n".join(["no method can prune", *listed]))
        return "\n\n".join(part for part in parts if part)


def _times(steps: tuple[Step, ...]) -> tuple[list[float], list[float]]:
    return [step.seconds for step in steps], [step.floor for step in steps]


def _line(step: Step) -> list[str]:
    work = step.work
    numbers = work.flops32 / 1e9, work.flops64 / 1e9, work.moved / 1e9, work.launches, step.seconds, step.floor
    return [step.name, *(f"{number:.3g}" if number < 1000 else f"{number:,.0f}" for number in numbers)]


def plan(
    task: str,
    net: Network,
    x: Shaped[Tensor, "n *input"],
    method: Pruner[Any],
    samples: int,
    sparsity: float,
    machine: Machine,
    limit: int | None = None,
    recovery: Recovery[Any] | None = None,
    of: Of | None = None,
) -> Plan:
    """The plan for a network, on this machine or another.

    Args:
        x: a few samples; the passes over them are timed if the machine is this one.
        limit: bytes for rows, Grams and factors on this machine; None on another, whose memory is the limit.
        recovery: what follows; nothing by default.
        of: what the sparsity is of; weights by default, or MACs of a method that takes whole channels alone.

    Raises:
        WfbenchError: if the method does not take that, or as the rows it asks for.
    """
    whole = channels(method) if of is None else of == "macs"
    if of is not None and (Filter if whole else Unstructured).name not in method.patterns:
        raise WfbenchError(f"of {of}: {method.name} reaches {' and '.join(method.patterns)}")
    shapes, most = shapes_of(net, x[:1]), inf if limit is None else float(limit)
    asked = Asked(net, shapes, samples, sparsity, most, machine.sizes, channels=whole)
    found = steps_of(method, asked)
    if recovery is not None:
        after = recovery_steps(recovery, asked)
        named = {f"{recovery.name}: {step}": work for step, work in (after or {}).items()}
        found = None if found is None or after is None else found | named
    timed = {} if limit is None or not found else _times_here(asked, x[:TIMED], found, machine)
    steps = None
    if found is not None:
        steps = tuple(
            Step(name, work, timed.get(name, machine.seconds(work)), machine.floor(work))
            for name, work in found.items()
        )
    rows = None
    each = 0
    if isinstance(method, WoodFisher | WoodFisherUnlabeled):
        k, each = rows_of(method, shapes, samples)
        rows = k, shapes.p
    if isinstance(method, WoodFisherFilter | WoodFisherFilterUnlabeled):
        k, each = rows_of_channels(method, asked)
        rows = k, movable(net)
    reads = method.licence is not NoneType or (recovery is not None and recovery.licence is not NoneType)
    tiles = -(-samples // shapes.tile) if found and reads else 0
    together = method.name if recovery is None else f"{method.name} and {recovery.name}"
    bytes_there = int(machine.memory) if limit is None else limit
    facts = _facts(shapes, rows, bytes_there, tiles, each, streams=limit is not None)
    passes, counted = (tiles, tiles * each), "MACs" if whole else "weights"
    return Plan(task, together, samples, sparsity, counted, machine, steps, passes, rows, bytes_there, facts, _why(net))


def memory_of(method: Pruner[Any], shapes: Shapes, parameters: int, samples: int, limit: float) -> float:
    """Bytes that a case takes at most, beside the data, the dense network and the libraries.

    Args:
        parameters: numbers of the network.
        limit: bytes for rows, Grams and factors; a method that is not counted is taken to need them all.
    """
    widest = max((part.read + part.written for part in shapes.parts), default=0)
    found = 8.0 * VECTORS * parameters + 4.0 * EVALUATION_BATCH * widest
    counted = isinstance(method, WoodFisher | WoodFisherUnlabeled) or method.name in LAYERWISE
    if isinstance(method, WoodFisher | WoodFisherUnlabeled):
        k, _ = rows_of(method, shapes, samples)
        found += min(4.0 * k * shapes.p, ROWS * limit) + 24.0 * k**2 + 8.0 * BATCHES * HOST.numbers
        found += min(4.0 * shapes.tile * shapes.kept, PASS * limit)
    elif method.name in LAYERWISE:
        squares = sum(groups * d**2 for groups, _, d in (part.matrices for part in shapes.parts))
        patches = max(samples * part.places * part.matrices[0] * part.matrices[2] for part in shapes.parts)
        found += 8.0 * (SQUARES * squares + 2 * min(patches, PATCH_NUMBERS)) + 8.0 * samples * widest
    return HEAP * found + (limit if method.track != "data-free" and not counted else 0.0)


def _times_here(asked: Asked, x: Tensor, steps: Steps, machine: Machine) -> dict[str, float]:
    """Seconds of the steps that are not estimated but tried on this machine: passes, moments, and what channels are."""
    found = _pass_times(asked.net, x, steps, asked.shapes)
    summed = [step for step in steps if step.rpartition(": ")[2] in MOMENTS]
    if summed:
        sample = moments(asked.shapes, len(x), len(x))["second moments"]
        rate = moment_seconds(asked.net, x) / machine.seconds(sample)
        found |= {step: rate * machine.seconds(steps[step]) for step in summed}
    if "channels" in steps:
        found["channels"] = channel_seconds(asked.net, Filter.of(x))
    return found


def _pass_times(net: Network, x: Tensor, steps: Steps, shapes: Shapes) -> dict[str, float]:
    """Seconds of the steps that are passes, from the timed ones, by their FLOPs."""
    rates = wider = _rates(net, x, shapes)
    if any(work.flops64 for step, work in steps.items() if step.rpartition(": ")[2] in rates):
        wider = _rates(Network(net.module().double()), x.double() if x.is_floating_point() else x, shapes)
    found = {}
    for step, work in steps.items():
        name = step.rpartition(": ")[2]
        if name in rates:
            found[step] = rates[name] * work.flops32 + wider[name] * work.flops64
        elif name == "check of the rows":  # of three samples, in float64, which is not timed for these alone
            found[step] = rates["forward"] * (work.flops32 + 2 * work.flops64)
    return found


def _rates(net: Network, x: Tensor, shapes: Shapes) -> dict[str, float]:
    """Seconds a FLOP of each kind of pass."""
    (there, back), once = pass_seconds(net, x), 2.0 * shapes.macs
    return dict.fromkeys(WHOLE_BATCHES, there / once) | {"backward": back / (2 * once), "rows": back / (2 * once)}


def _facts(
    shapes: Shapes, rows: tuple[int, int] | None, limit: int, tiles: int, each: int, *, streams: bool
) -> tuple[str, ...]:
    kept = shapes.tile * shapes.kept * 4
    found = [f"{tiles} passes forward, {tiles * each} back" if tiles else "no passes"]
    if rows is not None:
        k, p = rows
        size = 4 * k * p
        if streams:
            where = "in memory" if fits(size, limit) else "in a file in the temporary folder, read chunk by chunk"
        else:
            where = f"on the card, which {limit / 4 / p:,.0f} rows fill" if size < limit else "more than the card holds"
        found.append(f"rows: {k} of {p:,}, {size / 1e9:.3g} GB, {where}")
        found.append(
            f"Gram matrix and factor: {8 * k * k / 1e6:.3g} MB each; a vector of the weights: {8e-6 * p:.3g} MB"
        )
    if tiles and each:
        beyond = in_files(shapes, limit) if streams else 0.0
        where = f", about {beyond / 1e9:.3g} of them in files" if beyond else ""
        found.append(f"a pass of {shapes.tile} keeps {kept / 1e9:.3g} GB for its way back{where}")
    found.append(f"bound: {limit / 2**30:.3g} GiB")
    return tuple(found)


def _why(net: Network) -> tuple[tuple[str, int, str], ...]:
    """The tensors that no method prunes, and why."""
    module, found = net.module(), []
    for name, numbers in net.left_out.items():
        owner = type(module.get_submodule(name.rpartition(".")[0])).__name__
        found.append((name, numbers, f"of {owner}, which is no linear or convolution layer's weight"))
    return tuple(found)
