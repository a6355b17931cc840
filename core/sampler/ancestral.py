"""Chains of order 1: DDPM's ancestral sampler, DDIM, and Euler-Maruyama on the reverse SDE."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.denoiser.variance import step_variance
from core.errors import InputError
from core.process.gaussian import GaussianPath
from core.process.noise import Source
from core.sampler.solver import Affine, Ends, Estimate, affine, ends, euler


class _Chain(NamedTuple):
    mean: Affine
    small: float
    large: float


@dataclass(frozen=True, kw_only=True)
class Ancestral:
    """DDPM's reverse chain: a draw from q(x_u | x_t, x0_hat), with a choice of variance.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 7 and section 3.2; SR3 (arXiv:2104.07636,
    algorithm 2) uses the large variance; Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 15,
    learn one between the two; Bao et al. 2022, arXiv:2201.06503, theorem 1, give the best one.

    Args:
        variance: of each step: small, the posterior's for a known x0; large, the forward step's;
            learned, the network's interpolation between the two; analytic, small plus the
            uncertainty of x0, for denoisers that predict it (`core.denoiser.variance`).
    """

    convergence = 1
    restarts = False

    variance: Literal["small", "large", "learned", "analytic"] = "small"

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_Chain]:
        """Coefficients of the posterior q(x_u | x_t, x0) for every step."""
        rows, times = [], grid.double().cpu()
        posterior = torch.stack(process.posterior_coefficients(times[:-1], times[1:]), dim=1)
        steps = ends(process, grid, falls=True)
        for e, (a, b, small) in zip(steps, posterior.tolist(), strict=True):
            # q(x_t | x_u) has variance sigma_t^2 - (alpha_t / alpha_u)^2 sigma_u^2.
            forward = 1 - (e.alpha_t * e.sigma_u / (e.alpha_u * e.sigma_t)) ** 2
            # No noise into the last, clean level: the chain's result is its mean.
            large = forward * e.sigma_t**2 if e.sigma_u > 0 else 0.0
            chosen = large if self.variance == "large" else small
            mean = Affine(e.t, a, b, math.sqrt(max(chosen, 0.0)), e.clock)
            rows.append(_Chain(mean, max(small, 0.0), large))
        return rows

    def step(
        self,
        x: Float[Tensor, " b *shape"],
        row: _Chain,
        state: None,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], None]:
        """One draw of the chain; one call.

        Raises:
            InputError: the denoiser does not predict that variance.
        """
        prediction = estimate(x, row.mean.t)
        if self.variance in ("small", "large"):
            return affine(x, prediction.x0, row.mean, noise), None
        mean = affine(x, prediction.x0, row.mean._replace(noise=0.0), noise)
        if row.large == 0:
            return mean, None
        variance = step_variance(
            prediction, self.variance, x, small=row.small, large=row.large, b=row.mean.x0
        )
        return mean + variance.sqrt().to(x) * noise.between(x, *row.mean.clock), None


@dataclass(frozen=True, kw_only=True)
class DDIM:
    """x_u = alpha_u x0 + sqrt(sigma_u^2 - s^2) eps + s z, s = eta times the posterior's std.

    Order 1 for eta = 0, where it is Euler's rule on the probability-flow ODE in sigma / alpha.
    Source: Song et al. 2021, arXiv:2010.02502, eq. 12 and 16.

    Args:
        eta: 0 is deterministic, 1 the ancestral chain with the small variance.
    """

    convergence = 1
    restarts = False

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise InputError(f"eta: expected 0 to 1, got {self.eta}")

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[Affine]:
        """Coefficients of x_t, x0 and z for every step."""
        rows = []
        for e in ends(process, grid, falls=self.eta > 0):
            if self.eta == 0:
                rows.append(euler(e))
                continue
            # eq. 16: the posterior's standard deviation, times eta.
            kept = e.alpha_t * e.sigma_u / (e.alpha_u * e.sigma_t)
            s = self.eta * e.sigma_u * math.sqrt(max(1 - kept**2, 0.0))
            # eq. 12, with eps = (x_t - alpha_t x0) / sigma_t.
            direction = math.sqrt(max(e.sigma_u**2 - s**2, 0.0)) / e.sigma_t
            rows.append(Affine(e.t, direction, e.alpha_u - direction * e.alpha_t, s, e.clock))
        return rows

    def step(
        self,
        x: Float[Tensor, " b *shape"],
        row: Affine,
        state: None,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], None]:
        """One step; one call."""
        return affine(x, estimate(x, row.t).x0, row, noise), None


@dataclass(frozen=True, kw_only=True)
class EulerMaruyama:
    """Euler's rule on dx = (f x - (1 + eta)/2 g^2 score) dt + sqrt(eta) g dw, run backwards.

    The step into the clean end adds no noise; a step from pure noise, where g is infinite, is the
    exponential rule's.
    Source: Song et al. 2021, arXiv:2011.13456, eq. 6 and appendix D; the family in eta is
    Karras et al. 2022, arXiv:2206.00364, eq. 6.

    Args:
        eta: strength of the noise: 1 is the reverse SDE, 0 the probability-flow ODE.
    """

    convergence = 1
    restarts = False

    eta: float = 1.0

    def __post_init__(self) -> None:
        if self.eta < 0:
            raise InputError(f"eta: expected at least 0, got {self.eta}")

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[Affine]:
        """Coefficients of x_t, x0 and z for every step: score = (alpha x0 - x) / sigma^2."""
        rows, times = [], grid.double().cpu()
        rates = torch.stack(process.drift_diffusion(times[:-1]), dim=1).tolist()
        steps = ends(process, grid, falls=self.eta > 0)
        for e, (f, g2) in zip(steps, rates, strict=True):
            if e.alpha_t == 0 or e.alpha_u == 0:
                rows.append(_exponential(e, self.eta))
                continue
            # score = (alpha x0 - x) / sigma^2: -(1 + eta) / 2 g^2 score dt pulls x to alpha x0.
            length = e.u - e.t
            pull = (1 + self.eta) / 2 * g2 * length / e.sigma_t**2
            spread = math.sqrt(self.eta * g2 * abs(length)) if e.sigma_u > 0 else 0.0
            rows.append(Affine(e.t, 1 + f * length + pull, -pull * e.alpha_t, spread, e.clock))
        return rows

    def step(
        self,
        x: Float[Tensor, " b *shape"],
        row: Affine,
        state: None,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], None]:
        """One step; one call."""
        return affine(x, estimate(x, row.t).x0, row, noise), None


def _exponential(e: Ends, eta: float) -> Affine:
    """The step from pure noise: of x only its direction is kept, and that for eta = 0 alone."""
    return euler(e) if eta == 0 else Affine(e.t, 0.0, e.alpha_u, e.sigma_u, e.clock)
