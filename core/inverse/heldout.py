"""Held-out measurements: estimates mixed, and their standard deviation scaled, without a truth.

A part of y is left out and candidates are estimated from the rest.  What was left out has noise
that none of them has seen, so the squares of its residuals are each candidate's squared error as
measured, plus the same noise: the candidates are ordered as by the truth, up to chance.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float, Float64, Inexact
from torch import Tensor

from core.errors import InputError
from core.inverse.measurement import Measurement, residual

MOST = 12  # candidates of a mixture: every subset of them is tried
SCALES = (0.25, 4.0)  # of a standard deviation, least and most


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A measurement in two parts.

    Args:
        kept: what candidates are estimated from.
        left: what they are compared with.
        rows: residuals of `left` as real rows, one for each unit of measurement whose noise and
            error are nearly independent of the others' (a view, a line of k-space), weighted so
            that their squares add up to about the squared error of an image.
        noise: expected square of each row of noise alone.
        about: what was left out, in words.
        count: number of views, lines or points left out.
    """

    kept: Measurement
    left: Measurement
    rows: Callable[[Inexact[Tensor, " b *measured"]], Float[Tensor, " u m"]]
    noise: Float64[Tensor, " u"]
    about: str
    count: int

    def residuals(self, x: Float[Tensor, " b *shape"]) -> Float64[Tensor, " u m"]:
        """Rows of the residual of `left`."""
        return self.rows(residual(self.left, x)).double()


@dataclass(frozen=True)
class Misfit:
    """Mean square of held-out residuals over that of their noise; 1 is the noise alone.

    Args:
        mean: over the units.
        error: its standard error, of independent units.
    """

    mean: float
    error: float


def misfit_of(squares: Float64[Tensor, " u"], noise: Float64[Tensor, " u"]) -> Misfit:
    """The misfit of units with these squares.

    Args:
        squares: of each unit's residual.
        noise: expected square of its noise.
    """
    expected = float(noise.mean())
    # over units, so that what is correlated within one counts once
    error = float(squares.std()) / math.sqrt(len(squares)) if len(squares) > 1 else math.inf
    return Misfit(float(squares.mean()) / expected, error / expected)


@dataclass(frozen=True)
class Drawn:
    """Held-out residuals of draws, as those of the mean of `count` such draws.

    Args:
        rows: of the mean of the draws at hand.
        variance: of a single draw by n - 1, summed over each row.
        drawn: number of draws at hand.
        count: number of draws of the mean that is judged.
    """

    rows: Float64[Tensor, " u m"]
    variance: Float64[Tensor, " u"]
    drawn: int
    count: int

    @property
    def excess(self) -> Float64[Tensor, " u"]:
        """Expected square of the mean of `count` draws, less that of the mean at hand.

        The mean of k draws has the squared error of the mean of all, plus variance / k.
        """
        return self.variance * (1 / self.count - 1 / self.drawn)


def drawn_of(draws: Sequence[Float64[Tensor, " u m"]], count: int) -> Drawn:
    """The residuals of some draws.

    Args:
        draws: rows of each; of one alone the variance counts as 0.
        count: number of draws of the mean that is judged.
    """
    every = torch.stack(list(draws))
    # residuals of draws differ as the draws do, measured: their variance is that of A x
    mean, number = every.mean(0), len(every)
    variance = (every - mean).square().sum((0, 2)) / max(1, number - 1)
    return Drawn(mean, variance, number, count)


@dataclass(frozen=True, eq=False)
class Mixture:
    """A convex combination of candidates with the least expected square of held-out residuals.

    Args:
        weights: of the candidates in their order, the draws' mean last; they add up to 1.
        squares: expected square of each unit's residual.
    """

    weights: tuple[float, ...]
    squares: Float64[Tensor, " u"]


def mixture(known: Sequence[Float64[Tensor, " u m"]], drawn: Drawn | None = None) -> Mixture:
    """The best convex combination of some candidates and the mean of draws.

    Residuals are linear in the candidate, so that the expected square is w G w with the Gram matrix
    G of the residuals, with the mean of the draws at hand corrected to that of `drawn.count`.
    Source: Breiman 1996, Machine Learning 24, 49 (stacked regressions, weights not negative).

    Args:
        known: held-out residuals of candidates without chance.
        drawn: those of draws; None for none.
    """
    rows = [*known, *([drawn.rows] if drawn else [])]
    every = torch.stack(rows)  # k u m
    # G = R R^T; the draws' mean has chance of its own, which the others' products do not see
    gram = torch.einsum("kum,lum->kl", every, every)
    if drawn is not None:
        gram[-1, -1] += drawn.excess.sum()
    weights = least_on_simplex(gram)
    # |y - A sum w x|^2 = |sum w r|^2, as the weights add up to 1
    squares = torch.einsum("k,kum->um", weights, every).square().sum(1)
    if drawn is not None:
        squares = squares + weights[-1] ** 2 * drawn.excess
    return Mixture(tuple(weights.tolist()), squares)


def alone(number: int, index: int, squares: Float64[Tensor, " u"]) -> Mixture:
    """One candidate as a mixture of weight 1.

    Args:
        number: of candidates.
        index: of the one.
        squares: of its held-out residuals.
    """
    return Mixture(tuple(float(k == index) for k in range(number)), squares)


def least_on_simplex(gram: Float64[Tensor, " k k"]) -> Float64[Tensor, " k"]:
    """The w that minimises w G w with w >= 0 and sum w = 1, exactly: every support is tried.

    Args:
        gram: G, symmetric; a matrix that is not definite counts as the nearest sum of it and a
            small multiple of the identity.

    Raises:
        InputError: no candidate, or too many.
    """
    number = len(gram)
    if not 1 <= number <= MOST:
        raise InputError(f"expected 1 to {MOST} candidates of a mixture, got {number}")
    g = gram + 1e-9 * gram.diagonal().mean().clamp(min=1e-300) * torch.eye(number).to(gram)
    best, least = torch.zeros(number).to(gram), math.inf
    for size in range(1, number + 1):
        for support in combinations(range(number), size):
            at = torch.tensor(support)
            # stationary on the support: G w = multiplier, sum w = 1
            w = torch.linalg.lstsq(g[at][:, at], torch.ones(size).to(g)[:, None]).solution[:, 0]
            w = w / w.sum()
            if bool((w < 0).any()) or not bool(w.isfinite().all()):
                continue
            value = float(w @ g[at][:, at] @ w)
            if value < least:
                best, least = torch.zeros(number).to(gram), value
                best[at] = w
    return best


def improves(
    squares: Float64[Tensor, " u"], reference: Float64[Tensor, " u"], *, errors: float
) -> bool:
    """Whether squares are below those of a reference by more than `errors` standard errors.

    The units are compared in pairs, so that the noise they share counts for little.
    """
    gain = reference - squares
    # in pairs: noise and difficulty that both share cancel
    error = float(gain.std()) / math.sqrt(len(gain)) if len(gain) > 1 else math.inf
    return float(gain.mean()) > (errors * error if errors else 0.0)


def scale_of(
    squares: Float64[Tensor, " u"],
    noise: Float64[Tensor, " u"],
    variance: Float64[Tensor, " u"],
) -> float:
    """The factor on the draws' standard deviation with which it predicts held-out residuals.

    s^2 = (|r|^2 - noise) / variance over all units: E |r|^2 = s^2 |A (x - mean)|^2 + noise.
    Limited to `SCALES`.

    Args:
        squares: of the residuals of the estimate.
        noise: expected square of their noise.
        variance: of a draw, as measured.
    """
    spread = float(variance.sum())
    if spread <= 0:  # of a single draw
        return 1.0
    # s^2 = (|r|^2 - noise) / variance
    square = float((squares - noise).sum()) / spread
    least, most = SCALES
    return min(max(math.sqrt(max(square, 0.0)), least), most)
