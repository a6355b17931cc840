"""A transformer over patches, in one, two or three dimensions, of any size."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from core.network import conditioning
from core.network.embedding import LevelEmbedding, positions
from core.network.layers import crop, fold, head_checks, heads_of, pad_to_multiple, unfold, zeroed


class Layer(nn.Module):
    """Attention, attention to a sequence, two linear layers; each shifted, scaled and gated.

    Shift, scale and gate follow from the level and begin at zero (adaLN-Zero).
    Source: Peebles and Xie 2023, arXiv:2212.09748, section 3.2; attention to a sequence before the
    linear layers, ungated, as in Chen et al. 2024, arXiv:2310.00426, section 2.3.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        embedding: int,
        ratio: float,
        dropout: float,
        sequence: int | None,
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.modulation = zeroed(nn.Linear(embedding, 6 * width))
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = int(width * ratio)
        self.mlp_in, self.mlp_out = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.q = self.kv = None
        if sequence is not None:
            self.q, self.kv = nn.Linear(width, width), nn.Linear(sequence, 2 * width)
            self.cross_out = zeroed(nn.Linear(width, width))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # softmax(q k^T / sqrt(d)) v in each head; Vaswani et al. 2017, arXiv:1706.03762, eq. 1
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def forward(
        self,
        x: Float[Tensor, " b n k"],
        embedding: Float[Tensor, " b d"],
        sequence: Float[Tensor, " b m s"] | None,
    ) -> Float[Tensor, " b n k"]:
        modulation = self.modulation(embedding)[:, None]  # b 1 6k
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        # Self-attention.
        h = torch.addcmul(shift1, self.norm1(x), 1 + scale1)
        x = x + gate1 * self.out(self._attend(*self.qkv(h).chunk(3, dim=-1)))
        # Cross-attention.
        if self.q is not None and self.kv is not None and sequence is not None:
            k, v = self.kv(sequence.to(x)).chunk(2, dim=-1)
            x = x + self.cross_out(self._attend(self.q(self.norm1(x)), k, v))
        # Two linear layers.
        h = torch.addcmul(shift2, self.norm2(x), 1 + scale2)
        h = F.dropout(F.gelu(self.mlp_in(h), approximate="tanh"), self.dropout, self.training)
        return x + gate2 * self.mlp_out(h)


class Transformer(nn.Module):
    """F(x, level, condition): a diffusion transformer (DiT) over patches.

    Conditions are those of `core.network.conditioning`.  Any size: inputs are padded behind their
    last element, by reflection, to whole patches, and outputs cropped; positions are sinusoids of
    coordinates, so that a size it was not trained on is accepted, with no promise of quality.
    Layers are named ``block.0``, ...; see `core.network.taps`.
    Source: Peebles and Xie 2023, arXiv:2212.09748, section 3.2 and figure 3.

    Args:
        dims: axes of space: 1 for signals, 2 for images, 3 for volumes and clips.
        width: channels of a token.
        depth: layers.
        heads: heads of an attention layer; by default width / `head_channels`.
        head_channels: channels of a head, 32 by default; give one of the two.
        patch: side of a patch; half of it costs 2^dims times as much and more.
        ratio: width of the hidden linear layer, in units of `width`.
        dropout: in the linear layers.
        recompute: keep only the inputs of layers in training and compute them again for the
            gradient.
        null: of an image, a vector or a sequence where a sample has no condition: zeros, or
            learned; a class always has a learned one.

    Raises:
        InputError: options that do not fit together, all at once.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        conditions: Mapping[str, int],
        *,
        dims: Literal[1, 2, 3] = 2,
        width: int = 192,
        depth: int = 6,
        heads: int | None = None,
        head_channels: int | None = None,
        patch: int = 4,
        ratio: float = 4.0,
        dropout: float = 0.0,
        recompute: bool = False,
        null: Literal["zero", "learned"] = "zero",
    ) -> None:
        super().__init__()
        checks = [
            *conditioning.at_least(2 * dims, {"width": width}),
            *conditioning.at_least(1, {"depth": depth, "patch": patch}),
            (width * ratio < 1, f"ratio: expected a hidden layer, got {ratio}"),
            (not 0 <= dropout < 1, f"dropout: expected 0 to 1, got {dropout}"),
            *head_checks([width], heads, head_channels),
        ]
        conditioning.check(conditions, checks)
        self.patch, self.width = patch, width
        self.null_condition = conditioning.NullCondition(conditions, null)
        self.recompute = recompute
        whole = channels + conditions.get("image", 0)
        self.level_embedding = LevelEmbedding(width, width)
        self.condition_embedding = conditioning.ConditionEmbedding(conditions, width)
        self.patch_embedding = nn.Linear(whole * patch**dims, width)
        count, sequence = heads_of(width, heads, head_channels), conditions.get("sequence")
        self.block = nn.ModuleList(
            Layer(width, count, width, ratio, dropout, sequence) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.linear_out = zeroed(nn.Linear(width, outputs * patch**dims))

    def forward(
        self,
        x: Float[Tensor, " b c *space"],
        level: Float[Tensor, " b"],
        condition: conditioning.Condition | None = None,
    ) -> Float[Tensor, " b k *space"]:
        given = self.null_condition(condition)
        size, multiples = x.shape[2:], [self.patch] * (x.ndim - 2)
        cells = fold(pad_to_multiple(conditioning.concatenated(x, given), multiples), self.patch)
        grid = cells.shape[2:]
        embedding = F.silu(self.condition_embedding(self.level_embedding(level), given))
        # Tokens: one for each patch, in rows; their positions are added.
        h = self.patch_embedding(cells.flatten(2).transpose(1, 2))  # b n k
        h = h + positions(grid, self.width, x.device).to(h)
        for block in self.block:
            if self.recompute and self.training and torch.is_grad_enabled():
                h = checkpoint(block, h, embedding, given.get("sequence"), use_reentrant=False)
            else:
                h = block(h, embedding, given.get("sequence"))
        # The last norm is modulated too, without a gate; patches go back to their places.
        shift, scale = self.modulation(embedding)[:, None].chunk(2, dim=-1)
        h = self.linear_out(torch.addcmul(shift, self.norm(h), 1 + scale))
        return crop(unfold(h.transpose(1, 2).unflatten(2, tuple(grid)), self.patch), size)
