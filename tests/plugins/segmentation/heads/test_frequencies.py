"""Classifiers of classes that were alike, at the frequencies that there are: Bayes' rule."""

import math

import torch

from plugins.segmentation.heads.mlp import Ensemble
from plugins.segmentation.heads.ridge import Ridge

COUNTS = torch.tensor([900, 100])


def test_two_gaussians_are_told_apart_where_bayes_rule_says():
    """N(-1, 1) and N(1, 1) have the log ratio 2 x; nine to one, they are even at log(9) / 2."""
    alike = Ridge(torch.tensor([[-0.25], [0.25]]), torch.zeros(2), 4.0, 0.0)
    found = alike.at_frequencies(COUNTS)
    weight, bias = found.first
    for head, edge in ((alike, 0.0), (found, math.log(9) / 2)):
        weight, bias = head.first
        x = torch.tensor([[edge - 1e-3], [edge + 1e-3]])
        assert head.after_first(x @ weight.T + bias)[0].argmax(1).tolist() == [0, 1]


def test_every_member_of_an_ensemble_is_shifted_by_the_log_of_the_ratio():
    draw = torch.Generator().manual_seed(0)
    tensors = {}
    for layer, (inputs, outputs) in enumerate(((3, 4), (4, 4), (4, 2))):
        tensors[f"weight{layer}"] = torch.randn(2, outputs, inputs, generator=draw)
        tensors[f"bias{layer}"] = torch.randn(2, outputs, generator=draw)
        if layer < 2:
            for name, value in (("mean", 0.0), ("variance", 1.0), ("scale", 1.0), ("shift", 0.0)):
                tensors[f"{name}{layer}"] = torch.full((2, outputs), value)
    alike = Ensemble(tensors)
    weight, bias = alike.first
    x = torch.randn(5, 3, generator=draw) @ weight.T + bias
    before, after = (
        head.after_first(x).diff(dim=-1) for head in (alike, alike.at_frequencies(COUNTS))
    )
    torch.testing.assert_close(after, before - math.log(9))
