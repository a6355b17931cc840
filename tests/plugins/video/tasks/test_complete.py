"""The task of completing clips: what is learned, kept and scored."""

import math

import pytest
import torch

from core.errors import InputError
from plugins.video.data.balls import BouncingBalls
from plugins.video.tasks import figures
from plugins.video.tasks.classical import averaged, blended, copied
from plugins.video.tasks.complete import Complete


def batch_of(task, count=3, **options):
    balls = BouncingBalls("test", count=count, **options)
    items = [task.degrade(balls[i], i) for i in range(count)]
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def test_the_loss_is_over_unknown_frames_and_given_ones_come_back_to_the_bit():
    task = Complete(channels=1)
    batch = batch_of(task, count=12)
    example = task.prepare(batch)
    known = batch["known"][:, None, :, None, None]
    assert torch.equal(example.mask == 0, known.expand_as(example.x0))
    given, mask = example.condition["image"].split(1, dim=1)
    assert torch.equal(mask.bool(), known.expand_as(mask))
    assert torch.equal(given, batch["clip"] * known)
    done = task.finish(torch.randn(example.x0.shape), batch)
    assert torch.equal(done[known.expand_as(done)], batch["clip"][known.expand_as(done)])
    assert done.abs().max() <= 1


def test_classical_completions_by_hand():
    """Four frames at times 0, 1, 3, 4 of one pixel; the middle two are unknown."""
    clip = torch.tensor([0.0, 9.0, 9.0, 0.8]).view(1, 1, 4, 1, 1)
    known, times = torch.tensor([[True, False, False, True]]), torch.tensor([[0.0, 1, 3, 4]])
    values = [f.flatten().tolist() for f in (
        copied(clip, known, times), averaged(clip, known), blended(clip, known, times)
    )]  # fmt: skip
    assert values[0] == pytest.approx([0, 0, 0.8, 0.8])
    assert values[1] == pytest.approx([0, 0.4, 0.4, 0.8])
    assert values[2] == pytest.approx([0, 0.2, 0.6, 0.8])
    past = torch.tensor([[True, True, False, False]])
    assert blended(clip, past, times).flatten().tolist() == pytest.approx([0, 9, 9, 9])
    assert not copied(clip, ~past & past, times).any()


def test_figures_of_a_known_error():
    """A constant error of 0.2 in [-1, 1] is 20 dB; of a black copy of a ball its own square."""
    task = Complete(channels=1, given="future", known=4)
    batch = batch_of(task)
    clip = batch["clip"]
    found = task.score((clip + 0.2)[:, None], batch)["one sample"].figures
    assert found["psnr"].tolist() == pytest.approx([20.0] * 3)
    assert found["first"].tolist() == pytest.approx([20.0] * 3)
    assert found["mse"].tolist() == pytest.approx([10.0] * 3)
    assert found["known"].tolist() == [1.0] * 3
    mirrored = torch.where(batch["known"][:, None, :, None, None], clip, clip.flip(4))
    moved = task.score(mirrored[:, None], batch)["one sample"].figures
    columns = (batch["centre"][:, 0, 4:, 1].double() * 16).abs()  # twice the distance to the middle
    assert moved["centroid"].tolist() == pytest.approx(columns.mean(1).tolist(), abs=0.05)
    assert moved["direction"].tolist() == [0.0] * 3
    assert moved["known"].tolist() == [0.0] * 3


def test_the_best_of_several_is_one_of_them_and_the_mean_is_better_than_each():
    task = Complete(channels=1, given="hole", known=6)
    batch = batch_of(task)
    draw = torch.Generator().manual_seed(0)
    results = batch["clip"][:, None] + torch.randn(3, 4, *batch["clip"].shape[1:], generator=draw)
    results[:, 2] = batch["clip"] + 0.5
    scores = task.score(results, batch)
    assert scores["best of 4"].figures["psnr"].tolist() == pytest.approx([20 * math.log10(4)] * 3)
    assert (scores["mean of 4"].figures["psnr"] > scores["one sample"].figures["psnr"]).all()


def test_noisy_history_has_the_level_that_is_stated():
    task = Complete(channels=1, given="future", known=11, noisy_history=1.0)
    batch = batch_of(task, count=40, size=32)
    log_snr = batch["known_level"].double() / 25
    alpha = torch.sigmoid(log_snr).sqrt()
    noise = batch["seen"] - alpha[:, None, :, None, None] * batch["clip"]
    std = noise.std((1, 3, 4))
    expected = torch.sigmoid(-log_snr).sqrt()
    noisy = log_snr < 12  # of less noise float32 keeps too little beside the clip
    assert noisy.double().mean() > 0.9
    assert (std / expected - 1)[noisy].abs().max() < 6 / math.sqrt(2 * 32 * 32)
    given = task.prepare(batch).condition["image"][:, :1, :11]
    assert torch.equal(given, batch["seen"][:, :, :11])


def test_longer_clips_are_cut_to_the_length_with_their_times():
    task = Complete(channels=1, length=6, given="sparse")
    item = {**BouncingBalls("test", count=1, frames=30)[0], "ticks": torch.arange(30) * 500}
    found = task.degrade(item, 4)
    assert found["clip"].shape[1] == 6
    assert found["centre"].shape[1] == 6
    assert found["times"][0] == 0
    steps = found["times"].diff() * 2
    assert torch.equal(steps, steps.round())
    assert (
        figures.centroids(found["clip"][None])[0] - 8 * (1 + found["centre"][0])
    ).abs().max() < 0.1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"future": -1.0}, "future: expected 0 or more, got -1.0"),
        ({"known": 8, "length": 8}, "known: expected less than length 8, got 8"),
        ({"noisy_history": 2.0}, "noisy_history: expected 0 to 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        Complete(**options)


def test_clips_that_are_too_short_are_refused():
    with pytest.raises(InputError, match="length 13 with None given frames"):
        Complete(channels=1, length=13).degrade(BouncingBalls("test")[0], 0)


def test_flicker_is_in_the_changes_and_a_lasting_error_is_not():
    draw = torch.Generator().manual_seed(0)
    truth = torch.rand(2, 1, 40, 16, 16, generator=draw) - 0.5
    lasting = truth + 0.2 * torch.randn(2, 1, 1, 16, 16, generator=draw)
    assert figures.change_errors(lasting, truth).max() < 1e-12
    flickering = truth + 0.2 * torch.randn(truth.shape, generator=draw)
    found = figures.change_errors(flickering, truth)
    assert found[:, 0].tolist() == [0, 0]
    assert float(found[:, 1:].mean()) == pytest.approx(2 * 0.1**2, rel=0.02)  # of [0, 1]


def test_draws_like_the_truth_have_a_spread_over_skill_of_one_and_sure_ones_less():
    """Truth and draws of one normal distribution, whatever their number; narrower by half: 0.5 of
    sqrt((1/2)^2 (1 + 1/k)) / sqrt(1 + (1/2)^2 / k)."""
    draw = torch.Generator().manual_seed(0)
    every = torch.ones(1, 30, dtype=torch.bool)
    for k in (2, 5):
        sample = 0.3 * torch.randn(1, k + 1, 1, 30, 24, 24, generator=draw)
        truth, draws = sample[:, 0], sample[:, 1:]
        assert float(figures.spread_skill(draws, truth, every)) == pytest.approx(1, abs=0.02)
        expected = math.sqrt(0.25 * (1 + 1 / k) / (1 + 0.25 / k))
        narrow = figures.spread_skill(draws / 2, truth, every)
        assert float(narrow) == pytest.approx(expected, abs=0.02)
