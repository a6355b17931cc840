"""Guidance: a denoiser made from a denoiser.

With the score s = (alpha E[x0 | x_t] - x_t) / sigma^2 (Tweedie), a change g of the score is the
change (sigma^2 / alpha) g of x0, so every method here changes `x0` and serves every solver and
process.  Methods compose: the denoiser of one is the input of the next.  All work under
`torch.no_grad()`; where gradients are on, the result can be differentiated.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.denoiser.parameterization import Condition, Denoiser, FunctionDenoiser, Prediction
from core.errors import InputError
from core.process.gaussian import GaussianPath, over
from core.process.rows import row_mean

LogProb = Callable[
    [Float[Tensor, " b *shape"], Float[Tensor, "..."], Condition | None], Float[Tensor, " b"]
]
"""(x_t, t, condition) -> log p(c | x_t) of each sample."""
Reward = Callable[[Float[Tensor, " b *shape"], Condition | None], Float[Tensor, " b"]]
"""(x0, condition) -> the reward of each sample."""
Without = Callable[[Condition | None], Condition | None]
"""condition -> the condition of the unconditional estimate."""


def score_gain(process: GaussianPath, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """sigma^2 / alpha, from a change of the score to one of x0; 0 at alpha = 0."""
    alpha, sigma = process.alpha_sigma(t.double())
    return torch.where(alpha > 0, sigma**2 / torch.where(alpha > 0, alpha, 1.0), 0.0)


def gradient(
    of: Callable[[Float[Tensor, " b *shape"]], Float[Tensor, " b"]],
    x: Float[Tensor, " b *shape"],
) -> Float[Tensor, " b *shape"]:
    """The gradient of of(x) with respect to x, sample by sample.

    Works with gradients off; with gradients on, the result is differentiable itself.
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if differentiable and x.requires_grad else x.detach().requires_grad_()
        value = of(x)
    return _vjp(value, x, torch.ones_like(value), differentiable)


def with_pull(
    predict: Callable[[Float[Tensor, " b *shape"]], Prediction], x: Float[Tensor, " b *shape"]
) -> tuple[Prediction, Callable[[Float[Tensor, " b *shape"]], Float[Tensor, " b *shape"]]]:
    """The prediction at x, and v -> J^T v with J = d x0 / d x; the second may be called once.

    Works with gradients off; with gradients on, both are differentiable.
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if differentiable and x.requires_grad else x.detach().requires_grad_()
        prediction = predict(x)
    result = prediction if differentiable else prediction.detached()
    return result, lambda v: _vjp(prediction.x0, x, v, differentiable)


def _vjp(value: Tensor, x: Tensor, v: Tensor, differentiable: bool) -> Tensor:
    """v^T d value / d x; 0 where the value does not depend on x."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    if differentiable:
        return torch.autograd.grad(value, x, v, create_graph=True, materialize_grads=True)[0]
    with torch.enable_grad():  # as a sum: PyTorch imports hundreds of modules when it is given v
        total = (value * v).sum()
    return torch.autograd.grad(total, x, materialize_grads=True)[0]


def classifier(denoise: Denoiser, log_prob: LogProb, *, scale: float = 1.0) -> Denoiser:
    """x0' = x0 + scale (sigma^2 / alpha) grad_x log p(c | x_t); no shift at alpha = 0.

    Scale 1 with the exact classifier is the conditional model.  Other scales follow
    p(x) p(c|x)^scale at low noise only: the scores of higher levels belong to no diffusion of it.
    Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 4.2, eq. 14 and algorithm 2, whose
    eps' = eps - sigma grad log p(c | x_t) this is in x0.

    Args:
        denoise: the model to guide.
        log_prob: log p(c | x_t) of each sample, from (x_t, t, condition); differentiable in x_t.
        scale: weight of the classifier; 0 is the model alone.
    """

    def guided(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        prediction = denoise(x, t, condition)
        g = scale * gradient(lambda x: log_prob(x, t, condition), x)  # eq. 14, the score's change
        return replace(prediction, x0=prediction.x0 + over(score_gain(denoise.process, t), x) * g)

    return FunctionDenoiser(denoise.process, guided)


def reward(denoise: Denoiser, reward: Reward, *, scale: float = 1.0) -> Denoiser:
    """x0' = x0 + scale (sigma^2 / alpha) grad_x r(x0(x)), with the gradient through the denoiser.

    For rewards of clean samples: a similarity to a text (CLIP), a classifier of clean images, a
    physical penalty.  No shift at alpha = 0.
    Source: Bansal et al. 2023, arXiv:2302.07121, section 3.2 (forward universal guidance).

    Args:
        denoise: the model to guide; differentiable.
        reward: of each sample (b,), from (x0, condition); differentiable in x0.
        scale: weight of the reward, in nats of log-density for one of its units.
    """

    def guided(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        prediction, pull = with_pull(lambda x: denoise(x, t, condition), x)
        # Chain rule: grad_x r(x0(x)) = J^T grad_x0 r, J = d x0 / d x.
        g = scale * pull(gradient(lambda x0: reward(x0, condition), prediction.x0))
        return replace(prediction, x0=prediction.x0 + over(score_gain(denoise.process, t), x) * g)

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

    Two calls; one where no sample is inside, or at scale 1.  The model has to be trained with and
    without its condition (`unconditional`).
    Source: Ho and Salimans 2022, arXiv:2207.12598, eq. 6, with scale = 1 + their w; the interval
    is Kynkaanniemi et al. 2024, arXiv:2404.07724; rescaling is Lin et al. 2023,
    arXiv:2305.08891, eq. 15 and 16, on x0.

    Args:
        denoise: the model to guide, trained with and without its condition.
        without: the condition of the unconditional estimate, from the condition;
            `core.network.conditioning.null_condition` for networks trained here.
        scale: 0 is unconditional, 1 conditional, above 1 guided.
        log_snr_min: lowest log-SNR that is guided; no limit where null.
        log_snr_max: highest log-SNR that is guided; no limit where null.
        rescale: weight of x0' scaled to the standard deviation of c, per sample, 0 to 1.

    Raises:
        InputError: an empty interval, or rescale not in [0, 1].
    """
    if not 0 <= rescale <= 1:
        raise InputError(f"rescale: expected 0 to 1, got {rescale}")

    def unconditional(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        return denoise(x, t, without(condition))

    other = FunctionDenoiser(denoise.process, unconditional)
    inside = _interval(denoise.process, log_snr_min, log_snr_max)
    return _extrapolated(denoise, other, inside, scale, rescale)


def autoguidance(
    denoise: Denoiser,
    weaker: Denoiser,
    *,
    scale: float = 2.0,
    log_snr_min: float | None = None,
    log_snr_max: float | None = None,
) -> Denoiser:
    """x0' = w + scale (x0 - w) between two noise levels and x0 outside, w from a weaker model.

    Source: Karras et al. 2024, arXiv:2406.02507, section 4.

    Args:
        denoise: the model to guide.
        weaker: a smaller or less trained model of the same data and conditions.
        scale: 1 is the model alone, above 1 guides away from the weaker one.
        log_snr_min: lowest log-SNR that is guided; no limit where null.
        log_snr_max: highest log-SNR that is guided; no limit where null.

    Raises:
        InputError: an empty interval.
    """
    inside = _interval(denoise.process, log_snr_min, log_snr_max)
    return _extrapolated(denoise, weaker, inside, scale, 0.0)


Inside = Callable[[Float[Tensor, "*n"]], Bool[Tensor, "*n"]]


def _interval(process: GaussianPath, low: float | None, high: float | None) -> Inside:
    """t -> whether its log-SNR is between two bounds."""
    least, most = -math.inf if low is None else low, math.inf if high is None else high
    if least >= most:
        raise InputError(f"expected log_snr_min < log_snr_max, got {low} and {high}")

    def inside(t: Tensor) -> Tensor:
        log_snr = process.log_snr(t)
        return (log_snr >= least) & (log_snr <= most)

    return inside


def _extrapolated(
    denoise: Denoiser, other: Denoiser, inside: Inside, scale: float, rescale: float
) -> Denoiser:
    """x0' = u + scale (c - u) where `inside` and c elsewhere, c of `denoise` and u of `other`."""

    def guided(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        prediction, within = denoise(x, t, condition), inside(t)
        if scale == 1 or not within.any():
            return prediction
        c, u = prediction.x0, other(x, t, condition).x0
        # Ho and Salimans eq. 6: (1 + w) c - w u with w = scale - 1
        x0 = c + (scale - 1) * (c - u)
        if rescale:
            # Lin et al. eq. 15: x0 scaled to the standard deviation of c; eq. 16: mixed with x0
            std_c, std_x0 = _std(c), _std(x0)
            ratio = torch.where(std_x0 > 0, std_c / torch.where(std_x0 > 0, std_x0, 1.0), 1.0)
            x0 = over(1 + rescale * (ratio - 1), x0) * x0
        return replace(prediction, x0=torch.where(over(within.double(), x) > 0, x0, c))

    return FunctionDenoiser(denoise.process, guided)


def _std(x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b"]:
    """Standard deviation over a sample's elements."""
    return row_mean((x - over(row_mean(x), x)) ** 2).sqrt()


def clip(denoise: Denoiser, *, low: float = -1.0, high: float = 1.0) -> Denoiser:
    """x0 clipped to the range of the data.

    Source: Saharia et al. 2022, arXiv:2205.11487, section 2.3 (static thresholding).

    Args:
        denoise: the model.
        low: lowest value of the data.
        high: highest value of the data.

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

    Keeps strong guidance from saturating; in a list it comes after that guidance.  Values that are
    infinite count as the largest finite.
    Source: Saharia et al. 2022, arXiv:2205.11487, section 2.3 (dynamic thresholding), where the
    floor is 1.

    Args:
        denoise: the model, usually guided already.
        quantile: fraction of a sample's elements that are not clipped, 0 to 1.
        floor: largest magnitude of the data, positive; a sample within it stays as it is.

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
        x0 = prediction.x0.clamp(-most, most)  # infinity / infinity is NaN
        # s: the quantile of |x0| in each sample, at least the floor
        s = torch.stack([_quantile(row.abs().flatten(), quantile) for row in x0]).clamp(min=floor)
        s = over(s, x0)
        return replace(prediction, x0=x0.clamp(-s, s) * (floor / s))

    return FunctionDenoiser(denoise.process, thresholded)


def _quantile(values: Float[Tensor, " n"], fraction: float) -> Float[Tensor, ""]:
    """The quantile with linear interpolation; `torch.quantile` refuses more than 2^24 values."""
    position = fraction * (len(values) - 1)
    below = math.floor(position)
    upper = values.topk(len(values) - below, sorted=True).values  # descending
    low, high = upper[-1], upper[max(len(upper) - 2, 0)]
    return low + (position - below) * (high - low)
