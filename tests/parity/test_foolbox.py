"""Projected gradient descent beside foolbox's, step by step from the same random start."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core.process.noise import Noise
from plugins.image2image.evaluation.attacks import TRAVEL, Ball, pgd

pytestmark = pytest.mark.parity
foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")

STEPS, COUNT = 12, 8


def victim():
    """A smooth classifier of five classes with weights of its own stream, in float64."""
    draw = torch.Generator().manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 49, 5)
    ).double()
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw, dtype=weight.dtype) * 0.4)
    return network.eval().requires_grad_(False)


def theirs(ball, network, x, target, start):
    """Foolbox's points after 0, 1, ... steps of ours' length."""
    kinds = {
        "linf": foolbox.attacks.LinfProjectedGradientDescentAttack,
        "l2": foolbox.attacks.L2ProjectedGradientDescentAttack,
    }

    class FromThere(kinds[ball.norm]):
        def get_random_start(self, x0, epsilon):
            return type(x0)(start)

    model = foolbox.PyTorchModel(network, bounds=(-1, 1), device="cpu")
    size, points = TRAVEL * ball.eps / STEPS, [start]
    for steps in range(1, STEPS + 1):
        attack = FromThere(abs_stepsize=size, steps=steps, random_start=True)
        points.append(attack.run(model, x, target, epsilon=ball.eps))
    return torch.stack(points)


@pytest.mark.parametrize("ball", [Ball("linf", 0.2), Ball("l2", 1.0)], ids=["linf", "l2"])
def test_pgd_is_the_worst_point_of_foolboxs_way(ball, agree):
    """Foolbox returns the last point, ours the one of greatest loss for each image."""
    draw = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(COUNT, 1, 7, 7, generator=draw, dtype=torch.float64) - 1
    target, network = torch.arange(COUNT) % 5, victim()
    way = theirs(ball, network, x, target, ball.start(x, Noise(range(COUNT))))
    losses = torch.stack([F.cross_entropy(network(at), target, reduction="none") for at in way])
    worst = way[losses.argmax(0), torch.arange(COUNT)]
    found = pgd(network, x, target, Noise(range(COUNT)), ball=ball, steps=STEPS)
    assert (losses.max(0).values > losses[0] + 0.1).all()  # attacked indeed
    agree(f"`pgd(ball=Ball({ball.norm!r}))`", f"{STEPS} steps, float64", found, worst, 1e-12)
