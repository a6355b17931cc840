"""Methods of a comparison: their kinds, order and figures, on numbers of one digit."""

import torch

from core.results.scoring import outputs, scores


def test_baselines_the_first_draw_and_the_mean_are_scored_by_what_they_are():
    results = torch.tensor([[[1.0, 2.0], [3.0, 6.0]], [[5.0, 5.0], [7.0, 9.0]]])  # b k n
    given = {"one sample of nothing": torch.zeros(2, 2), "mean of 7": torch.ones(2, 2)}
    compared = outputs(given, results)
    assert list(compared) == ["one sample of nothing", "mean of 7", "one sample", "mean of 2"]
    found = scores(compared, lambda x: {"sum": x.sum(1)})
    assert {name: one.kind for name, one in found.items()} == {
        "one sample of nothing": "baseline",  # whatever its name
        "mean of 7": "baseline",
        "one sample": "draw",
        "mean of 2": "mean",
    }
    sums = {name: one.figures["sum"].tolist() for name, one in found.items()}
    assert sums["mean of 7"] == [2, 2]
    assert sums["one sample"] == [3, 10]
    assert sums["mean of 2"] == [2 + 4, 6 + 7]


def test_a_single_draw_has_no_mean():
    assert list(outputs({}, torch.zeros(2, 1, 3))) == ["one sample"]


def test_the_mean_keeps_the_bits_of_values_in_which_all_draws_agree():
    agreed = torch.rand(1, 1, 1000, generator=torch.Generator().manual_seed(0)) / 3
    assert not torch.equal(agreed.expand(1, 7, 1000).mean(1), agreed[0])  # torch's own does not
    kind, mean = outputs({}, agreed.expand(1, 7, 1000))["mean of 7"]
    assert kind == "mean"
    assert torch.equal(mean, agreed[0])
