"""Distances between the distributions of two sets of features, (n, d) and (m, d).

All are computed in float64.  The features are the caller's, and part of a figure's name: a Frechet
distance of other features than Inception's is not the FID of the literature.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.errors import InputError


def frechet(a: Float[Tensor, " n d"], b: Float[Tensor, " m d"]) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), the squared distance of two Gaussians.

    The trace of the root is the sum of the singular values of A B^T, the centred features over
    root(n - 1): A^T A B^T B and (A B^T)^T A B^T have the same non-zero eigenvalues.  So no
    covariance is formed and no root of a matrix taken, and sets of fewer items than features,
    whose covariances are singular, are as exact as others.  Of n items the estimate is too large
    by about c / n: sets are compared at one n, and with a floor of the same n.
    Source: Heusel et al. 2017, arXiv:1706.08500, eq. 6; the bias, Chong and Forsyth 2020,
    arXiv:1911.07023.

    Raises:
        InputError: fewer than two items.
    """
    _check(a, b)
    means = (a.double().mean(0) - b.double().mean(0)).square().sum()  # |mu_a - mu_b|^2
    root_a, root_b = _scatter(a), _scatter(b)
    # tr (S_a S_b)^(1/2) = the sum of the singular values of A B^T
    trace = torch.linalg.svdvals(root_a @ root_b.T).sum()
    return float(means + root_a.square().sum() + root_b.square().sum() - 2 * trace)


def _scatter(x: Float[Tensor, " n d"]) -> Float[Tensor, " k d"]:
    """R with R^T R = the unbiased covariance of `x`, of min(n, d) rows."""
    centred = (x.double() - x.double().mean(0)) / math.sqrt(len(x) - 1)
    return torch.linalg.qr(centred, mode="r").R if len(x) > x.shape[1] else centred


# --- kernel distance ---------------------------------------------------------------------------


def kernel_distance(a: Float[Tensor, " n d"], b: Float[Tensor, " m d"]) -> float:
    """The unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, KID.

    Of two sets of one law it is 0 on average, and as often negative as positive, whatever n.
    Source: Binkowski et al. 2018, arXiv:1801.01401, section 4; Gretton et al. 2012, JMLR 13,
    eq. 3.

    Raises:
        InputError: fewer than two items.
    """
    alone = torch.zeros(len(a), dtype=torch.long), torch.zeros(len(b), dtype=torch.long)
    return float(redrawn_kernel_distances(a, b, alone, (np.ones((1, 1)), np.ones((1, 1))))[0])


def block_distances(
    a: Float[Tensor, " n d"], b: Float[Tensor, " m d"], *, size: int, blocks: int
) -> Float[np.ndarray, " blocks"]:
    """The kernel distance of random blocks of both sets; their mean and std are what papers report.

    Source: Binkowski et al. 2018, arXiv:1801.01401, section 4.

    Args:
        a: one set.
        b: the other.
        size: items of a block, drawn without replacement from each set.
        blocks: number of blocks; the stream is fixed.

    Raises:
        InputError: as `kernel_distance`, or blocks larger than a set.
    """
    if not 2 <= size <= min(len(a), len(b)):
        raise InputError(
            f"size: expected 2 to {min(len(a), len(b))}, the items of the smaller set, got {size}"
        )
    draw = np.random.Generator(np.random.PCG64(0))

    def block(x: Tensor) -> Tensor:
        return x[torch.from_numpy(draw.permutation(len(x))[:size])]

    return np.array([kernel_distance(block(a), block(b)) for _ in range(blocks)])


def redrawn_kernel_distances(
    a: Float[Tensor, " n d"],
    b: Float[Tensor, " m d"],
    groups: tuple[Int[Tensor, " n"], Int[Tensor, " m"]],
    weights: tuple[Float[np.ndarray, " draws g"], Float[np.ndarray, " draws h"]],
    *,
    apart: bool = False,
) -> Float[np.ndarray, " draws"]:
    """The kernel distance of sets whose groups count several times or not at all.

    With `apart`, groups of one number in both sets belong together (patches of one image, or an
    image and a method's result), and no pair within one counts.  Without, an item is never paired
    with itself, nor with copies of it, which would bias a bootstrap.  A draw that leaves no pair is
    NaN.

    Args:
        a: one set.
        b: the other.
        groups: of each item of `a` and of `b`, the number of its group.
        weights: of each draw, how often the groups of `a` and those of `b` count.
        apart: pair items of different groups only.
    """
    _check(a, b)
    first, second = (torch.from_numpy(np.ascontiguousarray(w)).double() for w in weights)
    total = torch.zeros(len(first), dtype=torch.float64)
    # MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y) (Gretton et al., eq. 3)
    for x, y, i, j, u, v, sign in (
        (a, a, groups[0], groups[0], first, first, 1),
        (b, b, groups[1], groups[1], second, second, 1),
        (a, b, groups[0], groups[1], first, second, -2),
    ):
        sums, pairs = _pairs(x.double(), y.double(), i, j, (u.shape[1], v.shape[1]), x is y)
        if apart:
            sums.fill_diagonal_(0)
            pairs.fill_diagonal_(0)
        total += sign * ((u @ sums) * v).sum(1) / ((u @ pairs) * v).sum(1)
    return total.numpy()


def _pairs(
    x: Tensor, y: Tensor, i: Tensor, j: Tensor, shape: tuple[int, int], same: bool
) -> tuple[Float[Tensor, " g h"], Float[Tensor, " g h"]]:
    """Sums of the kernel over the pairs of two groups, and numbers of pairs; none with itself.

    `x` is processed in pieces of 1024 rows, which bounds the memory.
    """
    sums = torch.zeros(shape, dtype=torch.float64)
    pairs = torch.zeros(shape, dtype=torch.float64)
    for begin in range(0, len(x), 1024):
        rows = slice(begin, min(begin + 1024, len(x)))
        kernel = (x[rows] @ y.T / x.shape[1] + 1) ** 3  # (x.y / d + 1)^3
        counted = torch.ones_like(kernel)
        if same:
            counted[torch.arange(len(kernel)), torch.arange(rows.start, rows.stop)] = 0
        for into, values in ((sums, kernel * counted), (pairs, counted)):
            columns = torch.zeros(len(values), shape[1], dtype=torch.float64)
            into.index_add_(0, i[rows], columns.index_add_(1, j, values))
    return sums, pairs


# --- precision and recall, density and coverage -------------------------------------------------


@dataclass(frozen=True)
class Support:
    """Item by item, whether each set covers the other; the figures are means over items.

    Args:
        precise: of each item of the second set, whether it lies in a ball of the first.
        dense: number of such balls over the number of neighbours; of mean 1 for equal
            distributions.
        recalled: of each item of the first, whether it lies in a ball of the second.
        covered: of each ball of the first, whether an item of the second lies in it.
    """

    precise: Float[Tensor, " m"]
    dense: Float[Tensor, " m"]
    recalled: Float[Tensor, " n"]
    covered: Float[Tensor, " n"]


def support(
    real: Float[Tensor, " n d"], other: Float[Tensor, " m d"], *, neighbours: int
) -> Support:
    """Precision and recall, density and coverage of `other`, item by item.

    The ball of an item reaches to the k-th nearest of the other items of its set.
    Source: Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2; Naeem et al. 2020,
    arXiv:2002.09797, eq. 3 and 4.

    Args:
        real: the reference set.
        other: the set to be scored.
        neighbours: k; 3 and 5 in the papers.

    Raises:
        InputError: not more items than neighbours.
    """
    _check(real, other)
    if not 1 <= neighbours < min(len(real), len(other)):
        raise InputError(
            f"neighbours: expected 1 to {min(len(real), len(other)) - 1}, below the items of "
            f"the smaller set, got {neighbours}"
        )
    real, other = real.double(), other.double()
    distances = torch.cdist(real, other)
    inside = (distances <= _radius(real, neighbours)[:, None]).double()
    return Support(
        precise=(inside.sum(0) > 0).double(),
        dense=inside.sum(0) / neighbours,
        recalled=(distances <= _radius(other, neighbours)).any(1).double(),
        covered=(inside.sum(1) > 0).double(),
    )


def _radius(x: Float[Tensor, " n d"], neighbours: int) -> Float[Tensor, " n"]:
    """The distance of each item to the k-th nearest of the others."""
    return torch.cdist(x, x).fill_diagonal_(math.inf).kthvalue(neighbours, dim=1).values


def diversity(draws: Float[Tensor, " b k d"]) -> Float[Tensor, " b"]:
    """The mean distance between two draws of one item, for each item.

    Source: Saharia et al. 2022 (Palette), arXiv:2111.05826, section 5.3, in the features at hand.

    Raises:
        InputError: fewer than two draws.
    """
    count = draws.shape[1]
    if count < 2:
        raise InputError(f"diversity: expected two draws or more of each item, got {count}")
    x = draws.double()
    return torch.cdist(x, x).sum((1, 2)) / (count * (count - 1))


def _check(a: Tensor, b: Tensor) -> None:
    if min(len(a), len(b)) < 2:
        raise InputError(
            f"features: expected two sets of two items or more, got {len(a)} and {len(b)}"
        )


def cosine_distance(a: Float[Tensor, " d"], b: Float[Tensor, " d"]) -> float:
    """1 - cos(a, b) as |a/|a| - b/|b||^2 / 2, which is 0 for equal features and never below."""
    apart = a.double() / a.double().norm() - b.double() / b.double().norm()
    return float(apart.square().sum() / 2)
