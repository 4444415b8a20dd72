"""Per-sample gradients of a network's outputs: by its layers where they agree with autograd, else sample by sample."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from wfbench.curvature.by_layer import by_layer
from wfbench.errors import WfbenchError
from wfbench.network import Network, at_a_time

TILE = 32
"""Samples a pass, or fewer of many logits, the last pass filled up with zeros: a sample's row is the same bits in every
budget."""

CHECKED = 3
"""Samples on which the hooks' rows are held against autograd: batch statistics would make ±1 of two."""
CHECKED_NUMBERS = 2**27
"""Of them that are held at a time, where one tensor has fewer."""

TOLERANCE = {torch.float64: (1e-6, 1e-12)}
"""Of the check: shares of a tensor's largest entry and of the network's largest one; a wrong row is off by its own
size, rounding by 1e-13 or so of the terms that are summed. `COARSE` where the network runs in no float64."""
COARSE = (1e-2, 1e-5)


def tile(net: Network, x: Shaped[Tensor, "n *input"]) -> int:
    """Samples a pass."""
    return at_a_time(TILE, net.shape(x))


def per_sample_gradients(
    net: Network,
    x: Shaped[Tensor, "t *input"],
    cotangents: Callable[[Float[Tensor, "t c *places"]], Float[Tensor, "t m c *places"]],
    coordinates: dict[str, Tensor],
    out: Float[Tensor, "t m p"],
    apart: frozenset[str],
    size: int,
) -> None:
    """Write `JᵢᵀC` for every sample i and each of its m cotangents into `out`.

    Args:
        cotangents: from float64 logits `[t, c, *places]` to the m vectors a sample that are pulled back.
        coordinates: the parameters to differentiate by, in column order.
        apart: what `check_layers` says of them.
        size: samples of the pass, what is missing filled up; at least t.

    Raises:
        WfbenchError: a layer's input is changed in place; no autograd.
    """
    t, m, _ = out.shape
    filled, columns = _filled(x, size).to(net.device), columns_of(coordinates)
    drawn: list[Tensor] = []

    def padded(logits: Tensor) -> Tensor:
        drawn.append(cotangents(logits[:t].detach().double()).transpose(0, 1).to(logits.dtype))
        found = torch.zeros((m, *logits.shape), dtype=logits.dtype, device=logits.device)
        found[:, :t] = drawn[0]
        return found

    seen = {name: where for name, where in columns.items() if name not in apart}
    if unseen := by_layer(net, filled, padded, seen, out):
        raise WfbenchError(f"the rows of {', '.join(sorted(unseen))} are seen for some samples and not for others")
    if apart:
        _one_at_a_time(net, filled[:t], drawn[0], {name: columns[name] for name in sorted(apart)}, out)


def check_layers(net: Network, x: Shaped[Tensor, "t *input"], coordinates: dict[str, Tensor]) -> frozenset[str]:
    """Names of the tensors that are differentiated sample by sample, found out once a network, on the first samples.

    Raises:
        WfbenchError: samples are not independent; a layer's input is changed in place; no autograd.
    """

    def checked() -> frozenset[str]:
        return _apart(net, _filled(x[:CHECKED], CHECKED).to(net.device), coordinates)

    return net.memo.take(("apart", *coordinates), checked)


def _filled(x: Shaped[Tensor, "t *input"], size: int) -> Shaped[Tensor, "size *input"]:
    """With zeros up to so many samples."""
    return torch.cat([x, x.new_zeros((size - len(x), *x.shape[1:]))])


def columns_of(coordinates: Mapping[str, Tensor]) -> dict[str, slice]:
    """Where each tensor's entries are in a row."""
    ends = np.cumsum([tensor.numel() for tensor in coordinates.values()])
    return {
        name: slice(int(end) - tensor.numel(), int(end))
        for (name, tensor), end in zip(coordinates.items(), ends, strict=True)
    }


def _one_at_a_time(
    net: Network,
    x: Shaped[Tensor, "t *input"],
    cotangents: Float[Tensor, "m t c *places"],
    columns: Mapping[str, slice],
    out: Float[Tensor, "t m p"],
) -> None:
    """The same by autograd, for tensors that the layers' hooks do not see: a sample is a batch of its own."""
    for i in range(len(x)):
        logits, leaves = _followed(net, x[i : i + 1], columns)
        for j, of_sample in enumerate(cotangents[:, i]):
            found = _pulled_back(logits, of_sample.reshape(logits.shape), leaves)
            for name, gradient in zip(leaves, found, strict=True):
                out[i, j, columns[name]] = gradient.flatten()


def _followed(
    net: Network, x: Shaped[Tensor, "n *input"], names: Mapping[str, object]
) -> tuple[Float[Tensor, "n c *places"], dict[str, Tensor]]:
    """Logits, and the tensors of those names that autograd has followed to them."""
    leaves = {name: net.movable[name].detach().clone().requires_grad_() for name in names}
    with torch.enable_grad():
        return net.logits(leaves, x.clone()), leaves


def _pulled_back(logits: Tensor, cotangent: Tensor, leaves: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    if not logits.requires_grad:
        raise WfbenchError("the logits depend on no weight; is the network's forward pass under no_grad or detached?")
    try:
        return torch.autograd.grad(
            logits, list(leaves.values()), cotangent, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    except RuntimeError as error:
        raise WfbenchError(f"autograd does not get through the network: {str(error).splitlines()[0]}") from error


def _apart(net: Network, x: Shaped[Tensor, "n *input"], coordinates: Mapping[str, Tensor]) -> frozenset[str]:
    """Names of the tensors whose rows the layers' hooks do not see as autograd does, in float64 where that runs.

    Raises:
        WfbenchError: what a sample gives depends on those beside it, or on chance.
    """
    try:
        return _disagreeing(Network(net.module().double()), x.double() if x.is_floating_point() else x, coordinates)
    except RuntimeError:  # it asks for its own dtype somewhere inside
        return _disagreeing(net, x, coordinates)


def _disagreeing(net: Network, x: Shaped[Tensor, "n *input"], coordinates: Mapping[str, Tensor]) -> frozenset[str]:
    """So many tensors at a time that memory is bounded."""
    found, part = frozenset[str](), dict[str, Tensor]()
    for name, tensor in coordinates.items():
        if part and len(x) * sum(one.numel() for one in (*part.values(), tensor)) > CHECKED_NUMBERS:
            found, part = found | _disagreeing_of(net, x, part), {}
        part[name] = tensor
    return found | _disagreeing_of(net, x, part)


def _disagreeing_of(net: Network, x: Shaped[Tensor, "n *input"], coordinates: Mapping[str, Tensor]) -> frozenset[str]:
    """Holds `Σᵢ iJᵢᵀcᵢ` of the hooks' rows, cᵢ random, against autograd's gradient of `Σᵢ i cᵢᵀzᵢ`."""
    columns, weights = columns_of(coordinates), torch.arange(1.0, len(x) + 1, dtype=net.dtype, device=net.device)
    rows = torch.zeros((len(x), 1, sum(w.numel() for w in coordinates.values())), dtype=net.dtype, device=net.device)
    hooked: list[Tensor] = []

    def random(logits: Tensor) -> Tensor:
        hooked.append(logits.detach())
        drawn = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return drawn.to(hooked[0])[None]

    found = by_layer(net, x.clone(), random, columns, rows)
    logits, leaves = _followed(net, x, coordinates)
    _independent(net, x, hooked[0], logits.detach())
    summed = weights @ rows[:, 0]
    by_sample = weights.to(logits).reshape(-1, *[1] * (logits.ndim - 1))
    expected = _pulled_back(logits, by_sample * random(logits)[0], leaves)
    share, floor = TOLERANCE.get(net.dtype, COARSE)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    for name, gradient in zip(leaves, expected, strict=True):
        error = (summed[columns[name]] - gradient.flatten()).abs().max()
        if float(error) > share * float(gradient.abs().max()) + floor * largest:
            found.add(name)
    return frozenset(found)


def _independent(net: Network, x: Shaped[Tensor, "n *input"], logits: Tensor, again: Tensor) -> None:
    """Raise WfbenchError unless the last sample's logits alone are those that it has beside the others, twice."""
    off = TOLERANCE.get(net.dtype, COARSE)[0] * float(logits.abs().max())
    if float((logits - again).abs().max()) > off:
        raise WfbenchError(
            "the network's logits differ from call to call, so it has no per-sample gradients; leave out what it "
            "draws at random in evaluation"
        )
    why = "it mixes the samples of a batch"
    try:
        with torch.no_grad():
            alone = net.logits({}, x[-1:].clone()).reshape(logits[-1].shape)
        if not float((logits[-1] - alone).abs().max()) > off:  # or there are NaN, which the rows will tell
            return
    except (RuntimeError, ValueError) as error:
        why = str(error).partition("\n")[0]
    for name, layer in net.module().named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None:
            why = f"layer {name} keeps no running statistics"
    raise WfbenchError(f"the network has no per-sample gradients, for its logits depend on other samples: {why}")
