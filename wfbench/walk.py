"""The network layer after layer: every pass stops before each layer, shows what the layer reads, and goes on."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import product
from typing import TypeAlias

import torch
from greenlet import getcurrent, greenlet
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from wfbench.calls import plain_calls
from wfbench.errors import WfbenchError
from wfbench.layers import as_matrices, check_patches, from_matrices, in_parts, sums_of_squares
from wfbench.linalg import self_product
from wfbench.memo import digest_of
from wfbench.network import Network, Params

SAMPLES = 32
"""Samples that go through the network at a time, where nothing has to wait for them."""
NUMBERS = 2**25
"""Most that a layer reads at a time where all samples have to wait for it: larger blocks of memory go back to the
system as soon as they are freed, and taking them anew costs more than what is computed."""

Change: TypeAlias = Callable[[str, Tensor, Tensor], tuple[Tensor, Tensor]]
See: TypeAlias = Callable[[Network, str, list[Tensor]], Tensor]


def walk(
    net: Network, x: Shaped[Tensor, "n *input"], at: Collection[str], *states: Mapping[str, Tensor]
) -> Iterator[tuple[str, list[list[Tensor]]]]:
    """Layers in the order of their first calls, each before it runs, in several states of the network at once.

    One pass a state, side by side. A layer runs with what its state says of its weight and bias when the walk goes on:
    change them there, and the layers after it see what the change gives.

    Args:
        at: names of the weights whose layers to stop at; of those that are never called nothing is yielded.
        states: tensors by name; what a state leaves out is dense.

    Yields:
        the weight's name, and for each state what the layer reads, the samples of a call in one tensor or several: of a
        layer that is called again, or shares its weight with others, what all these calls read with the weight as it
        stands now. A weight that more than layers read, such as a tied embedding, comes before all others.

    Raises:
        WfbenchError: the order of the calls depends on the samples; a layer runs under autocast or inference mode.
    """
    x = x.to(net.device)
    first = _read_by(net, x[:1], at)
    calls = Counter(name for name, _ in first)
    parts = parts_of(x, (numbers for _, numbers in first))
    for name in [name for name in calls if net.read_elsewhere(name)]:
        yield name, [_all_calls(net, of, name, x) for of in states]
        del calls[name]
    passes = [_OfState(net, state, calls, parts) for state in states]
    try:
        for name, times in calls.items():
            read = [each.until(name) for each in passes]
            yield name, read if times == 1 else [_all_calls(net, of, name, x) for of in states]
            for each in passes:
                each.take_over(name)
    finally:
        for each in passes:
            each.end()


def parts_of(x: Shaped[Tensor, "n *input"], numbers: Iterable[int]) -> tuple[Tensor, ...]:
    """So many samples at a time, all of which wait for each other.

    Args:
        numbers: that layers read of one sample.
    """
    return x.tensor_split(math.ceil(len(x) * max(numbers, default=0) / NUMBERS) or 1)


class Passes:
    """A module, a pass for every part of the samples, in copies that share their tensors; all stop before layers.

    Args:
        layers: by a name, those to stop at.
    """

    def __init__(self, module: nn.Module, layers: Mapping[str, Iterable[str]], parts: Sequence[Tensor]) -> None:
        shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
        copies = [module, *(deepcopy(module, dict(shared)) for _ in parts[1:])]
        for one, name in product(copies, layers):
            for layer in layers[name]:
                one.get_submodule(layer).register_forward_pre_hook(_stop(name))
        self._runs = [_Pass(one, part) for one, part in zip(copies, parts, strict=True)]

    def until(self, name: str) -> list[Tensor]:
        """What the layer reads in its first call."""
        return [run.until(name) for run in self._runs]

    def end(self) -> None:
        """Give up what has not come to its end."""
        for run in self._runs:
            run.end()


class _OfState(Passes):
    """Those of the network in one state, before the layers of prunable weights."""

    def __init__(
        self, net: Network, state: Mapping[str, Tensor], names: Collection[str], parts: Sequence[Tensor]
    ) -> None:
        self._net, self._state = net, state
        module = net.module({**net.state(), **{net.names.get(name, name): tensor for name, tensor in state.items()}})
        self._tensors = dict(module.named_parameters(remove_duplicate=False))
        super().__init__(module, {name: net.sharing(name) for name in names}, parts)

    def take_over(self, name: str) -> None:
        """What the state now says of the layer."""
        for key in (name, self._net.bias_of(name)):
            if key is not None and key in self._state:
                self._tensors[key].data.copy_(self._state[key])


class _Pass:
    """A coroutine that stops before every layer."""

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        def run(x: Tensor) -> Tensor:
            with plain_calls(module):
                return module(x)

        self._x, self._run = x, greenlet(run)
        self._past: set[str] = set()

    def until(self, name: str) -> Tensor:
        at, read = self._resume()
        while at in self._past:
            at, read = self._resume()
        if at != name:
            raise WfbenchError(f"the order in which layers are called depends on the samples: {at} before {name}")
        self._past.add(name)
        return read

    def _resume(self) -> tuple[str, Tensor]:
        mode = _mode(self._x)
        with torch.no_grad():
            stop = self._run.switch() if self._run else self._run.switch(self._x)
        at, read = ("the end", stop) if self._run.dead else stop
        if _mode(self._x) != mode:  # it would hold for whoever walks, too
            self.end()
            raise WfbenchError(
                f"{at} is called under autocast or inference mode; leave that to whoever runs the network"
            )
        return at, read

    def end(self) -> None:
        if self._run:
            self._run.throw()


def _mode(x: Tensor) -> tuple[bool, bool]:
    return torch.is_autocast_enabled(x.device.type), torch.is_inference_mode_enabled()


def _stop(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        walking = getcurrent().parent
        assert walking is not None
        walking.switch((name, inputs[0]))

    return hook


def _all_calls(net: Network, state: Mapping[str, Tensor], name: str, x: Tensor) -> list[Tensor]:
    """What the layer reads in every call, in a pass of its own."""
    found: list[Tensor] = []

    def keep(weight: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if net.names.get(weight) == name:
            found.append(inputs[0])

    with torch.no_grad(), net.hooked(keep):
        net.logits(state, x)
    return found


def called(net: Network, x: Shaped[Tensor, "n *input"], among: Collection[str]) -> list[str]:
    """Names of the weights in the order in which their layers are called, once a call."""
    return [name for name, _ in _read_by(net, x, among)]


def _read_by(net: Network, x: Shaped[Tensor, "n *input"], among: Collection[str]) -> list[tuple[str, int]]:
    """The same, each with how many numbers the call reads."""
    order: list[tuple[str, int]] = []

    def note(weight: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if (known := net.names.get(weight)) is not None and known in among:
            order.append((known, inputs[0].numel()))

    with torch.no_grad(), net.hooked(note) as module:
        module(x.to(net.device))
    return order


def call_order(net: Network, x: Shaped[Tensor, "n *input"]) -> list[str]:
    """Names of the prunable weights in the order of their layers' first calls; those never called come last."""
    return list(dict.fromkeys([*called(net, x, net.weights), *net.weights]))


def second_moments(
    net: Network, x: Shaped[Tensor, "n *input"], among: Collection[str] | None = None
) -> dict[str, Float[Tensor, "g d d"]]:
    """`XᵀX/m` of the m input patches of every prunable layer, float64, by weight name.

    The Hessian of half the mean squared change of the layer's output. Zero for layers that are not called.

    Args:
        among: names of the weights whose layers are looked at; all of them by default.

    Raises:
        WfbenchError: what a layer multiplies is not known.
    """
    check_patches(net, x)
    names = [name for name in net.weights if among is None or name in among]
    return net.memo.take_large(("second moments", *names, digest_of(x)), lambda: _second_moments(net, x, names))


def _second_moments(net: Network, x: Shaped[Tensor, "n *input"], names: list[str]) -> dict[str, Float[Tensor, "g d d"]]:
    found = {name: _no_moment(net, name) for name in names}
    counts = dict.fromkeys(names, 0)

    def keep(weight: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if (known := net.names.get(weight)) not in found:
            return
        for rows in in_parts(net.layer_of(known), inputs[0]):
            found[known] += self_product(rows)
            counts[known] += rows.shape[1]

    with torch.no_grad(), net.hooked(keep):
        for part in x.split(SAMPLES):
            net.logits({}, part)
    return {name: total / max(1, counts[name]) for name, total in found.items()}


def moment(net: Network, name: str, inputs: list[Tensor]) -> Float[Tensor, "g d d"]:
    """`XᵀX/m` of the m patches in what the weight's layer reads, float64; zero where it reads nothing."""
    total, count = _no_moment(net, name), 0
    for rows in (rows for x in inputs for rows in in_parts(net.layer_of(name), x)):
        total += self_product(rows)
        count += rows.shape[1]
    return total / max(1, count)


def mean_squares(net: Network, name: str, inputs: list[Tensor]) -> Float[Tensor, "g d"]:
    """The diagonal of `moment`, without its products."""
    groups, _, d = as_matrices(net.layer_of(name), net.weights[name]).shape
    total, count = torch.zeros((groups, d), dtype=torch.float64, device=net.device), 0
    for x in inputs:
        found, places = sums_of_squares(net.layer_of(name), x)
        total += found
        count += places
    return total / max(1, count)


def _no_moment(net: Network, name: str) -> Float[Tensor, "g d d"]:
    groups, _, d = as_matrices(net.layer_of(name), net.weights[name]).shape
    return torch.zeros((groups, d, d), dtype=torch.float64, device=net.device)


def one_by_one(net: Network, x: Shaped[Tensor, "n *input"], change: Change, see: See = moment) -> tuple[Params, Params]:
    """Prune layer after layer, in the order of their calls, each on what the pruned layers before it give.

    Args:
        change: `(name, W [g out d], XᵀX/m [g d d])`, both float64, to the new matrices and their mask (True = kept).
        see: what stands for `XᵀX/m`, zero for a layer that is never called: `moment`, or its diagonal, `mean_squares`.

    Returns:
        weights and masks of every prunable weight, in the weights' shapes; layers that are never called see zeros.

    Raises:
        WfbenchError: what a layer multiplies is not known, or a layer would be left without any weight.
    """
    weights: Params = dict(net.weights)
    masks: Params = {}

    def prune(name: str, seen: Tensor) -> None:
        layer, dense = net.layer_of(name), net.weights[name]
        new, mask = change(name, as_matrices(layer, dense).double(), seen)
        masks[name] = from_matrices(layer, mask)
        if not mask.any():
            raise WfbenchError(f"0 of {dense.numel()} weights in {name} would be kept; lower the sparsity")
        weights[name] = torch.where(masks[name], from_matrices(layer, new), 0).to(dense.dtype)

    check_patches(net, x)
    for name, (inputs,) in walk(net, x, net.weights, weights):
        prune(name, see(net, name, inputs))
    for name in [name for name in net.weights if name not in masks]:
        prune(name, see(net, name, []))
    return weights, {name: masks[name] for name in net.weights}
