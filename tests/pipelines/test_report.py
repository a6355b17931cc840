"""The page says what the numbers say, loads nothing, and shows hostile text as text."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from core import files
from core.errors import InputError
from pipelines import report as page
from pipelines import store

XSS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}",
    "{% raw %}<b>",
    "<!-- <b> -->",
    "&lt;script&gt;",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "`${alert(1)}`",
    "]]><script>alert(1)</script>",
    "<a href='https://evil.example'>x</a>",
]


def finished(root: Path, name: str, run: str, request: dict, inputs: dict | None = None) -> Path:
    """A step's folder as the store keeps it."""
    key = f"{abs(hash(name)):016x}".ljust(64, "0")[:64]
    folder = root / f"{name}-{key[:16]}"
    identity = {"format": 1, "run": run, "request": request, "parts": {}, "files": {}}
    entries = {field: {"key": key, "field": ""} for field, key in (inputs or {}).items()}
    store.begin(folder, key, {**identity, "inputs": entries}, name)
    environment = {"python": "3.11.7", "torch": "2.13.0", "seconds": 61.5, "threads": 2}
    files.write_json(folder / "env.json", {**environment, "device": "cpu", "gpus": 0})
    files.write_json(folder / "result.json", {"made": "x", "seconds": 1.0})
    return folder


def cell(mean, low, high):
    return {"mean": mean, "low": low, "high": high, "n": 24}


def metrics(**changes):
    said = {
        "format": 1, "task": "image2image/sr3", "split": "test", "n": 24,
        "sources": ["cat", "coffee", "rocket"], "draws": 8, "confidence": 0.95,
        "metrics": {
            "psnr": {"label": "PSNR", "unit": "dB", "better": "higher"},
            "ssim": {"label": "SSIM", "unit": "", "better": "higher"},
            "consistency": {"label": "Consistency", "unit": "", "better": "lower"},
        },
        "reference": "bicubic",
        "methods": {
            "bicubic": {"psnr": cell(27.31, 26.2, 28.4), "ssim": cell(0.81, 0.78, 0.84),
                        "consistency": cell(0.012, 0.010, 0.014)},
            "one sample": {"psnr": cell(26.6, 25.4, 27.7), "ssim": cell(0.805, 0.77, 0.83),
                           "consistency": cell(0.004, 0.003, 0.005)},
            "mean of 8": {"psnr": cell(28.14, 27.0, 29.2), "ssim": cell(0.84, 0.81, 0.87),
                          "consistency": cell(0.003, 0.002, 0.004)},
        },
        "differences": {
            "one sample": {"psnr": cell(-0.71, -0.9, -0.5), "ssim": cell(-0.005, -0.02, 0.01),
                           "consistency": cell(-0.008, -0.0095, -0.0065)},
            "mean of 8": {"psnr": cell(0.83, 0.61, 1.02), "ssim": cell(0.03, 0.02, 0.04),
                          "consistency": cell(-0.009, -0.0105, -0.0075)},
        },
        "interval": "Percentile bootstrap over sources and their patches, 4000 draws.",
        "panels": [],
    }  # fmt: skip
    return {**said, **changes}


def with_panels(folder: Path, count: int = 2, size: int = 16, titles=("coffee, patch 3",)) -> list:
    (folder / "pictures").mkdir(exist_ok=True)
    panels = []
    for number in range(count):
        images = []
        for at, label in enumerate(["low-res", "bicubic", "one sample", "mean of 8", "truth"]):
            file = f"pictures/{number:03d}-{at}.png"
            shade = Image.radial_gradient("L").resize((size, size))
            Image.merge("RGB", (shade, shade, Image.new("L", shade.size, 40 * at))).save(
                folder / file
            )
            images.append({"label": label, "file": file, "width": size, "height": size})
        panels.append({"title": titles[number % len(titles)], "images": images})
    return panels


@pytest.fixture
def run(tmp_path):
    """Folders of a training, a sampling and an evaluation, as a report is given them."""
    train = finished(
        tmp_path, "train", "train", {"steps": 400, "seed": 7, "dataset": {"root": "/home/me/x"}}
    )
    with (train / "metrics.jsonl").open("w") as file:
        for step in range(1, 401):
            loss = 0.9 * step**-0.45 + 0.02 * (step % 7) / 7
            file.write(json.dumps({"step": step, "loss": loss, "lr": 1e-4, "rate": 9.0}) + "\n")
        file.write('{"step": 401, "lo')
    key = store.read_json(train / "request.json")["key"]
    sample = finished(tmp_path, "sample", "sample", {"seed": 3}, {"checkpoint": key})
    key = store.read_json(sample / "request.json")["key"]
    evaluate = finished(tmp_path, "evaluate", "evaluate", {"confidence": 0.95}, {"samples": key})
    files.write_json(evaluate / "metrics.json", metrics(panels=with_panels(evaluate)))
    return {"train": train, "sample": sample, "evaluate": evaluate}


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
    result = page.report(title, inputs, out)
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


def test_a_rise_of_a_metric_that_should_fall_does_not_beat(run, tmp_path):
    worse = metrics()
    worse["differences"]["mean of 8"]["consistency"] = cell(0.009, 0.0075, 0.0105)
    files.write_json(run["evaluate"] / "metrics.json", worse)
    _, _, facts = written("", run, tmp_path / "out")
    verdicts = facts["steps"][2]["evaluation"]["verdicts"]
    outcomes = {(v["method"], v["metric"]): v["outcome"] for v in verdicts}
    assert outcomes["mean of 8", "consistency"] == "worse"


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
    lead = page.gather("", {"e": run["evaluate"]})["steps"][0]["evaluation"]["verdicts"]
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


def test_pictures_are_those_on_disk_with_alternative_texts(run, tmp_path):
    reader, _, _ = written("", run, tmp_path / "out")
    images = [a for tag, a in reader.elements if tag == "img" and a.get("src")]
    shown = {base64.b64decode(a["src"].partition(",")[2]) for a in images}
    kept = {path.read_bytes() for path in (run["evaluate"] / "pictures").iterdir()}
    assert shown == kept
    assert all(a["alt"] for a in images)
    buttons = [a for tag, a in reader.elements if tag == "button"]
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
    request = store.read_json(run["sample"] / "request.json")
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


def test_too_many_pictures_are_left_out_until_the_page_fits(run, tmp_path, monkeypatch):
    files.write_json(
        run["evaluate"] / "metrics.json", metrics(panels=with_panels(run["evaluate"], 12, 64))
    )
    monkeypatch.setattr(page, "MAX_BYTES", 120_000)
    reader, text, facts = written("", run, tmp_path / "out")
    assert len(text.encode()) <= 120_000
    assert facts["panels_shown"] + facts["panels_left_out"] == 12
    assert 0 < facts["panels_shown"] < 12
    assert f"{facts['panels_left_out']} more panels were left out" in reader.shown
    monkeypatch.setattr(page, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="even without pictures"):
        page.report("", run, tmp_path / "out")


@pytest.mark.parametrize("kept", [["train"], ["sample"], ["evaluate"], ["train", "sample"]])
def test_reports_of_fewer_steps(run, tmp_path, kept):
    reader, _, facts = written("", {name: run[name] for name in kept}, tmp_path / "out")
    assert [step["label"] for step in facts["steps"]] == kept
    assert ("Verdict" in reader.shown) == ("evaluate" in kept)
    assert ("loss" in reader.shown) == ("train" in kept)


def test_a_step_without_a_result_is_refused(run, tmp_path):
    (run["sample"] / "result.json").unlink()
    with pytest.raises(InputError, match=r"input 'sample': sample-\w+ holds no finished result"):
        page.report("", run, tmp_path)
    with pytest.raises(InputError, match="nothing to show"):
        page.report("", {}, tmp_path)


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
    curve = page._curve([{"step": i + 1.0, "loss": loss} for i, loss in enumerate(losses)])
    assert len(curve["y"]) >= 2
    assert all(14 <= tick["at"] <= 220 for tick in curve["y"])
    assert curve["log"] == (min(losses) > 0)


def test_dependencies_are_named_by_label(run, tmp_path):
    _, _, facts = written("", run, tmp_path / "out")
    assert [step["needs"] for step in facts["steps"]] == [[], ["train"], ["sample"]]
    _, _, facts = written("", {"only": run["evaluate"]}, tmp_path / "out")
    assert facts["steps"][0]["needs"][0].endswith("(not shown)")
