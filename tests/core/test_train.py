"""The training loop, the average and the order of the data, against arithmetic by hand."""

import itertools

import pytest
import torch
from torch import nn

from core.data import order
from core.denoiser.parameterization import x0 as x0_row
from core.ema import Average
from core.objective import times, weighting
from core.objective.denoising import Denoising
from core.process.schedules import edm
from core.process.noise import Noise
from core.task import Example
from core.train import NotFinite, fit, learning_rate, load_optimizer, optimizer_tensors


def test_order_is_a_permutation_every_epoch_and_a_function_of_seed_and_step():
    whole = [i for _, batch in itertools.islice(order(3, 10, 4), 5) for i in batch]
    assert sorted(whole[:10]) == sorted(whole[10:20]) == list(range(10))
    assert whole[:10] != whole[10:20]
    resumed = [i for _, batch in itertools.islice(order(3, 10, 4, start=3), 2) for i in batch]
    assert resumed == whole[12:20]
    other = [i for _, batch in itertools.islice(order(4, 10, 4), 5) for i in batch]
    assert other != whole


def test_learning_rate_rises_and_falls():
    rate = [learning_rate(s, peak=1.0, warmup=4, steps=12, decay="cosine") for s in range(13)]
    assert rate[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rate[8] == pytest.approx(0.5)
    assert rate[12] == pytest.approx(0.0)
    assert learning_rate(99, peak=1.0, warmup=4, steps=12, decay="constant") == 1.0


def test_average_is_the_recursion_written_out():
    layer = nn.Linear(1, 1, bias=False)
    average, hand = Average(layer, 0.9), float(layer.weight)
    for update, value in enumerate([1.0, -2.0, 3.0, 0.5] * 5):
        layer.weight.data.fill_(value)
        average.update(layer, update)
        decay = min(0.9, (1 + update) / (10 + update))
        hand = decay * hand + (1 - decay) * value
    assert float(average.weights["weight"]) == pytest.approx(hand, rel=1e-6)


class Gain(nn.Module):
    """x0_hat = a x: on N(0, s^2) data at one level sigma the best a is s^2 / (s^2 + sigma^2)."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(()))

    def forward(self, x, level, condition=None):
        return self.a * x


def steps_of(network, count, spoil=None, lr=0.05):
    process = edm(sigma_min=0.999, sigma_max=1.0)  # one level, sigma = 1
    objective = Denoising(process, x0_row(), weighting.simple(), times.uniform())
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.0)
    average = Average(network, 0.99)

    def prepare(step, _):
        noise = Noise.of(0, step, each=range(64))
        x0 = 0.5 * noise.normal((4,))
        return Example(x0 * (torch.nan if step == spoil else 1)), noise

    yield from fit(
        network, objective, optimizer, average, ((i, None) for i in range(count)), prepare,
        lambda step: lr * (1 - step / count),
    )  # fmt: skip


def test_training_finds_the_wiener_gain():
    network = Gain()
    for _ in steps_of(network, 300):
        pass
    assert float(network.a) == pytest.approx(0.25 / 1.25, abs=0.02)


def test_a_loss_that_is_no_number_stops_before_it_spoils_the_weights():
    network = Gain()
    seen = []
    with pytest.raises(NotFinite, match=r"step 4: loss nan.*lower the learning rate"):
        seen.extend(steps_of(network, 10, spoil=3))
    assert len(seen) == 3
    assert torch.isfinite(network.a)


def test_optimizer_state_survives_its_tensors():
    def one():
        torch.random.default_generator.manual_seed(0)
        layer = nn.Linear(3, 2)
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.1)

    def step(layer, optimizer):
        optimizer.zero_grad()
        layer(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()

    (first, mine), (second, other) = one(), one()
    step(first, mine)
    second.load_state_dict(first.state_dict())
    load_optimizer(other, optimizer_tensors(mine))
    step(first, mine)
    step(second, other)
    assert torch.equal(first.weight, second.weight)
