"""A residual network of linear layers, for vectors such as points of the plane."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import InputError
from core.network import conditioning
from core.network.embedding import LevelEmbedding
from core.network.layers import zeroed

CONDITIONS = ("image", "class", "vector")  # image: a vector (b, c) concatenated to the input


class Layer(nn.Module):
    """h + W2 SiLU(W1 (norm(h) (1 + scale) + shift)); scale and shift follow from the embedding.

    Args:
        width: of h and between the two linear layers.
        embedding: width of the embedding.
        dropout: between the two linear layers.
    """

    def __init__(self, width: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.modulation = zeroed(nn.Linear(embedding, 2 * width))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear_in = nn.Linear(width, width)
        self.linear_out = zeroed(nn.Linear(width, width))

    def forward(
        self, h: Float[Tensor, " b k"], embedding: Float[Tensor, " b d"]
    ) -> Float[Tensor, " b k"]:
        shift, scale = self.modulation(embedding).chunk(2, dim=1)
        # adaLN: the norm has no weight and bias of its own; both follow from the embedding.
        u = self.linear_in(torch.addcmul(shift, self.norm(h), 1 + scale))
        return h + self.linear_out(F.dropout(F.silu(u), self.dropout, self.training))


class MLP(nn.Module):
    """F(x, level, condition) for vectors (b, channels): residual layers between two linear ones.

    Conditions are those of `core.network.conditioning` but for the sequence; the image is a vector
    (b, c) here.  The level and the class enter every layer's norm, as in DiT (adaLN); the output is
    zero before training.  Layers are named ``block.0``, ...; see `core.network.taps`.
    Source: He et al. 2016, arXiv:1603.05027, figure 1b (residual layers, norm first); Peebles and
    Xie 2023, arXiv:2212.09748, section 3.2 (adaLN).

    Args:
        width: of the layers.
        depth: residual layers, of two linear ones each.
        dropout: in the residual layers.
        null: of an image or a vector where a sample has no condition: zeros, or learned; a class
            always has a learned one.

    Raises:
        InputError: options that do not fit together, all at once.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        conditions: Mapping[str, int],
        *,
        width: int = 128,
        depth: int = 4,
        dropout: float = 0.0,
        null: Literal["zero", "learned"] = "zero",
    ) -> None:
        super().__init__()
        checks = [
            *conditioning.at_least(1, {"width": width, "depth": depth}),
            (not 0 <= dropout < 1, f"dropout: expected 0 to 1, got {dropout}"),
        ]
        conditioning.check(conditions, checks, CONDITIONS)
        self.channels = channels
        self.null_condition = conditioning.NullCondition(conditions, null)
        self.level_embedding = LevelEmbedding(width, width)
        self.condition_embedding = conditioning.ConditionEmbedding(conditions, width)
        self.linear_in = nn.Linear(channels + conditions.get("image", 0), width)
        self.block = nn.ModuleList(Layer(width, width, dropout) for _ in range(depth))
        self.linear_out = zeroed(nn.Linear(width, outputs))

    def forward(
        self,
        x: Float[Tensor, " b *shape"],
        level: Float[Tensor, " b"],
        condition: conditioning.Condition | None = None,
    ) -> Float[Tensor, " b k"]:
        if x.shape[1:] != (self.channels,):
            raise InputError(
                f"network: core/mlp expects vectors of {self.channels} numbers, got samples of "
                f"shape {tuple(x.shape[1:])}; use core/unet or core/transformer for axes of space"
            )
        given = self.null_condition(condition)
        embedding = F.silu(self.condition_embedding(self.level_embedding(level), given))
        # No norm at the end: far from the data the output grows with x, as every F does.
        h = self.linear_in(conditioning.concatenated(x, given))
        for block in self.block:
            h = block(h, embedding)
        return self.linear_out(F.silu(h))
