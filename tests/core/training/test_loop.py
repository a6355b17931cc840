"""The training loop, the average and the order of the data, against arithmetic by hand."""

import itertools

import pytest
import torch
from torch import nn

from core.denoiser.parameterization import x0 as x0_row
from core.network.ema import ExponentialAverage
from core.objective import times, weighting
from core.objective.denoising import Denoising
from core.process.noise import Noise
from core.process.schedules import edm
from core.task import Example
from core.training.batches import order
from core.training.loop import (
    Learner,
    NotFinite,
    drop_conditions,
    fit,
    learning_rate,
    load_optimizer,
    optimizer_tensors,
)


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


class Gain(nn.Module):
    """x0_hat = a x: on N(0, s^2) data at one level sigma the best a is s^2 / (s^2 + sigma^2)."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(()))

    def forward(self, x, level, condition=None):
        return self.a * x


def steps_of(network, count, spoil=None, lr=0.05, drawn=None):
    process = edm(sigma_min=0.999, sigma_max=1.0)  # one level, sigma = 1
    objective = Denoising(process, x0_row(), weighting.simple(), drawn or times.uniform())
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.0)
    learner = Learner(network, objective, optimizer, ExponentialAverage(network, 0.99))

    def prepare(step, _):
        noise = Noise.of(0, step, each=range(64))
        x0 = 0.5 * noise.normal((4,))
        return Example(x0 * (torch.nan if step == spoil else 1)), noise

    yield from fit(
        learner,
        ((i, None) for i in range(count)),
        prepare,
        lambda step: lr * (1 - step / count),
    )


@pytest.mark.slow
def test_training_finds_the_wiener_gain():
    network = Gain()
    for _ in steps_of(network, 300):
        pass
    assert network.a.item() == pytest.approx(0.25 / 1.25, abs=0.02)


def test_the_loss_of_a_step_is_weighed_by_what_the_times_say():
    """Gains of 0 say x0 = 0: the eps error is (x0 / sigma)^2, here weighed by 3."""

    def heavy(process, weight, noise):
        t, ones = times.uniform()(process, weight, noise)
        return times.SampledTimes(t, 3 * ones)

    heavy_loss, loss = (next(steps_of(Gain(), 1, drawn=d)).loss for d in (heavy, None))
    assert heavy_loss == pytest.approx(3 * loss, rel=1e-6)
    assert loss == pytest.approx(0.25, rel=0.3)  # 256 squares of std 0.5: 3 standard errors


def test_times_that_learn_are_told_of_every_step_but_not_of_a_spoiled_one():
    aware = times.LossAware(bins=2, history=200)
    with pytest.raises(NotFinite):
        list(steps_of(Gain(), 5, spoil=3, drawn=aware))
    assert int(aware.tensors()["seen"].sum()) == 3 * 64
    assert bool(aware.tensors()["losses"].isfinite().all())


def test_conditions_are_dropped_whole_for_about_their_fraction():
    """Values stay, so that class 0 differs from no class; samples without condition are marked."""
    n, ones = 2000, torch.ones(2000, 1, 2)
    example = Example(ones, {"image": 3 * ones, "class": torch.arange(n) % 3})
    found = drop_conditions(example, Noise(range(n)), 0.2).condition
    assert torch.equal(found["image"], 3 * ones)
    assert torch.equal(found["class"], torch.arange(n) % 3)
    null = found["null"]
    assert abs(float(null.double().mean()) - 0.2) < 4 * (0.2 * 0.8 / n) ** 0.5
    assert torch.equal(null, Noise(range(n)).uniform() < 0.2)
    part = Example(ones[7:9], {"class": torch.zeros(2).long()})
    alone = drop_conditions(part, Noise(range(n)), 0.2, slice(7, 9))
    assert torch.equal(alone.condition["null"], null[7:9])
    used, fresh = Noise([1]), Noise([1])
    drop_conditions(Example(ones[:1], {"image": ones[:1]}), used, 0.0)
    assert torch.equal(used.uniform(), fresh.uniform())  # no draw where nothing is dropped


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
