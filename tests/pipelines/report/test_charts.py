"""Charts of any step: where their points lie, and that nothing that is none is drawn."""

import json
import math

import pytest
from made_runs import XSS, finished, metrics

from core.results.evaluation import read_evaluation
from core.storage import files
from pipelines.report.charts import CHART, curve, line_chart
from pipelines.report.panels import read_charts
from pipelines.report.render import report
from pipelines.report.request import ReportRequest
from pipelines.report.verdict import evaluation


def chart(*series, log=True):
    return {
        "title": "PSNR against evaluations",
        "x": {"label": "evaluations", "log": log},
        "y": {"label": "PSNR", "unit": "dB"},
        "series": [{"label": f"method {i}", "points": p} for i, p in enumerate(series)],
    }


@pytest.mark.parametrize("log", [True, False])
def test_points_lie_in_proportion(log):
    (read,) = read_charts([chart([[20, 25.0], [80, 29.0]], [[40, 27.0, 26.0, 28.0]], log=log)])
    drawn = line_chart(read)
    first, last = drawn["lines"][0]["marks"]
    (middle,) = drawn["lines"][1]["marks"]
    share = (math.log2(40) - math.log2(20)) / 2 if log else (40 - 20) / 60
    across = (middle["at"] - first["at"]) / (last["at"] - first["at"])
    assert across == pytest.approx(share, abs=1e-3)
    assert middle["mid"] == pytest.approx((first["mid"] + last["mid"]) / 2, abs=0.1)
    down = (first["mid"] - last["mid"]) / 4  # pixels a decibel
    assert middle["bottom"] - middle["top"] == pytest.approx(2 * down, abs=0.2)
    assert CHART["left"] < first["at"] < last["at"] < CHART["width"] - CHART["right"]
    assert [tick["text"] for tick in drawn["x"]] == ["20", "40", "80"]
    assert [tick["at"] for tick in drawn["x"]] == [first["at"], middle["at"], last["at"]]


BAD = [
    None,
    {"a": 1},
    ["words", 3, None],
    [{"series": "none"}],
    [chart([])],
    [chart([[1, float("nan")], ["a", 1], [1], [1, 2, 3], [1e300, 1], [1, 10**400]])],
    [chart([[0, 1.0], [-3, 2.0]])],  # has no logarithm
    [{**chart(), "series": [None, {"points": 3}]}],
]


@pytest.mark.parametrize("said", BAD)
def test_what_is_no_chart_is_left_out(said):
    assert list(read_charts(said)) == []


def test_what_is_too_much_is_cut_and_labels_are_text():
    many = chart(*[[[1, 1.0]]] * 30)
    (read,) = read_charts([{**many, "title": 7, "x": [], "y": None}])
    assert len(read["series"]) == 20
    assert read["title"] == "7"
    (read,) = read_charts([chart([[x + 1, 0.0] for x in range(900)])])
    assert len(read["series"][0]["points"]) == 500


def scores(drawn):
    cell = {"mean": 1.0, "low": 0.5, "high": 1.5, "n": 3}
    better = {"mean": 2.0, "low": 1.5, "high": 2.5, "n": 3}
    return {
        "task": "t", "split": "test", "n": 3, "sources": ["a"], "draws": 1, "confidence": 0.95,
        "interval": "", "reference": "FBP",
        "metrics": {"psnr": {"label": "PSNR", "unit": "dB", "better": "higher"}},
        "methods": {name: {"psnr": cell} for name in ("FBP", "TV", "mean of 8")},
        "differences": {"TV": {"psnr": better}, "mean of 8": {"psnr": cell}},
        **drawn,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("drawn", "lead"),
    [
        ({}, "TV"),
        ({"drawn": ["mean of 8"]}, "mean of 8"),
        ({"drawn": []}, "TV"),
        ({"drawn": 7}, "TV"),
        ({"drawn": ["another"]}, "TV"),
        ({"format": 2, "kinds": {"FBP": "baseline", "mean of 8": "mean"}}, "mean of 8"),
        ({"format": 2, "kinds": {"TV": "baseline", "mean of 8": "model"}}, "mean of 8"),
        ({"format": 2, "kinds": {"TV": "baseline"}}, "TV"),
    ],
)
def test_the_headline_is_of_what_a_model_drew_where_that_is_said(drawn, lead):
    assert evaluation(read_evaluation(scores(drawn), "x"))["lead"]["method"] == lead


def test_charts_of_a_step_are_on_the_page_and_in_its_data(tmp_path):
    folder = finished(tmp_path, "samplers", "medical/samplers", {})
    drawn = [chart([[20, 25.0], [50, 26.0]]), {**chart([[1, 1.0]]), "title": XSS[0]}]
    files.write_json(folder / "metrics.json", {**metrics(), "charts": drawn})
    result = report(ReportRequest(title="Samplers"), {"samplers": folder}, tmp_path)
    page = result.report.read_text()
    assert '<h2 id="charts">Charts</h2>' in page
    assert 'aria-label="PSNR against evaluations: PSNR, dB of method 0 over evaluations"' in page
    assert XSS[0] not in page
    facts = json.loads(result.data.read_text())
    assert facts["steps"][0]["charts"][0]["series"][0]["points"][1]["y"] == 26.0


@pytest.mark.parametrize(
    ("steps", "losses", "across", "up"),
    [
        (20, (-1.0, 3.0), ["0", "5", "10", "15", "20"], ["-1", "0", "1", "2", "3"]),
        (400, (0.0, 50.0), ["0", "100", "200", "300", "400"], ["0", "20", "40"]),
        (7, (-0.2, 0.2), ["0", "2", "4", "6"], ["-0.2", "-0.1", "0", "0.1", "0.2"]),
        (20, (0.01, 1.0), ["0", "5", "10", "15", "20"],
         ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]),
    ],
)  # fmt: skip
def test_ticks_are_at_one_two_and_five_times_powers_of_ten(steps, losses, across, up):
    drawn = curve([{"step": 1, "loss": losses[0]}, {"step": steps, "loss": losses[1]}])
    assert [tick["text"] for tick in drawn["x"]] == across
    assert [tick["text"] for tick in drawn["y"]] == up
