"""Gaussian forward processes x_t = alpha(t) x0 + sigma(t) eps.

A schedule (`core.process.schedules`) states alpha(t) and sigma(t).  Log-SNR and its inverse,
drift, diffusion and the posterior q(x_u | x_t, x0) are derived here, once.  Times and coefficients
are float64.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

# One time for all samples, or a tensor of them: one a sample (b,), or one an element.
Time = float | Float[Tensor, "..."]


def over(a: Float[Tensor, "..."], x: Float[Tensor, " b *shape"]) -> Float[Tensor, "..."]:
    """View `a`, per sample (b,) or per element, so that it broadcasts over `x`, in its dtype."""
    if a.ndim in (0, x.ndim):
        return a.to(x)
    return a.to(x).reshape(*a.shape, *[1] * (x.ndim - a.ndim))


def float64(t: Time) -> Float64[Tensor, "..."]:
    """`t` as a float64 tensor; a number becomes a tensor without axes."""
    return t.double() if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)


def per_sample(t: Time, x: Float[Tensor, " b *shape"]) -> Float64[Tensor, "..."]:
    """Times in float64, (b,) or per element; a single one is repeated for every sample of `x`."""
    t = float64(t)
    return t.to(x.device).expand(len(x)) if t.ndim == 0 else t


@runtime_checkable
class Schedule(Protocol):
    """alpha(t) and sigma(t), elementwise in float64."""

    def alpha_sigma(
        self, t: Float64[Tensor, " *shape"]
    ) -> tuple[Float64[Tensor, " *shape"], Float64[Tensor, " *shape"]]: ...


@runtime_checkable
class InvertibleSchedule(Schedule, Protocol):
    """A schedule whose log-SNR has an inverse in closed form."""

    def inverse(self, log_snr: Float64[Tensor, " *shape"]) -> Float64[Tensor, " *shape"]:
        """The t with this log-SNR; any value outside the process's times may come back."""
        ...


@dataclass(frozen=True)
class GaussianPath:
    """A forward process on t in [`t_min`, `t_max`]: x_t = alpha x0 + sigma eps.

    Args:
        schedule: alpha(t) and sigma(t), and the inverse of log-SNR where it has a closed form;
            bisection otherwise.
        t_min: the clean end; sigma(t_min) = 0 where the process has such a time.
        t_max: the noisy end.
        t_first: smallest time a network is trained at and called with; above `t_min` where
            log-SNR is infinite there.
    """

    schedule: Schedule
    t_min: float
    t_max: float
    t_first: float

    def __repr__(self) -> str:
        return f"GaussianPath({self.schedule!r}, t from {self.t_min:g} to {self.t_max:g})"

    def alpha_sigma(self, t: Time) -> tuple[Float64[Tensor, "..."], Float64[Tensor, "..."]]:
        """alpha(t) and sigma(t), in the shape of `t`."""
        return self.schedule.alpha_sigma(float64(t))

    def log_snr(self, t: Time) -> Float64[Tensor, "..."]:
        """log(alpha^2 / sigma^2), falling in t."""
        alpha, sigma = self.alpha_sigma(t)
        return 2 * (alpha.log() - sigma.log())

    def time_of_log_snr(self, value: Time) -> Float64[Tensor, "..."]:
        """The t at which log-SNR is `value`, clamped to [`t_min`, `t_max`]."""
        value = float64(value)
        if isinstance(self.schedule, InvertibleSchedule):
            return self.schedule.inverse(value).clamp(self.t_min, self.t_max)
        low, high = torch.full_like(value, self.t_min), torch.full_like(value, self.t_max)
        for _ in range(80):  # halves the bracket to below one float64 ulp
            middle = (low + high) / 2
            above = self.log_snr(middle) > value
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return (low + high) / 2

    def drift_diffusion(self, t: Time) -> tuple[Float64[Tensor, "..."], Float64[Tensor, "..."]]:
        """f(t) and g(t)^2 of dx = f x dt + g dw: f = (log alpha)', g^2 = (sigma^2)' - 2 f sigma^2.

        Source: Kingma et al. 2021, arXiv:2107.00630, eq. 17 to 19.
        """
        t = float64(t)
        values, slopes = torch.func.jvp(self.schedule.alpha_sigma, (t,), (torch.ones_like(t),))[:2]
        (alpha, sigma), (d_alpha, d_sigma) = values, slopes
        f = d_alpha / alpha
        return f, 2 * sigma * d_sigma - 2 * f * sigma**2

    def diffuse(
        self,
        x0: Float[Tensor, " b *shape"],
        t: Time,
        eps: Float[Tensor, " b *shape"],
    ) -> Float[Tensor, " b *shape"]:
        """x_t = alpha(t) x0 + sigma(t) eps; t one number, per sample (b,) or per element."""
        alpha, sigma = self.alpha_sigma(t)
        return over(alpha, x0) * x0 + over(sigma, x0) * eps

    def posterior_coefficients(
        self, t: Time, u: Time
    ) -> tuple[Float64[Tensor, "..."], Float64[Tensor, "..."], Float64[Tensor, "..."]]:
        """(a, b, variance) of q(x_u | x_t, x0) = N(a x_t + b x0, variance), u < t.

        Source: Ho et al. 2020, arXiv:2006.11239, eq. 7, for any pair of times as in Kingma et al.
        2021, arXiv:2107.00630, eq. 25 to 31.
        """
        (alpha_t, sigma_t), (alpha_u, sigma_u) = self.alpha_sigma(t), self.alpha_sigma(u)
        # q(x_t | x_u) = N(ratio x_u, added)
        ratio = alpha_t / alpha_u
        added = sigma_t**2 - ratio**2 * sigma_u**2
        # its product with q(x_u | x0) = N(alpha_u x0, sigma_u^2), normalised
        a = ratio * sigma_u**2 / sigma_t**2
        b = alpha_u * added / sigma_t**2
        return a, b, added * sigma_u**2 / sigma_t**2
