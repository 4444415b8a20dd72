"""Coupled channels: what must go together, what zeroing means, and the physically smaller network.

The dependency graph and the surgery are torch-pruning's (Fang et al. 2023, "DepGraph"); which coordinates a channel is
charged with, which are deleted without a charge, and which may make up for it, is ours.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from wfbench.channels.heads import Heads, heads_of, take_heads
from wfbench.errors import WfbenchError
from wfbench.network import NORMS, PRUNABLE, Network, Params, tensor_name

CONVOLUTION = nn.modules.conv._ConvNd
TRANSPOSED = nn.modules.conv._ConvTransposeNd
ACROSS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Norms over several channels: with one gone the others change, so such channels stay."""
STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Slices:
    """The part of a parameter or buffer that belongs to each channel.

    Args:
        name: of the tensor.
        axis: of a layer's tensor 0, output channels; 1, input channels; of a parameter outside of layers any.
        index: positions along the axis, a row a channel.
    """

    name: str
    axis: int
    index: Int[Tensor, "channels width"]

    def flat(self, channels: Sequence[int], shape: torch.Size) -> Int[Tensor, " n"]:
        """Row-major coordinates, within the tensor, of what belongs to these channels."""
        where = torch.zeros(shape, dtype=torch.bool)
        where.index_fill_(self.axis, self.index[list(channels)].flatten(), True)
        return where.flatten().nonzero()[:, 0]


@dataclass(frozen=True)
class Coupled:
    """Channels of one coupled group; channel c is row c of every slice.

    Args:
        name: the group's first layer, by which masks and records name it.
        size: number of channels.
        charged: Q, the factor whose zeroing removes a channel's effect: scale and shift of the norm that every branch
            ends in, or filter and bias where none follows.
        deleted: D, whatever else physical removal deletes: filters, depthwise filters, running statistics, parameters
            outside of layers, the input slices of the consumers. Neither charged nor updated.
        consumers: names of the weights that read the channels; U is what survives of them and of their biases.
        heads: each is a head of attention, not what a graph of operations tells.
    """

    name: str
    size: int
    charged: tuple[Slices, ...]
    deleted: tuple[Slices, ...]
    consumers: tuple[str, ...]
    heads: bool = False


def coupled_channels(net: Network, example: Shaped[Tensor, "1 *input"]) -> list[Coupled]:
    """Every group of channels that can be taken out, in the order of their first layers; logits stay.

    Groups with a tensor that has another name too, such as a tied embedding, stay whole.

    Raises:
        WfbenchError: the network cannot be traced, or has transposed or grouped, not depthwise, convolutions.
    """
    module = net.module()
    names = {layer: name for name, layer in module.named_modules()}
    for layer, name in names.items():
        if isinstance(layer, CONVOLUTION) and 1 < layer.groups < max(layer.in_channels, layer.out_channels):
            raise WfbenchError(f"{name} is a grouped convolution that is not depthwise; its channels are not supported")
        if isinstance(layer, TRANSPOSED):
            raise WfbenchError(f"{name} is a transposed convolution; its channels are not supported")
    graph = dependency_graph(module, example.to(net.device))
    groups = graph.get_all_groups(root_module_types=list(PRUNABLE))
    alone = [group for group in groups if not any(isinstance(item.dep.target.module, ACROSS) for item in group)]
    heads = [_of_heads(one, module) for one in heads_of(module)]
    found = [*(_coupled(group, graph, names) for group in alone), *heads]
    tied = {name for name, count in Counter(net.names.values()).items() if count > 1}
    free = [group for group in found if not tied & {net.names.get(part.name) for part in group.charged + group.deleted}]
    order = {name: place for place, name in enumerate(names.values())}
    return sorted((group for group in free if group.consumers), key=lambda group: order[group.name])


def dependency_graph(module: nn.Module, example: Shaped[Tensor, "1 *input"]) -> Any:
    """torch-pruning's graph of what must go together in `module`, whose parameters are free to be trained afterwards.

    It ends at heads of attention, which are known otherwise.

    Raises:
        WfbenchError: the network cannot be traced.
    """
    from wfbench.channels.graph import Graph

    for parameter in module.parameters():
        parameter.requires_grad_(True)  # the graph is read from autograd's
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # of torch-pruning, about parameters outside of layers
            graph = Graph().build_dependency(module, example_inputs=example)
    except Exception as error:  # the tracer may fail in any way
        raise WfbenchError(
            f"{type(module).__name__} cannot be traced ({type(error).__name__}: {error}); write its forward pass with "
            "torch operations that autograd records, or leave structured pruning out"
        ) from error
    heads = heads_of(module)
    apart = [one for one in heads if not one.fused]  # the graph has a fused one as a whole
    made = [module.get_submodule(name) for one in apart for name, _ in one.made]
    graph.cut(made, [module.get_submodule(one.reader) for one in apart])
    return graph


def _coupled(group: Any, graph: Any, names: Mapping[nn.Module, str]) -> Coupled:
    made: dict[nn.Module, Int[Tensor, "channels width"]] = {}
    read: dict[nn.Module, Int[Tensor, "channels width"]] = {}
    deleted: list[Slices] = []
    for item in group:
        layer = item.dep.target.module
        if isinstance(layer, nn.Parameter):  # outside of layers, such as a scale a channel
            axis = item.dep.target.pruning_dim
            deleted.append(Slices(graph._param_to_name[layer], axis, _rows(item.root_idxs, item.idxs)))
        elif layer in names:
            outputs = item.dep.handler.__name__ == "prune_out_channels"
            (made if outputs else read)[layer] = _rows(item.root_idxs, item.idxs)
    size = max(len(rows) for rows in (*made.values(), *read.values()))
    charged: list[Slices] = []
    for layer, rows in made.items():
        ends = not _next(layer, graph) <= made.keys() - read.keys()
        for name, tensor in _tensors(layer, names[layer]).items():
            counts = ends and not name.endswith(STATISTICS) and tensor.ndim > 0
            (charged if counts else deleted).append(Slices(name, 0, rows))
    consumers = []
    for layer, rows in read.items():
        name = tensor_name(names[layer], "weight")
        deleted.append(Slices(name, 1, rows))
        consumers.append(name)
    first = min((names[layer] for layer in made if isinstance(layer, PRUNABLE)), key=list(names.values()).index)
    return Coupled(first, size, tuple(charged), tuple(deleted), tuple(consumers))


def _of_heads(heads: Heads, module: nn.Module) -> Coupled:
    def made(name: str, index: Tensor) -> list[Slices]:
        tensors = _tensors(module.get_submodule(name), name)
        return [Slices(tensor, 0, index) for tensor in tensors]

    reader = tensor_name(heads.reader, "weight")
    deleted = [one for name, index in heads.others for one in made(name, index)]
    values, read = made(heads.name, heads.values), [Slices(reader, 1, heads.columns)]
    charged, more = (read, values) if heads.fused else (values, read)
    return Coupled(heads.name, heads.size, tuple(charged), (*deleted, *more), (reader,), heads=True)


def _rows(roots: Sequence[int], positions: Sequence[int]) -> Int[Tensor, "channels width"]:
    rows: dict[int, list[int]] = {}
    for root, position in zip(roots, positions, strict=True):
        rows.setdefault(root, []).append(position)
    return torch.tensor([rows[root] for root in sorted(rows)])


def _tensors(layer: nn.Module, name: str) -> dict[str, Tensor]:
    """Parameters and statistics of a layer that have an entry a channel."""
    own = {**dict(layer.named_parameters(recurse=False)), **dict(layer.named_buffers(recurse=False))}
    return {tensor_name(name, key): tensor for key, tensor in own.items() if tensor.ndim > 0}


def _next(layer: nn.Module, graph: Any) -> set[nn.Module]:
    """The layers that come right after one, with only element-wise operations in between."""
    found: set[nn.Module] = set()
    seen, queue = set(), list(graph.module2node[layer].outputs)
    while queue:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node.module, (*PRUNABLE, *NORMS)):
            found.add(node.module)
        else:
            queue += node.outputs
    return found


def masked(state: Mapping[str, Tensor], groups: Sequence[Coupled], gone: Mapping[str, Sequence[int]]) -> Params:
    """The state with Q and D of the removed channels set to zero.

    Args:
        gone: removed channels by the group's name.
    """
    found = {name: tensor.clone() for name, tensor in state.items()}
    for group in groups:
        channels = list(gone.get(group.name, ()))
        if len(set(channels)) >= group.size:
            raise WfbenchError(f"all {group.size} channels of {group.name} would go; a layer keeps at least one")
        for part in (*group.charged, *group.deleted) if channels else ():
            found[part.name].index_fill_(part.axis, part.index[channels].flatten().to(found[part.name].device), 0)
    return found


def shrunk(net: Network, state: Mapping[str, Tensor], example: Tensor, gone: Mapping[str, Sequence[int]]) -> nn.Module:
    """The network of `state` with the removed channels taken out: smaller layers, the masked one's function."""
    module = net.module(state)
    layers = dict(module.named_modules())
    heads = {one.name: one for one in heads_of(module)}
    graph = dependency_graph(module, example.to(net.device)) if gone.keys() - heads else None
    for name, channels in gone.items():
        if channels and name not in heads:
            pruning_group(graph, layers[name], sorted(set(channels))).prune()
    for name in [name for name in heads if gone.get(name)]:
        take_heads(module, heads[name], sorted(set(gone[name])))
    return module.requires_grad_(False).eval()


@contextmanager
def taking_out(gone: Mapping[str, Sequence[int]]) -> Iterator[None]:
    """Whatever the smaller network raises in here says what was taken out, and what could be done about it."""
    try:
        yield
    except (RuntimeError, LookupError, ValueError, AssertionError, TypeError, AttributeError, ArithmeticError) as error:
        names = ", ".join(name for name, channels in gone.items() if channels)
        raise WfbenchError(
            f"the network does not run without channels of {names} ({type(error).__name__}: {error}); write its "
            "forward pass without fixed sizes, such as flatten(1) in place of view(-1, 64), and call each layer once"
        ) from error


def pruning_group(graph: Any, layer: nn.Module, channels: Sequence[int]) -> Any:
    """torch-pruning's group of output channels of a layer, with all that goes with them."""
    return graph.get_pruning_group(layer, _pruner(layer), idxs=list(channels))


def _pruner(layer: nn.Module) -> Any:
    import torch_pruning  # it takes seconds to import

    if isinstance(layer, nn.Linear):
        return torch_pruning.prune_linear_out_channels
    assert isinstance(layer, CONVOLUTION)
    depthwise = layer.groups > 1
    return torch_pruning.prune_depthwise_conv_out_channels if depthwise else torch_pruning.prune_conv_out_channels
