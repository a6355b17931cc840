"""Distances between sets against closed forms, and intervals against the formula they stand for."""

from math import comb, sqrt

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from core.errors import InputError
from core.results.distances import (
    block_distances,
    diversity,
    frechet,
    kernel_distance,
    redrawn_kernel_distances,
    support,
)
from core.results.metrics import interval, multiplicities


def normal(n, d, seed, std=1.0, mean=0.0):
    draw = torch.Generator().manual_seed(seed)
    return mean + std * torch.randn(n, d, generator=draw, dtype=torch.float64)


def with_moments(x, mean, root):
    """`x` moved and stretched so that its mean and unbiased covariance, root root^T, are exact."""
    centred = x - x.mean(0)
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(centred.T @ centred / (len(x) - 1)), centred.T, upper=False
    )
    return mean + (root @ white).T


@pytest.mark.parametrize(("n", "m"), [(40, 900), (900, 40), (40, 41)])
def test_the_frechet_distance_of_exact_moments_is_that_of_the_gaussians(n, m):
    """tr((S T)^(1/2)) by SciPy's root of a matrix, an algorithm of its own."""
    d = 6
    first, second = normal(d, d, 1).tril() + 2 * torch.eye(d), normal(d, d, 2).tril()
    a = with_moments(normal(n, d, 3), torch.zeros(d), first)
    b = with_moments(normal(m, d, 4), torch.arange(d), second)
    s, t = first @ first.T, second @ second.T
    root = np.trace(sqrtm((s @ t).numpy())).real
    known = float((torch.arange(d).double() ** 2).sum() + (s + t).trace()) - 2 * root
    assert frechet(a, b) == pytest.approx(known, rel=1e-9)
    assert frechet(b, a) == pytest.approx(known, rel=1e-9)


def test_the_frechet_distance_of_samples_goes_to_that_of_their_laws():
    """Isotropic laws: d ((m - m')^2 + (s - s')^2); four deviations, 0.03 over 20 other seeds."""
    a, b = normal(20_000, 5, 1, std=1.0), normal(20_000, 5, 2, std=1.5, mean=0.4)
    assert frechet(a, b) == pytest.approx(5 * (0.4**2 + 0.5**2), abs=0.12)


def test_fewer_items_than_features_lose_no_digit():
    """Features that are copies or zeros add what they must: those of one feature, k times."""
    a, b = normal(7, 1, 1), normal(9, 1, 2, std=2.0, mean=1.0)
    apart = float((a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2)  # one dimension
    assert frechet(a, b) == pytest.approx(apart, rel=1e-12)
    wide = [torch.cat([x.expand(-1, 50), torch.zeros(len(x), 50)], dim=1) for x in (a, b)]
    assert frechet(*wide) == pytest.approx(50 * apart, rel=1e-12)
    assert abs(frechet(wide[0], wide[0])) < 1e-12


def test_the_frechet_distance_forgets_orientation():
    a, b = normal(30, 40, 1), normal(25, 40, 2, std=2)
    turn = torch.linalg.qr(normal(40, 40, 3)).Q
    assert frechet(a @ turn, b @ turn) == pytest.approx(frechet(a, b), rel=1e-10)


def unbiased_by_hand(a, b):
    d, k = a.shape[1], lambda x, y: float((x @ y / a.shape[1] + 1) ** 3)
    assert d == b.shape[1]
    within = [
        sum(k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j)
        / (len(x) * (len(x) - 1))
        for x in (a, b)
    ]
    return sum(within) - 2 * np.mean([k(x, y) for x in a for y in b])


def test_the_kernel_distance_is_its_definition():
    a, b = normal(9, 4, 1), normal(7, 4, 2, mean=0.5)
    assert kernel_distance(a, b) == pytest.approx(unbiased_by_hand(a, b), rel=1e-10)
    assert kernel_distance(a.float(), b.float()) == pytest.approx(unbiased_by_hand(a, b), rel=1e-4)


def test_the_kernel_distance_of_means_is_the_closed_form():
    """Points x and y, copied: k(x, x) + k(y, y) - 2 k(x, y)."""
    x, y = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.5, -1.0, 3.0])
    known = (5 / 3 + 1) ** 3 + (10.25 / 3 + 1) ** 3 - 2 * (-1.5 / 3 + 1) ** 3
    assert kernel_distance(x.expand(4, 3), y.expand(6, 3)) == pytest.approx(known, rel=1e-12)


def test_sets_larger_than_a_piece_are_the_same():
    a, b = normal(1500, 3, 1), normal(1100, 3, 2, mean=0.2)
    gram = [(x @ y.T / 3 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in gram[:2]]
    assert kernel_distance(a, b) == pytest.approx(float(sum(within) - 2 * gram[2].mean()), rel=1e-9)


def test_the_kernel_distance_of_one_law_is_nought_on_average():
    """Of 400 pairs of sets, 4 standard errors; an item's own pairs would add about 1."""
    found = np.array(
        [kernel_distance(normal(20, 3, i), normal(15, 3, i + 1000)) for i in range(400)]
    )
    assert abs(found.mean()) < 4 * found.std() / 20
    assert 4 * found.std() / 20 < 0.2


def test_blocks_scatter_around_the_whole_and_have_no_item_twice():
    a, b = normal(300, 4, 1), normal(200, 4, 2, mean=0.5)
    found = block_distances(a, b, size=50, blocks=200)
    assert abs(found.mean() - kernel_distance(a, b)) < 4 * found.std() / sqrt(200)
    whole = block_distances(a[:200], b, size=200, blocks=3)
    assert whole == pytest.approx(kernel_distance(a[:200], b), rel=1e-9)
    with pytest.raises(InputError, match="size: expected 2 to 200"):
        block_distances(a, b, size=201, blocks=1)


def test_a_redrawn_set_is_the_set_with_its_copies_but_no_pair_of_an_item_and_itself():
    a, b = normal(6, 3, 1), normal(4, 3, 2)
    groups = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 1, 2])
    often = np.array([[2.0, 0.0, 1.0]]), np.array([[1.0, 3.0, 0.0]])
    rows = [0, 0, 1, 1, 4, 5], [0, 1, 1, 1, 2, 2, 2]

    def mean(x, y, i, j, same):
        pairs = [(p, q) for p in i for q in j if not (same and p == q)]
        return np.mean([float((x[p] @ y[q] / 3 + 1) ** 3) for p, q in pairs])

    known = (
        mean(a, a, rows[0], rows[0], True)
        + mean(b, b, rows[1], rows[1], True)
        - 2 * mean(a, b, *rows, False)
    )
    assert redrawn_kernel_distances(a, b, groups, often)[0] == pytest.approx(known, rel=1e-10)


def test_groups_kept_apart_are_paired_with_others_only():
    """Parts of one picture are alike: 40 pictures, 3 parts each in both sets, 300 times.

    The law of pictures is one, so that the distance is 0 on average: 4 standard errors.  With the
    pairs within a picture, of which the two sets have more together than each alone, it is not.
    """
    found = []
    group, one = torch.arange(40).repeat_interleave(3), np.ones((1, 40))
    for i in range(300):
        pictures = normal(40, 2, i).repeat_interleave(3, 0)
        a, b = pictures + normal(120, 2, i + 400, std=0.1), pictures + normal(120, 2, i + 800, 0.1)
        found.append([
            redrawn_kernel_distances(a, b, (group, group), (one, one), apart=apart)[0]
            for apart in (True, False)
        ])  # fmt: skip
    (kept, mixed), error = np.mean(found, axis=0), np.std(found, axis=0) / sqrt(300)
    assert abs(kept) < 4 * error[0]
    assert mixed < -4 * error[1]


def test_intervals_of_the_kernel_distance_hold_it_as_often_as_they_say():
    """Independent items: of 200 intervals of 95 % at least 174 hold the distance of the laws.

    Percentiles are a little short at n = 60: 92 % of 400 others do.

    x ~ N(0, 1), y ~ N(1/2, 1): E k(u, v) over the moments of both, 1 + 3 m + 3 q^2 + c^2.
    """

    def expected(one, two):
        (m, q, c), (n, r, e) = one, two
        return 1 + 3 * m * n + 3 * q * r + c * e

    x, y = (0.0, 1.0, 0.0), (0.5, 1.25, 0.5**3 + 3 * 0.5)
    known = expected(x, x) + expected(y, y) - 2 * expected(x, y)
    n, held = 60, 0
    sources = [str(i) for i in range(n)]
    often = multiplicities(sources, draws=400)
    for i in range(200):
        a, b = normal(n, 1, i), normal(n, 1, i + 500, mean=0.5)
        turned = often[:, ::-1]
        found = redrawn_kernel_distances(a, b, (torch.arange(n), torch.arange(n)), (often, turned))
        low, high = np.quantile(found, [0.025, 0.975])
        held += low <= known <= high
    assert 174 <= held < 200


def test_the_bootstrap_by_counts_is_that_of_the_mean():
    values = np.random.Generator(np.random.PCG64(1)).normal(size=30)
    sources = [str(i % 7) for i in range(28)] + ["alone", "alone"]
    often = multiplicities(sources, draws=4000)
    means = often @ values / often.sum(1)
    found = interval(list(values), sources, confidence=0.9)
    assert np.quantile(means, [0.05, 0.95]) == pytest.approx((found.low, found.high), rel=1e-12)


def test_coverage_and_density_of_one_law_are_the_closed_forms():
    """E density = 1; E coverage = 1 - C(n - 1, k) / C(2 n - 1, k), the sets having n items each.

    A real item's ball has no other item if its k nearest of the n - 1 + n others are all real.
    Naeem et al. 2020, appendix.  40 pairs of sets; 4 standard errors.
    """
    n, k = 50, 5
    found = [support(normal(n, 3, i), normal(n, 3, i + 900), neighbours=k) for i in range(40)]
    dense, covered = (
        torch.stack([getattr(s, name).mean() for s in found]) for name in ("dense", "covered")
    )
    assert abs(float(dense.mean()) - 1) < 4 * float(dense.std()) / sqrt(40)
    known = 1 - comb(n - 1, k) / comb(2 * n - 1, k)
    assert abs(float(covered.mean()) - known) < 4 * float(covered.std()) / sqrt(40)


def test_precision_and_recall_on_a_line_are_those_counted_by_hand():
    """Real 0, 1, 2, 10: with k = 1 the balls reach 1, 1, 1, 8.  Other 2.5, 2.6, 30, 31: 0.1, 1."""
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    other = torch.tensor([[2.5], [2.6], [30.0], [31.0]])
    found = support(real, other, neighbours=1)
    assert found.precise.tolist() == [1, 1, 0, 0]
    assert found.dense.tolist() == [2, 2, 0, 0]
    assert found.recalled.tolist() == [0, 0, 0, 0]
    assert found.covered.tolist() == [0, 0, 1, 1]
    back = support(other, real, neighbours=1)
    assert back.precise.tolist() == [0, 0, 0, 0]
    assert back.recalled.tolist() == [1, 1, 0, 0]


def test_diversity_is_the_mean_of_the_distances_of_draws():
    draws = torch.tensor([[[0.0, 0], [3, 4], [0, 4]], [[1, 1], [1, 1], [1, 1]]])
    assert diversity(draws).tolist() == pytest.approx([(5 + 4 + 3) / 3, 0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: frechet(normal(1, 2, 0), normal(3, 2, 0)), "two items or more, got 1 and 3"),
        (lambda: kernel_distance(normal(3, 2, 0), normal(0, 2, 0)), "got 3 and 0"),
        (lambda: support(normal(3, 2, 0), normal(9, 2, 0), neighbours=3), "expected 1 to 2"),
        (lambda: diversity(torch.zeros(2, 1, 3)), "expected two draws or more of each item, got 1"),
    ],
)
def test_sets_that_have_no_distance_are_refused(call, words):
    with pytest.raises(InputError, match=words):
        call()
