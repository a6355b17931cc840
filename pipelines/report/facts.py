"""Facts about finished steps, of JSON's types: what the page shows, pictures apart."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.errors import InputError, brief
from core.parts.registry import RegistryError, installed
from core.results.evaluation import read_evaluation
from core.storage import json_file
from pipelines.report.panels import read_charts
from pipelines.report.verdict import evaluation
from pipelines.store import results
from pipelines.sweep import trials
from pipelines.sweep.space import value_text

FORMAT = 2
POINTS = 300  # of a loss curve
COSTS = ("seconds", "cpu_seconds")  # of a step, apart from what it was made with
FOLDERS = re.compile(r"(?<![\w.…])/(?:[^\s/:]+/)+")  # of an absolute path, within a sentence

Facts = dict[str, Any]


def gather(title: str, inputs: Mapping[str, Path]) -> Facts:
    """Everything on the page, as JSON's types; pictures and chart geometry apart.

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
        "cpu_seconds": _sum([step["cpu_seconds"] for step in steps]),
        "gpu_seconds": _sum([step["gpu_seconds"] for step in steps]),
        "versions": _versions(steps),
        "steps": steps,
    }


def _step(label: str, folder: Path) -> Facts:
    request, environment, result = (
        results.read_json(folder / name)
        for name in (results.REQUEST, results.ENVIRONMENT, results.RESULT)
    )
    if request is None or environment is None or result is None:
        raise InputError(f"report: input {brief(label)}: {folder.name} holds no finished result")
    identity = request["identity"]
    named = request.get("named", {})
    options = dict(_flat(_without_folders(identity["request"], named)))
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
        "cpu_seconds": environment.get("cpu_seconds"),
        "gpu_seconds": round(environment["seconds"] * (environment.get("gpus") or 0), 3),
        "environment": {k: v for k, v in environment.items() if k not in COSTS},
    }
    if metrics := results.read_json(folder / "metrics.json"):
        found = read_evaluation(metrics, folder / "metrics.json")
        facts["evaluation"] = {**evaluation(found), "about": _part_of(found.task)["summary"]}
        if charts := list(read_charts(found.charts)):
            facts["charts"] = charts
    if identity["run"] == "train" and isinstance(result.get("checkpoint"), str):
        facts["own"] = _own(folder, str(options.get("task.name", "")), result["checkpoint"])
    if search := _search(folder, named):
        facts["search"] = search
    rows = _rows(folder / "metrics.jsonl")
    if losses := _losses(rows):
        facts["training"], facts["validation"] = losses, _validations(rows)
    return facts


def _own(folder: Path, task: str, checkpoint: str) -> Facts:
    """Where a trained model is, below the folder of results, and the command that applies it."""
    path = f"{folder.parent.name}/{folder.name}/{_no_absolute(checkpoint)}"
    command = _part_of(task)["command"]
    return {"checkpoint": path, "command": command.replace("{checkpoint}", path)}


def _part_of(task: str) -> dict[str, str]:
    """Summary and command of a task; of one that is not installed here, its name and none."""
    try:
        part = installed().find("task", task)
    except RegistryError:
        return {"summary": "", "command": ""}
    return {"summary": part.summary, "command": part.command}


def _search(folder: Path, named: Mapping[str, str]) -> Facts | None:
    """The trials of a search and their figures over steps, as `sweep.trials` writes them."""
    table = results.read_json(folder / trials.TABLE)
    if table is None or table.get("format") != trials.FORMAT:
        return None
    metric, rows = table["metric"], []
    for row in table["trials"]:
        options = _without_folders(row["options"], named, "")
        options = {name: _no_absolute(value) for name, value in options.items()}
        points = [
            {"step": at["step"], "loss": figure}
            for at in _rows(folder / "trials" / row["trial"] / "metrics.jsonl")
            if (figure := _number(at.get(metric))) is not None
        ]
        rows.append({
            **row,
            "options": options,
            "shown": {name: value_text(value) for name, value in options.items()},
            "cause": FOLDERS.sub("…/", row.get("cause", "")),
            "points": points,
            "best": row["trial"] == table["best"],
        })  # fmt: skip
    states = [row["state"] for row in rows]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    return {
        "metric": metric,
        "best": table["best"],
        "said": ", ".join(f"{count} {state}" for state, count in counts.items()),
        "options": list(dict.fromkeys(name for row in rows for name in row["options"])),
        "trials": rows,
    }


def _without_folders(value: Any, named: Mapping[str, str], at: str = "request") -> Any:
    """Plain values of a request, or of a trial, with every path as its last part.

    Args:
        value: at the dotted place `at`.
        named: paths that the request names, by dotted place.
    """
    match value:
        case str() if at in named:
            return _last_part(named[at])
        case str() if value in named.values():
            return _last_part(value)
        case Mapping():
            return {k: _without_folders(inner, named, f"{at}.{k}") for k, inner in value.items()}
        case list():
            each = enumerate(value)
            return [_without_folders(inner, named, f"{at}[{i}]") for i, inner in each]
    return value


def _last_part(path: str) -> str:
    """A path as its last part: folders' names may say whose data it is."""
    name = Path(path).name
    return f"…/{name}" if name != path else path


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{at}.{key}" if at else key)
    else:
        yield at, _no_absolute(value)


def _no_absolute(value: Any) -> Any:
    """An absolute path as its last part."""
    if isinstance(value, str) and value.startswith("/"):
        return _last_part(value)
    return [_no_absolute(inner) for inner in value] if isinstance(value, list) else value


def _versions(steps: Sequence[Facts]) -> Facts:
    """What each step was made with; one value where all agree."""
    names = dict.fromkeys(name for step in steps for name in step["environment"])
    skipped = {"start", "end", "device", "threads", "gpus", "attempts"}
    versions: Facts = {}
    for name in names:
        values = list(dict.fromkeys(str(step["environment"].get(name, "—")) for step in steps))
        if name not in skipped:
            versions[name] = " / ".join(values)
    return versions


def _sum(values: Sequence[float | None]) -> float | None:
    """Of all, if all are known."""
    known = [value for value in values if value is not None]
    return round(sum(known), 3) if len(known) == len(values) else None


def _rows(path: Path) -> list[Facts]:
    """Whole lines of a training's record."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            row = json_file.parse(line)
        except json_file.NotJson:
            continue
        if isinstance(row, dict) and _number(row.get("step")) is not None:
            rows.append(row)
    return rows


def _number(value: Any) -> float | None:
    number = float(value) if isinstance(value, int | float) else None
    return number if number is not None and math.isfinite(number) else None


def _losses(rows: Sequence[Facts]) -> list[Facts]:
    """Steps and losses, averaged to at most `POINTS`."""
    numbers = [(float(row["step"]), _number(row.get("loss"))) for row in rows]
    known = [(step, loss) for step, loss in numbers if loss is not None]
    size = max(1, math.ceil(len(known) / POINTS))
    groups = [known[i : i + size] for i in range(0, len(known), size)]
    return [{"step": g[-1][0], "loss": sum(loss for _, loss in g) / len(g)} for g in groups]


def _validations(rows: Sequence[Facts]) -> list[Facts]:
    """Steps, losses on held-out items and their intervals; all of the last `POINTS`."""
    found = [
        {"step": float(row["step"]), "n": row.get("val/n"),
         **{key: _number(row.get(f"val/{key}")) for key in ("loss", "low", "high")}}
        for row in rows
        if _number(row.get("val/loss")) is not None
    ]  # fmt: skip
    return found[-POINTS:]
