"""Heads of attention as channels: what goes with a head, by zeroing and by hand, and what the smaller network costs."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.cases import REGISTRY
from wfbench import Filter, Labeled, Network, Target, Unlabeled, WfbenchError
from wfbench.channels.attention import FewerHeads
from wfbench.channels.coupled import masked, shrunk
from wfbench.channels.footprint import footprint
from wfbench.channels.heads import heads_of

CLASSES = 3


class Classified(nn.Module):
    """A network of transformers on features or tokens, the mean of what it gives, and a head."""

    def __init__(self, body: nn.Module, *, tokens: bool = False) -> None:
        super().__init__()
        self.body, self.tokens = body, tokens
        self.out = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        given: dict[str, Any] = {"input_ids": x} if self.tokens else {"inputs_embeds": x}
        found: Tensor = self.out(self.body(**given).last_hidden_state.mean(1))
        return found


def transformer(kind: str, tokens: bool, **more: int) -> nn.Module:
    library = pytest.importorskip("transformers", reason="the extra `language` is not installed")
    sizes = {"hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 6, **more}
    config = getattr(library, f"{kind}Config")(vocab_size=7, attn_implementation="sdpa", **sizes)
    return Classified(getattr(library, f"{kind}Model")(config), tokens=tokens)


def timm_vit(**options: Any) -> nn.Module:
    kind = import_module("timm.models").VisionTransformer
    found: nn.Module = kind(16, 8, num_classes=CLASSES, embed_dim=12, depth=2, num_heads=3, **options)
    return found


class Encoder(nn.Module):
    """torch's own attention, whose joint projection is a parameter."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(12, 3, 10, batch_first=True, **options)
        self.into, self.body = nn.Linear(6, 12), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.body(self.into(x)).mean(1))
        return found


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Filter, list[int]]] = {
    "joint": (timm_vit, Filter((3, 16, 16)), [3, 48, 3, 48]),
    "joint, norms of heads": (
        partial(timm_vit, qk_norm=True, qkv_bias=False, mlp_ratio=1.5),
        Filter((3, 16, 16)),
        [3, 18, 3, 18],
    ),
    "shared keys": (partial(transformer, "Llama", False, num_key_value_heads=3), Filter((5, 12)), [3, 10, 3, 10]),
    "fused": (Encoder, Filter((5, 6)), [3, 10, 3, 10]),
    "fused, no bias": (partial(Encoder, bias=False, norm_first=True), Filter((5, 6)), [3, 10, 3, 10]),
    "tokens": (partial(transformer, "Bert", True), Filter((5,), tokens=True), [6, 10, 6, 10]),
}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[Network, Filter, Tensor, list[int]]:
    build, pattern, sizes = NETWORKS[request.param]
    torch.manual_seed(0)
    module = build()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    shape = (4, *pattern.shape)
    x = torch.randint(1, 7, shape) if pattern.tokens else torch.randn(shape).double()
    return Network(module.double().eval()), pattern, x, sizes


def test_a_head_less_is_a_head_whose_values_are_zero(case: tuple[Network, Filter, Tensor, list[int]]) -> None:
    """By hooks on the layer that makes values: neither masks nor graph. Costs are those that torch counts."""
    net, pattern, x, sizes = case
    groups = pattern.groups(net)
    assert sorted(group.size for group in groups) == sorted(sizes)
    assert [group.heads for group in groups] == [True, False] * 2
    costs, whole = pattern.costs(net), footprint(net.module(), pattern.example(net))
    for group, heads in zip([group for group in groups if group.heads], heads_of(net.module()), strict=True):
        assert group.name == heads.name
        gone = [0, group.size - 1]
        module = net.module()
        maker, values = module.get_submodule(heads.name), heads.values[gone].flatten()
        if isinstance(maker, nn.MultiheadAttention):
            for parameter in maker.parameters(recurse=False):
                parameter[values] = 0
        else:
            maker.register_forward_hook(zeroing(values))
        small = shrunk(net, net.state(), pattern.example(net), {group.name: gone})
        with torch.no_grad():
            wanted, found = module(x), small(x)
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(net.logits(masked(net.state(), groups, {group.name: gone}), x), wanted)
            assert not torch.allclose(wanted, net.logits({}, x), rtol=1e-3)
        counted = footprint(small, pattern.example(net))
        assert costs.total({}, "macs") == whole["macs"]
        for of in ("params", "macs"):
            assert costs.total({group.name: 2}, of) == counted[of] < whole[of]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_with_all_its_heads_it_is_torchs_own_attention(batch_first: bool, need_weights: bool) -> None:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(12, 3, batch_first=batch_first).double().eval()
    ours = FewerHeads(theirs, torch.arange(36), torch.arange(12))
    query, key, value = (torch.randn(4, places, 12).double() for places in (5, 6, 6))
    padding, causal = torch.arange(6).expand(4, 6) > 3, torch.arange(6) > torch.arange(5)[:, None] + 1
    given = [one if batch_first else one.transpose(0, 1) for one in (query, key, value)]
    for masks in ({}, {"attn_mask": causal}, {"key_padding_mask": padding}, {"attn_mask": torch.randn(5, 6).double()}):
        wanted, found = (of(*given, need_weights=need_weights, **masks) for of in (theirs, ours))
        torch.testing.assert_close(found, wanted)
    both = {"attn_mask": causal, "key_padding_mask": padding, "average_attn_weights": False}
    torch.testing.assert_close(ours(*given, **both), theirs(*given, **both))
    alone = query[0], key[0], value[0]
    torch.testing.assert_close(ours(*alone), theirs(*alone))


def zeroing(outputs: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output.index_fill(-1, outputs, 0)

    return hook


@pytest.mark.parametrize("method", ["filter-l2", "taylor-filter", "woodfisher-filter", "obs-filter", "tp-l2"])
def test_methods_take_heads_and_widths(case: tuple[Network, Filter, Tensor, list[int]], method: str) -> None:
    net, pattern, x, _ = case
    pruner = REGISTRY.pruner(method)
    data = {"labeled": Labeled(x, torch.arange(4) % CLASSES), "unlabeled": Unlabeled(x), "data-free": None}
    target = Target(0.2, pattern, of="macs")
    pruned = pruner.fit(net, data[pruner.track]).prune(target)
    measured = pattern.measured(net, pruned, x[:1])  # holds masked against shrunk, and expected against counted
    assert pattern.achieved(target, net, pruned, x[:1]) == 1 - measured["macs"] / measured["dense_macs"] >= 0.2
    if method == "tp-l2" and any(pruned.removed_channels[heads.name] for heads in heads_of(net.module())):
        widths = [group for group in pattern.groups(net) if not group.heads]
        assert all(len(pruned.removed_channels[group.name]) == group.size - 1 for group in widths)


def test_a_method_that_ranks_filters_alone_says_that_fused_heads_have_none() -> None:
    net, x = Network(Encoder().eval()), torch.randn(4, 5, 6)
    with pytest.raises(WfbenchError, match="no layer makes the channels of body"):
        REGISTRY.pruner("kfac-filter").fit(net, Unlabeled(x))


def test_heads_that_a_network_mixes_stay() -> None:
    """A gate of fixed size after the heads: the network does not run without one, and its widths still go."""
    torch.manual_seed(0)
    module = timm_vit()
    module.blocks[0].attn.norm = nn.LayerNorm(12)
    net, pattern = Network(module.eval()), Filter((3, 16, 16))
    assert [group.heads for group in pattern.groups(net)] == [False, True, False]
    assert any("blocks.0.attn.qkv" in why for why in pattern.costs(net).whole)
