"""Which method leads the page, by what its figures' direction is."""

import pytest
from made_runs import metrics

from core.results.evaluation import read_evaluation
from pipelines.report.verdict import evaluation

LOWER = ("consistency", "psnr", "ssim")
HIGHER = ("psnr", "ssim", "consistency")


def judged(order, **changes):
    """The fixture's evaluation with its figures in another order."""
    said = metrics(**changes)
    said["metrics"] = {name: said["metrics"][name] for name in order}
    return evaluation(read_evaluation(said, "x"))


def test_where_lower_is_better_the_lowest_leads():
    """Of two falls, 0.009 and 0.008, the larger one."""
    lead = judged(LOWER)["lead"]
    assert (lead["method"], lead["metric"], lead["outcome"]) == (
        "mean of 8", "consistency", "beats",
    )  # fmt: skip
    assert lead["gain"] == pytest.approx(0.009)
    assert lead["sentence"] == (
        "mean of 8 beats bicubic by 0.0090 Consistency [0.0075, 0.0105] on 24 items from 3 sources"
    )


def test_where_higher_is_better_the_highest_leads():
    lead = judged(HIGHER)["lead"]
    assert (lead["method"], lead["gain"]) == ("mean of 8", pytest.approx(0.83))


def test_a_rise_of_what_should_fall_leads_nothing():
    differences = metrics()["differences"]
    cell = {"mean": 0.02, "low": 0.01, "high": 0.03, "n": 24}
    differences["mean of 8"]["consistency"] = cell
    lead = judged(LOWER, differences=differences)["lead"]
    assert lead["method"] == "one sample"


def test_the_best_of_a_figure_is_by_its_direction():
    assert judged(LOWER)["best"] == dict.fromkeys(HIGHER, "mean of 8")


@pytest.mark.parametrize(
    ("tv", "mean", "best", "gain"),
    [(0.8, 1.1, "mean", 0.1), (1.05, 0.6, "TV", -0.35), (5.0, 1.5, "mean", 3.5)],
)
def test_a_misfit_is_best_at_one_and_not_at_its_lowest(tv, mean, best, gain):
    """A result that fits noise misses the measurement by less than it, and is no better for it."""

    def cell(value):
        return {"mean": value, "low": value - 0.01, "high": value + 0.01, "n": 3}

    figure = {"label": "misfit", "unit": "times the noise", "better": "lower", "best": 1.0}
    said = metrics(
        reference="TV",
        methods={"TV": {"residual": cell(tv)}, "mean": {"residual": cell(mean)}},
        kinds={"TV": "baseline", "mean": "mean"},
        differences={"mean": {"residual": cell(mean - tv)}},
        metrics={"residual": figure},
    )
    found = evaluation(read_evaluation({**said, "format": 2}, "x"))
    (verdict,) = found["verdicts"]
    assert found["best"] == {"residual": best}
    assert verdict["gain"] == pytest.approx(gain)
    assert verdict["sentence"].startswith(
        f"misfit, where 1 is best: {mean:g} times the noise of mean, {tv:g} times the noise of TV"
    )


@pytest.mark.parametrize("order", [HIGHER, LOWER])
def test_intervals_are_drawn_in_proportion_on_one_scale_with_zero(order):
    """Consistency: ends from -0.0105 to 0, 134 pixels wide from 8."""
    verdicts = judged(order)["verdicts"]
    (drawn,) = [
        v["drawn"] for v in verdicts if (v["method"], v["metric"]) == ("one sample", "consistency")
    ]
    for key, value in {"low": -0.0095, "mean": -0.008, "high": -0.0065, "zero": 0.0}.items():
        assert drawn[key] == pytest.approx(8 + 134 * (value + 0.0105) / 0.0105, abs=0.06)


@pytest.mark.parametrize(
    ("tv", "better", "expected"),
    [
        (
            2.0,
            "higher",
            "Against TV, the best classical method, it is 1 dB PSNR better in the mean",
        ),
        (
            4.5,
            "higher",
            "Against TV, the best classical method, it is 1.5 dB PSNR worse in the mean",
        ),
        (2.0, "lower", "FBP is the best classical method"),
        (
            0.5,
            "lower",
            "Against TV, the best classical method, it is 2.5 dB PSNR worse in the mean",
        ),
    ],
)
def test_the_headline_has_the_best_classical_method_too(tv, better, expected):
    """A reference that is easily beaten says little of a model."""

    def cell(mean):
        return {"mean": mean, "low": None, "high": None, "n": 3}

    said = metrics(
        reference="FBP",
        methods={name: {"psnr": cell(x)} for name, x in (("FBP", 1.0), ("TV", tv), ("mean", 3.0))},
        kinds={"FBP": "baseline", "TV": "baseline", "mean": "mean"},
        differences={"TV": {"psnr": cell(tv - 1)}, "mean": {"psnr": cell(2.0)}},
        metrics={"psnr": {"label": "PSNR", "unit": "dB", "better": better}},
    )
    assert evaluation(read_evaluation({**said, "format": 2}, "x"))["classical"] == expected
