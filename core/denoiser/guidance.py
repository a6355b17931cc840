"""Guidance: a denoiser made from a denoiser.

A change g of the score, grad log p(x_t) + g, is the change (sigma^2 / alpha) g of E[x0 | x_t]
(Tweedie), so every method here bends `x0` and serves every solver and process.  All work under
`torch.no_grad()`; where gradients are on, the result can be differentiated.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from core.denoiser.parameterization import Condition, Denoiser, FunctionDenoiser, Prediction
from core.errors import InputError
from core.process.gaussian import GaussianPath, over
from core.process.rows import row_mean

# (x_t, t, condition) -> log p(c | x_t) of each sample (b,).
LogProb = Callable[[Tensor, Tensor, Condition | None], Tensor]
# (x0, condition) -> how good each sample is (b,).
Reward = Callable[[Tensor, Condition | None], Tensor]
# condition -> the condition of the unconditional call.
Without = Callable[[Condition | None], Condition | None]


def score_gain(process: GaussianPath, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """sigma^2 / alpha, from a change of the score to one of x0; 0 at alpha = 0."""
    alpha, sigma = process.alpha_sigma(t.double())
    return torch.where(alpha > 0, sigma**2 / torch.where(alpha > 0, alpha, 1.0), 0.0)


def gradient(
    of: Callable[[Tensor], Float[Tensor, " b"]], x: Float[Tensor, " b *shape"]
) -> Float[Tensor, " b *shape"]:
    """The gradient of of(x) with respect to x, sample by sample.

    Works with gradients off; with gradients on, the result is differentiable itself.
    """
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        at = x if keep and x.requires_grad else x.detach().requires_grad_()
        value = of(at)
    return _grad(value, at, torch.ones_like(value), keep)


def with_pull(
    ask: Callable[[Tensor], Prediction], x: Float[Tensor, " b *shape"]
) -> tuple[Prediction, Callable[[Tensor], Tensor]]:
    """The prediction at x, and v -> J^T v with J = d x0 / d x; the second may be called once.

    Works with gradients off; with gradients on, both are differentiable.
    """
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        at = x if keep and x.requires_grad else x.detach().requires_grad_()
        prediction = ask(at)
    return prediction if keep else prediction.detached(), lambda v: _grad(
        prediction.x0, at, v, keep
    )


def _grad(value: Tensor, at: Tensor, v: Tensor, keep: bool) -> Tensor:
    if not value.requires_grad:  # does not depend on x at all
        return torch.zeros_like(at)
    if keep:
        return torch.autograd.grad(value, at, v, create_graph=True, materialize_grads=True)[0]
    with torch.enable_grad():  # as a sum: PyTorch imports hundreds of modules when it is given v
        whole = (value * v).sum()
    return torch.autograd.grad(whole, at, materialize_grads=True)[0]


def classifier(denoise: Denoiser, log_prob: LogProb, *, scale: float = 1.0) -> Denoiser:
    """x0' = x0 + scale (sigma^2 / alpha) grad_x log p(c | x_t); no shift at alpha = 0.

    Scale 1 with the exact classifier is the conditional model.  Other scales follow
    p(x) p(c|x)^scale at low noise only: the scores of higher levels belong to no diffusion of it.
    Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 4 and algorithm 2.

    Args:
        denoise: the model to guide.
        log_prob: log p(c | x_t) of each sample, from (x_t, t, condition); differentiable in x_t.
        scale: weight of the classifier; 0 is the model alone.
    """

    def guided(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        prediction = denoise(x, t, condition)
        slope = gradient(lambda at: log_prob(at, t, condition), x)
        return replace(
            prediction, x0=prediction.x0 + scale * over(score_gain(denoise.process, t), x) * slope
        )

    return FunctionDenoiser(denoise.process, guided)


def reward(denoise: Denoiser, reward: Reward, *, scale: float = 1.0) -> Denoiser:
    """x0' = x0 + scale (sigma^2 / alpha) grad_x r, the reward r = r(x0(x)) seen from x_t.

    For rewards of clean samples: a similarity to a text (CLIP), a classifier of clean pictures, a
    physical penalty.  No shift at alpha = 0.
    Source: Bansal et al. 2023, arXiv:2302.07121; the gradient through the denoiser is that of
    Chung et al. 2023, arXiv:2209.14687.

    Args:
        denoise: the model to guide; differentiable.
        reward: how good each sample is (b,), from (x0, condition); differentiable in x0.
        scale: weight of the reward, in nats of log-density for one of its units.
    """

    def guided(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        prediction, pull = with_pull(lambda at: denoise(at, t, condition), x)
        slope = pull(gradient(lambda x0: reward(x0, condition), prediction.x0))
        return replace(
            prediction, x0=prediction.x0 + scale * over(score_gain(denoise.process, t), x) * slope
        )

    return FunctionDenoiser(denoise.process, guided)


def classifier_free(
    denoise: Denoiser,
    without: Without,
    *,
    scale: float = 2.0,
    log_snr_min: float | None = None,
    log_snr_max: float | None = None,
    rescale: float = 0.0,
) -> Denoiser:
    """x0' = u + scale (c - u) between two noise levels and c outside, u without the condition.

    Two calls; one where no sample is inside, or at scale 1.
    Source: Ho and Salimans 2022, arXiv:2207.12598, eq. 6, with scale = 1 + their w; the interval
    is Kynkaanniemi et al. 2024, arXiv:2404.07724; rescaling is Lin et al. 2023, arXiv:2305.08891,
    section 3.4, on x0.

    Args:
        denoise: the model to guide, trained with and without its condition.
        without: the condition of the unconditional call, from the condition.
        scale: 0 is unconditional, 1 conditional, above 1 guided.
        log_snr_min: lowest log-SNR that is guided; none where null.
        log_snr_max: highest log-SNR that is guided; none where null.
        rescale: how far each sample's deviation is brought back to that of c, 0 to 1.

    Raises:
        InputError: an empty interval, or rescale not in [0, 1].
    """
    if not 0 <= rescale <= 1:
        raise InputError(f"rescale: expected 0 to 1, got {rescale}")

    def unconditional(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        return denoise(x, t, without(condition))

    other = FunctionDenoiser(denoise.process, unconditional)
    inside = _interval(denoise.process, log_snr_min, log_snr_max)
    return _away_from(denoise, other, inside, scale, rescale)


def autoguidance(
    denoise: Denoiser,
    weaker: Denoiser,
    *,
    scale: float = 2.0,
    log_snr_min: float | None = None,
    log_snr_max: float | None = None,
) -> Denoiser:
    """x0' = w + scale (x0 - w) between two noise levels and x0 outside, w from a weaker model.

    Source: Karras et al. 2024, arXiv:2406.02507.

    Args:
        denoise: the model to guide.
        weaker: a smaller or less trained model of the same data and conditions.
        scale: 1 is the model alone, above 1 leads away from the weaker one.
        log_snr_min: lowest log-SNR that is guided; none where null.
        log_snr_max: highest log-SNR that is guided; none where null.

    Raises:
        InputError: an empty interval.
    """
    return _away_from(
        denoise, weaker, _interval(denoise.process, log_snr_min, log_snr_max), scale, 0.0
    )


def _interval(
    process: GaussianPath, low: float | None, high: float | None
) -> Callable[[Tensor], Tensor]:
    least, most = -math.inf if low is None else low, math.inf if high is None else high
    if least >= most:
        raise InputError(f"expected log_snr_min < log_snr_max, got {low} and {high}")

    def inside(t: Tensor) -> Tensor:
        log_snr = process.log_snr(t)
        return (log_snr >= least) & (log_snr <= most)

    return inside


def _away_from(
    denoise: Denoiser,
    other: Denoiser,
    inside: Callable[[Tensor], Tensor],
    scale: float,
    rescale: float,
) -> Denoiser:
    def guided(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        prediction, within = denoise(x, t, condition), inside(t)
        if scale == 1 or not within.any():
            return prediction
        x0 = prediction.x0 + (scale - 1) * (prediction.x0 - other(x, t, condition).x0)
        if rescale:
            wanted, found = _std(prediction.x0), _std(x0)
            ratio = torch.where(found > 0, wanted / torch.where(found > 0, found, 1.0), 1.0)
            x0 = over(1 + rescale * (ratio - 1), x0) * x0
        return replace(prediction, x0=torch.where(over(within.double(), x) > 0, x0, prediction.x0))

    return FunctionDenoiser(denoise.process, guided)


def _std(x: Tensor) -> Tensor:
    return row_mean((x - over(row_mean(x), x)) ** 2).sqrt()


def clip(denoise: Denoiser, *, low: float = -1.0, high: float = 1.0) -> Denoiser:
    """x0 clipped to the range of the data.

    Source: Ho et al. 2020, arXiv:2006.11239, section 3.2 (static thresholding).

    Args:
        denoise: the model.
        low: least value of the data.
        high: greatest value of the data.

    Raises:
        InputError: an empty range.
    """
    if low >= high:
        raise InputError(f"clip: expected low < high, got {low} and {high}")

    def clipped(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        prediction = denoise(x, t, condition)
        return replace(prediction, x0=prediction.x0.clamp(low, high))

    return FunctionDenoiser(denoise.process, clipped)


def dynamic_threshold(
    denoise: Denoiser, *, quantile: float = 0.995, floor: float = 1.0
) -> Denoiser:
    """x0 clipped to [-s, s] and scaled by floor / s, s = max(floor, quantile of |x0|), per sample.

    Keeps strong guidance from saturating.  Values that are infinite count as the largest finite.
    Source: Saharia et al. 2022, arXiv:2205.11487, section 2.3.

    Args:
        denoise: the model, usually guided already.
        quantile: share of a sample's elements that are not clipped, 0 to 1.
        floor: greatest magnitude of the data, positive; a sample within it is left as it is.

    Raises:
        InputError: quantile not in [0, 1], or floor not positive.
    """
    if not 0 <= quantile <= 1 or floor <= 0:
        raise InputError(
            f"expected 0 <= quantile <= 1 and floor > 0, got quantile={quantile}, floor={floor}"
        )

    def thresholded(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        prediction = denoise(x, t, condition)
        most = torch.finfo(prediction.x0.dtype).max
        x0 = prediction.x0.clamp(-most, most)  # infinity over infinity would not be a number
        s = torch.stack([_quantile(row.abs().flatten(), quantile) for row in x0]).clamp(min=floor)
        s = over(s, x0)
        return replace(prediction, x0=x0.clamp(-s, s) * (floor / s))

    return FunctionDenoiser(denoise.process, thresholded)


def _quantile(values: Tensor, share: float) -> Tensor:
    """The quantile with linear interpolation; `torch.quantile` refuses more than 2^24 values."""
    place = share * (len(values) - 1)
    below = math.floor(place)
    upper = values.topk(len(values) - below, sorted=True).values  # greatest first
    low, high = upper[-1], upper[max(len(upper) - 2, 0)]
    return low + (place - below) * (high - low)
