"""Gaussian forward processes x_t = alpha(t) x0 + sigma(t) eps.

A schedule (`core.process.schedules`) states alpha(t) and sigma(t).  Log-SNR and its inverse,
drift, diffusion and the posterior q(x_u | x_t, x0) are derived here, once.  Times and coefficients
are float64.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

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
