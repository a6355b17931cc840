"""Linear measurements y = A x0 + n, and the linear algebra that guidance by them needs.

Everything is per sample: sums run over rows, and conjugate gradients stop for each sample by
itself, so that a result does not depend on its batch.  Measurements may be complex; products are
Re <a, b> and norms |.|^2, and A* is the operator's adjoint for them, real for real samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from core.errors import InputError
from core.process.gaussian import over
from core.process.rows import row_sum


@runtime_checkable
class LinearOperator(Protocol):
    """A linear map and its adjoint: Re <A x, y> = Re <x, A* y>."""

    def forward(self, x: Float[Tensor, " b *shape"]) -> Inexact[Tensor, " b *measured"]: ...

    def adjoint(self, y: Inexact[Tensor, " b *measured"]) -> Float[Tensor, " b *shape"]: ...


@runtime_checkable
class Invertible(LinearOperator, Protocol):
    """An operator that knows its pseudo-inverse: A A+ A = A and A+ A A+ = A+."""

    def pseudo_inverse(self, y: Inexact[Tensor, " b *measured"]) -> Float[Tensor, " b *shape"]: ...


@dataclass(frozen=True)
class Measurement:
    """A measurement y = A x0 + n, n normal with standard deviation `noise_std` in each element.

    Args:
        operator: A.
        y: the measurements, one for each sample (b, ...); real or complex.
        noise_std: standard deviation of an element of n, in units of y; of the real and of the
            imaginary part each where y is complex; 0 for exact measurements.

    Raises:
        InputError: a negative standard deviation.
    """

    operator: LinearOperator
    y: Inexact[Tensor, " b *measured"]
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        if self.noise_std < 0:
            raise InputError(f"noise_std: expected at least 0, got {self.noise_std}")


# x -> M x, sample by sample.
Linear = Callable[[Tensor], Tensor]


def residual(
    measurement: Measurement, x: Float[Tensor, " b *shape"]
) -> Inexact[Tensor, " b *measured"]:
    """The residual y - A x.

    Raises:
        InputError: A x has another shape than y.
    """
    seen = measurement.operator.forward(x)
    if seen.shape != measurement.y.shape:
        raise InputError(
            f"a measurement of shape {tuple(measurement.y.shape)} does not fit samples of shape "
            f"{tuple(x.shape)}, which measure as {tuple(seen.shape)}; give one y for each sample"
        )
    return measurement.y - seen


def misfit(measurement: Measurement, x: Float[Tensor, " b c h w"]) -> Float[Tensor, " b"]:
    """Root mean square of y - A x where measured, in units of the noise: 1 is as it should be."""
    r = residual(measurement, x)
    seen = (measurement.y != 0).flatten(1).sum(1).clamp(min=1)
    count = seen * (2 if r.is_complex() else 1)
    square = row_sum((r.conj() * r).real) / count
    return square.sqrt().double() / (measurement.noise_std or 1.0)


def dot(a: Inexact[Tensor, " b *shape"], b: Inexact[Tensor, " b *shape"]) -> Float[Tensor, " b"]:
    """Re <a, b> of each sample."""
    return row_sum((a.conj() * b).real)


def solve(
    apply: Linear,
    b: Inexact[Tensor, " b *shape"],
    *,
    iterations: int = 100,
    tolerance: float = 1e-6,
) -> Inexact[Tensor, " b *shape"]:
    """The x with M x = b by conjugate gradients, each sample stopping by itself.

    M is self-adjoint and positive semi-definite; where it is singular and b is in its range, the
    solution is the one of least norm.
    Source: Hestenes and Stiefel 1952, J. Res. Nat. Bur. Standards 49, section 3.

    Args:
        apply: x -> M x, sample by sample.
        b: right-hand sides.
        iterations: products with M at most.
        tolerance: a sample is done when |M x - b| is at most this times |b|.
    """

    def column(a: Tensor) -> Tensor:  # (b,) over the axes of b, which may be complex
        return a.reshape(-1, *[1] * (b.ndim - 1))

    # x_0 = 0, r_0 = p_0 = b; rho = |r|^2
    x, r, p = torch.zeros_like(b), b, b
    rho = dot(r, r)
    target, active = tolerance**2 * rho, torch.ones_like(rho, dtype=torch.bool)
    for _ in range(iterations):
        active = active & (rho > target)
        if not active.any():
            break
        q = apply(p)
        curvature = dot(p, q)
        active = active & (curvature > 0)  # M is singular along p
        # Denominators are made safe before dividing, so that gradients are as well.
        # step = |r|^2 / <p, M p>; x <- x + step p; r <- r - step M p
        step = torch.where(active, rho, 0.0) / torch.where(active, curvature, 1.0)
        x, r = x + column(step) * p, r - column(step) * q
        # p <- r + (|r_new|^2 / |r|^2) p, conjugate to the directions before
        rho_new = torch.where(active, dot(r, r), rho)
        turn = torch.where(active, rho_new, 0.0) / torch.where(active, rho, 1.0)
        p, rho = r + column(turn) * p, rho_new
    return x


def update(
    operator: LinearOperator,
    r: Inexact[Tensor, " b *measured"],
    variance: Float[Tensor, "..."],
    noise_variance: Float[Tensor, "..."],
    *,
    iterations: int = 100,
    tolerance: float = 1e-6,
) -> Float[Tensor, " b *shape"]:
    """The d = R A* (A R A* + c)^-1 r that minimises |r - A d|^2 / c + d R^-1 d.

    The shift of the posterior mean by a residual r, of a Gaussian sample with covariance R and
    noise of variance c.  Solved as d = S u, (S A* A S + c) u = S A* r with S^2 = R, which is
    consistent for every A; c = 0 gives the least d of those nearest to r.  Only the ratio of R to
    c counts.

    Args:
        operator: A.
        r: residual of a measurement.
        variance: diagonal of R, (b,) or an entry for every element of the sample.
        noise_variance: c, (b,), of an element of r.
        iterations: of conjugate gradients.
        tolerance: of conjugate gradients.
    """
    back = operator.adjoint(r)
    s, c = over(variance.sqrt(), back), over(noise_variance, back)

    def apply(u: Tensor) -> Tensor:  # S A* A S u + c u
        return s * operator.adjoint(operator.forward(s * u)) + c * u

    return s * solve(apply, s * back, iterations=iterations, tolerance=tolerance)


def pseudo_inverse(
    measurement: Measurement, r: Inexact[Tensor, " b *measured"]
) -> Float[Tensor, " b *shape"]:
    """A+ r: the operator's own where it has one, otherwise A* A d = A* r by conjugate gradients.

    By conjugate gradients with the defaults of `solve`.
    """
    operator = measurement.operator
    if isinstance(operator, Invertible):
        return operator.pseudo_inverse(r)
    return solve(lambda d: operator.adjoint(operator.forward(d)), operator.adjoint(r))
