"""The page says what the numbers say, loads nothing, and shows hostile text as text."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_runs import XSS, cell, metrics, three_steps, with_panels, with_viewers
from PIL import Image

from core.errors import InputError
from core.storage import files, formats
from pipelines.report import charts, render
from pipelines.report.panels import read_panels
from pipelines.report.request import ReportRequest
from pipelines.store import results


@pytest.fixture
def run(tmp_path):
    """Folders of a training, a sampling and an evaluation, as a report is given them."""
    return three_steps(tmp_path)


class Reader(HTMLParser):
    """Elements, attributes and the text that a person sees."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.shown, self.hidden, self._inside = "", "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = tag

    def handle_endtag(self, tag):
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data):
        if self._inside:
            self.hidden += data
        else:
            self.shown += data


def written(title, inputs, out: Path) -> tuple[Reader, str, dict]:
    out.mkdir(exist_ok=True)
    result = render.report(ReportRequest(title=title), inputs, out)
    text = result.report.read_text()
    return Reader(text), text, json.loads(result.data.read_text())


def test_the_verdict_says_what_intervals_allow(run, tmp_path):
    _, _, facts = written("", run, tmp_path / "out")
    said = {
        (v["method"], v["metric"]): (v["outcome"], v["sentence"])
        for v in facts["steps"][2]["evaluation"]["verdicts"]
    }
    assert said["mean of 8", "psnr"] == (
        "beats",
        "mean of 8 beats bicubic by 0.83 dB PSNR [0.61, 1.02] on 24 items from 3 sources",
    )
    assert said["one sample", "psnr"] == (
        "worse",
        "one sample does not beat bicubic in PSNR: difference −0.71 dB [−0.90, −0.50] "
        "on 24 items from 3 sources",
    )
    assert said["one sample", "ssim"][0] == "open"  # the interval holds zero
    outcome, sentence = said["mean of 8", "consistency"]  # lower is better: a fall beats
    assert outcome == "beats"
    assert "by 0.0090 Consistency [0.0075, 0.0105]" in sentence
    assert facts["steps"][2]["evaluation"]["best"] == {
        "psnr": "mean of 8", "ssim": "mean of 8", "consistency": "mean of 8",
    }  # fmt: skip
    assert facts["title"] == "image2image/sr3: evaluation"


def test_what_the_data_score_themselves_is_shown_and_wins_nothing(run, tmp_path):
    """A figure without an interval says of how many items it is."""
    said = metrics(floor="real")
    alone = {"mean": 99.0, "low": None, "high": None, "n": 144}
    said["methods"] = {"real": {"psnr": alone, "consistency": cell(0, 0, 0)}, **said["methods"]}
    files.write_json(run["evaluate"] / "metrics.json", said)
    reader, _, facts = written("", run, tmp_path / "out")
    best = facts["steps"][2]["evaluation"]["best"]
    assert (best["psnr"], best["consistency"]) == ("mean of 8", "mean of 8")
    assert "real" in reader.shown
    assert reader.shown.count("n = 144") == 1


def test_a_rise_of_a_metric_that_should_fall_does_not_beat(run, tmp_path):
    worse = metrics()
    worse["differences"]["mean of 8"]["consistency"] = cell(0.009, 0.0075, 0.0105)
    files.write_json(run["evaluate"] / "metrics.json", worse)
    _, _, facts = written("", run, tmp_path / "out")
    verdicts = facts["steps"][2]["evaluation"]["verdicts"]
    outcomes = {(v["method"], v["metric"]): v["outcome"] for v in verdicts}
    assert outcomes["mean of 8", "consistency"] == "worse"


def test_figures_of_a_newer_format_are_refused_in_a_sentence(run, tmp_path):
    newer = {**metrics(), "format": formats.METRICS + 1}
    files.write_json(run["evaluate"] / "metrics.json", newer)
    with pytest.raises(InputError, match=r"metrics\.json has format 3; .*: update polymode"):
        written("", run, tmp_path / "out")
    files.write_json(run["evaluate"] / "metrics.json", {"format": 1, **metrics()})
    written("", run, tmp_path / "out")


@pytest.mark.parametrize("better", ["higher", "lower"])
@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.1, 0.9, "beats"), (-0.1, 0.9, "open"), (0.0, 0.9, "open"), (-0.9, -0.1, "worse"),
     (-0.9, 0.0, "open")],
)  # fmt: skip
def test_an_interval_that_holds_zero_beats_nothing(run, tmp_path, better, low, high, outcome):
    gain = (low, high) if better == "higher" else (-high, -low)
    said = metrics()
    said["metrics"]["psnr"]["better"] = better
    said["differences"]["mean of 8"]["psnr"] = cell(sum(gain) / 2, *gain)
    files.write_json(run["evaluate"] / "metrics.json", said)
    lead = render.gather("", {"e": run["evaluate"]})["steps"][0]["evaluation"]["verdicts"]
    found = next(v for v in lead if (v["method"], v["metric"]) == ("mean of 8", "psnr"))
    assert found["outcome"] == outcome
    assert ("does not beat" in found["sentence"]) == (outcome != "beats")


def test_the_lead_is_the_best_method_in_the_first_metric_even_if_none_beats(run, tmp_path):
    _, _, facts = written("", run, tmp_path / "a")
    assert facts["steps"][2]["evaluation"]["lead"]["sentence"].startswith("mean of 8 beats bicubic")
    lost = metrics()
    lost["differences"]["mean of 8"]["psnr"] = cell(-3.7, -8.1, -0.7)
    lost["differences"]["one sample"]["psnr"] = cell(-5.1, -10.3, -1.3)
    lost["methods"]["mean of 8"]["psnr"] = cell(23.6, 18.0, 29.0)
    lost["metrics"]["consistency"]["unit"] = "1e-5"
    files.write_json(run["evaluate"] / "metrics.json", lost)
    reader, _, facts = written("", run, tmp_path / "b")
    evaluation = facts["steps"][2]["evaluation"]
    assert evaluation["best"]["psnr"] == "bicubic"
    assert evaluation["lead"]["sentence"].startswith(
        "mean of 8 does not beat bicubic in PSNR: difference −3.7 dB [−8.1, −0.7]"
    )
    assert evaluation["methods"]["mean of 8"]["psnr"]["text"] == "23.6"  # three digits at least
    assert "by 0.0090×1e-5 Consistency" in reader.shown


def test_missing_intervals_are_said_not_invented(run, tmp_path):
    lone = metrics()
    lone["differences"]["mean of 8"]["psnr"] = cell(0.8, None, None)
    lone["methods"]["mean of 8"]["psnr"] = cell(28.0, None, None)
    files.write_json(run["evaluate"] / "metrics.json", lone)
    reader, _, _ = written("", run, tmp_path / "out")
    assert "mean of 8 against bicubic: no interval for PSNR" in reader.shown


def test_the_page_loads_nothing_and_forbids_loading(run, tmp_path):
    reader, text, _ = written("A title", run, tmp_path / "out")
    for tag, attributes in reader.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, value)
        assert not [name for name in attributes if name.startswith("on")]
    assert not [tag for tag, _ in reader.elements if tag in ("link", "iframe", "object", "base")]
    assert "url(" not in text
    assert "@import" not in text
    policy = next(a["content"] for t, a in reader.elements if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for tag in ("style", "script"):  # the digests are those of what a browser will see
        said = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(said.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not [a for _, a in reader.elements if "style" in a]  # it would be refused


def test_pictures_are_those_on_disk_with_alternative_texts(run, tmp_path):
    reader, _, _ = written("", run, tmp_path / "out")
    images = [a for tag, a in reader.elements if tag == "img" and a.get("src")]
    shown = {base64.b64decode(a["src"].partition(",")[2]) for a in images}
    kept = {path.read_bytes() for path in (run["evaluate"] / "pictures").iterdir()}
    assert shown == kept
    assert all(a["alt"] for a in images)
    buttons = [a for tag, a in reader.elements if tag == "button" and a.get("class") == "zoom"]
    assert sum("aria-label" in a for a in buttons) == 10
    assert len([a for t, a in reader.elements if a.get("type") == "range"]) == 2


def test_a_panel_cannot_reach_outside_its_step(run, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    panel = {"title": "t", "images": [
        {"label": "x", "file": "../secret.png", "width": 4, "height": 4}
    ]}  # fmt: skip
    files.write_json(run["evaluate"] / "metrics.json", metrics(panels=[panel]))
    reader, _, _ = written("", run, tmp_path / "out")
    assert not [a for tag, a in reader.elements if tag == "img" and a.get("src")]


def test_hostile_text_is_shown_as_text(run, tmp_path):
    plain, _, _ = written("A title", run, tmp_path / "plain")
    hostile = metrics(sources=XSS, interval=XSS[0], split=XSS[1], task=XSS[2])
    hostile["panels"] = with_panels(run["evaluate"], len(XSS), titles=XSS)
    for panel in hostile["panels"]:
        panel["images"][0]["label"] = XSS[3]
    for old, new in (("one sample", XSS[0]), ("mean of 8", XSS[3])):
        for table in ("methods", "differences"):
            hostile[table][new] = hostile[table].pop(old)
    hostile["metrics"]["psnr"] |= {"label": XSS[4], "unit": XSS[1]}
    files.write_json(run["evaluate"] / "metrics.json", hostile)
    request = results.read_json(run["sample"] / "request.json")
    request["identity"]["request"] = {**{f"option{i}": t for i, t in enumerate(XSS)}, XSS[0]: [XSS]}
    files.write_json(run["sample"] / "request.json", request)
    inputs = {**run, XSS[0]: run["sample"]}
    reader, _, _ = written(XSS[5], inputs, tmp_path / "out")
    assert {tag for tag, _ in reader.elements} <= {tag for tag, _ in plain.elements}
    assert [t for t, _ in reader.elements].count("script") == 1
    assert reader.hidden.strip().endswith(plain.hidden.strip()[-200:])
    assert not any(n.startswith("on") for _, a in reader.elements for n in a)
    for string in XSS:
        assert string in reader.shown
    assert XSS[5] in reader.shown


def test_no_absolute_path_is_told(run, tmp_path):
    _, text, facts = written("", run, tmp_path / "out")
    assert str(tmp_path) not in text + json.dumps(facts)
    assert "/home/me" not in text + json.dumps(facts, ensure_ascii=False)
    assert "…/x" in text


@pytest.mark.slow
def test_too_many_pictures_are_left_out_until_the_page_fits(run, tmp_path, monkeypatch):
    files.write_json(
        run["evaluate"] / "metrics.json", metrics(panels=with_panels(run["evaluate"], 12, 64))
    )
    monkeypatch.setattr(render, "MAX_BYTES", 120_000)
    reader, text, facts = written("", run, tmp_path / "out")
    assert len(text.encode()) <= 120_000
    assert facts["panels_shown"] + facts["panels_left_out"] == 12
    assert 0 < facts["panels_shown"] < 12
    assert f"{facts['panels_left_out']} more panels were left out" in reader.shown
    monkeypatch.setattr(render, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="even without pictures"):
        render.report(ReportRequest(), run, tmp_path / "out")


@pytest.mark.parametrize("kept", [["train"], ["sample"], ["evaluate"], ["train", "sample"]])
def test_reports_of_fewer_steps(run, tmp_path, kept):
    reader, _, facts = written("", {name: run[name] for name in kept}, tmp_path / "out")
    assert [step["label"] for step in facts["steps"]] == kept
    assert ("Verdict" in reader.shown) == ("evaluate" in kept)
    assert ("loss" in reader.shown) == ("train" in kept)


def test_a_step_without_a_result_is_refused(run, tmp_path):
    (run["sample"] / "result.json").unlink()
    with pytest.raises(InputError, match=r"input 'sample': sample-\w+ holds no finished result"):
        render.report(ReportRequest(), run, tmp_path)
    with pytest.raises(InputError, match="nothing to show"):
        render.report(ReportRequest(), {}, tmp_path)


def test_the_loss_curve_has_every_point_in_its_place(run, tmp_path):
    _, text, facts = written("", run, tmp_path / "out")
    rows = facts["steps"][0]["training"]
    assert len(rows) == 200  # 400 whole lines in pairs; the line cut short is passed over
    points = re.search(r'<polyline points="([^"]*)"', text).group(1).split()
    at = [tuple(map(float, point.split(","))) for point in points]
    assert len(at) == 200
    # Equal ratios of the loss are equal distances on a log scale: slope from the ends.
    first, last = at[0][1], at[-1][1]
    from math import log

    def place(loss):
        share = log(loss / rows[0]["loss"]) / log(rows[-1]["loss"] / rows[0]["loss"])
        return first + share * (last - first)

    assert all(abs(place(row["loss"]) - y) < 0.11 for row, (_, y) in zip(rows, at, strict=True))
    assert at[-1][0] == 706.0  # the right edge: width 720 less 14


@pytest.mark.parametrize("losses", [[1.0], [0.5, 0.5], [0.0, 1.0], [-3.0, 4.0], [1e-9, 1e6]])
def test_curves_of_odd_losses_have_ticks_inside(losses):
    curve = charts.curve([{"step": i + 1.0, "loss": loss} for i, loss in enumerate(losses)])
    assert len(curve["y"]) >= 2
    assert all(14 <= tick["at"] <= 220 for tick in curve["y"])
    assert curve["log"] == (min(losses) > 0)


def test_dependencies_are_named_by_label(run, tmp_path):
    _, _, facts = written("", run, tmp_path / "out")
    assert [step["needs"] for step in facts["steps"]] == [[], ["train"], ["sample"]]
    _, _, facts = written("", {"only": run["evaluate"]}, tmp_path / "out")
    assert facts["steps"][0]["needs"][0].endswith("(not shown)")


def test_views_of_every_kind_hold_what_was_shown(tmp_path):
    run = with_viewers(tmp_path)
    reader, _, facts = written("", run, tmp_path / "out")
    canvases = [a for tag, a in reader.elements if tag == "canvas"]
    assert [a["data-frames"] for a in canvases if "data-frames" in a] == ["12", "12", "12"]
    assert [a["data-bits"] for a in canvases if "data-bits" in a] == ["16", "8"]
    clouds = [base64.b64decode(a["data-cloud"]) for a in canvases if "data-cloud" in a]
    assert [len(held) for held in clouds] == [9 * 4000, 9 * 900]
    assert all(a["aria-label"] for a in canvases)
    assert facts["views_unreadable"] == 0
    assert "on held-out items" in reader.shown
    assert "data:" not in json.dumps(facts)
    assert [list(panel) for panel in facts["steps"][2]["panels"]] == [
        ["title", "images"], ["title", "images"], ["title", "clips"], ["title", "volumes"],
        ["title", "clouds"],
    ]  # fmt: skip
    assert facts["steps"][2]["panels"][3]["volumes"][0]["centre"] == 40.0


@pytest.mark.parametrize(
    ("kind", "at", "change"),
    [
        ("clips", 0, {"frames": 4000}), ("clips", 0, {"frames": "12"}), ("clips", 1, {"rate": 0}),
        ("clips", 0, {"rate": float("nan")}), ("clips", 2, {"across": 0}),
        ("clips", 0, {"file": "/etc/passwd"}), ("clips", 0, {"file": "views/gone.png"}),
        ("clips", 0, {"file": "views/\0.png"}), ("clips", 0, {"file": None}),
        ("volumes", 0, {"bits": 32}), ("volumes", 0, {"high": -1000}), ("volumes", 1, {"depth": 1}),
        ("volumes", 0, {"spacing": [1, 1]}), ("volumes", 0, {"spacing": "111"}),
        ("volumes", 0, {"spacing": [1, 0, 1]}), ("volumes", 0, {"window": 0}),
        ("clouds", 0, {"points": 4001}), ("clouds", 1, {"points": -1}),
    ],
)  # fmt: skip
def test_a_view_that_is_not_what_it_says_is_left_out_and_counted(tmp_path, kind, at, change):
    run = with_viewers(tmp_path)
    place = run["evaluate"] / "metrics.json"
    said = json.loads(place.read_text())
    panel = next(panel for panel in said["panels"] if kind in panel)
    before = len(panel[kind])
    panel[kind][at] |= change
    place.write_text(json.dumps(said))
    facts = render.gather("", run)["steps"][2]["evaluation"]
    read = next(p for p in read_panels(run["evaluate"], facts["panels"]) if p[kind])
    assert len(read[kind]) == before - 1
    reader, _, facts = written("", run, tmp_path / "out")
    assert facts["views_unreadable"] == 1
    assert "1 view could not be read and is not shown" in reader.shown


@pytest.mark.parametrize("panels", [None, 3, {}, [3], [[]], [{"clips": 3}], [{"images": [3]}]])
def test_panels_that_are_none_show_nothing(tmp_path, panels):
    assert list(read_panels(tmp_path, panels)) == []


def test_any_step_can_show_panels_and_samples_have_a_sheet(run, tmp_path):
    panels = with_panels(run["sample"], 1, titles=["from a plug-in's own verb"])
    files.write_json(run["sample"] / "panels.json", {"panels": panels})
    Image.new("RGB", (30, 20)).save(run["train"] / "sheet.png")
    drawn = {"train": run["train"]}  # without an evaluation, the samples are all there is to see
    reader, _, _ = written("", drawn, tmp_path / "drawn")
    sheet = [a for tag, a in reader.elements if tag == "img" and a.get("width") == "30"]
    assert [a["height"] for a in sheet] == ["20"]
    reader, _, facts = written("", run, tmp_path / "out")
    assert facts["panels_shown"] == 3
    assert "from a plug-in's own verb" in reader.shown
    assert [a.get("class") for tag, a in reader.elements if tag == "span"].count("from") == 3


def test_validation_is_drawn_on_the_scale_of_training(tmp_path):
    rows = [{"step": 10.0, "loss": 1.0}, {"step": 20.0, "loss": 0.1}]
    held = [{"step": 20.0, "loss": 1.0, "low": 0.1, "high": 10.0}]
    drawn = charts.curve(rows, held)
    first, second = (float(point.split(",")[1]) for point in drawn["points"].split())
    high, low = (float(point.split(",")[1]) for point in drawn["band"].split())
    assert drawn["dots"] == [{"x": 706.0, "y": first}]  # the same loss, the same height
    assert low == second
    assert abs((first - high) - (second - first)) < 0.11  # a decade is a decade
    bare = charts.curve(rows, [{"step": 20.0, "loss": 0.5, "low": None, "high": None}])
    assert bare["band"] == ""


def test_steps_stand_right_of_what_they_need(tmp_path):
    def step(label, *needs, seconds=10.0):
        return {"label": label, "needs": list(needs), "seconds": seconds}

    steps = [step("report", "a2", "b2", "gone (not shown)"), step("a1", seconds=40.0), step("b1"),
             step("a2", "a1"), step("b2", "b1", "a1")]  # fmt: skip
    graph = charts.graph(steps)
    place = {node["label"]: node for node in graph["nodes"]}
    width = charts.NODE["width"]
    for label, needs in ((s["label"], s["needs"]) for s in steps):
        for need in needs:
            if need in place:
                assert place[need]["x"] + width < place[label]["x"]
    assert len(graph["edges"]) == 5
    assert place["a1"]["bar"] == 4 * place["b1"]["bar"] == width - 24
    corners = {(node["x"], node["y"]) for node in graph["nodes"]}
    assert len(corners) == 5
    around = charts.graph([step("x", "y"), step("y", "x"), step("z", "z")])
    assert len(around["nodes"]) == 3  # what cannot be is drawn somehow, and ends


def test_costs_add_up_where_they_are_known(run, tmp_path):
    for name, cpu, gpus in (("train", 100.0, 2), ("sample", 20.0, 0.5), ("evaluate", 3.0, 0)):
        environment = results.read_json(run[name] / "env.json")
        environment |= {"cpu_seconds": cpu, "gpus": gpus}
        files.write_json(run[name] / "env.json", environment)
    reader, _, facts = written("", run, tmp_path / "out")
    assert facts["cpu_seconds"] == 123.0
    assert facts["gpu_seconds"] == 2.5 * 61.5
    assert "2m 03s" in reader.shown
    (run["sample"] / "env.json").write_text(
        (run["sample"] / "env.json").read_text().replace('"cpu_seconds"', '"other"')
    )
    assert render.gather("", run)["cpu_seconds"] is None


def test_folders_of_relative_paths_are_not_told_either(run, tmp_path):
    request = results.read_json(run["sample"] / "request.json")
    request["identity"]["request"] = {
        "dataset": {"name": "image2image/folder", "root": "<content>"},
        "more": ["<content>"],
        "space": {"dataset.root": ["patients/mueller/ct", "patients/maier/ct"]},
        "ratio": "a/b",
    }
    request["named"] = {
        "request.dataset.root": "patients/mueller/scans",
        "request.more[0]": "here",
        "request.variants[0].dataset.root": "patients/mueller/ct",
        "request.variants[1].dataset.root": "patients/maier/ct",
    }
    files.write_json(run["sample"] / "request.json", request)
    _, text, facts = written("", run, tmp_path / "out")
    everything = text + json.dumps(facts, ensure_ascii=False)
    assert not [name for name in ("patients", "mueller", "maier") if name in everything]
    options = next(s["options"] for s in facts["steps"] if s["label"] == "sample")
    assert options["dataset.root"] == "…/scans"
    assert options["more"] == ["here"]
    assert options["space.dataset.root"] == ["…/ct", "…/ct"]
    assert options["ratio"] == "a/b"


def test_the_page_names_the_task_and_ends_with_the_command_for_ones_own_file(run, tmp_path):
    request = results.read_json(run["train"] / "request.json")
    request["identity"]["request"]["task"] = {"name": "image2image/sr3", "scale": 4}
    files.write_json(run["train"] / "request.json", request)
    files.write_json(run["train"] / "result.json", {"checkpoint": "checkpoints", "seconds": 1.0})
    reader, page, facts = written("", run, tmp_path / "out")
    assert "Super-resolution by refinement (SR3)" in reader.shown
    train = facts["steps"][0]
    path = train["own"]["checkpoint"]
    assert path == f"{run['train'].parent.name}/{run['train'].name}/{train['result']['checkpoint']}"
    command = f"polymode image2image upscale photo.png --checkpoint {path} -o large.png"
    assert train["own"]["command"] == command
    assert command in reader.shown
    assert page.index('id="own"') > page.index('id="made-with"')
