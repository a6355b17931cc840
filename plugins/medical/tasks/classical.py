"""Classical reconstruction, the baselines of a learned prior.

All take a measurement of unit noise or of a stated one and minimise |y - A x|^2 / (2 noise_std^2)
with or without a penalty; noise_std 0 is taken as 1.  Pictures are (b, c, h, w); the penalties add
channels up under the root, so that real and imaginary part keep their edges together.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.inverse.measurement import LinearOperator, Measurement, dot, residual
from core.process.gaussian import over
from core.process.rows import row_sum

CONVERGED = 1e-6  # of the first gradient's length
SWING = 0.1  # how far a pixel moves in the early iterations, in units of the pictures


def operator_norm(
    operator: LinearOperator, like: Float[Tensor, " b c h w"], *, rounds: int = 15
) -> Float[Tensor, " b"]:
    """The largest singular value of A for each sample, by power iteration: a little too small."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(like.shape[1:], generator=draw, dtype=like.dtype).to(like.device)
    x = x.expand_as(like).contiguous()
    for _ in range(rounds):
        x = x / over(row_sum(x.square()).sqrt(), x)
        x = operator.adjoint(operator.forward(x))
    return row_sum(x.square()).sqrt().sqrt()


def least_squares(
    measurement: Measurement,
    start: Float[Tensor, " b c h w"],
    *,
    iterations: int = 50,
    discrepancy: float = 1.0,
) -> Float[Tensor, " b c h w"]:
    """Conjugate gradients on A* A x = A* y (CGLS), stopped where the residual is as large as noise.

    Source: Hestenes and Stiefel 1952; Morozov's discrepancy principle.

    Args:
        measurement: y, A and the standard deviation of its noise.
        start: initial image.
        iterations: at most.
        discrepancy: a sample is done when |y - A x| is at most this times noise_std sqrt(m).
    """
    operator, x = measurement.operator, start
    r = residual(measurement, x)
    count = r[0].numel() * (2 if r.is_complex() else 1)
    target = (discrepancy * measurement.noise_std) ** 2 * count
    s = operator.adjoint(r)
    p, gamma = s, dot(s, s)
    going, least = dot(r, r) > target, CONVERGED**2 * gamma
    for _ in range(iterations):
        going = going & (gamma > least)  # beyond that rounding is all that is left
        if not going.any():
            break
        q = operator.forward(p)
        step = torch.where(going, gamma, 0.0) / dot(q, q).clamp(min=1e-30)
        x, r = x + over(step, x) * p, r - _column(step, r) * q
        s = operator.adjoint(r)
        after = torch.where(going, dot(s, s), gamma)
        p, gamma = s + over(after / gamma.clamp(min=1e-30), s) * p, after
        going = going & (dot(r, r) > target)
    return x


def _column(value: Tensor, r: Tensor) -> Tensor:
    return value.reshape(-1, *[1] * (r.ndim - 1))


def total_variation(
    measurement: Measurement,
    start: Float[Tensor, " b c h w"],
    *,
    weight: float,
    iterations: int = 300,
) -> Float[Tensor, " b c h w"]:
    """The x that minimises |y - A x|^2 / (2 noise_std^2) + weight TV(x), TV isotropic.

    By the primal-dual method on both terms, the data's operator scaled to the gradient's norm.
    Source: Chambolle and Pock 2011, J. Math. Imaging Vis. 40, 120; Sidky et al. 2012,
    Phys. Med. Biol. 57, 3065, algorithm 4.

    Args:
        measurement: y, A and the standard deviation of its noise.
        start: initial image.
        weight: of the total variation, in units of the penalty on the data.
        iterations: of the method.
    """
    operator, noise = measurement.operator, measurement.noise_std or 1.0
    gain = math.sqrt(8) / (1.05 * operator_norm(operator, start))
    trust = 1 / (gain * noise) ** 2  # weight of |gain (y - A x)|^2 / 2
    primal = 0.99 / 4 * SWING / weight  # the dual variables are as large as the weight
    dual = (0.99 / 4) ** 2 / primal
    x, ahead = start, start
    p = torch.zeros_like(measurement.y)
    q = torch.zeros(2, *x.shape, dtype=x.dtype, device=x.device)
    g, t = _column(gain, p), _column(trust, p)
    for _ in range(iterations):
        p = (p + dual * g * (operator.forward(ahead) - measurement.y)) / (1 + dual / t)
        q = q + dual * gradient(ahead)
        size = q.square().sum((0, 2), keepdim=True).sqrt()  # over directions and channels
        q = q / (size / weight).clamp(min=1)
        after = x - primal * (over(gain, x) * operator.adjoint(p) - divergence(q))
        x, ahead = after, 2 * after - x
    return x


def weighted_variation(
    measurement: Measurement, start: Float[Tensor, " b c h w"], *, weight: float
) -> dict[str, Float[Tensor, " b c h w"]]:
    """Total variation of half and of twice a weight, by name.

    Args:
        measurement: y, A and the standard deviation of its noise.
        start: initial image.
        weight: the weight between the two.
    """
    return {
        f"TV ({other:g})": total_variation(measurement, start, weight=other)
        for other in (weight / 2, 2 * weight)
    }


def gradient(x: Float[Tensor, " b c h w"]) -> Float[Tensor, "2 b c h w"]:
    """Differences to the pixel below and to the right; 0 at the edge."""
    down = torch.zeros_like(x)
    right = torch.zeros_like(x)
    down[..., :-1, :] = x[..., 1:, :] - x[..., :-1, :]
    right[..., :-1] = x[..., 1:] - x[..., :-1]
    return torch.stack([down, right])


def divergence(q: Float[Tensor, "2 b c h w"]) -> Float[Tensor, " b c h w"]:
    """Minus the adjoint of `gradient`."""
    down, right = q
    x = torch.zeros_like(down)
    x[..., :-1, :] += down[..., :-1, :]
    x[..., 1:, :] -= down[..., :-1, :]
    x[..., :-1] += right[..., :-1]
    x[..., 1:] -= right[..., :-1]
    return x


def sparse_wavelets(
    measurement: Measurement,
    start: Float[Tensor, " b c h w"],
    *,
    weight: float,
    iterations: int = 100,
    wavelet: str = "db4",
) -> Float[Tensor, " b c h w"]:
    """The x that minimises |y - A x|^2 / (2 noise_std^2) + weight |W x|_1, by FISTA.

    W is an orthogonal wavelet transform, periodic; its coarsest part is not penalised.
    Source: Beck and Teboulle 2009, SIAM J. Imaging Sci. 2, 183; Lustig et al. 2007.

    Args:
        measurement: y, A and the standard deviation of its noise.
        start: initial image.
        weight: of the penalty, in units of the penalty on the data.
        iterations: of the method.
        wavelet: of PyWavelets.
    """
    operator, noise = measurement.operator, measurement.noise_std or 1.0
    step = (noise / (1.02 * operator_norm(operator, start))) ** 2
    x, ahead, t = start, start, 1.0
    for _ in range(iterations):
        slope = operator.adjoint(residual(measurement, ahead)) / noise**2
        after = shrunk(ahead + over(step, x) * slope, step * weight, wavelet)
        following = (1 + math.sqrt(1 + 4 * t**2)) / 2
        x, ahead, t = after, after + (t - 1) / following * (after - x), following
    return x


def shrunk(
    x: Float[Tensor, " b c h w"], threshold: Float[Tensor, " b"], wavelet: str
) -> Float[Tensor, " b c h w"]:
    """Soft thresholding of the wavelet coefficients, the coarsest excepted.

    The transform repeats the last row or column of an odd side, which is dropped again.
    """
    import pywt

    height, width = x.shape[-2:]

    levels = min(4, pywt.dwtn_max_level((height, width), wavelet))
    found = []
    for row, least in zip(x.cpu().double().numpy(), threshold.tolist(), strict=True):
        parts = pywt.wavedec2(row, wavelet, mode="periodization", level=levels)
        fine = [tuple(_soft(part, least) for part in level) for level in parts[1:]]
        back = pywt.waverec2([parts[0], *fine], wavelet, mode="periodization")
        found.append(back[..., :height, :width])
    return torch.from_numpy(np.stack(found)).to(x)


def _soft(part: np.ndarray, least: float) -> np.ndarray:
    size = np.sqrt((part**2).sum(0, keepdims=True))
    return part * np.maximum(1 - least / np.maximum(size, 1e-30), 0)
