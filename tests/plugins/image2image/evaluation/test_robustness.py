"""Accuracy under attack, counted again by hand."""

import json
import sys
from collections import Counter

import pytest
import torch
from torch import nn

from core.errors import InputError
from core.parts.registry import Spec
from core.request import Machine
from plugins.image2image.data.digits import Digits
from plugins.image2image.evaluation import classifier, robustness
from plugins.image2image.inference.purify import Purified
from plugins.image2image.request import RobustnessRequest


def asked(prior, judge, **changes):
    options = {
        "checkpoint": prior, "classifier": judge.classifier, "count": 10, "eps": 0.5, "steps": 3,
        "eot": 2, "level": 0.1, "solver_steps": 2, "batch": 10, "pictures": 2,
    }  # fmt: skip
    return RobustnessRequest(**{**options, **changes})


METHODS = {
    "bare, no attack",
    "bare, PGD",
    "purified, no attack",
    "purified, PGD on the bare classifier",
    "purified, BPDA + EOT",
    "purified, exact gradients + EOT",
}


@pytest.mark.slow
def test_every_attack_is_counted_and_the_worst_is_named(prior, judge, tmp_path):
    """What is written is counted again here; items do not depend on their batch."""
    news = []
    result = robustness.evaluate(
        asked(prior, judge), tmp_path / "a", machine=Machine(threads=1), emit=news.append
    )
    assert [one.done for one in news] == list(range(1, 17))  # 3 + 1 looks, 2 draws, 2 attacks
    assert {one.total for one in news} == {16}
    said = json.loads(result.metrics.read_text())
    assert set(said["methods"]) == METHODS
    items = said["items"]
    for method, row in said["methods"].items():
        assert row["accuracy"]["mean"] == sum(item[method] for item in items) / 10
        assert row["accuracy"]["low"] < row["accuracy"]["high"]
        assert row["accuracy"]["n"] == 10
    purified = {m: row["accuracy"]["mean"] for m, row in said["methods"].items() if "pur" in m}
    assert said["robust"]["mean"] == result.robust == min(purified.values())
    assert purified[said["robust"]["attack"]] == result.robust
    assert said["attacks"] == {"norm": "linf", "eps": 0.5, "steps": 3, "eot": 2, "level": 0.1,
                               "solver_steps": 2, "seed": 0}  # fmt: skip
    network, test = classifier.load_classifier(judge.classifier, ""), Digits("test")
    assert [item["name"] for item in items] == [test.name(50 * i) for i in range(10)]
    for i, item in enumerate(items):
        x, target = test[50 * i]["image"][None], int(test[50 * i]["class"])
        assert item["bare, no attack"] == (int(network(x).argmax()) == target)
    assert [len(panel["images"]) for panel in said["panels"]] == [4, 4]
    again = robustness.evaluate(
        asked(prior, judge, batch=4, pictures=0), tmp_path / "b", machine=Machine(threads=1)
    )
    assert json.loads(again.metrics.read_text())["items"] == items


def test_counts_are_made_with_draws_that_no_attack_has_seen(prior, judge, tmp_path, monkeypatch):
    """And the attacks on the defence call it 3 + 1 times for each of 2 draws, others never."""
    seen, calls = {True: set(), False: set()}, Counter()
    forward = Purified.forward

    def spied(self, x, noise=None, *, way="exact"):
        seen[torch.is_grad_enabled()] |= set(noise.seeds)
        calls[torch.is_grad_enabled(), way] += 1
        return forward(self, x, noise, way=way)

    monkeypatch.setattr(Purified, "forward", spied)
    robustness.evaluate(asked(prior, judge, count=4), tmp_path, machine=Machine(threads=1))
    assert len(seen[True]) == 8  # two attacks
    assert len(seen[False]) == 16  # four counts
    assert not seen[True] & seen[False]
    assert calls == {(True, "identity"): 8, (True, "exact"): 8, (False, "exact"): 4}


def two_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


def test_what_does_not_fit_is_refused(prior, judge, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "someones", sys.modules[__name__])
    machine = Machine(threads=1)
    photos = Spec("image2image/photos", {"size": 32})
    for changes, said in (
        ({"dataset": photos}, "expected items with a class and an image of 1 channels"),
        ({"level": 2.0}, "level: expected a time"),
        ({"module": "math:pi"}, "both was given"),
        ({"classifier": None, "module": "someones:two_classes"}, "expected logits"),
        ({"checkpoint": tmp_path}, "no checkpoint"),
    ):
        with pytest.raises(InputError, match=said):
            robustness.evaluate(asked(prior, judge, **changes), tmp_path / "x", machine=machine)
