"""Draws depend on their seed alone; a Brownian path does not depend on who looks at it."""

import ast
import math
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import InputError
from core.process import noise, schedules
from core.process.counter import philox
from core.process.noise import Brownian, Noise, derive
from core.sampler.ancestral import Ancestral
from core.sampler.exponential import Multistep
from core.sampler.sample import prior, sample
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


@pytest.mark.slow
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


# --- keys, seeds and batches -------------------------------------------------------------------


def test_numpy_keys_are_the_same_keys_and_derived_seeds_stay_what_they_were():
    """The last three were derived before there were NumPy keys."""
    assert derive(np.int64(3), np.str_("order")) == derive(3, "order")
    assert derive(np.uint8(3)) == derive(3) != derive("3")
    assert derive(True) != derive(1)
    assert derive(3) == 5335423348579534804
    assert derive(0, "order", 1) == 5288543681127824561
    assert derive("fresh", 7) == 8963840291270169187


DERIVING = ("derive", "seed_of", "Noise.of")


def test_every_name_that_the_core_derives_seeds_by_is_in_the_table():
    """Two uses of one name would share draws; the table is where that would be seen."""
    used = set()
    for file in sorted(Path(noise.__file__).parents[1].rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in DERIVING:
                names = [a.value for a in call.args if isinstance(a, ast.Constant)]
                used |= {name for name in names if isinstance(name, str)}
    assert used == set(noise.STREAMS)


@pytest.mark.parametrize("seeds", [4, 1.5, "12", [0.5], None])
def test_what_is_not_a_sequence_of_integers_is_refused_as_seeds(seeds):
    with pytest.raises(InputError, match=r"seeds: expected an integer for each sample"):
        noise._checked(seeds)  # of `Noise` and `Brownian`, whose annotations tests enforce


def test_seeds_may_come_from_numpy_or_a_tensor():
    expected = Noise([0, 1]).normal((3,))
    assert torch.equal(Noise(np.arange(2)).normal((3,)), expected)
    assert torch.equal(Noise(iter(range(2))).normal((3,)), expected)


@pytest.mark.parametrize("streams", ["generator", "counter"])
def test_a_batch_that_does_not_match_its_noise_is_refused(streams):
    x = torch.zeros(4, 3)
    two, path = Noise(range(2), streams=streams), Brownian(range(2), streams=streams)
    draws = (two.like, two.uniform_like, path.like, lambda x: path.between(x, -1.0, 0.0))
    for draw in draws:
        with pytest.raises(InputError, match=r"a batch of 2 samples.*\(4, 3\)"):
            draw(x)
    process = schedules.edm()
    with pytest.raises(InputError, match="a batch of 2 samples"):
        prior(process, to_noisy_level(process, 4), x, two)


def test_silence_is_zero():
    x = torch.ones(2, 3)
    assert not noise.Silence().like(x).any()
    assert not noise.Silence().between(x, -1.0, 0.0).any()


# --- counters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000",
         "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)  # fmt: skip
def test_philox_gives_the_known_answers_of_its_authors(counter, key, words):
    """Philox4x32-10 in kat_vectors of Random123 (Salmon et al. 2011)."""
    counter, key = ([np.uint64(int(w, 16)) for w in text.split()] for text in (counter, key))
    assert [f"{int(w):08x}" for w in philox(counter, key)] == words.split()


def counters(seeds):
    return Noise(seeds, streams="counter")


def test_counter_streams_depend_on_their_seed_alone():
    """Bit for bit, odd sizes and the order of draws included; parts share their streams."""
    x = torch.zeros(5, 3, 7)
    whole, alone = counters(range(10, 15)), counters([12])
    for _ in range(3):
        assert torch.equal(alone.like(x[:1])[0], whole.like(x)[2])
    assert torch.equal(alone.uniform(), whole.uniform()[2:3])
    noise = counters([1, 2, 3])
    first = noise.part(slice(1, 3)).normal((4,))
    second = noise.normal((4,))
    assert torch.equal(first, counters([2, 3]).normal((4,)))
    assert torch.equal(second[0], counters([1]).normal((4,))[0])
    fresh = counters([2])
    fresh.normal((4,))
    assert torch.equal(second[1], fresh.normal((4,))[0])
    assert torch.equal(
        counters([5]).normal((9,), torch.float64).float(), counters([5]).normal((9,))
    )


def test_counter_draws_are_standard_and_unrelated():
    """4 standard errors: moments, distribution function, correlation over seeds, draws, places."""
    n = 200_000
    z = counters([3]).normal((n,), torch.float64)[0]
    assert abs(float(z.mean())) < 4 / n**0.5
    assert abs(float(z.var()) - 1) < 4 * (2 / n) ** 0.5
    assert abs(float((z**4).mean()) - 3) < 4 * (96 / n) ** 0.5
    at = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64)
    below = (z[:, None] <= at).double().mean(0)
    p = torch.special.ndtr(at)
    assert ((below - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all()
    source = counters(range(4))
    rows = torch.cat([source.normal((10_000,)) for _ in range(2)]).double()
    rows = torch.cat([rows, rows[:, torch.arange(10_000).roll(1)]])
    assert (torch.corrcoef(rows) - torch.eye(len(rows))).abs().max() < 0.045
    u = torch.stack([source.uniform() for _ in range(2000)])
    assert 0 <= float(u.min()) < float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 4 * (1 / 12 / u.numel()) ** 0.5


def test_a_brownian_path_of_counters_is_one_path():
    """Independent unit increments that add up, bit for bit the same alone and in a batch."""
    n = 40_000
    x, path = torch.zeros(1, n, dtype=torch.float64), Brownian([1], streams="counter")
    clocks = (-math.inf, *CLOCKS)
    rows = torch.cat([path.between(x, a, b) for a, b in pairwise(clocks)])
    rows = torch.cat([rows, path.like(x)])
    wanted = torch.eye(len(rows), dtype=torch.float64)
    assert ((rows @ rows.T / n - wanted).abs() / (1 + wanted).sqrt()).max() < 4.5 / n**0.5
    x = torch.zeros(5, 13, dtype=torch.float64)
    together = Brownian(range(5), streams="counter")
    for a, b in pairwise(CLOCKS):
        found = together.between(x, a, b)
        for i in range(5):
            alone = Brownian([i], streams="counter").between(x[:1], a, b)
            assert torch.equal(alone[0], found[i])
    whole = increment(Brownian(range(5), streams="counter"), x, CLOCKS[0], CLOCKS[-1])
    parts = sum(increment(together, x, a, b) for a, b in pairwise(CLOCKS))
    assert (whole - parts).abs().max() < 1e-13


def test_a_generator_of_an_index_is_philox_with_both_as_its_key():
    """The words of `counter.philox`, whose known answers are its authors', in another key size."""
    for seed, index in ((0, 0), (7, 3), (2**64 - 1, 5), (derive("a", 1), 2**63)):
        words = np.random.Philox(key=seed + (index << 64)).random_raw(4)
        assert np.array_equal(noise.generator(seed, index).bit_generator.random_raw(4), words)
    first = np.random.Philox(key=derive("a")).random_raw(4)
    assert np.array_equal(noise.generator(derive("a")).bit_generator.random_raw(4), first)


def test_the_seed_of_a_draw_differs_by_request_stream_item_and_draw():
    keys = [
        (1, "sample", 2, 3),
        (2, "sample", 2, 3),
        (1, "other", 2, 3),
        (1, "sample", 3, 3),
        (1, "sample", 2, 4),
    ]
    seeds = [noise.seed_of(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert seeds[0] == derive(1, "sample", "2/3")
