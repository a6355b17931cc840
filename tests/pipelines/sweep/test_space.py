"""Spaces of options: choices drawn from them, and what is refused before anything is trained."""

import math
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from core.parts.config import ConfigError
from core.parts.registry import Registry, installed
from pipelines.job.file import parse
from pipelines.job.plan import plan
from pipelines.sweep.space import draw, vary

sys.path.insert(0, str(Path(__file__).parent))
from made_jobs import job

SPACE = {
    "lr": {"loguniform": [1e-5, 1e-1]}, "weight_decay": {"uniform": [-1, 3]},
    "batch": {"int": [2, 11, 3]}, "decay": ["constant", "cosine", "other"],
}  # fmt: skip


def test_choices_follow_from_space_and_seed_alone():
    first = draw(SPACE, 40, 7)
    assert draw(dict(reversed(SPACE.items())), 40, 7) == first  # whatever the order
    assert draw(SPACE, 25, 7) == first[:25]  # however many
    assert draw(SPACE, 40, 8) != first
    assert first[0] == {  # the numbers of Python's own Mersenne twister, which are fixed
        "batch": 2 + 3 * int(4 * U[0]), "decay": SPACE["decay"][int(3 * U[1])],
        "lr": pytest.approx(1e-5 * 1e4 ** U[2], rel=1e-5),
        "weight_decay": pytest.approx(-1 + 4 * U[3], rel=1e-5),
    }  # fmt: skip


U = (0.32383276483316237, 0.15084917392450192, 0.6509344730398537, 0.07243628666754276)


@pytest.mark.parametrize(
    ("option", "quantile"),
    [("lr", lambda q: 10 ** (-5 + 4 * q)), ("weight_decay", lambda q: -1 + 4 * q)],
)
def test_ranges_are_covered_as_their_distribution_says(option, quantile):
    """Kolmogorov's distance to the closed form: above 1.63 / sqrt(n) once in a hundred."""
    n = 4000
    values = sorted(choice[option] for choice in draw(SPACE, n, 0))
    for i in range(n + 1):
        # The value below which a share i / n is drawn lies within the band of the closed form's.
        low, high = (i / n + side * 1.63 / math.sqrt(n) for side in (-1, 1))
        if i - 1 >= 0 and high < 1:
            assert values[i - 1] <= quantile(high)
        if i < n and low > 0:
            assert values[i] >= quantile(low)
    assert quantile(0) <= values[0]
    assert values[-1] <= quantile(1)


def test_lists_and_whole_numbers_are_drawn_evenly_and_reach_both_ends():
    n = 4000
    choices = draw(SPACE, n, 1)
    for option, values in (("batch", [2, 5, 8, 11]), ("decay", SPACE["decay"])):
        counts = Counter(choice[option] for choice in choices)
        assert set(counts) == set(values)
        share = 1 / len(values)
        deviation = math.sqrt(n * share * (1 - share))
        assert all(abs(count - n * share) < 4 * deviation for count in counts.values())


def test_no_choice_comes_twice_and_a_small_space_is_tried_whole():
    space = {"batch": {"int": [1, 3]}, "decay": ["constant", "cosine"]}
    choices = draw(space, 16, 0)
    found = {(choice["batch"], choice["decay"]) for choice in choices}
    assert found == {(b, d) for b in (1, 2, 3) for d in ("constant", "cosine")}
    assert len(choices) == 6
    narrow = draw({"lr": {"uniform": [1, 1.00001]}}, 16, 0)  # two values of six digits
    assert sorted(choice["lr"] for choice in narrow) == [1, 1.00001]


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("lr=loguniform:1e-5:1e-2", {"lr": {"loguniform": [1e-5, 1e-2]}}),
        ("ema=uniform:0:0.1", {"ema": {"uniform": [0, 0.1]}}),
        ("batch=int:16:64:16", {"batch": {"int": [16, 64, 16]}}),
        ("network.width=16,32", {"network.width": [16, 32]}),
        ("network.multipliers=[1, 2],[1]", {"network.multipliers": [[1, 2], [1]]}),
        ("network=core/unet, core/transformer", {"network": ["core/unet", "core/transformer"]}),
        ("decay=cosine", {"decay": ["cosine"]}),
    ],
)
def test_spaces_as_they_are_written_on_the_command_line(said, means):
    assert vary([said]) == means


def test_what_is_no_space_on_the_command_line_is_said_at_once():
    with pytest.raises(ConfigError) as caught:
        vary(["lr", "batch=", "=3", "ema=0.9", "ema=0.99"])
    assert [said.split(":")[0] for said in caught.value.problems] == [
        "--vary lr", "--vary batch=", "--vary =3", "--vary ema=0.99",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("space", "changes", "said"),
    [
        ({"lr": [1e-3, 0]}, {}, "space.lr: expected more than 0.0, got 0"),
        ({"lr": {"loguniform": [0, 1]}}, {}, "space.lr: loguniform: expected two numbers above"),
        ({"lr": {"uniform": [1, 0.1]}}, {}, "space.lr: uniform: expected two numbers, the lower"),
        ({"lr": {"normal": [0, 1]}}, {}, "space.lr: expected a list of values, or one of uniform"),
        ({"lr": 1e-3}, {}, "space.lr: expected a list of values"),
        ({"lr": []}, {}, "space.lr: no values"),
        ({"lr": [1, 1]}, {}, "space.lr: a value is given twice"),
        ({"batch": {"int": [1, 4.5]}}, {}, "space.batch: int: expected whole numbers"),
        ({"batch": {"int": [1, 4, 0]}}, {}, "space.batch: int: expected whole numbers"),
        ({"batch": {"uniform": [1.5, 4]}}, {}, "space.batch: expected int, got 1.5"),
        ({"network.widht": [8]}, {}, "space.network.widht: unknown option; did you mean 'width'?"),
        ({"rl": [1]}, {}, "space.rl: unknown option"),
        ({"space": [1]}, {}, "space.space: unknown option"),
        ({"network": ["core/nope"]}, {}, "space.network: no network named 'core/nope'"),
        ({"weighting": ["core/v", "core/simple"]}, {}, "space.weighting: the loss on held-out"),
        ({"seed": [1, 2]}, {}, "space.seed: the loss on held-out items means another thing"),
        ({"dataset.size": [32, 64]}, {}, "space.dataset.size: each choice would be measured on"),
        ({}, {}, "space: no option to search"),
        ({"lr": [1]}, {"validate_every": 0}, "validate_every: 0 of 24 steps, but trials are"),
        ({"lr": [1]}, {"validate_every": 25}, "validate_every: 25 of 24 steps"),
        ({"lr": [1]}, {"grace": 25}, "grace: 25, but a trial has 24 steps"),
        ({"lr": [1]}, {"trials": 1001}, "trials: at most 1000, got 1001"),
        ({"lr": [1]}, {"metric": "loss"}, "metric: expected one of 'val/loss', 'val/high'"),
        ({"network": ["core/unet", "core/transformer"], "network.multipliers": [[1]]}, {},
         "space: network core/transformer, network.multipliers [1]: network.multipliers: unknown"),
    ],
)  # fmt: skip
def test_mistakes_are_found_where_a_job_is_read(space, changes, said):
    with pytest.raises(ConfigError) as caught:
        parse(job(space, **changes))
    assert f"steps.search.request.{said}" in str(caught.value)


def test_all_mistakes_of_a_space_are_found_at_once():
    with pytest.raises(ConfigError) as caught:
        parse(job({"lr": [0], "batch": [0], "ema": {"odd": 1}}))
    assert len(caught.value.problems) == 3


def test_a_part_that_only_the_space_names_is_in_the_key(tmp_path):
    def key(version):
        plugins = [
            replace(plugin, parts=tuple(
                replace(part, version=version) if part.name == "transformer" else part
                for part in plugin.parts
            ))
            for plugin in installed().plugins.values()
        ]  # fmt: skip
        registry, space = Registry(plugins), {"network": ["core/unet", "core/transformer"]}
        changes = {"network": "core/unet"}
        read = parse(job(space, **changes), registry=registry)
        return plan(read, tmp_path, registry=registry)[0].key

    assert key("1") == key("1")
    assert key("1") != key("2")
