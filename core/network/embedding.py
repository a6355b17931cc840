"""Embeddings: of the noise level, of fine detail in the input, of positions."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoidal(
    level: Float[Tensor, " b"],
    channels: int,
    longest: float = 10_000.0,
    *,
    sine_first: bool = False,
    shift: int = 0,
) -> Float[Tensor, " b channels"]:
    """Cosines and sines of `level` at frequencies from 1 down to about 1 / `longest`.

    Levels should span hundreds: over a span of one, every frequency here is nearly constant.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.

    Args:
        level: one a sample.
        channels: of the result; the last of an odd number is zero.
        longest: the frequencies fall by this factor in all.
        sine_first: sines before cosines.
        shift: 1 lets the last frequency be 1 / `longest` exactly, as in DDPM's code; 0 stops one
            step short of it, as in ADM's.
    """
    # omega_i = longest^(-i / half), i = 0, ..., half - 1
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=level.device) / max(1, half - shift)
    angles = level.float()[:, None] * torch.exp(-math.log(longest) * steps)
    waves = (angles.sin(), angles.cos()) if sine_first else (angles.cos(), angles.sin())
    return F.pad(torch.cat(waves, dim=1), (0, channels % 2)).to(level.dtype)


# level / this is EDM's c_noise = log(sigma / alpha) / 4, but for its sign, where the level is
# log_snr, 25 times the log-SNR.
LEVEL_SPAN = 200.0


class LevelEmbedding(nn.Module):
    """A vector for each noise level: features of it through two linear layers.

    Fourier features are waves of random frequencies f, which are not trained; they take the level
    log_snr: level / 200 is then EDM's c_noise = log(sigma) / 4, but for its sign.
    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; Fourier: Song et al. 2021,
    arXiv:2011.13456, appendix C.1; Tancik et al. 2020, arXiv:2006.10739, section 4.

    Args:
        features: channels of the features.
        outputs: channels of the vector.
        kind: sinusoids of fixed frequencies, or Fourier features.
        sine_first: see `sinusoidal`.
        shift: see `sinusoidal`.
        scale: standard deviation of the random frequencies.
    """

    frequencies: Tensor

    def __init__(
        self,
        features: int,
        outputs: int,
        *,
        kind: Literal["sinusoidal", "fourier"] = "sinusoidal",
        sine_first: bool = False,
        shift: int = 0,
        scale: float = 16.0,
    ) -> None:
        super().__init__()
        self.features, self.sine_first, self.shift = features, sine_first, shift
        self.fourier = kind == "fourier"
        if self.fourier:
            self.register_buffer("frequencies", scale * torch.randn(features // 2))
        self.linear1 = nn.Linear(features, outputs)
        self.linear2 = nn.Linear(outputs, outputs)

    def forward(self, level: Float[Tensor, " b"]) -> Float[Tensor, " b outputs"]:
        if self.fourier:  # cos and sin of 2 pi f c_noise
            angles = 2 * math.pi / LEVEL_SPAN * level[:, None] * self.frequencies
            found = F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, self.features % 2))
        else:
            found = sinusoidal(level, self.features, sine_first=self.sine_first, shift=self.shift)
        return self.linear2(F.silu(self.linear1(found)))


def fine_detail(
    x: Float[Tensor, " b c *space"], octaves: Sequence[int]
) -> Float[Tensor, " b k *space"]:
    """`x` followed by sin(2^n pi x) and cos(2^n pi x) of each n, which enlarge small differences.

    Source: Kingma et al. 2021, arXiv:2107.00630, section 3.1 and appendix C (n = 7, 8 there).
    """
    waves = [x]
    for n in octaves:
        angles = 2.0**n * math.pi * x  # a period of 2^(1 - n): n = 7 turns 1/128 of x into pi
        waves += [angles.sin(), angles.cos()]
    return torch.cat(waves, dim=1)


def positions(
    size: Sequence[int], channels: int, device: torch.device
) -> Float[Tensor, " n channels"]:
    """A vector for each cell of a grid, row by row: sinusoids of each coordinate, side by side.

    Source: Peebles and Xie 2023, arXiv:2212.09748, section 3.2 (fixed sine-cosine embeddings).
    """
    width = channels // len(size) // 2 * 2  # of a coordinate's sinusoids; an even number
    axes = torch.meshgrid([torch.arange(s, device=device) for s in size], indexing="ij")
    parts = [sinusoidal(axis.flatten().float(), width) for axis in axes]
    return F.pad(torch.cat(parts, dim=1), (0, channels - width * len(size)))
