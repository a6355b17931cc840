"""Given frames that carry noise of a stated level: for training, stabilisation and guidance."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from core.denoiser.parameterization import Condition, Denoiser, FunctionDenoiser, Prediction
from core.errors import InputError
from plugins.video.networks import CLEAN, KNOWN_LEVEL

SPAN = CLEAN / 10  # of the level, of log(alpha / sigma) up to 10


def noised(
    frames: Float[Tensor, "... c t h w"],
    u: Float[Tensor, "... t"],
    eps: Float[Tensor, "... c t h w"],
) -> tuple[Float[Tensor, "... c t h w"], Float[Tensor, "... t"]]:
    """alpha frames + sigma eps with alpha = cos(pi u / 2), sigma = sin(pi u / 2), and the level.

    Args:
        frames: clean.
        u: of each frame, 0 (clean) to 1 (noise alone).
        eps: standard normal.
    """
    alpha, sigma = (math.pi / 2 * u.double()).cos(), (math.pi / 2 * u.double()).sin()
    level = SPAN * (alpha / sigma.clamp(min=1e-9)).clamp(min=1e-9).log().clamp(-10, 10)
    a, s = (v[..., None, :, None, None].to(frames) for v in (alpha, sigma))
    return a * frames + s * eps, level.to(frames)


def history(denoise: Denoiser, *, scale: float = 1.5, noise: float = 0.0) -> Denoiser:
    """x0' = x0(H) + (scale - 1) (x0(H_noise) - x0()), H the given frames, () with none of them.

    Guidance by the given frames: above 1 the clip follows them more closely.  With noise, their
    coarse content guides alone, which leaves room for motion.  The task must have been trained
    with clips of which nothing is given (`none`) and, for noise, with `noisy_history`.
    Source: Song et al. 2025, arXiv:2502.06764, section 4.2 and 4.3 (vanilla and fractional).

    Args:
        denoise: the model to guide.
        scale: 1 is the model alone.
        noise: of the history that guides, 0 (clean) to 1 (none of it is left).

    Raises:
        InputError: noise not in [0, 1].
    """
    if not 0 <= noise <= 1:
        raise InputError(f"history: noise: expected 0 to 1, got {noise}")

    def guided(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        prediction = denoise(x, t, condition)
        image = (condition or {}).get("image")
        if scale == 1 or image is None:
            return prediction
        rest = dict(condition or {})
        with_history = prediction.x0
        if noise > 0:
            known, mask = image[:, :-1], image[:, -1:]
            draw = torch.Generator().manual_seed(0)  # one field for all calls, as SDEs would not be
            eps = torch.randn(known.shape[1:], generator=draw).to(known).expand_as(known)
            u = torch.full((len(x), x.shape[2]), noise, dtype=torch.float64, device=x.device)
            seen, level = noised(known, u, eps)
            partly = {**rest, "image": torch.cat([seen * mask, mask], 1), KNOWN_LEVEL: level}
            with_history = denoise(x, t, partly).x0
        without = denoise(x, t, {**rest, "image": torch.zeros_like(image)}).x0
        return replace(prediction, x0=prediction.x0 + (scale - 1) * (with_history - without))

    return FunctionDenoiser(denoise.process, guided)
