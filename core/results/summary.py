"""Summary of an evaluation: every method's figures with intervals, and differences."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.parts.config import plain
from core.parts.registry import Spec
from core.results.metrics import INTERVAL, interval
from core.storage import formats
from core.task import Figure, is_drawn

Values = Mapping[str, Mapping[str, Sequence[float]]]


def summarised(
    values: Values,
    about: Mapping[str, Any],
    *,
    figures: Mapping[str, Figure],
    reference: str,
    draws: int,
    confidence: float,
    drawn: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The content of ``metrics.json``, as a report reads it.

    Args:
        values: method -> figure -> one number for each item; a method may lack figures.
        about: of the samples, from `core.results.samples.described`.
        figures: label, unit and direction of each.
        reference: the method that others are compared with.
        draws: for each item.
        confidence: of the intervals.
        drawn: methods that are a model's draws; by default those so named.
    """
    sources = [item["source"] for item in about["items"]]

    def mean(numbers: Sequence[float]) -> dict[str, Any]:
        return plain(interval(numbers, sources, confidence=confidence))

    first = values[reference]
    differences = {
        method: {
            figure: mean([a - b for a, b in zip(numbers, first[figure], strict=True)])
            for figure, numbers in named.items()
            if figure in first
        }
        for method, named in values.items()
        if method != reference
    }
    return {
        "format": formats.METRICS,
        "task": Spec.parse(about["task"]).name,
        "dataset": about["dataset"],
        "split": about["split"],
        "n": len(sources),
        "sources": list(dict.fromkeys(sources)),
        "draws": draws,
        "confidence": confidence,
        "interval": INTERVAL.format(draws=4000),
        "metrics": {name: plain(figure) for name, figure in figures.items()},
        "reference": reference,
        "methods": {m: {f: mean(v) for f, v in named.items()} for m, named in values.items()},
        "drawn": [m for m in values if is_drawn(m)] if drawn is None else list(drawn),
        "differences": differences,
    }
