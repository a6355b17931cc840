"""Gaussian forward processes x_t = alpha(t) x0 + sigma(t) eps.

A schedule is a row: it states alpha(t) and sigma(t).  Log-SNR and its inverse, drift, diffusion
and the posterior q(x_u | x_t, x0) are derived here, once.  Times and coefficients are float64.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import InputError

AlphaSigma = Callable[[Tensor], tuple[Tensor, Tensor]]


def over(a: Float[Tensor, "..."], x: Float[Tensor, " b *shape"]) -> Float[Tensor, "..."]:
    """View `a`, per sample (b,) or per element, so that it broadcasts over `x`, in its dtype."""
    if a.ndim in (0, x.ndim):
        return a.to(x)
    return a.to(x).reshape(*a.shape, *[1] * (x.ndim - a.ndim))


@dataclass(frozen=True)
class GaussianPath:
    """A forward process on t in [`t_min`, `t_max`]: x_t = alpha x0 + sigma eps.

    Args:
        alpha_sigma: alpha(t) and sigma(t), elementwise in float64: all that a schedule writes.
        t_min: the clean end; sigma(t_min) = 0 where the process has such a time.
        t_max: the noisy end.
        t_first: smallest time a network is trained at and called with; above `t_min` where
            log-SNR is infinite there.
        inverse: inverse of log-SNR where it has a closed form; bisection otherwise.
    """

    alpha_sigma: AlphaSigma
    t_min: float
    t_max: float
    t_first: float
    inverse: Callable[[Tensor], Tensor] | None = None

    def log_snr(self, t: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """log(alpha^2 / sigma^2), falling in t."""
        alpha, sigma = self.alpha_sigma(t.double())
        return 2 * (alpha.log() - sigma.log())

    def time_of_log_snr(self, value: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """The t at which log-SNR is `value`, clamped to [`t_min`, `t_max`]."""
        value = value.double()
        if self.inverse is not None:
            return self.inverse(value).clamp(self.t_min, self.t_max)
        low, high = torch.full_like(value, self.t_min), torch.full_like(value, self.t_max)
        for _ in range(80):  # halves the bracket to below one float64 ulp
            middle = (low + high) / 2
            above = self.log_snr(middle) > value
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return (low + high) / 2

    def drift_diffusion(
        self, t: Float[Tensor, " *shape"]
    ) -> tuple[Float[Tensor, " *shape"], Float[Tensor, " *shape"]]:
        """f(t) and g(t)^2 of dx = f x dt + g dw: f = (log alpha)', g^2 = (sigma^2)' - 2 f sigma^2.

        Source: Kingma et al. 2021, arXiv:2107.00630, eq. 17 to 19.
        """
        t = t.double()
        values, slopes = torch.func.jvp(self.alpha_sigma, (t,), (torch.ones_like(t),))[:2]
        (alpha, sigma), (d_alpha, d_sigma) = values, slopes
        f = d_alpha / alpha
        return f, 2 * sigma * d_sigma - 2 * f * sigma**2

    def diffuse(
        self,
        x0: Float[Tensor, " b *shape"],
        t: Float[Tensor, "..."],
        eps: Float[Tensor, " b *shape"],
    ) -> Float[Tensor, " b *shape"]:
        """x_t = alpha(t) x0 + sigma(t) eps; t per sample (b,) or per element."""
        alpha, sigma = self.alpha_sigma(t.double())
        return over(alpha, x0) * x0 + over(sigma, x0) * eps

    def prior_std(self) -> float:
        """Standard deviation of x at `t_max` for data of unit spread around zero, sigma alone."""
        _, sigma = self.alpha_sigma(torch.tensor(self.t_max, dtype=torch.float64))
        return float(sigma)

    def posterior_coefficients(
        self, t: Float[Tensor, " *shape"], u: Float[Tensor, " *shape"]
    ) -> tuple[Float[Tensor, " *shape"], Float[Tensor, " *shape"], Float[Tensor, " *shape"]]:
        """(a, b, variance) of q(x_u | x_t, x0) = N(a x_t + b x0, variance), u < t.

        Source: Ho et al. 2020, arXiv:2006.11239, eq. 7, for any pair of times as in Kingma et al.
        2021, arXiv:2107.00630, eq. 25 to 31.
        """
        (alpha_t, sigma_t), (alpha_u, sigma_u) = self.alpha_sigma(t), self.alpha_sigma(u)
        ratio = alpha_t / alpha_u
        of_step = sigma_t**2 - ratio**2 * sigma_u**2  # variance of q(x_t | x_u)
        a = ratio * sigma_u**2 / sigma_t**2
        b = alpha_u * of_step / sigma_t**2
        return a, b, of_step * sigma_u**2 / sigma_t**2


# --- schedules -------------------------------------------------------------------------------


def vp_linear(*, beta_min: float = 0.1, beta_max: float = 20.0) -> GaussianPath:
    """Variance-preserving, beta linear: log alpha = -t beta_min/2 - t^2 (beta_max - beta_min)/4.

    Source: Song et al. 2021, arXiv:2011.13456, eq. 29 and appendix C; DDPM's betas in the limit.

    Args:
        beta_min: noise rate at t = 0, per unit of time.
        beta_max: noise rate at t = 1; must exceed beta_min.

    Raises:
        InputError: rates out of order.
    """
    if not 0 <= beta_min < beta_max:
        raise InputError(
            f"vp_linear: expected 0 <= beta_min < beta_max, got {beta_min} and {beta_max}"
        )
    span = beta_max - beta_min

    def alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
        exponent = -(t * beta_min + t**2 * span / 2)  # log alpha^2
        return (exponent / 2).exp(), (-torch.expm1(exponent)).sqrt()

    def inverse(log_snr: Tensor) -> Tensor:
        # log alpha^2 = -softplus(-log_snr); solve the quadratic without cancellation.
        lost = torch.nn.functional.softplus(-log_snr)
        return 2 * lost / (beta_min + (beta_min**2 + 2 * span * lost).sqrt())

    return GaussianPath(alpha_sigma, t_min=0.0, t_max=1.0, t_first=1e-5, inverse=inverse)


def vp_cosine(*, offset: float = 0.008, beta_max: float = 0.999) -> GaussianPath:
    """Variance-preserving cosine process: alpha = cos(a t + b) / cos(b), ending short of zero SNR.

    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17; their clip of the last of 1000
    betas at `beta_max` becomes an end of time, where the same beta is reached.

    Args:
        offset: keeps early noise from vanishing; their s.
        beta_max: largest noise added by a thousandth of the time; below 1.

    Raises:
        InputError: offset not positive, or beta_max not in (0, 1).
    """
    if offset <= 0 or not 0 < beta_max < 1:
        raise InputError(
            f"vp_cosine: expected offset > 0 and 0 < beta_max < 1, got offset={offset}, "
            f"beta_max={beta_max}"
        )
    rate, shift = math.pi / 2 / (1 + offset), math.pi / 2 * offset / (1 + offset)
    # alpha^2 falls by the factor 1 - beta_max over the last thousandth kept.
    t_max = _last_time(lambda t: math.cos(rate * t + shift) ** 2, 1 - beta_max)

    def alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
        angle = rate * t + shift
        alpha = angle.cos() / math.cos(shift)
        # 1 - alpha^2 = sin(rate t) sin(rate t + 2 shift) / cos(shift)^2, free of cancellation.
        square = (rate * t).sin() * (rate * t + 2 * shift).sin() / math.cos(shift) ** 2
        return alpha, square.sqrt()

    def inverse(log_snr: Tensor) -> Tensor:
        alpha = torch.nn.functional.softplus(-log_snr).mul(-0.5).exp()
        return ((alpha * math.cos(shift)).clamp(-1, 1).acos() - shift) / rate

    return GaussianPath(alpha_sigma, t_min=0.0, t_max=t_max, t_first=1e-5, inverse=inverse)


def _last_time(alpha_square: Callable[[float], float], left: float) -> float:
    low, high = 0.5, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        keeps = alpha_square(middle) / alpha_square(middle - 1e-3)
        low, high = (middle, high) if keeps > left else (low, middle)
    return low


def beta_table(
    *,
    steps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    shape: Literal["linear", "sqrt_linear"] = "linear",
) -> GaussianPath:
    """A discrete DDPM: alpha^2(n / steps) = prod over i <= n of (1 - beta_i), linear in between.

    With alpha^2 linear between the nodes, a uniform t has the piecewise-uniform density of
    alpha^2 that SR3 trains on (Saharia et al. 2021, arXiv:2104.07636, section 2.4).
    Source: Ho et al. 2020, arXiv:2006.11239, section 2.

    Args:
        steps: length of the chain.
        beta_start: variance of the first step.
        beta_end: variance of the last step.
        shape: what is linear between the two: beta, or its square root (latent diffusion's choice).

    Raises:
        InputError: betas not in (0, 1), or fewer than two steps.
    """
    if steps < 2 or not (0 < beta_start < 1 and 0 < beta_end < 1):
        raise InputError(
            f"beta_table: expected steps >= 2 and betas in (0, 1), got steps={steps}, "
            f"beta_start={beta_start}, beta_end={beta_end}"
        )
    power = 1.0 if shape == "linear" else 0.5
    ends = torch.tensor([beta_start, beta_end], dtype=torch.float64) ** power
    betas = torch.linspace(float(ends[0]), float(ends[1]), steps, dtype=torch.float64) ** (
        1 / power
    )
    return from_betas(betas)


def from_betas(betas: Float[Tensor, " n"]) -> GaussianPath:
    """The process of any table of betas; node n lies at t = n / len(betas).  See `beta_table`."""
    steps = len(betas)
    log_kept = torch.log1p(-betas.double()).cumsum(0)
    zero = torch.zeros(1, dtype=torch.float64)
    kept = torch.cat([zero + 1, log_kept.exp()])  # alpha^2 at the nodes
    lost = torch.cat([zero, -torch.expm1(log_kept)])  # sigma^2, exact near zero

    def alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
        at = (t * steps).clamp(0, steps)
        node = at.detach().floor().long().clamp(max=steps - 1)
        part = at - node
        kept_at, lost_at = kept.to(t.device), lost.to(t.device)
        square = kept_at[node] + part * (kept_at[node + 1] - kept_at[node])
        rest = lost_at[node] + part * (lost_at[node + 1] - lost_at[node])
        return square.sqrt(), rest.sqrt()

    return GaussianPath(alpha_sigma, t_min=0.0, t_max=1.0, t_first=0.01 / steps)


def edm(*, sigma_min: float = 0.002, sigma_max: float = 80.0) -> GaussianPath:
    """Variance-exploding process with sigma(t) = t.

    Source: Karras et al. 2022, arXiv:2206.00364, table 1.

    Args:
        sigma_min: smallest level a network is called with, in units of the data.
        sigma_max: largest level; must exceed sigma_min.

    Raises:
        InputError: levels out of order.
    """
    if not 0 < sigma_min < sigma_max:
        raise InputError(
            f"edm: expected 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}"
        )
    return GaussianPath(
        lambda t: (torch.ones_like(t), t),
        t_min=0.0,
        t_max=sigma_max,
        t_first=sigma_min,
        inverse=lambda log_snr: (-log_snr / 2).exp(),
    )
