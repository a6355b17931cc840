"""Attacks with known answers: linear classifiers, balls, averages over draws."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from core.process.noise import Noise
from core.request import Machine
from plugins.image2image.evaluation import classifier
from plugins.image2image.evaluation.attacks import Ball, expected_loss, pgd
from plugins.image2image.request import ClassifierRequest

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_images import uniform

BALLS = [Ball("linf", 0.3), Ball("l2", 1.5)]


def linear(weight):
    """Two classes by the sign of <w, x>: the loss of class 0 rises along w, everywhere."""
    return lambda x: torch.stack([-(x * weight).flatten(1).sum(1), 0 * x.flatten(1).sum(1)], dim=1)


def test_pgd_on_a_linear_classifier_reaches_the_best_point_of_a_linf_ball():
    """Closed form: x + eps sign(w), cut at [-1, 1]."""
    x, weight = uniform(6, 1, 5, 5), uniform(1, 5, 5, seed=1)
    target = torch.zeros(6, dtype=torch.int64)
    found = pgd(linear(weight), x, target, Noise(range(6)), ball=BALLS[0], steps=7)
    assert (found - (x + 0.3 * weight.sign()).clamp(-1, 1)).abs().max() < 1e-12


def test_pgd_on_a_linear_classifier_nears_the_best_point_of_an_l2_ball_as_it_must():
    """The best is x + eps w / |w|; steps of arc ds turn the angle a to it by -sin(a) ds / eps.

    So tan(a / 2) falls by e for every eps of the way, by e^2.5 in all; 100 steps, an error of 1 %.
    """
    x, weight, ball = uniform(6, 1, 20, 20, reach=0.2), uniform(1, 20, 20, seed=9), Ball("l2", 0.5)

    def angle(point):
        along = ((point - x) * weight).flatten(1).sum(1) / weight.norm()
        return (along / (point - x).flatten(1).norm(dim=1)).acos()

    target, noise = torch.zeros(6, dtype=torch.int64), Noise(range(6))
    found = pgd(linear(weight), x, target, noise, ball=ball, steps=100)
    expected = (angle(ball.start(x, Noise(range(6)))) / 2).tan() * math.exp(-2.5)
    assert ((angle(found) / 2).tan() / expected - 1).abs().max() < 0.05
    assert ((found - x).flatten(1).norm(dim=1) - 0.5).abs().max() < 1e-12


@pytest.mark.parametrize("ball", [*BALLS, Ball("linf", 3.0), Ball("l2", 0.01)], ids=str)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
def test_attacks_stay_in_the_ball_and_in_range(ball, kind):
    """Images at the ends of the range too, where half of the ball lies outside."""
    x = (1.7 * uniform(9, 1, 6, 6)).clamp(-1, 1).to(kind)
    judge = classifier.Classifier(1, 3, width=4).to(kind)
    target = torch.arange(9) % 3
    starts = ball.start(x, Noise(range(9)))
    found = pgd(judge, x, target, Noise(range(9)), ball=ball, steps=5)
    for point in (starts, found):
        apart = point.double() - x.double()
        length = apart.abs().max() if ball.norm == "linf" else apart.flatten(1).norm(dim=1).max()
        assert length <= ball.eps * (1 + 1e-6) + 1e-7  # float32 near 1
        assert point.abs().max() <= 1
    assert not torch.equal(found, x)


def test_starts_are_uniform_over_the_ball():
    """Mean and variance of what is uniform: a linf change over eps, and an l2 radius to the d."""
    x = torch.zeros(3000, 1, 3, 3, dtype=torch.float64)
    flat = Ball("linf", 0.3).start(x, Noise(range(3000))) / 0.3
    round_ = (Ball("l2", 0.9).start(x, Noise(range(3000))).flatten(1).norm(dim=1) / 0.9) ** 9
    for values, mean, variance in ((flat.flatten(), 0.0, 1 / 3), (round_, 0.5, 1 / 12)):
        assert abs(float(values.mean()) - mean) < 5 * math.sqrt(variance / len(values))
        assert abs(float(values.var()) / variance - 1) < 0.1


def test_loss_and_gradient_are_averaged_over_the_draws():
    """Logits (a x, 0) with a scripted: the mean of log(1 + e^(-a x)) and of its slope, by hand."""
    script = iter([0.5, -2.0, 3.0])
    x = uniform(4, 1, 1, 1)

    def victim(x):
        a = next(script)
        return torch.cat([a * x.flatten(1), 0 * x.flatten(1)], dim=1)

    loss, gradient = expected_loss(victim, x, torch.zeros(4, dtype=torch.int64), 3)
    by_hand = [[math.log1p(math.exp(-a * v)) for a in (0.5, -2.0, 3.0)] for v in x.flatten()]
    slopes = [[-a / (1 + math.exp(a * v)) for a in (0.5, -2.0, 3.0)] for v in x.flatten()]
    assert np.allclose(loss, np.mean(by_hand, axis=1))
    assert np.allclose(gradient.flatten(), np.mean(slopes, axis=1))


def test_the_worst_point_that_was_passed_is_kept():
    """A victim whose loss falls after the first look: the start is what is kept."""
    looks = iter(range(100))

    def victim(x):
        return torch.stack([x.flatten(1).sum(1) + 10 * next(looks), 0 * x.flatten(1).sum(1)], 1)

    x, target = uniform(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)
    found = pgd(victim, x, target, Noise(range(3)), ball=BALLS[0], steps=4)
    assert torch.equal(found, BALLS[0].start(x, Noise(range(3))))


SMALL = ClassifierRequest(width=4, steps=40)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return classifier.train(SMALL, tmp_path_factory.mktemp("judge"), machine=Machine(threads=1))
