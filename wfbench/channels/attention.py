"""torch's own attention with fewer heads than its width is made for."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


class FewerHeads(nn.Module):
    """An `nn.MultiheadAttention` without some of its heads, which that has no size for; called in the same way.

    Args:
        of: what it is made of; that one or one of this class.
        rows: the outputs of the joint projection that stay: queries, keys and values of the heads, in this order.
        columns: the inputs of the output projection that stay.
    """

    _qkv_same_embed_dim = False
    """An encoder layer looks at this, and then takes no way past `forward`."""
    embed_dim: int
    head_dim: int
    batch_first: bool
    in_proj_weight: nn.Parameter
    in_proj_bias: nn.Parameter | None
    out_proj: nn.Linear

    def __init__(
        self, of: "nn.MultiheadAttention | FewerHeads", rows: Int[Tensor, " r"], columns: Int[Tensor, " c"]
    ) -> None:
        super().__init__()
        self.embed_dim, self.head_dim, self.batch_first = of.embed_dim, of.head_dim, of.batch_first
        self.num_heads = len(columns) // of.head_dim
        weight, bias = of.in_proj_weight, of.in_proj_bias
        self.in_proj_weight = nn.Parameter(weight.detach()[rows])
        self.in_proj_bias = None if bias is None else nn.Parameter(bias.detach()[rows])
        self.out_proj = nn.Linear(len(columns), self.embed_dim, of.out_proj.bias is not None)
        self.out_proj.weight = nn.Parameter(of.out_proj.weight.detach()[:, columns])
        if of.out_proj.bias is not None:
            self.out_proj.bias = nn.Parameter(of.out_proj.bias.detach().clone())

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As of `nn.MultiheadAttention`; a mask of its own for every head is not known here."""
        given = [one if self.batch_first or one.ndim == 2 else one.transpose(0, 1) for one in (query, key, value)]
        bias = self.in_proj_bias
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        parts = zip(given, self.in_proj_weight.chunk(3), biases, strict=True)
        q, k, v = (self._split(functional.linear(x, w, b)) for x, w, b in parts)
        mask = _added(attn_mask, q)
        if key_padding_mask is not None:
            padding = _added(key_padding_mask, q)
            assert padding is not None
            mask = padding[:, None, None] + (0 if mask is None else mask)
        shares = None
        if need_weights:
            scores = q @ k.mT / self.head_dim**0.5
            every = (scores if mask is None else scores + mask).softmax(-1)
            read, shares = every @ v, every.mean(-3) if average_attn_weights else every
        else:
            read = functional.scaled_dot_product_attention(q, k, v, mask)
        found = self.out_proj(read.transpose(-3, -2).flatten(-2))
        return found if self.batch_first or found.ndim == 2 else found.transpose(0, 1), shares

    def _split(self, x: Float[Tensor, "*n places width"]) -> Float[Tensor, "*n heads places each"]:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(-3, -2)


def _added(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """What is added to the scores: of a mask of truths, where what is true may not be read, none or minus infinity."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, -torch.inf)
