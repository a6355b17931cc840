"""Critically-damped Langevin diffusion: noise enters a velocity, which carries the data along.

In the clock s = int_0^t beta / sqrt(M) and with w = v / sqrt(M) every such process is the same,

    dx = w ds,    dw = -(x + 2 w) ds + 2 dW,

whose flow is e^(-s) [[1 + s, s], [-s, 1 - s]] since the matrix has one double eigenvalue.  All
that follows has a closed form, in float64, and is free of cancellation down to s = 0.  A network
predicts the noise of the velocity, by hybrid score matching; `core.sampler.langevin` samples.
Library only: no registered objective trains such a network yet::

    process = CriticallyDamped()
    eps = Phase(noise.like(x0), noise.like(x0))
    phase = process.diffuse(x0, t, eps)
    loss = (network(phase.position, phase.velocity, t) - eps.velocity).square().mean()

Source: Dockhorn, Vahdat and Kreis 2022, arXiv:2112.07068.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.errors import InputError
from core.process.gaussian import over
from core.process.noise import Source


class Phase(NamedTuple):
    """A point in phase space.

    Args:
        position: in the shape of the data.
        velocity: in the same shape.
    """

    position: Float[Tensor, " b *shape"]
    velocity: Float[Tensor, " b *shape"]


class Symmetric(NamedTuple):
    """A symmetric 2 x 2 matrix over (position, velocity), or a lower triangular one."""

    xx: Float[Tensor, " *s"]
    xv: Float[Tensor, " *s"]
    vv: Float[Tensor, " *s"]


class Flow(NamedTuple):
    """A 2 x 2 matrix: x, w <- xx x + xw w, wx x + ww w."""

    xx: Float64[Tensor, " *s"]
    xw: Float64[Tensor, " *s"]
    wx: Float64[Tensor, " *s"]
    ww: Float64[Tensor, " *s"]


def unit_flow(s: Float64[Tensor, " *s"]) -> Flow:
    """e^(-s) [[1 + s, s], [-s, 1 - s]]: the flow of x, w over a time s without noise."""
    decay = (-s).exp()
    return Flow(decay * (1 + s), decay * s, -decay * s, decay * (1 - s))


def unit_noise(s: Float64[Tensor, " *s"]) -> Symmetric:
    """Covariance of x, w after a time s from a known point.

    xx = 1 - e^(-2s) (1 + 2s + 2s^2), xw = 2 s^2 e^(-2s), ww = 1 - e^(-2s) (1 - 2s + 2s^2).
    """
    z = 2 * s
    decay = (-z).exp()
    # xx falls as s^3: it is the regularised incomplete gamma function P(3, 2s).
    xx = torch.special.gammainc(torch.full_like(z, 3.0), z)
    return Symmetric(xx, z**2 / 2 * decay, -torch.expm1(-z) + decay * (z - z**2 / 2))


def unit_factor(s: Float64[Tensor, " *s"], gamma: float = 0.0) -> Symmetric:
    """The Cholesky factor L (xv is its lower left) of x, w at s, x known and w ~ N(0, gamma) at 0.

    Of det = det N + gamma (a_x^2 N_ww - 2 a_x a_w N_xw + a_w^2 N_xx), N the noise and a the flow of
    w, each bracket loses a constant factor to cancellation and no more, however small s is.
    """
    n, (_, a_x, _, a_w) = unit_noise(s), unit_flow(s)
    # the covariance N + gamma a a^T, and its determinant
    xx, xw, ww = n.xx + gamma * a_x**2, n.xv + gamma * a_x * a_w, n.vv + gamma * a_w**2
    det = n.xx * n.vv - n.xv**2
    det = det + gamma * (a_x**2 * n.vv - 2 * a_x * a_w * n.xv + a_w**2 * n.xx)
    # L_xx = sqrt(xx), L_wx = xw / L_xx, L_ww = sqrt(det / xx); at s = 0 the position is certain
    known = xx == 0
    root = xx.sqrt()
    lower = torch.where(known, 0.0, xw / torch.where(known, 1.0, root))
    last = torch.where(known, ww, det / torch.where(known, 1.0, xx))
    return Symmetric(root, lower, last.clamp(min=0).sqrt())


@dataclass(frozen=True, kw_only=True)
class CriticallyDamped:
    """dx = v / M beta dt, dv = -(x + Gamma v / M) beta dt + sqrt(2 Gamma beta) dW, Gamma^2 = 4 M.

    t runs from 0 (clean) to 1; the limit is N(0, 1) in position and N(0, M) in velocity.
    Source: Dockhorn et al. 2022, arXiv:2112.07068, section 3; the defaults are its appendix's.

    Args:
        beta_min: rate at t = 0, per unit of time.
        beta_max: rate at t = 1; beta is linear between.
        mass: M, above 0.
        gamma: variance of the velocity of clean data over M; above 0.
        t_first: smallest time a network is trained at and called with.
    """

    beta_min: float = 4.0
    beta_max: float = 4.0
    mass: float = 0.25
    gamma: float = 0.04
    t_first: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise InputError(
                f"expected 0 < beta_min <= beta_max, got {self.beta_min} and {self.beta_max}"
            )
        if self.mass <= 0 or self.gamma <= 0:
            raise InputError(
                f"expected mass > 0 and gamma > 0, got mass={self.mass}, gamma={self.gamma}"
            )

    def clock(self, t: Float[Tensor, " *shape"]) -> Float64[Tensor, " *shape"]:
        """The unit clock s = (beta_min t + (beta_max - beta_min) t^2 / 2) / sqrt(M)."""
        t = t.double()
        return (self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2) / self.mass**0.5

    def time_of_clock(self, s: Float[Tensor, " *shape"]) -> Float64[Tensor, " *shape"]:
        """The t with s(t) = s."""
        area = s.double() * self.mass**0.5
        root = (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * area).sqrt()
        return 2 * area / (self.beta_min + root)

    def mean(
        self, t: Float[Tensor, " *shape"]
    ) -> tuple[Float64[Tensor, " *shape"], Float64[Tensor, " *shape"]]:
        """Coefficients of x0 in the means of position and velocity given x0."""
        position, _, velocity, _ = unit_flow(self.clock(t))
        return position, velocity * self.mass**0.5

    def covariance(self, t: Float[Tensor, " *shape"]) -> Symmetric:
        """Of position and velocity given x0, v0 ~ N(0, gamma M)."""
        s, root = self.clock(t), self.mass**0.5
        n, (_, a_x, _, a_w) = unit_noise(s), unit_flow(s)
        xw, ww = n.xv + self.gamma * a_x * a_w, n.vv + self.gamma * a_w**2
        return Symmetric(n.xx + self.gamma * a_x**2, root * xw, self.mass * ww)

    def factor(self, t: Float[Tensor, " *shape"]) -> Symmetric:
        """The Cholesky factor of `covariance`; its xv is the lower left entry."""
        factor, root = unit_factor(self.clock(t), self.gamma), self.mass**0.5
        return Symmetric(factor.xx, root * factor.xv, root * factor.vv)

    def diffuse(self, x0: Float[Tensor, " b *shape"], t: Float[Tensor, "..."], eps: Phase) -> Phase:
        """A draw of position and velocity at t given x0; t per sample (b,) or per element.

        Args:
            x0: clean data.
            t: times in [0, 1].
            eps: standard normal noise; its velocity is the target of a network.
        """
        of_position, of_velocity = (over(value, x0) for value in self.mean(t))
        factor = Symmetric(*(over(value, x0) for value in self.factor(t)))
        position = of_position * x0 + factor.xx * eps.position
        velocity = of_velocity * x0 + factor.xv * eps.position + factor.vv * eps.velocity
        return Phase(position, velocity)

    def score(
        self, output: Float[Tensor, " b *shape"], t: Float[Tensor, "..."]
    ) -> Float[Tensor, " b *shape"]:
        """grad_v log p_t = -output / L_vv, of a network whose output is the velocity's noise.

        Source: Dockhorn et al. 2022, arXiv:2112.07068, section 3.1, where 1 / L_vv is l_t.

        Args:
            output: E[eps_v | position, velocity], the minimiser of hybrid score matching.
            t: times, per sample (b,) or per element; above 0.
        """
        return -output / over(self.factor(t).vv, output)

    def prior(self, like: Float[Tensor, " b *shape"], noise: Source) -> Phase:
        """A start at t = 1: N(0, 1) positions and N(0, M) velocities in the shape of `like`."""
        return Phase(noise.like(like), self.mass**0.5 * noise.like(like))
