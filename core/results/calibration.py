"""Calibration of draws: whether their standard deviation predicts their error."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

AROUND = 5  # pixels each way over which variances are averaged
COVERAGE = 0.9  # nominal probability that an interval holds the ground truth


def local_std(draws: Float[Tensor, " b k 1 h w"]) -> Float[Tensor, " b 1 h w"]:
    """Standard deviation of the draws, their variances averaged over 5x5 pixels.

    Of 8 draws the standard deviation of one pixel alone is off by a quarter at random.

    Args:
        draws: images, at least two of each.
    """
    return averaged(draws.var(1)).sqrt()


def averaged(variance: Float[Tensor, " b 1 h w"]) -> Float[Tensor, " b 1 h w"]:
    """Means over 5x5 pixels, with the edge replicated."""
    around = (AROUND // 2,) * 4
    return F.avg_pool2d(F.pad(variance, around, mode="replicate"), AROUND, 1)


def interval_factor(draws: int, coverage: float = COVERAGE) -> float:
    """Half-width of a prediction interval around the mean, in standard deviations of the draws.

    The ground truth is taken for another draw of the same normal distribution: Student's quantile
    of draws - 1 degrees of freedom times sqrt(1 + 1 / draws).
    """
    from scipy.stats import t

    return float(t.ppf((1 + coverage) / 2, draws - 1)) * math.sqrt(1 + 1 / draws)


def calibration(
    draws: Float[Tensor, " b k 1 h w"],
    truth: Float[Tensor, " b 1 h w"],
    where: Bool[Tensor, " b 1 h w"],
) -> dict[str, Float[Tensor, " b"]]:
    """Rank correlation of standard deviation and error, and coverage of the intervals in %.

    Args:
        draws: images, at least two of each.
        truth: the ground truth of each.
        where: pixels that count; regions that every draw gets right by itself say nothing.
    """
    mean, std = draws.mean(1), local_std(draws)
    error = (mean - truth).abs()
    reach = interval_factor(draws.shape[1]) * std
    rank, held = [], []
    for counts, wrong, spread, most in zip(where, error, std, reach, strict=True):
        rank.append(rank_correlation(spread[counts], wrong[counts]))
        held.append(100 * (wrong[counts] <= most[counts]).double().mean())
    return {"rank": torch.tensor(rank, dtype=torch.float64), "coverage": torch.stack(held)}


def rank_correlation(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where one of the two is constant."""
    from scipy.stats import rankdata

    if len(a) < 2:
        return 0.0
    first, second = (rankdata(x.detach().cpu().numpy()) - (len(x) + 1) / 2 for x in (a, b))
    scale = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / scale if scale else 0.0
