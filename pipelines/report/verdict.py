"""What an evaluation's numbers allow one to say, in words and in lengths drawn to scale."""

import math
from typing import Any

from core.parts.config import plain
from core.results.evaluation import DRAWN, Evaluation
from core.results.metrics import Interval

FOREST = 150  # width of a difference's drawing

Facts = dict[str, Any]


def evaluation(found: Evaluation) -> Facts:
    """An evaluation with the best marked and a sentence for every difference."""
    best: dict[str, str] = {}
    for name, figure in found.figures.items():
        means = {
            method: row.figures[name].mean
            for method, row in found.methods.items()
            if name in row.figures and row.kind != "floor"
        }
        if means:
            best[name] = max(means, key=lambda one: figure.goodness(means[one]))
    verdicts = [
        _verdict(found, method, name, difference)
        for method, row in found.differences.items()
        for name, difference in row.items()
    ]
    first = [v for v in verdicts if v["metric"] == next(iter(found.figures), None)]
    drawn = [method for method, row in found.methods.items() if row.kind in DRAWN]
    leading = [v for v in first if v["method"] in drawn] or first
    keep = ("task", "split", "n", "sources", "draws", "confidence", "interval", "reference")
    figures = {
        method: {name: {**plain(cell), **_figure(cell)} for name, cell in row.figures.items()}
        for method, row in found.methods.items()
    }
    lead = max(leading, key=lambda v: v["gain"], default=None)
    return {
        **{name: getattr(found, name) for name in keep},
        "metrics": plain(found.figures),
        "methods": figures,
        "best": best,
        "lead": lead,
        "classical": _against_classical(found, lead["method"]) if lead else "",
        "verdicts": verdicts,
        "panels": found.panels,
    }


def _against_classical(found: Evaluation, method: str) -> str:
    """How far a method is from the best baseline in the first figure; nothing of the reference.

    Differences to other methods than the reference are of means: they have no interval.
    """
    name, figure = next(iter(found.figures.items()))
    means = {
        baseline: row.figures[name].mean
        for baseline, row in found.methods.items()
        if row.kind == "baseline" and name in row.figures and baseline != method
    }
    if not means or name not in found.methods[method].figures:
        return ""
    best = max(means, key=lambda one: figure.goodness(means[one]))
    if best == found.reference:
        return f"{best} is the best classical method"
    gain = found.methods[method].figures[name].mean - means[best]
    ahead = figure.goodness(found.methods[method].figures[name].mean) > figure.goodness(means[best])
    unit = f" {figure.unit}" if figure.unit and not figure.unit[:1].isdigit() else ""
    return (
        f"Against {best}, the best classical method, it is {abs(gain):.2g}{unit} {figure.label} "
        f"{'better' if ahead else 'worse'} in the mean"
    )


def _verdict(found: Evaluation, method: str, name: str, difference: Interval) -> Facts:
    """Whether a method beats the reference in one figure, in words and drawn to scale."""
    figure, reference = found.figures[name], found.reference
    sign = 1 if figure.better == "higher" else -1
    mean, low, high = difference.mean, difference.low, difference.high
    unit = figure.unit
    unit = f"×{unit}" if unit[:1].isdigit() else f" {unit}" if unit else ""  # 1e-5 is a factor
    over = f"on {found.n} items from {_count(len(found.sources), 'source')}"
    gain = sign * mean
    if figure.best is not None:
        own, others = (found.methods[one].figures[name].mean for one in (method, reference))
        gain = figure.goodness(own) - figure.goodness(others)
        outcome, sentence = (
            "unknown",
            f"{figure.label}, where {figure.best:g} is best: {_decimal(own)}{unit} of {method}, "
            f"{_decimal(others)}{unit} of {reference}, {over}",
        )
    elif low is None or high is None:
        outcome, sentence = (
            "unknown",
            f"{method} against {reference}: no interval for {figure.label}",
        )
    elif min(sign * low, sign * high) > 0:
        outcome = "beats"
        sentence = (
            f"{method} beats {reference} by {_decimal(abs(mean), low, high)}{unit} "
            f"{figure.label} {_between(low, high, flip=sign < 0)} {over}"
        )
    else:
        outcome = "worse" if max(sign * low, sign * high) < 0 else "open"
        sentence = (
            f"{method} does not beat {reference} in {figure.label}: difference "
            f"{signed(mean, low, high)}{unit} {_between(low, high)} {over}"
        )
    return {
        "method": method,
        "metric": name,
        "outcome": outcome,
        "gain": gain,
        "sentence": sentence,
        **plain(difference),
        "text": f"{signed(mean, low, high)} {_between(low, high)}",
        "drawn": _drawn(found, name, difference),
    }


def _drawn(found: Evaluation, name: str, difference: Interval) -> Facts | None:
    """Positions of an interval and of zero, on one scale for all methods of a figure."""
    cells = [row[name] for row in found.differences.values() if name in row]
    ends = [end for cell in cells for end in (cell.low, cell.high) if end is not None]
    if not ends or difference.low is None or difference.high is None:
        return None
    first, last = min(0.0, *ends), max(0.0, *ends)
    span = (last - first) or 1.0

    def place(value: float) -> float:
        return round(8 + (FOREST - 16) * (value - first) / span, 1)

    ends_and_mean = {"mean": difference.mean, "low": difference.low, "high": difference.high}
    return {"zero": place(0.0), **{key: place(value) for key, value in ends_and_mean.items()}}


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


def _figure(cell: Interval) -> dict[str, str]:
    """A score to the digits that its interval allows, but three at least, and the interval."""
    mean, low, high = cell.mean, cell.low, cell.high
    places = _places(low, high)
    if mean and places is not None:
        places = max(places, 2 - math.floor(math.log10(abs(mean))))
    text = _decimal(mean) if places is None else f"{mean:.{places}f}"
    return {"text": text.replace("-", "−"), "range": _between(low, high)}


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
