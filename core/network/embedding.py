"""Embeddings of the noise level."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def sinusoidal(
    level: Float[Tensor, " b"], channels: int, longest: float = 10_000.0
) -> Float[Tensor, " b channels"]:
    """Cosines and sines of `level` at frequencies from 1 down to 1 / `longest`.

    Levels should span hundreds: over a span of one, every frequency here is nearly constant.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """
    half = channels // 2
    rates = torch.exp(
        -math.log(longest) * torch.arange(half, dtype=torch.float32, device=level.device) / half
    )
    angles = level.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1).to(level.dtype)


class LevelEmbedding(nn.Module):
    """A vector for each noise level: sinusoids through two linear layers."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.features = features
        self.layers = nn.Sequential(
            nn.Linear(features, outputs), nn.SiLU(), nn.Linear(outputs, outputs)
        )

    def forward(self, level: Float[Tensor, " b"]) -> Float[Tensor, " b outputs"]:
        return self.layers(sinusoidal(level, self.features))
