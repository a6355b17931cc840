"""Geometry of the page's charts, in pixels: loss curves and the graph of steps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CHART = {"width": 720, "height": 260, "left": 62, "right": 14, "top": 14, "bottom": 40}
NODE = {"width": 190, "height": 58, "across": 48, "down": 16, "edge": 8}
LOOKS = 10  # that tell lines apart
TICK = 30  # pixels that the numbers below a chart are apart
LETTERS = 20  # of a label that fit into a node

Facts = dict[str, Any]


def curve(rows: Sequence[Facts], validation: Sequence[Facts] = ()) -> Facts:
    """Points and ticks of losses over steps; on a log scale if all are above zero.

    Args:
        rows: step and loss of training, at least one.
        validation: step, loss and the ends of its interval, which may be None.
    """
    ends = [row[key] for row in validation for key in ("loss", "low", "high")]
    losses = [row["loss"] for row in rows] + [value for value in ends if value is not None]
    scale = _Scale.of([row["step"] for row in (*rows, *validation)], losses)
    banded = [row for row in validation if row["low"] is not None and row["high"] is not None]
    return {
        **scale.ticks(),
        "points": " ".join(scale.line(rows)),
        "first": rows[0]["loss"],
        "last": rows[-1]["loss"],
        "steps": int(scale.last),
        "validation": " ".join(scale.line(validation)),
        "dots": [{"x": scale.x(row["step"]), "y": scale.y(row["loss"])} for row in validation],
        "band": " ".join(scale.line(banded, "high") + scale.line(banded, "low")[::-1]),
        "best": min(validation, key=lambda row: row["loss"], default=None),
    }


def trial_curves(trials: Sequence[Facts]) -> Facts | None:
    """Lines and ticks of the figures of several trainings over steps; None if none has any.

    Args:
        trials: each with its `points`: step and loss; the one that is `best` is drawn last.
    """
    rows = [row for trial in trials for row in trial["points"]]
    if not rows:
        return None
    scale = _Scale.of([row["step"] for row in rows], [row["loss"] for row in rows])
    lines = []
    for trial in sorted(trials, key=lambda trial: trial["best"]):
        at = [(scale.x(row["step"]), scale.y(row["loss"])) for row in trial["points"]]
        if at:
            points = " ".join(f"{x},{y}" for x, y in at)
            end = {"x": at[-1][0], "y": at[-1][1]}
            lines.append({"trial": trial["trial"], "best": trial["best"], "state": trial["state"],
                          "points": points, "end": end})  # fmt: skip
    return {**scale.ticks(), "lines": lines}


def line_chart(chart: Facts) -> Facts:
    """Lines, marks and ticks of a chart as `pipelines.report.panels.read_charts` gives it."""
    log = chart["x"]["log"]
    rows = [
        [{**point, "step": math.log2(point["x"]) if log else point["x"]} for point in one["points"]]
        for one in chart["series"]
    ]
    ends = [row[key] for line in rows for row in line for key in ("y", "low", "high")]
    scale = _Scale.linear([row["step"] for line in rows for row in line], ends)
    lines = []
    for number, (one, line) in enumerate(zip(chart["series"], rows, strict=True)):
        marks = [
            {**row, "at": scale.x(row["step"]), "mid": scale.y(row["y"]),
             "top": scale.y(row["high"]), "bottom": scale.y(row["low"])}
            for row in line
        ]  # fmt: skip
        points = " ".join(f"{mark['at']},{mark['mid']}" for mark in marks)
        lines.append(
            {"label": one["label"], "look": number % LOOKS, "points": points, "marks": marks}
        )
    values = sorted({row["x"] for line in rows for row in line})
    if len(values) <= 8:
        shown = [(value, scale.x(math.log2(value) if log else value)) for value in values]
    else:
        shown = [(2**at if log else at, scale.x(at)) for at in _ticks(scale.first, scale.last)]
    apart: list[tuple[float, float]] = []
    for value, at in shown:
        if not apart or at - apart[-1][1] >= TICK:
            apart.append((value, at))
    return {
        **scale.ticks(),
        "x": [{"at": at, "text": f"{value:g}"} for value, at in apart],
        "lines": lines,
    }


@dataclass(frozen=True)
class _Scale:
    """Where steps and losses lie in a chart.

    Args:
        last: step at its right edge.
        log: its heights are logarithms to base 10.
        low: height of its lower edge.
        high: height of its upper edge.
        first: step at its left edge.
    """

    last: float
    log: bool
    low: float
    high: float
    first: float = 0.0

    @classmethod
    def of(cls, steps: Sequence[float], losses: Sequence[float]) -> "_Scale":
        """The scale on which all of them lie inside; logarithmic if all losses are above zero."""
        log = min(losses) > 0
        heights = [math.log10(loss) for loss in losses] if log else losses
        low, high = min(heights), max(heights)
        pad = (high - low) * 0.06 or 0.5
        return cls(max(1.0, *steps), log, low - pad, high + pad)

    @classmethod
    def linear(cls, steps: Sequence[float], heights: Sequence[float]) -> "_Scale":
        """The scale on which all of them lie inside, a little away from every edge."""
        low, high, first, last = min(heights), max(heights), min(steps), max(steps)
        pad, side = (high - low) * 0.06 or 0.5, (last - first) * 0.04 or 0.5
        return cls(last + side, False, low - pad, high + pad, first - side)

    def x(self, step: float) -> float:
        across = CHART["width"] - CHART["left"] - CHART["right"]
        share = (step - self.first) / (self.last - self.first)
        return round(CHART["left"] + across * share, 1)

    def y(self, loss: float) -> float:
        down = CHART["height"] - CHART["top"] - CHART["bottom"]
        height = math.log10(loss) if self.log else loss
        return round(CHART["top"] + down * (self.high - height) / (self.high - self.low), 1)

    def line(self, rows: Sequence[Facts], key: str = "loss") -> list[str]:
        return [f"{self.x(row['step'])},{self.y(row[key])}" for row in rows]

    def ticks(self) -> Facts:
        low, high = self.low, self.high
        values = _log_ticks(low, high) if self.log else _ticks(low, high)
        return {
            "log": self.log,
            "x": [{"at": self.x(value), "text": f"{value:g}"} for value in _ticks(0, self.last)],
            "y": [{"at": self.y(value), "text": f"{value:.3g}"} for value in values],
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


def graph(steps: Sequence[Facts]) -> Facts:
    """Steps as boxes in columns, each right of all that it needs, and lines between them.

    Args:
        steps: with `label`, `seconds` and the labels in `needs`; other needs are passed over.
    """
    by_label = {step["label"]: step for step in steps}
    columns = _columns(by_label)
    deep = [[label for label in by_label if columns[label] == c] for c in range(len(by_label))]
    row: dict[str, float] = {}
    for column in deep:
        order = {label: _mean_row(by_label[label], row) for label in column}  # beside its parents
        row |= {label: at for at, label in enumerate(sorted(column, key=lambda each: order[each]))}
    tallest = max(map(len, deep))
    longest = max((step["seconds"] for step in steps), default=0) or 1.0
    edge, wide, high = NODE["edge"], NODE["width"], NODE["height"]
    nodes = []
    for number, (label, step) in enumerate(by_label.items()):
        alone = (tallest - len(deep[columns[label]])) / 2  # a short column stands in the middle
        nodes.append({
            "label": label if len(label) <= LETTERS else f"{label[: LETTERS - 1]}…",
            "step": step,
            "number": number,
            "x": edge + columns[label] * (wide + NODE["across"]),
            "y": round(edge + (row[label] + alone) * (high + NODE["down"]), 1),
            "bar": round((wide - 24) * step["seconds"] / longest, 1),
        })  # fmt: skip
    place = {node["step"]["label"]: node for node in nodes}
    edges = [
        _edge(place[need], place[label])
        for label, step in by_label.items()
        for need in step["needs"]
        if need in place
    ]
    count = max(columns.values()) + 1
    return {
        "nodes": nodes,
        "edges": edges,
        "width": 2 * edge + count * wide + (count - 1) * NODE["across"],
        "height": 2 * edge + tallest * high + (tallest - 1) * NODE["down"],
    }


def _columns(by_label: Mapping[str, Facts]) -> dict[str, int]:
    """Length of the longest way to each step; labels that need each other end, wherever."""
    columns = dict.fromkeys(by_label, 0)
    for _ in by_label:
        for label, step in by_label.items():
            known = [columns[need] + 1 for need in step["needs"] if need in columns]
            columns[label] = min(max(known, default=0), len(by_label) - 1)
    return columns


def _mean_row(step: Facts, row: Mapping[str, float]) -> float:
    rows = [row[need] for need in step["needs"] if need in row]
    return sum(rows) / len(rows) if rows else 0.0


def _edge(start: Facts, end: Facts) -> str:
    x0, x1 = start["x"] + NODE["width"], end["x"]
    y0, y1 = (node["y"] + NODE["height"] / 2 for node in (start, end))
    bend = max(24, (x1 - x0) / 2)
    return f"M{x0} {y0}C{x0 + bend} {y0} {x1 - bend} {y1} {x1} {y1}"
