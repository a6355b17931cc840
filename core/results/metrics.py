"""Scores of one sample against its truth, and means with intervals."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float
from torch import Tensor


def psnr(
    output: Float[Tensor, " b *shape"], target: Float[Tensor, " b *shape"]
) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB of samples in [-1, 1]: 10 log10(2^2 / mean squared error).

    Equal samples give infinity.
    """
    error = (output.double() - target.double()).square().flatten(1).mean(1)
    return 10 * (4.0 / error).log10()


def ssim(
    output: Float[Tensor, " b c h w"], target: Float[Tensor, " b c h w"]
) -> Float[Tensor, " b"]:
    """Structural similarity of images in [-1, 1], mean over channels and the valid window.

    11x11 Gaussian window of sigma 1.5 on values in [0, 1], no padding: scikit-image's
    ``gaussian_weights=True, use_sample_covariance=False``.
    Source: Wang et al. 2004, IEEE Trans. Image Process. 13(4), eq. 13.
    """
    from kornia.metrics import ssim as ssim_map

    first, second = (output.double() + 1) / 2, (target.double() + 1) / 2
    return ssim_map(first, second, window_size=11, max_val=1.0, padding="valid").flatten(1).mean(1)


@dataclass(frozen=True)
class Interval:
    """A figure with its interval.

    Args:
        mean: of all values.
        low: lower end of the interval; None where it is not known.
        high: upper end.
        n: number of values.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


INTERVAL = (
    "percentile bootstrap of {draws} draws: sources are drawn with replacement, then items within "
    "each; with few sources the interval is too narrow rather than too wide"
)


def interval(
    values: Sequence[float], sources: Sequence[str], *, confidence: float, draws: int = 4000
) -> Interval:
    """The mean of `values` with a two-stage bootstrap interval over `sources` and their items.

    Items of one source (patches of one photograph) are not independent, so sources are redrawn
    first.  Source: Davison and Hinkley 1997, Bootstrap Methods and their Application, section 3.8.

    Args:
        values: one for each item; finite.
        sources: the source of each item.
        confidence: of the interval, for example 0.95.
        draws: bootstrap draws; fixed stream, so that the same values give the same interval.
    """
    numbers = np.asarray(values, dtype=np.float64)
    total, count = np.zeros(draws), np.zeros(draws)
    for items, counted in _redrawn(sources, draws):
        total += (numbers[items] * counted).sum(1)
        count += counted.sum(1)
    means = total / count
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(numbers.mean()), float(low), float(high), len(numbers))


def multiplicities(sources: Sequence[str], *, draws: int, seed: int = 0) -> np.ndarray:
    """How often each draw of the bootstrap of `interval` holds each item, float64 (draws, items).

    Args:
        sources: the source of each item.
        draws: bootstrap draws.
        seed: of their stream; sets that are redrawn apart need different ones.
    """
    often = np.zeros((draws, len(sources)))
    rows = np.arange(draws)[:, None]
    for items, counted in _redrawn(sources, draws, seed):
        np.add.at(often, (rows, items), counted)
    return often


def _redrawn(
    sources: Sequence[str], draws: int, seed: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Items (draws, most) of one source of each draw after another, and which of them count."""
    groups = [
        [i for i, name in enumerate(sources) if name == one] for one in dict.fromkeys(sources)
    ]
    sizes = np.array([len(group) for group in groups])
    padded = np.zeros((len(groups), sizes.max()), dtype=np.intp)
    for row, group in zip(padded, groups, strict=True):
        row[: len(group)] = group
    draw = np.random.Generator(np.random.PCG64(seed))
    for _ in groups:
        chosen = draw.integers(len(groups), size=draws)
        items = (draw.random((draws, padded.shape[1])) * sizes[chosen, None]).astype(int)
        yield padded[chosen[:, None], items], np.arange(padded.shape[1]) < sizes[chosen, None]


def proportion(hits: int, n: int, *, confidence: float) -> Interval:
    """The proportion hits / n with Wilson's score interval, for independent items.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22.

    Args:
        hits: how many of the items.
        n: items, at least one.
        confidence: of the interval, for example 0.95.
    """
    p, z2 = hits / n, NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half), n)
