"""Heads of attention as channels. A graph of operations does not tell them: their parts are known by how common
libraries name them, and a network without a head is tried before any goes.

Zeroing the values of a head, `V = 0`, removes its effect, so rows and bias of the layer that makes them are charged.
What makes queries and keys is deleted, as are the columns that read the head; of heads that share keys and values all
go together. Where no layer makes the values, as in torch's own attention, the columns that read the head are charged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from wfbench.channels.attention import FewerHeads
from wfbench.network import tensor_name

APART = (
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("self.query", "self.key", "self.value", "output.dense"),
    ("attention.query", "attention.key", "attention.value", "output.dense"),
)
"""Layers of queries, keys, values, and what reads the heads, as in transformers."""
JOINT = ("qkv", "proj")
"""One layer for all three, and what reads the heads, as in timm."""
WIDTHS = ("head_dim", "attention_head_size")
COUNTS = ("num_heads", "num_attention_heads", "num_key_value_heads", "num_kv_heads", "all_head_size", "attn_dim")
"""Attributes that fewer heads make smaller."""


@dataclass(frozen=True)
class Heads:
    """The heads of one attention; head h is row h of every index.

    Args:
        name: of the layer that makes the values.
        holder: the part whose attributes say how many there are.
        size: how many can go, each alone.
        values: which outputs of that layer are a head's values.
        others: outputs of layers, by name, that are its queries and keys.
        reader: the layer that reads the heads.
        columns: its inputs.
        fused: what makes queries, keys and values is no layer, but parameters of the one so named.
    """

    name: str
    holder: str
    size: int
    values: Int[Tensor, "heads width"]
    others: tuple[tuple[str, Tensor], ...]
    reader: str
    columns: Int[Tensor, "heads read"]
    fused: bool = False

    @property
    def made(self) -> tuple[tuple[str, Tensor], ...]:
        return ((self.name, self.values), *self.others)


def heads_of(module: nn.Module) -> list[Heads]:
    """Every attention that is known by the names of its parts and has two heads or more."""
    found = (_fused(name, part) or _joint(name, part) or _apart(name, part) for name, part in module.named_modules())
    return [one for one in found if one is not None and one.size > 1]


def _fused(name: str, part: nn.Module) -> Heads | None:
    """torch's own, whose joint projection is a parameter and no layer's."""
    if not isinstance(part, FewerHeads):
        if not isinstance(part, nn.MultiheadAttention) or not part._qkv_same_embed_dim or part.add_zero_attn:
            return None
        if part.bias_k is not None or part.bias_v is not None:
            return None
    size, width = part.num_heads, part.head_dim
    queries, keys, values = torch.arange(3 * size * width).reshape(3, size, width)
    others = ((name, torch.cat([queries, keys], 1)),)
    return Heads(name, name, size, values, others, tensor_name(name, "out_proj"), queries, fused=True)


def _joint(name: str, part: nn.Module) -> Heads | None:
    layers = _linears(part, JOINT)
    if layers is None or (width := _width(part)) is None:
        return None
    made, reader = layers
    size = reader.in_features // width
    if made.out_features != 3 * size * width or reader.in_features != size * width:
        return None
    queries, keys, values = torch.arange(made.out_features).reshape(3, size, width)
    qkv, proj = (tensor_name(name, key) for key in JOINT)
    others = ((qkv, torch.cat([queries, keys], 1)),)
    return Heads(qkv, name, size, values, others, proj, queries)


def _apart(name: str, part: nn.Module) -> Heads | None:
    for keys in APART:
        layers, inner = _linears(part, keys), keys[0].rpartition(".")[0]
        if layers is None or (width := _width(part.get_submodule(inner))) is None:
            continue
        query, key, value, reader = layers
        size = value.out_features // width
        if key.out_features == value.out_features == size * width and query.out_features == reader.in_features:
            if reader.in_features % value.out_features:
                return None
            own = torch.arange(size * width).reshape(size, width)
            many = torch.arange(reader.in_features).reshape(size, -1)
            q, k, v, out = (tensor_name(name, one) for one in keys)
            return Heads(v, tensor_name(name, inner) if inner else name, size, own, ((q, many), (k, own)), out, many)
    return None


def _linears(part: nn.Module, names: Sequence[str]) -> list[nn.Linear] | None:
    """The linear layers of these names; None where one is missing."""
    try:
        found = [part.get_submodule(name) for name in names]
    except AttributeError:
        return None
    linear = [layer for layer in found if isinstance(layer, nn.Linear)]
    return linear if len(linear) == len(names) else None


def _width(part: nn.Module) -> int | None:
    """Of a head, as the part says it."""
    found = [vars(part).get(name) for name in WIDTHS]
    return next((width for width in found if isinstance(width, int) and width > 0), None)


def take_heads(module: nn.Module, heads: Heads, gone: Sequence[int]) -> None:
    """Make the layers around the heads smaller, in place."""
    if heads.fused:
        stay = [head for head in range(heads.size) if head not in gone]
        part = module.get_submodule(heads.name)
        assert isinstance(part, nn.MultiheadAttention | FewerHeads)
        place = torch.arange(len(part.in_proj_weight)).reshape(3, heads.size, -1)[:, stay].flatten()
        module.set_submodule(heads.name, FewerHeads(part, place, heads.columns[stay].flatten()))
        return
    lost: dict[str, list[Tensor]] = {}
    for name, index in heads.made:
        lost.setdefault(name, []).append(index[list(gone)].flatten())
    for name, rows in lost.items():
        _cut(module.get_submodule(name), 0, torch.cat(rows))
    _cut(module.get_submodule(heads.reader), 1, heads.columns[list(gone)].flatten())
    holder, left = module.get_submodule(heads.holder), heads.size - len(gone)
    for name in COUNTS:
        if isinstance(count := vars(holder).get(name), int):
            setattr(holder, name, count * left // heads.size)


def _cut(layer: nn.Module, axis: int, gone: Int[Tensor, " n"]) -> None:
    assert isinstance(layer, nn.Linear)
    kept = torch.ones(layer.weight.shape[axis], dtype=torch.bool)
    kept[gone] = False
    index = kept.nonzero()[:, 0].to(layer.weight.device)
    layer.weight = nn.Parameter(layer.weight.detach().index_select(axis, index))
    if axis == 0:
        layer.out_features = len(index)
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.detach().index_select(0, index))
    else:
        layer.in_features = len(index)
