"""Whether draws say how wrong they are: their spread against their error, and their misfit."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

AROUND = 5  # pixels each way over which variances are averaged
SHARE = 0.9  # of the truth that an interval is to hold
AIR = -0.9  # at or below this a picture is air, whose values nobody asks about


def local_deviation(draws: Float[Tensor, " b k 1 h w"]) -> Float[Tensor, " b 1 h w"]:
    """The draws' deviation, their variances averaged over 5x5 pixels.

    A few draws say little of one pixel: of 8 the deviation is off by a quarter at random.

    Args:
        draws: pictures, at least two of each.
    """
    return averaged(draws.var(1)).sqrt()


def averaged(variance: Float[Tensor, " b 1 h w"]) -> Float[Tensor, " b 1 h w"]:
    """Means over 5x5 pixels, the edge repeated beyond it."""
    around = (AROUND // 2,) * 4
    return F.avg_pool2d(F.pad(variance, around, mode="replicate"), AROUND, 1)


def interval_factor(draws: int, share: float = SHARE) -> float:
    """How many deviations of so many draws an interval reaches to either side of their mean.

    The truth is taken for another draw of the same normal distribution: Student's quantile of
    draws - 1 degrees of freedom times sqrt(1 + 1 / draws).
    """
    from scipy.stats import t

    return float(t.ppf((1 + share) / 2, draws - 1)) * math.sqrt(1 + 1 / draws)


def calibration(
    draws: Float[Tensor, " b k 1 h w"], truth: Float[Tensor, " b 1 h w"]
) -> dict[str, Float[Tensor, " b"]]:
    """Rank correlation of spread and error over pixels, and how much the intervals hold, in %.

    Air, where the truth and the mean are at the end of the range, is left out of both: there all
    agree and nothing is asked.

    Args:
        draws: pictures, at least two of each.
        truth: what they are draws of.
    """
    mean, deviation = draws.mean(1), local_deviation(draws)
    error = (mean - truth).abs()
    body = (truth > AIR) | (mean > AIR)
    reach = interval_factor(draws.shape[1]) * deviation
    rank, held = [], []
    for where, wrong, spread, most in zip(body, error, deviation, reach, strict=True):
        rank.append(rank_correlation(spread[where], wrong[where]))
        held.append(100 * (wrong[where] <= most[where]).double().mean())
    return {"rank": torch.stack(rank), "coverage": torch.stack(held)}


def rank_correlation(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Spearman's; ties as they come.  0 where there is nothing to rank."""
    if len(a) < 2:
        return torch.zeros((), dtype=torch.float64)
    ranks = [x.argsort(stable=True).argsort(stable=True).double() for x in (a, b)]
    first, second = (x - x.mean() for x in ranks)
    return (first * second).sum() / (first.norm() * second.norm())
