"""Held-out measurements of a linear Gaussian problem, whose every expectation has a closed form."""

import math

import pytest
import torch

from core.errors import InputError
from core.inverse import heldout
from core.inverse.heldout import (
    HeldOut,
    drawn_of,
    improves,
    least_on_simplex,
    misfit_of,
    mixture,
    scale_of,
)
from core.inverse.measurement import Measurement
from core.inverse.operators import Matrix

N, KEPT, LEFT, NOISE = 6, 3, 2, 0.8
MANY = 4000


def normal(*shape, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=draw)


A, B = normal(KEPT, N, seed=1), normal(LEFT, N, seed=2)  # kept and left
GAIN = A.T @ torch.linalg.inv(A @ A.T + NOISE**2 * torch.eye(KEPT))  # of the posterior mean
POSTERIOR = torch.eye(N) - GAIN @ A  # its covariance, of x ~ N(0, 1)


def problem():
    """Truths, and their measurement in two parts; a row for each of them."""
    x = normal(MANY, N, seed=3)
    y = x @ A.T + NOISE * normal(MANY, KEPT, seed=4)
    left = x @ B.T + NOISE * normal(MANY, LEFT, seed=5)
    noise = torch.full((MANY,), LEFT * NOISE**2, dtype=torch.float64)
    held = HeldOut(
        Measurement(Matrix(A, (N,)), y, NOISE),
        Measurement(Matrix(B, (N,)), left, NOISE),
        lambda r: r,
        noise,
        "two of five",
        LEFT,
    )
    return x, y, held


def draws(y, count, *, width=1.0):
    """Draws of the posterior, their deviation from its mean times `width`."""
    root = torch.linalg.cholesky(POSTERIOR)
    mean = y @ GAIN.T
    return [mean + width * normal(len(y), N, seed=10 + k) @ root.T for k in range(count)]


def expected(gain):
    """E |left - B gain y|^2 of a linear estimate."""
    error = torch.eye(N) - gain @ A
    covariance = error @ error.T + NOISE**2 * gain @ gain.T
    return float(torch.trace(B @ covariance @ B.T)) + LEFT * NOISE**2


def squares(rows):
    return rows.square().sum(1)


def near(found, exact, error):
    return abs(found - exact) < 4 * error


@pytest.mark.parametrize("gain", [GAIN, 0.5 * GAIN, torch.zeros(N, KEPT).double()])
def test_the_misfit_of_a_linear_estimate_is_the_one_of_its_covariance(gain):
    _, y, held = problem()
    found = misfit_of(squares(held.residuals(y @ gain.T)), held.noise)
    assert near(found.mean, expected(gain) / (LEFT * NOISE**2), found.error)
    assert found.error < 0.05 * found.mean


def test_the_truth_has_the_misfit_of_the_noise():
    x, _, held = problem()
    found = misfit_of(squares(held.residuals(x)), held.noise)
    assert near(found.mean, 1.0, found.error)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_three_draws_tell_the_square_of_the_mean_of_any_number(count):
    """The mean of k draws of the posterior has its mean's square plus tr(B P B) / k."""
    _, y, held = problem()
    drawn = drawn_of([held.residuals(x) for x in draws(y, 3)], count)
    found = squares(drawn.rows) + drawn.excess
    exact = expected(GAIN) + float(torch.trace(B @ POSTERIOR @ B.T)) / count
    assert near(float(found.mean()), exact, float(found.std()) / math.sqrt(MANY))


def test_the_mixture_of_two_is_the_least_squares_one():
    """Of 0 and twice the posterior mean, halves are the posterior mean, which nothing beats."""
    _, y, held = problem()
    rows = [held.residuals(y @ (gain * GAIN).T) for gain in (0.0, 2.0)]
    found = mixture(rows)
    assert found.weights == pytest.approx((0.5, 0.5), abs=0.03)
    assert float(found.squares.mean()) == pytest.approx(expected(GAIN), rel=0.03)


def test_a_mixture_with_draws_weighs_the_mean_of_as_many_as_are_written():
    """Of the posterior's mean m and a mean of k draws alone, all weight is on m; of 0 and that
    mean, the weight of the draws grows with k and is S / (S + V / k), S = |B m|^2, V = |B d|^2."""
    _, y, held = problem()
    rows = [held.residuals(x) for x in draws(y, 3)]
    assert mixture([held.residuals(y @ GAIN.T)], drawn_of(rows, 8)).weights[0] > 0.9
    signal = float(torch.trace(B @ GAIN @ (A @ A.T + NOISE**2 * torch.eye(KEPT)) @ GAIN.T @ B.T))
    apart = float(torch.trace(B @ POSTERIOR @ B.T))
    for count in (1, 8):
        found = mixture([held.residuals(0 * y @ GAIN.T)], drawn_of(rows, count)).weights
        assert found[-1] == pytest.approx(signal / (signal + apart / count), abs=0.03)


def test_nothing_on_the_simplex_is_below_the_least():
    rows = normal(5, 7, seed=6)
    gram = rows @ rows.T
    w = least_on_simplex(gram)
    assert float(w.sum()) == pytest.approx(1)
    assert (w >= 0).all()
    points = torch.rand(4000, 5, generator=torch.Generator().manual_seed(7)).double()
    points = points / points.sum(1, keepdim=True)
    values = torch.einsum("pk,kl,pl->p", points, gram, points)
    assert float(w @ gram @ w) <= float(values.min()) + 1e-9
    # stationary: the gradient is the same wherever there is weight, and no less elsewhere
    slope = gram @ w
    assert (slope[w > 0] - slope[w > 0].min()).abs().max() < 1e-6
    assert (slope >= slope[w > 0].min() - 1e-6).all()


def test_equal_candidates_share_without_breaking_down():
    gram = torch.ones(3, 3).double()
    assert float(least_on_simplex(gram).sum()) == pytest.approx(1)
    assert (least_on_simplex(torch.zeros(2, 2).double()) >= 0).all()


def test_too_many_candidates_are_refused():
    with pytest.raises(InputError, match="1 to 12 candidates"):
        least_on_simplex(torch.eye(13).double())


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_the_scale_of_draws_of_another_width_is_the_inverse_of_it(width):
    """Draws half as wide as the posterior need a factor of two, for the mean of all of them."""
    _, y, held = problem()
    rows = [held.residuals(x) for x in draws(y, 8, width=width)]
    drawn = drawn_of(rows, 8)
    mean = squares(held.residuals(y @ GAIN.T))
    assert scale_of(mean, held.noise, drawn.variance) == pytest.approx(1 / width, rel=0.04)


def test_the_scale_stays_within_its_limits():
    one = torch.ones(4).double()
    assert scale_of(0 * one, one, one) == heldout.SCALES[0]
    assert scale_of(1e6 * one, one, one) == heldout.SCALES[1]
    assert scale_of(one, one, 0 * one) == 1.0  # a single draw has no deviation


def test_an_improvement_is_one_in_pairs():
    """A gain of 1 hidden in noise of 10 that both share is one; chance around 0 is none."""
    shared, own = 10 * normal(100, seed=8), normal(100, seed=9)
    assert improves(shared + own, shared + 1, errors=1.0)
    assert not improves(shared + own, shared + 0.02 + own.mean(), errors=1.0)
    assert improves(shared, shared + 0.02, errors=0.0)
