"""The dense network as methods see it: named weights, logits as a function of them, layer inputs."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import TypeAlias

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from wfbench.calls import plain_calls
from wfbench.data import Labeled, Unlabeled
from wfbench.errors import WfbenchError
from wfbench.kinds.network import adapted, unwrapped
from wfbench.memo import Memo, digest_of
from wfbench.modules import NORMS as NORMS
from wfbench.modules import PRUNABLE as PRUNABLE
from wfbench.modules import Attributes, copied, names_of, put, state_of

Params: TypeAlias = dict[str, Tensor]
LayerHook: TypeAlias = Callable[[str, nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]

AT_A_TIME = 50
"""Samples whose change of the loss is computed at a time, where their logits are no more than these."""
LOGITS = 2**24
"""Logits that are held at a time, where one sample has fewer: a sample with many places has many."""


def flatten(params: Mapping[str, Tensor]) -> Tensor:
    """All entries in one vector, in the mapping's order, row-major: `[p]`."""
    return torch.cat([tensor.reshape(-1) for tensor in params.values()])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> Params:
    """The inverse of `flatten`: `vector [p]` cut into tensors of the names and shapes of `like`."""
    sizes = [tensor.numel() for tensor in like.values()]
    parts = vector.split(sizes)
    return {name: part.reshape(like[name].shape) for name, part in zip(like, parts, strict=True)}


def tensor_name(layer: str, key: str) -> str:
    """The full name of a layer's tensor; the layer of a network that is one has no name."""
    return f"{layer}.{key}" if layer else key


def bias_of(weight: str) -> str:
    """The name of the bias beside a weight."""
    return f"{weight.removesuffix('weight')}bias"


def at_a_time(most: int, logits: Iterable[int]) -> int:
    """Samples at a time: at most so many, and so many that bounds their logits, of which one sample has this shape."""
    return max(1, min(most, LOGITS // prod(logits)))


class Network:
    """A trained network, frozen and in eval mode.

    Takes a private copy of `module`. `weights` are the prunable coordinates (weights of linear and convolution
    layers, first and last included), `movable` those plus biases and the scale and shift of norm layers; both in
    the order of `named_parameters()`. A tensor with several names is known by one of them, as in `names`: a prunable
    layer's, if any. `memo` keeps what methods share, such as gradients, until it is cleared.

    Raises:
        WfbenchError: if the module has no linear or convolution layer.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = adapted(copied(unwrapped(module)).eval().requires_grad_(False))
        self._attributes = Attributes(self._module)
        self.memo = Memo()
        self.names = names_of(self._module)
        self.layers: dict[str, nn.Module] = {
            name: layer for name, layer in self._module.named_modules() if isinstance(layer, PRUNABLE + NORMS)
        }
        owned = {
            tensor_name(name, key): (layer, key)
            for name, layer in self.layers.items()
            for key, _ in layer.named_parameters(recurse=False)
            if self.names[tensor_name(name, key)] == tensor_name(name, key)
        }
        named = {self.names[name]: tensor for name, tensor in self._module.named_parameters(remove_duplicate=False)}
        self.movable: Params = {name: tensor for name, tensor in named.items() if name in owned}
        self.weights: Params = {
            name: tensor
            for name, tensor in self.movable.items()
            if isinstance(owned[name][0], PRUNABLE) and owned[name][1] == "weight"
        }
        if not self.weights:
            raise WfbenchError(f"{type(module).__name__} has no linear or convolution weight to prune")

    @property
    def left_out(self) -> dict[str, int]:
        """Parameters of two axes or more that are no prunable weight, by name, and how many numbers each holds.

        Embeddings, attention's joint projections, recurrent layers, layers of other kinds, such as GPT-2's `Conv1D`.
        """
        once = {self.names[name]: tensor for name, tensor in self._module.named_parameters(remove_duplicate=False)}
        return {name: tensor.numel() for name, tensor in once.items() if name not in self.weights and tensor.ndim > 1}

    def describe_left_out(self, most: int = 5) -> str:
        """`left_out` in a line, the largest first, with its share of all parameters; empty where there is none."""
        if not (found := self.left_out):
            return ""
        share = sum(found.values()) / sum(tensor.numel() for tensor in self._module.parameters())
        names = sorted(found, key=lambda name: -found[name])
        listed = ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
        return f"{100 * share:.1f} % of the parameters are not prunable: {listed}"

    @property
    def device(self) -> torch.device:
        return next(iter(self.weights.values())).device

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.weights.values())).dtype

    def module(self, state: Mapping[str, Tensor] | None = None) -> nn.Module:
        """A copy of the dense network, free to change; with a whole `state` in place of its own where one is given."""
        return copied(self._module) if state is None else put(copied(self._module), state)

    def with_state(self, state: Mapping[str, Tensor]) -> "Network":
        """The network with a whole state in place of its own; what was found out of its layers holds for it, too."""
        found = Network(self.module(state))
        found.memo.most = self.memo.most
        found.memo.like(self.memo, "patches", *(("apart", *names) for names in (self.weights, self.movable)))
        return found

    def state(self) -> Params:
        """A copy of every parameter and buffer, each by the name by which it is known."""
        return {name: tensor.clone() for name, tensor in state_of(self._module).items()}

    def shape(self, x: Shaped[Tensor, "n *input"]) -> torch.Size:
        """Of the logits of one sample: classes, and places where a sample has several; what one pass of `x` tells."""
        key, two = ("shape", x.shape[1:]), torch.cat([x[:1], x[:1]])  # some networks take no sample that is alone
        with torch.no_grad():
            return self.memo.take(key, lambda: self.logits({}, two).shape[1:])

    def logits(self, weights: Mapping[str, Tensor], x: Shaped[Tensor, "n *input"]) -> Float[Tensor, "n c *places"]:
        """Logits with `weights` in place of the dense ones; what `weights` leaves out stays dense.

        Classes stand on the second axis; behind it the places, where a sample has several.
        """
        given = {self.names.get(name, name): weight for name, weight in weights.items()}
        try:
            out: Tensor = functional_call(self._module, given, (x.to(self.device),))
        finally:
            self._attributes.put_back()
        return out

    def loss(self, weights: Mapping[str, Tensor], data: Labeled) -> Float[Tensor, ""]:
        """Mean cross-entropy on `data`, over all its places, nats."""
        return functional.cross_entropy(self.logits(weights, data.inputs), data.labels.to(self.device))

    def change(self, weights: Mapping[str, Tensor], data: Labeled | Unlabeled) -> float:
        """What `weights` cost on the samples, nats: rise of the cross-entropy, or without labels KL(dense‖changed).

        Samples are taken 50 at a time, or fewer of many logits; `weights` may hold buffers too.
        """
        total, (_, *places) = 0.0, self.shape(data.inputs)
        step = at_a_time(AT_A_TIME, self.shape(data.inputs))
        for start in range(0, len(data), step):
            x = data.inputs[start : start + step]
            with torch.no_grad():
                before = self.memo.take_large(("log p", digest_of(x)), lambda x=x: self._log_p({}, x))  # type: ignore[misc]
                after = self._log_p(weights, x)
            if isinstance(data, Labeled):
                at = data.labels[start : start + step, None].to(self.device)
                total += float((before.gather(1, at) - after.gather(1, at)).sum())
            else:
                total += float((before.exp() * (before - after)).sum())
        return total / (len(data) * prod(places))

    def _log_p(self, weights: Mapping[str, Tensor], x: Shaped[Tensor, "n *input"]) -> Float[Tensor, "n c *places"]:
        """Log-probabilities, float64."""
        return self.logits(weights, x).double().log_softmax(1)

    def layer_inputs(self, x: Shaped[Tensor, "n *input"]) -> dict[str, Tensor]:
        """The dense network's input to every prunable layer, by the name of its weight."""
        found: dict[str, Tensor] = {}

        def keep(weight: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found[weight] = inputs[0].detach().clone()

        with torch.no_grad(), self.hooked(keep):
            self._module(x.to(self.device))
        return {weight: found[weight] for weight in self.weights if weight in found}

    def places(self, x: Shaped[Tensor, "1 *input"]) -> dict[str, int]:
        """How often one sample is multiplied with every weight of a layer: output positions, over all calls.

        Of a transposed convolution input positions.

        By the name of the prunable weight; a weight's multiply-accumulates. One that `x` never meets has 0.
        """
        found = dict.fromkeys(self.weights, 0)

        def count(weight: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if (known := self.names.get(weight)) in found:
                through = inputs[0] if getattr(layer, "transposed", False) else output
                found[known] += through.numel() // self.weights[known].shape[0]

        with torch.no_grad(), self.hooked(count):
            self._module(x.to(self.device))
        return found

    def layer_of(self, weight: str) -> nn.Module:
        """The layer that owns a prunable weight, or the first of those that share it.

        Raises:
            WfbenchError: layers share the weight that use it in different ways.
        """
        layer = self.layers[weight.rpartition(".")[0]]
        for name in self.sharing(weight):
            if _use(self.layers[name]) != _use(layer):
                raise WfbenchError(f"{name} has the weight {weight} too, and uses it in another way; untie the two")
        return layer

    def sharing(self, weight: str) -> list[str]:
        """The names of the layers that have this weight or scale."""
        return [name for name in self.layers if self.names.get(tensor_name(name, "weight")) == weight]

    def bias_of(self, weight: str) -> str | None:
        """The name of the bias beside a weight or scale; None for none, and where layers share it that have several."""
        found = {self.names.get(tensor_name(name, "bias")) for name in self.sharing(weight)}
        return found.pop() if len(found) == 1 else None

    def read_elsewhere(self, weight: str) -> bool:
        """Whether more than linear, convolution and norm layers has this weight, as with tied embeddings."""
        owners = {name.rpartition(".")[0] for name, known in self.names.items() if known == weight}
        return any(not isinstance(self._module.get_submodule(owner), PRUNABLE + NORMS) for owner in owners)

    @contextmanager
    def hooked(self, hook: LayerHook) -> Iterator[nn.Module]:
        """The frozen network with `hook(weight, layer, inputs, output)` on every prunable and norm layer.

        A layer goes by its own name of its weight (see `names` for shared ones), one without a weight by the name that
        it would have. For reading activations and gradients; a hook may return a replacement of the output.
        """

        def attach(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
            weight = tensor_name(name, "weight")
            return layer.register_forward_hook(lambda module, inputs, output: hook(weight, module, inputs, output))

        handles = [attach(name, layer) for name, layer in self.layers.items()]
        try:
            with plain_calls(self._module):
                yield self._module
        finally:
            for handle in handles:
                handle.remove()
            self._attributes.put_back()


def _use(layer: nn.Module) -> tuple[object, ...]:
    """How a layer multiplies its weight with its inputs."""
    kind = nn.Linear if isinstance(layer, nn.Linear) else type(layer)
    return kind, *(getattr(layer, name, None) for name in ("stride", "padding", "dilation", "groups", "padding_mode"))
