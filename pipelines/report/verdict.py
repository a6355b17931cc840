"""What an evaluation's numbers allow one to say, in words and in lengths drawn to scale."""

import math
from typing import Any

FOREST = 150  # width of a difference's drawing

Facts = dict[str, Any]


def evaluation(metrics: Facts) -> Facts:
    """What `evaluate` wrote, with the best marked and a sentence for every difference."""
    best: dict[str, str] = {}
    for name, metric in metrics["metrics"].items():
        means = {m: row[name]["mean"] for m, row in metrics["methods"].items() if name in row}
        means.pop(metrics.get("floor"), None)  # what the data score themselves: no method
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
    drawn = metrics.get("drawn")  # by a model: what is looked for
    known = [v for v in known if isinstance(drawn, list) and v["method"] in drawn] or known
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
