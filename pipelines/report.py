"""One self-contained HTML page about a run's steps, and the same facts as JSON.

The verdict comes first, then pictures, then how it was made.  The page loads nothing from
anywhere, shows whatever text it is given as text, and names no absolute path.
"""

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core import files
from core.errors import InputError
from core.progress import duration
from pipelines import store
from pipelines.job import ReportResult

FORMAT = 1
MAX_BYTES = 20 << 20
POINTS = 300  # of a loss curve
CHART = {"width": 720, "height": 260, "left": 62, "right": 14, "top": 14, "bottom": 40}
FOREST = 150  # width of a difference's drawing
TEMPLATE = Path(__file__).with_name("report.html.jinja")

Facts = dict[str, Any]


def report(title: str, inputs: Mapping[str, Path], out: Path) -> ReportResult:
    """Write ``report.html`` and ``report.json`` about finished steps.

    Args:
        title: the page's heading; if empty, what was evaluated.
        inputs: label to the step's folder in the store.
        out: an existing folder.

    Raises:
        InputError: no steps, a folder that holds no result, or a page over 20 MB without pictures.
    """
    if not inputs:
        raise InputError("report: nothing to show; name at least one step in inputs")
    facts = gather(title, inputs)
    panels = [
        panel
        for step in facts["steps"]
        for panel in _panels(inputs[step["label"]], step.get("evaluation"))
    ]
    shown = len(panels)
    page = render(facts, panels)
    while len(page.encode()) > MAX_BYTES and shown:
        shown = shown * 3 // 4
        page = render(facts, panels[:shown], left_out=len(panels) - shown)
    if len(page.encode()) > MAX_BYTES:
        raise InputError(
            f"report: over {MAX_BYTES >> 20} MB even without pictures; show fewer steps"
        )
    facts["panels_shown"], facts["panels_left_out"] = shown, len(panels) - shown
    result = ReportResult(report=out / "report.html", data=out / "report.json")
    files.write_json(result.data, facts)
    files.write_text(result.report, page)
    return result


def render(facts: Facts, panels: Sequence[Facts], *, left_out: int = 0) -> str:
    """The page as text."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(duration=duration, signed=signed)
    curves = [
        {"label": step["label"], **_curve(step["training"])}
        for step in facts["steps"]
        if step.get("training")
    ]
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        facts=facts, panels=panels, left_out=left_out, curves=curves, chart=CHART, forest=FOREST
    )


# --- facts -----------------------------------------------------------------------------------


def gather(title: str, inputs: Mapping[str, Path]) -> Facts:
    """Everything that the page says, as JSON's types; pictures and chart geometry apart.

    Raises:
        InputError: a folder holds no result.
    """
    steps = [_step(label, folder) for label, folder in inputs.items()]
    labels = {step["key"]: step["label"] for step in steps}
    for step in steps:
        step["needs"] = [labels.get(key, f"{key[:12]} (not shown)") for key in step["needs"]]
    evaluated = [step["evaluation"] for step in steps if "evaluation" in step]
    named = title or next((f"{e['task']}: evaluation" for e in evaluated), "Report")
    return {
        "format": FORMAT,
        "title": named,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(sum(step["seconds"] for step in steps), 3),
        "versions": _versions(steps),
        "steps": steps,
    }


def _step(label: str, folder: Path) -> Facts:
    request, environment, result = (
        store.read_json(folder / name) for name in (store.REQUEST, store.ENVIRONMENT, store.RESULT)
    )
    if request is None or environment is None or result is None:
        raise InputError(f"report: input {label!r}: {folder.name} holds no finished result")
    identity = request["identity"]
    options = dict(_flat(identity["request"]))
    facts: Facts = {
        "label": label,
        "step": request["step"],
        "run": identity["run"],
        "key": request["key"],
        "folder": folder.name,
        "needs": list(dict.fromkeys(entry["key"] for entry in identity["inputs"].values())),
        "options": options,
        "seed": options.get("seed"),
        "result": {name: _no_absolute(value) for name, value in _flat(result)},
        "seconds": environment["seconds"],
        "environment": {k: v for k, v in environment.items() if k != "seconds"},
    }
    if metrics := store.read_json(folder / "metrics.json"):
        facts["evaluation"] = _evaluation(metrics)
    if rows := _rows(folder / "metrics.jsonl"):
        facts["training"] = rows
    return facts


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{at}.{key}" if at else key)
    else:
        yield at, _no_absolute(value)


def _no_absolute(value: Any) -> Any:
    """An absolute path as its last part: folders' names may say whose data it is."""
    if isinstance(value, str) and value.startswith("/"):
        return f"…/{Path(value).name}"
    return [_no_absolute(inner) for inner in value] if isinstance(value, list) else value


def _versions(steps: Sequence[Facts]) -> Facts:
    """What each step was made with; one value where all agree."""
    names = dict.fromkeys(name for step in steps for name in step["environment"])
    skipped = {"start", "end", "device", "threads", "gpus"}
    versions: Facts = {}
    for name in names:
        values = list(dict.fromkeys(str(step["environment"].get(name, "—")) for step in steps))
        if name not in skipped:
            versions[name] = " / ".join(values)
    return versions


def _rows(path: Path) -> list[Facts]:
    """Steps and losses of a training, averaged to at most `POINTS`; whole lines only."""
    rows: list[tuple[float, float]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
            step, loss = float(row["step"]), float(row["loss"])
        except (ValueError, KeyError, TypeError):
            continue
        if math.isfinite(step) and math.isfinite(loss):
            rows.append((step, loss))
    size = max(1, math.ceil(len(rows) / POINTS))
    groups = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [{"step": g[-1][0], "loss": sum(loss for _, loss in g) / len(g)} for g in groups]


# --- verdict ---------------------------------------------------------------------------------


def _evaluation(metrics: Facts) -> Facts:
    """What `evaluate` wrote, with the best marked and a sentence for every difference."""
    best: dict[str, str] = {}
    for name, metric in metrics["metrics"].items():
        means = {m: row[name]["mean"] for m, row in metrics["methods"].items() if name in row}
        means = {method: mean for method, mean in means.items() if mean is not None}
        if means:
            choose = max if metric["better"] == "higher" else min
            best[name] = choose(means, key=lambda method: means[method])
    verdicts = [
        _verdict(metrics, method, name, difference)
        for method, row in metrics["differences"].items()
        for name, difference in row.items()
    ]
    first = [v for v in verdicts if v["metric"] == next(iter(metrics["metrics"]), None)]
    known = [v for v in first if v["gain"] is not None]
    keep = ("task", "split", "n", "sources", "draws", "confidence", "interval", "reference")
    figures = {
        method: {name: {**cell, **_figure(cell)} for name, cell in row.items()}
        for method, row in metrics["methods"].items()
    }
    return {
        **{name: metrics[name] for name in keep},
        "metrics": metrics["metrics"],
        "methods": figures,
        "best": best,
        "lead": max(known, key=lambda v: v["gain"], default=None) or next(iter(first), None),
        "verdicts": verdicts,
        "panels": metrics.get("panels", []),
    }


def _verdict(metrics: Facts, method: str, name: str, difference: Facts) -> Facts:
    """Whether a method beats the reference in one metric, in words and drawn to scale."""
    metric, reference = metrics["metrics"][name], metrics["reference"]
    sign = 1 if metric["better"] == "higher" else -1
    mean, low, high = (difference.get(key) for key in ("mean", "low", "high"))
    unit = metric["unit"]
    unit = f"×{unit}" if unit[:1].isdigit() else f" {unit}" if unit else ""  # 1e-5 is a factor
    over = f"on {metrics['n']} items from {_count(len(metrics['sources']), 'source')}"
    if mean is None or low is None or high is None:
        outcome, said = (
            "unknown",
            f"{method} against {reference}: no interval for {metric['label']}",
        )
    elif min(sign * low, sign * high) > 0:
        outcome = "beats"
        said = (
            f"{method} beats {reference} by {_decimal(abs(mean), low, high)}{unit} "
            f"{metric['label']} {_between(low, high, flip=sign < 0)} {over}"
        )
    else:
        outcome = "worse" if max(sign * low, sign * high) < 0 else "open"
        said = (
            f"{method} does not beat {reference} in {metric['label']}: difference "
            f"{signed(mean, low, high)}{unit} {_between(low, high)} {over}"
        )
    return {
        "method": method,
        "metric": name,
        "outcome": outcome,
        "gain": None if mean is None else sign * mean,
        "sentence": said,
        **difference,
        "text": f"{signed(mean, low, high)} {_between(low, high)}",
        "drawn": _drawn(metrics, name, difference),
    }


def _drawn(metrics: Facts, name: str, difference: Facts) -> Facts | None:
    """Positions of an interval and of zero, on one scale for all methods of a metric."""
    cells = [row[name] for row in metrics["differences"].values() if name in row]
    ends = [cell[key] for cell in cells for key in ("low", "high") if cell.get(key) is not None]
    if not ends or any(difference.get(key) is None for key in ("mean", "low", "high")):
        return None
    first, last = min(0.0, *ends), max(0.0, *ends)
    span = (last - first) or 1.0

    def place(value: float) -> float:
        return round(8 + (FOREST - 16) * (value - first) / span, 1)

    return {"zero": place(0.0), **{key: place(difference[key]) for key in ("mean", "low", "high")}}


def _places(low: float | None, high: float | None) -> int | None:
    """Decimals that show an interval's width in two digits; None if there is no width."""
    if low is None or high is None or not math.isfinite(high - low) or high == low:
        return None
    return min(6, max(0, 1 - math.floor(math.log10(abs(high - low)))))


def _decimal(value: float | None, low: float | None = None, high: float | None = None) -> str:
    if value is None:
        return "—"
    places = _places(low, high)
    return f"{value:.4g}" if places is None else f"{value:.{places}f}"


def signed(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A number with its sign, to the digits that its interval allows."""
    text = _decimal(value, low, high)
    return text.replace("-", "−") if value is None or value < 0 else f"+{text}"


def _between(low: float | None, high: float | None, *, flip: bool = False) -> str:
    if low is None or high is None:
        return ""
    ends = (-high, -low) if flip else (low, high)
    return "[" + ", ".join(_decimal(end, low, high) for end in ends).replace("-", "−") + "]"


def _figure(cell: Facts) -> dict[str, str]:
    """A score to the digits that its interval allows, but three at least, and the interval."""
    mean, low, high = cell["mean"], cell.get("low"), cell.get("high")
    places = _places(low, high)
    if mean and places is not None:
        places = max(places, 2 - math.floor(math.log10(abs(mean))))
    text = _decimal(mean) if places is None or mean is None else f"{mean:.{places}f}"
    return {"text": text.replace("-", "−"), "range": _between(low, high)}


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# --- drawings --------------------------------------------------------------------------------


def _panels(folder: Path, evaluation: Facts | None) -> Iterator[Facts]:
    """Pictures with their bytes in the text; those outside the step's folder are left out."""
    for panel in evaluation["panels"] if evaluation else []:
        images = []
        for image in panel["images"]:
            path = (folder / image["file"]).resolve()
            if not path.is_relative_to(folder.resolve()) or not path.is_file():
                continue
            data = base64.b64encode(path.read_bytes()).decode()
            images.append({**image, "source": f"data:image/png;base64,{data}"})
        if images:
            reference = evaluation["reference"] if evaluation else ""
            before = next((i for i, e in enumerate(images) if e["label"] == reference), 0)
            after = len(images) - 2 if len(images) > 2 and before != len(images) - 2 else -1
            yield {"title": panel["title"], "images": images, "before": before,
                   "after": after % len(images)}  # fmt: skip


def _curve(rows: Sequence[Facts]) -> Facts:
    """Points and ticks of the loss over steps, in pixels; the loss on a log scale if it can be."""
    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    log = min(losses) > 0
    heights = [math.log10(loss) for loss in losses] if log else losses
    low, high = min(heights), max(heights)
    pad = (high - low) * 0.06 or 0.5
    low, high = low - pad, high + pad
    last = max(*steps, 1.0) if len(steps) > 1 else max(steps[0], 1.0)
    across = CHART["width"] - CHART["left"] - CHART["right"]
    down = CHART["height"] - CHART["top"] - CHART["bottom"]

    def x(step: float) -> float:
        return round(CHART["left"] + across * step / last, 1)

    def y(height: float) -> float:
        return round(CHART["top"] + down * (high - height) / (high - low), 1)

    values = _log_ticks(low, high) if log else _ticks(low, high)
    marks = [{"at": y(math.log10(v) if log else v), "text": f"{v:.3g}"} for v in values]
    return {
        "log": log,
        "points": " ".join(f"{x(s)},{y(h)}" for s, h in zip(steps, heights, strict=True)),
        "x": [{"at": x(v), "text": f"{v:g}"} for v in _ticks(0, last)],
        "y": marks,
        "first": losses[0],
        "last": losses[-1],
        "steps": int(last),
    }


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers between `low` and `high`."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Numbers 1, 2, 5 times powers of ten between 10^low and 10^high; if few, evenly spaced."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    values = [m * 10.0**p for p in powers for m in (1, 2, 5)]
    inside = [v for v in values if low <= math.log10(v) <= high]
    if len(inside) > 9:
        inside = [v for v in inside if math.log10(v).is_integer()]
    return inside if len(inside) >= 2 else [10 ** (low + (high - low) * k / 4) for k in range(1, 4)]
