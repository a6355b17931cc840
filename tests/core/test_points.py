"""Points of the plane: densities known in closed form, and the score that is least for them."""

import math

import numpy as np
import pytest
import torch

from core.data import collate
from core.errors import InputError
from core.points import CLASSES, Plane, Points
from core.results.sheet import scatter

COUNT = 4000


def drawn(density, **options):
    data = Points("train", density=density, count=COUNT, **options)
    batch = collate(data, list(range(COUNT)))
    return batch["point"].double(), batch["class"]


@pytest.mark.parametrize("density", CLASSES)
def test_an_item_depends_on_its_own_index_split_and_seed_alone(density):
    few, many = (Points("train", density=density, count=n) for n in (3, 300))
    assert all(torch.equal(few[i]["point"], many[i]["point"]) for i in range(3))
    others = Points("test", density=density), Points("train", density=density, seed=1)
    for other in others:
        assert not any(torch.equal(few[i]["point"], other[i]["point"]) for i in range(3))
        assert other.digest() != few.digest()


@pytest.mark.parametrize("density", CLASSES)
def test_components_are_equally_likely(density):
    _, component = drawn(density)
    n = CLASSES[density]
    counts = torch.bincount(component, minlength=n).double()
    chi_square = ((counts - COUNT / n) ** 2 / (COUNT / n)).sum()
    # A chi-square variable of n - 1 degrees has mean n - 1 and variance 2 (n - 1).
    assert len(counts) == n
    assert chi_square < n - 1 + 4 * math.sqrt(2 * (n - 1))


@pytest.mark.parametrize(
    ("density", "centre"),
    [
        ("ring", lambda k: (0.7 * math.cos(math.pi * k / 4), 0.7 * math.sin(math.pi * k / 4))),
        ("grid", lambda k: (0.35 * (k % 5) - 0.7, 0.35 * (k // 5) - 0.7)),
    ],
)
def test_mixtures_have_their_means_and_standard_deviation(density, centre):
    point, component = drawn(density, std=0.1)
    rest = point - torch.tensor([centre(int(k)) for k in component], dtype=torch.float64)
    for k in range(CLASSES[density]):
        mean = rest[component == k].mean(0).abs().max()
        assert mean < 4 * 0.1 / math.sqrt((component == k).sum())  # four standard errors
    assert abs(rest.std() - 0.1) < 4 * 0.1 / math.sqrt(2 * rest.numel())


def test_a_checkerboard_is_uniform_on_its_dark_squares():
    point, _ = drawn("checkerboard")
    column, row = (2 * (point + 1)).floor().long().unbind(1)
    assert ((column + row) % 2 == 0).all()
    inside = (2 * (point + 1)) % 1
    assert (inside.mean(0) - 0.5).abs().max() < 4 * math.sqrt(1 / 12 / COUNT)
    assert (inside.var(0) - 1 / 12).abs().max() < 4 * math.sqrt(1 / 180 / COUNT)


def test_spirals_and_moons_lie_on_their_curves_without_noise():
    point, arm = drawn("spirals", std=0.0)
    radius, sign = point.norm(dim=1), 1 - 2 * arm[:, None].double()
    angle = 3 * math.pi * radius / 0.8
    on_curve = radius[:, None] * torch.stack((angle.cos(), angle.sin()), dim=1) * sign
    assert (point - on_curve).abs().max() < 1e-6
    point, moon = drawn("moons", std=0.0)
    sign = 1 - 2 * moon[:, None].double()
    centre = sign * torch.tensor([-0.275, -0.1375], dtype=torch.float64)
    assert ((point - centre).norm(dim=1) - 0.55).abs().max() < 1e-6
    assert ((sign * (point - centre))[:, 1] >= -1e-6).all()


def test_the_energy_score_is_its_definition_and_least_for_the_data():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2, 3, 2, generator=generator)
    batch = {"point": torch.randn(2, 2, generator=generator)}
    for i, found in enumerate(Plane().score(draws, batch)["samples"].figures["energy"]):
        x, y = draws[i].double(), batch["point"][i].double()
        to_truth = sum(math.dist(a, y) for a in x) / 3
        pairs = sum(math.dist(x[j], x[k]) for j in range(3) for k in range(3) if j != k) / 6
        assert abs(found - (to_truth - pairs / 2)) < 1e-12
    # Of Gaussian data, draws of the data's own standard deviation score below wider and narrower.
    truth = {"point": torch.randn(4000, 2, generator=generator)}
    unit = torch.randn(4000, 8, 2, generator=generator)
    score = [
        Plane().score(s * unit, truth)["samples"].figures["energy"].mean() for s in (0.6, 1, 1.6)
    ]
    assert score[1] < min(score[0], score[2])


def test_a_scatter_plot_has_a_dot_where_the_point_is():
    red = (255, 0, 0)
    image = scatter([(torch.tensor([[0.5, 0.5], [9.0, 0.0], [math.nan, 0.0]]), red)], 1.0, side=100)
    row, column = np.nonzero((image == red).all(axis=2))
    assert set(row) == {24, 25}  # y upwards: 0.5 is three quarters of the way up
    assert set(column) == {75, 76}


def test_classes_are_conditions_and_other_data_is_refused():
    batch = collate(Points("test", density="moons"), [0, 1, 2])
    assert Plane().prepare(batch).condition == {}
    assert torch.equal(Plane(classes=2).prepare(batch).condition["class"], batch["class"])
    with pytest.raises(InputError, match="use core/points"):
        Plane().prepare({"image": torch.zeros(1, 3, 8, 8)})
    with pytest.raises(InputError, match="std >= 0"):
        Points("train", std=-1.0)
