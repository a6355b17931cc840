"""Draws depend on their seed alone; a Brownian path does not depend on who looks at it."""

import math
from itertools import combinations, pairwise

import pytest
import torch

from core.errors import InputError
from core.process import schedules
from core.process.noise import Brownian, Noise, derive
from core.sampler.ancestral import Ancestral
from core.sampler.exponential import Multistep
from core.sampler.sample import sample
from core.testing.distributions import Gaussian
from core.testing.orders import slope, to_noisy_level


def test_a_sample_is_the_same_alone_in_a_batch_and_in_another_order():
    x = torch.zeros(4, 3, 5)
    together = Noise([10, 11, 12, 13]).like(x)
    assert torch.equal(Noise([12]).like(x[:1])[0], together[2])
    assert torch.equal(Noise([13, 10]).like(x[:2]), together[[3, 0]])


def test_successive_draws_differ():
    noise, x = Noise([1]), torch.zeros(1, 100)
    assert not torch.equal(noise.like(x), noise.like(x))


def test_derived_streams_of_neighbours_are_unrelated():
    """4 standard errors of a correlation of 10,000 draws; `seed + i` would fail."""
    keys = [(0, 1), (1, 0), (0, 2), (1, 1)]
    rows = torch.cat([Noise.of(7, step, each=[i]).normal((10_000,)) for step, i in keys])
    correlation = torch.corrcoef(rows) - torch.eye(4)
    assert correlation.abs().max() < 0.04


def test_derive_tells_order_type_and_cut_of_its_keys_apart():
    seeds = {derive(1, 23), derive(12, 3), derive(23, 1), derive("1", 23), derive(1, 2, 3)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_draws_are_standard():
    draw = Noise([3]).normal((200_000,), torch.float64)
    assert abs(float(draw.mean())) < 4 / 200_000**0.5
    assert abs(float(draw.std()) - 1) < 4 / 400_000**0.5
    u = torch.stack([Noise([i]).uniform()[0] for i in range(4000)])
    assert abs(float(u.mean()) - 0.5) < 4 * (1 / 12 / 4000) ** 0.5


def test_the_global_stream_is_left_alone():
    before = torch.random.get_rng_state()
    Noise([1]).normal((3,))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_uniform_draws_are_one_for_each_element_and_the_samples_own():
    """Mean and variance to 4 standard errors, in float64 whatever x is; integers have no noise."""
    x = torch.zeros(3, 100, 200, dtype=torch.int64)
    u = Noise([4, 5, 6]).uniform_like(x)
    assert u.dtype == torch.float64
    assert torch.equal(Noise([5]).uniform_like(x[:1])[0], u[1])
    assert abs(float(u[1].mean()) - 0.5) < 4 * (1 / 12 / 20_000) ** 0.5
    assert abs(float(u[1].var()) - 1 / 12) < 4 * (1 / 180 / 20_000) ** 0.5
    assert 0 <= float(u.min()) < float(u.max()) < 1


# --- Brownian ----------------------------------------------------------------------------------

CLOCKS = (-5.2, -3.0, -2.99, -1.5, -1.25, 0.0, 0.3, 0.3001, 2.7)


def increment(path, x, start, end):
    """W(e^end) - W(e^start), unscaled."""
    return path.between(x, start, end) * math.sqrt(math.exp(end) - math.exp(start))


def test_increments_of_a_brownian_path_are_independent_and_of_unit_variance():
    """4 standard errors of 40,000 draws over intervals across, within and at the ends of cells."""
    n, path = 40_000, Brownian([1])
    x = torch.zeros(1, n, dtype=torch.float64)
    clocks = (-math.inf, *CLOCKS)
    rows = torch.cat([path.between(x, a, b) for a, b in pairwise(clocks)])
    wanted = torch.eye(len(rows), dtype=torch.float64)
    error = (rows @ rows.T / n - wanted).abs() / (1 + wanted).sqrt()
    assert error.max() < 4 / n**0.5
    kurtosis = (rows**4).mean(1)
    assert (kurtosis - 3).abs().max() < 4 * (96 / n) ** 0.5


def test_increments_of_a_brownian_path_add_up_whatever_is_asked_first():
    """W(a, c) = W(a, b) + W(b, c), to the rounding of values that are e^1.35 at most."""
    x, clocks = torch.zeros(2, 7, dtype=torch.float64), CLOCKS
    fresh = {pair: increment(Brownian([3, 4]), x, *pair) for pair in combinations(clocks, 2)}
    for a, b in pairwise(clocks):
        for c in clocks[clocks.index(b) + 1 :]:
            assert (fresh[a, b] + fresh[b, c] - fresh[a, c]).abs().max() < 1e-13
    order = torch.randperm(len(fresh), generator=torch.Generator().manual_seed(0)).tolist()
    path, pairs = Brownian([3, 4]), list(fresh)
    for pair in [pairs[i] for i in (*order, *reversed(order))]:
        assert (increment(path, x, *pair) - fresh[pair]).abs().max() < 1e-13


def test_a_brownian_path_starts_at_minus_infinity():
    """The start of a chain from pure noise, where log-SNR is -inf."""
    x, path = torch.zeros(1, 5, dtype=torch.float64), Brownian([9])
    whole = increment(path, x, -math.inf, -9.3)
    parts = increment(path, x, -math.inf, -20.5) + increment(path, x, -20.5, -9.3)
    assert (whole - parts).abs().max() < 1e-15
    assert whole.abs().max() > 0.1 * math.exp(-9.3 / 2)


def test_a_brownian_path_is_the_same_alone_in_a_batch_and_in_every_precision():
    """Bit for bit: 13 elements, so that samples begin at every place of a vector register."""
    x = torch.zeros(5, 13, dtype=torch.float64)
    together, other = Brownian(range(5)), Brownian(range(5))
    for a, b in pairwise(CLOCKS):
        found = together.between(x, a, b)
        for i in range(5):
            assert torch.equal(Brownian([i]).between(x[:1], a, b)[0], found[i])
        single = other.between(x.float(), a, b)
        assert single.dtype == torch.float32
        assert torch.equal(single, found.float())
    assert not torch.equal(found[0], found[1])


def test_a_path_serves_shapes_that_change_and_draws_beside_it():
    path, x = Brownian([1]), torch.zeros(1, 4)
    first = path.between(x, -1.7, -1.4)
    other = path.between(torch.zeros(1, 2, 3), -1.7, -1.4)
    assert torch.equal(other, Brownian([1]).between(torch.zeros(1, 2, 3), -1.7, -1.4))
    beside = path.like(x)
    assert not torch.equal(beside, path.like(x))
    assert torch.equal(path.between(x, -1.7, -1.4), first)


def spread_of(solver, source, counts, last=2048):
    """Root mean square distance of end points from those of `last` steps, on the same seed."""
    process, world = schedules.vp_linear(), Gaussian(0.3, 0.5)
    x = torch.linspace(-2, 2, 400, dtype=torch.float64)[None]

    def end(steps):
        grid = to_noisy_level(process, steps)
        return sample(world.denoiser(process), grid, solver, x, source([11]))

    best = end(last)
    return [float((end(steps) - best).square().mean().sqrt()) for steps in counts]


@pytest.mark.parametrize("solver", [Multistep(eta=1.0, order=2), Ancestral()], ids=str)
def test_more_steps_refine_a_sample_of_a_brownian_path_and_redraw_one_of_fresh_noise(solver):
    """Strong order 1; on fresh noise samples stay two deviations of their spread apart."""
    counts = (32, 64, 128)
    errors = spread_of(solver, Brownian, counts)
    assert slope(counts, errors) == pytest.approx(1, abs=0.2)
    assert errors[-1] < 0.03
    assert min(spread_of(solver, Noise, (32, 128))) > 0.5


@pytest.mark.parametrize(
    ("start", "end"), [(1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (-math.inf, -70.0)]
)
def test_an_interval_that_is_none_is_refused(start, end):
    with pytest.raises(InputError, match="expected"):
        Brownian([0]).between(torch.zeros(1, 2), start, end)
