"""Averages of weights against recursions and integrals written out."""

import math

import pytest
import torch
from torch import nn

from core.errors import InputError
from core.network.ema import (
    WIDTHS,
    ExponentialAverage,
    PowerAverage,
    Profile,
    exponent_of,
    inner_product,
    mixture,
    reconstruct,
    save_snapshot,
    width_of,
)


def layer():
    made = nn.Linear(4, 3, bias=False).double()
    made.register_buffer("count", torch.zeros((), dtype=torch.int64))
    return made


def walk(steps, seed=0):
    """Weights that settle while they jitter, as training leaves them, one more each step."""
    draw = torch.Generator().manual_seed(seed)
    drift = torch.randn(3, 4, dtype=torch.float64, generator=draw)
    for step in range(1, steps + 1):
        jitter = torch.randn(3, 4, dtype=torch.float64, generator=draw)
        yield drift / (1 + step / 50) + 0.3 * jitter + 1.0


def test_average_is_the_recursion_written_out():
    network = nn.Linear(1, 1, bias=False)
    average, hand = ExponentialAverage(network, 0.9), float(network.weight)
    for update, value in enumerate([1.0, -2.0, 3.0, 0.5] * 5):
        network.weight.data.fill_(value)
        average.update(network, update)
        decay = min(0.9, (1 + update) / (10 + update))
        hand = decay * hand + (1 - decay) * value
    assert float(average.weights["weight"]) == pytest.approx(hand, rel=1e-6)


@pytest.mark.parametrize("width", [0.05, 0.1, 0.25])
def test_the_power_average_is_the_integral_of_its_profile(width):
    """Weights constant over (s - 1, s]: shares (s^(g+1) - (s-1)^(g+1)) / t^(g+1), exactly."""
    network, steps = layer(), 200
    average, g = PowerAverage(network, width), exponent_of(width)
    total = torch.zeros(3, 4, dtype=torch.float64)
    for step, weights in enumerate(walk(steps), 1):
        network.weight.data.copy_(weights)
        network.count.fill_(step)
        average.update(network, step - 1)
        total += ((step / steps) ** (g + 1) - ((step - 1) / steps) ** (g + 1)) * weights
    assert (average.weights["weight"] - total).abs().max() < 1e-12
    assert int(average.weights["count"]) == steps  # what is no float is the last one


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2, 0.28, 12**-0.5])
def test_the_exponent_gives_the_width_back_and_that_is_a_standard_deviation(width):
    g = exponent_of(width)
    assert width_of(g) == pytest.approx(width, rel=1e-9)
    first, second = (g + 1) / (g + 2), (g + 1) / (g + 3)  # moments of (g + 1) s^g on [0, 1]
    assert (second - first**2) ** 0.5 == pytest.approx(width, rel=1e-6)


def test_exponents_are_the_published_ones():
    """Karras et al. 2024, section 3.1: 6.94 for a width of 10%, 16.97 for 5%."""
    assert exponent_of(0.10) == pytest.approx(6.94, abs=0.005)
    assert exponent_of(0.05) == pytest.approx(16.97, abs=0.005)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.3])
def test_widths_that_no_profile_has_are_refused(width):
    with pytest.raises(InputError, match="ema_width: expected more than 0"):
        exponent_of(width)


def test_inner_products_are_integrals():
    s = torch.linspace(0, 1, 400_001, dtype=torch.float64)
    for one, other in [((80, 7.0), (100, 17.0)), ((100, 7.0), (80, 17.0)), ((90, 3.0), (90, 3.0))]:
        product = torch.ones_like(s)
        for step, g in (one, other):
            at = s * 100
            inside = (at <= step).double()
            product *= inside * (g + 1) * at**g / step ** (g + 1)
        expected = 100 * float(torch.trapezoid(product, s))
        assert inner_product(Profile(*one), Profile(*other)) == pytest.approx(expected, rel=1e-3)


def test_a_mixture_of_one_is_that_one_and_all_sum_to_one():
    profiles = [Profile(step, exponent_of(w)) for step in (50, 100, 150, 200) for w in WIDTHS]
    for place, profile in enumerate(profiles):
        found = mixture(profiles, profile)
        wanted = [float(i == place) for i in range(len(profiles))]
        assert found == pytest.approx(wanted, abs=1e-8)
    assert sum(mixture(profiles, Profile(200, exponent_of(0.13)))) == pytest.approx(1, abs=1e-9)


def run(folder, steps=400, every=50, extra=(0.075, 0.15)):
    """Snapshots of a walk, and averages of other widths that were followed directly."""
    network = layer()
    kept = [PowerAverage(network, width) for width in WIDTHS]
    others = {width: PowerAverage(network, width) for width in (*WIDTHS, *extra)}
    for step, weights in enumerate(walk(steps), 1):
        network.weight.data.copy_(weights)
        network.count.fill_(step)
        for average in (*kept, *others.values()):
            average.update(network, step - 1)
        if step % every == 0:
            save_snapshot(folder, step, kept)
    return others


def test_an_average_made_afterwards_is_the_one_followed_directly(tmp_path):
    """Exact for the widths that were saved; 0.075 between them to 2% of the jitter averaged over.

    Profiles of 8 snapshots span the wanted one to sqrt(1 - projection), computed here too.
    """
    directly = run(tmp_path)
    for width in WIDTHS:
        step, found = reconstruct(tmp_path, width, until=400)
        assert step == 400
        assert (found["weight"] - directly[width].weights["weight"]).abs().max() < 1e-7
        assert int(found["count"]) == 400
    profiles = [Profile(s, exponent_of(w)) for s in range(50, 401, 50) for w in WIDTHS]
    for width in (0.075, 0.15):
        wanted = Profile(400, exponent_of(width))
        shares = torch.tensor(mixture(profiles, wanted), dtype=torch.float64)
        gram = torch.tensor([[inner_product(a, b) for b in profiles] for a in profiles])
        cross = torch.tensor([inner_product(a, wanted) for a in profiles])
        left = float(shares @ gram.double() @ shares) - 2 * float(shares @ cross.double())
        distance = max(0.0, left + inner_product(wanted, wanted)) ** 0.5
        error = reconstruct(tmp_path, width, until=400)[1]["weight"]
        error = (error - directly[width].weights["weight"]).abs().max()
        size = directly[width].weights["weight"].abs().max()
        # Independent jitter of 0.3 a step, weighed by what the profiles differ in: 5 deviations.
        assert error < 5 * 0.3 * distance + 1e-3 * size
        assert error < 0.02 * size


def test_snapshots_after_a_step_are_not_looked_at(tmp_path):
    run(tmp_path)
    assert reconstruct(tmp_path, 0.1, until=399)[0] == 350


def test_missing_and_damaged_snapshots_are_named(tmp_path):
    with pytest.raises(InputError, match="holds no snapshots of averages; train with"):
        reconstruct(tmp_path, 0.1, until=400)
    run(tmp_path)
    file = tmp_path / "00000350.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"00000350.safetensors: cannot be read"):
        reconstruct(tmp_path, 0.1, until=400)


def test_the_profile_of_the_mixture_is_the_nearest_of_all():
    """Any other coefficients of sum 1 are farther away."""
    profiles = [Profile(s, exponent_of(w)) for s in (100, 200, 300) for w in WIDTHS]
    wanted = Profile(300, exponent_of(0.15))

    def distance(shares):
        terms = list(zip(shares, profiles, strict=True))
        own = sum(a * b * inner_product(p, q) for a, p in terms for b, q in terms)
        return own - 2 * sum(a * inner_product(p, wanted) for a, p in terms)

    best = mixture(profiles, wanted)
    for i in range(len(profiles) - 1):
        for push in (1e-3, -1e-3):
            other = list(best)
            other[i] += push
            other[i + 1] -= push
            assert distance(other) > distance(best)
    assert math.isfinite(distance(best))
