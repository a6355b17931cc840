"""Draws depend on their seed alone."""

import torch

from core.process.noise import Noise, derive


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
