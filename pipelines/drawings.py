"""Geometry of the page's charts, in pixels: loss curves and the graph of steps."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

CHART = {"width": 720, "height": 260, "left": 62, "right": 14, "top": 14, "bottom": 40}
NODE = {"width": 190, "height": 58, "across": 48, "down": 16, "edge": 8}
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
    log = min(losses) > 0
    heights = [math.log10(loss) for loss in losses] if log else losses
    low, high = min(heights), max(heights)
    pad = (high - low) * 0.06 or 0.5
    low, high = low - pad, high + pad
    last = max(1.0, *(row["step"] for row in (*rows, *validation)))
    across = CHART["width"] - CHART["left"] - CHART["right"]
    down = CHART["height"] - CHART["top"] - CHART["bottom"]

    def x(step: float) -> float:
        return round(CHART["left"] + across * step / last, 1)

    def y(loss: float) -> float:
        height = math.log10(loss) if log else loss
        return round(CHART["top"] + down * (high - height) / (high - low), 1)

    def line(of: Sequence[Facts], key: str = "loss") -> list[str]:
        return [f"{x(row['step'])},{y(row[key])}" for row in of]

    values = _log_ticks(low, high) if log else _ticks(low, high)
    banded = [row for row in validation if row["low"] is not None and row["high"] is not None]
    return {
        "log": log,
        "points": " ".join(line(rows)),
        "x": [{"at": x(value), "text": f"{value:g}"} for value in _ticks(0, last)],
        "y": [{"at": y(value), "text": f"{value:.3g}"} for value in values],
        "first": rows[0]["loss"],
        "last": rows[-1]["loss"],
        "steps": int(last),
        "validation": " ".join(line(validation)),
        "dots": [{"x": x(row["step"]), "y": y(row["loss"])} for row in validation],
        "band": " ".join(line(banded, "high") + line(banded, "low")[::-1]),
        "best": min(validation, key=lambda row: row["loss"], default=None),
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
