"""Votes, probabilities and uncertainty, by hand and in strips."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from core.features import Maps
from plugins.segmentation.heads import mlp, predicting, ridge
from plugins.segmentation.heads.pixels import Pixels
from plugins.segmentation.heads.predicting import segmented
from plugins.segmentation.heads.projection import projected, sampled

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_maps import eager, noise_maps


@dataclass
class Given:
    """A head whose members have the logits that the features state."""

    members: int
    classes: int

    @property
    def first(self):
        return torch.eye(self.members * self.classes), torch.zeros(self.members * self.classes)

    def after_first(self, x):
        return x.unflatten(1, (self.members, self.classes)).transpose(0, 1)


def one_pixel(probabilities):
    """The segmentation of one pixel from each member's probabilities."""
    logits = torch.tensor(probabilities).log()
    head = Given(*logits.shape)
    return segmented(head, Maps((logits.reshape(1, -1, 1, 1),), (1, 1), (1, 1)))


def test_the_majority_decides_and_not_the_mean():
    found = one_pixel([[0.6, 0.4], [0.6, 0.4], [0.01, 0.99]])
    assert found.labels.item() == 0  # the mean probability of class 1 is 0.60
    assert found.probability[:, 0, 0].tolist() == pytest.approx([1.21 / 3, 1.79 / 3])


def test_even_votes_are_decided_by_the_mean():
    assert one_pixel([[0.6, 0.4], [0.1, 0.9]]).labels.item() == 1
    assert one_pixel([[0.9, 0.1], [0.4, 0.6]]).labels.item() == 0


def test_uncertainty_is_the_divergence_of_jensen_and_shannon():
    """log 2 where two members are sure of different classes, 0 where they agree however unsure."""
    apart = one_pixel([[1 - 1e-7, 1e-7], [1e-7, 1 - 1e-7]])
    assert apart.uncertainty.item() == pytest.approx(math.log(2), abs=1e-4)
    agreed = one_pixel([[0.5, 0.5], [0.5, 0.5]])
    assert agreed.uncertainty.item() == pytest.approx(0, abs=1e-6)
    alone = one_pixel([[0.5, 0.5]])  # one member: its entropy
    assert alone.uncertainty.item() == pytest.approx(math.log(2), abs=1e-6)


def test_strips_are_the_whole_image(monkeypatch):
    maps, head = noise_maps(), Given(7, 2)
    monkeypatch.setattr(predicting, "STRIP", 4 * 14 * 37)  # four rows
    found = segmented(head, maps)
    logits = head.after_first(eager(maps)[0].flatten(1).mT)
    mean = logits.softmax(-1).mean(0).mT.reshape(2, *maps.size)
    torch.testing.assert_close(found.probability, mean, atol=1e-5, rtol=1e-5)
    votes = logits.argmax(-1).float().mean(0).round().reshape(maps.size)
    assert torch.equal(found.labels, votes.to(torch.uint8))


def test_maps_may_lie_on_another_device_than_the_classifier():
    """Shapes alone, on the device that has no values: nothing mixes it with the processor's."""
    maps = noise_maps(grids=((3, 5), (6, 10)))
    far = maps._replace(values=tuple(value.to("meta") for value in maps.values))
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    pixels = Pixels(torch.randn(40, 5, generator=draw), labels, torch.full_like(labels, -1), 2)
    for head in (mlp.fit(pixels, members=2, most=25)[0], ridge.fit(pixels)):
        outputs = projected(far, head.first[0]).rows(range(4))[0].flatten(1).mT
        assert head.after_first(outputs).shape[1:] == (4 * 37, 2)
    y = x = torch.arange(5)
    assert sampled(far, 0, y, x).shape == (5, 5)
