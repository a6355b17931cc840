"""Summary of an evaluation: every method's figures with intervals, and differences."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from core.parts.registry import Spec
from core.request import Emit, Note, silent
from core.results.evaluation import Evaluation, Row
from core.results.metrics import INTERVAL, Interval, interval
from core.task import Figure, Kind

Values = Mapping[str, Mapping[str, Sequence[float]]]


def finite_figures(
    values: Values, about: Mapping[str, Any], emit: Emit = silent
) -> dict[str, dict[str, Sequence[float]]]:
    """The figures that are numbers of every item; of the others a note names the first item.

    PSNR, for one, is infinite where a result equals the item: such a figure has no mean.

    Args:
        values: as of `summarised`.
        about: of the samples.
        emit: receives the notes.
    """
    kept: dict[str, dict[str, Sequence[float]]] = {}
    for method, figures in values.items():
        kept[method] = {}
        for figure, numbers in figures.items():
            at = next((i for i, number in enumerate(numbers) if not math.isfinite(number)), None)
            if at is None:
                kept[method][figure] = numbers
                continue
            item = about["items"][at]["name"]
            emit(Note(text=f"{figure} of {method} is {numbers[at]} for {item}; left out"))
    return kept


def summarised(
    values: Values,
    about: Mapping[str, Any],
    *,
    figures: Mapping[str, Figure],
    reference: str,
    draws: int,
    confidence: float,
    kinds: Mapping[str, Kind],
) -> Evaluation:
    """The evaluation of numbers of each item.

    Args:
        values: method -> figure -> one number for each item; a method may lack figures.
        about: of the samples, from `core.results.samples.described`.
        figures: label, unit and direction of each.
        reference: the method that others are compared with.
        draws: for each item.
        confidence: of the intervals.
        kinds: of the methods.
    """
    sources = [item["source"] for item in about["items"]]

    def mean(numbers: Sequence[float]) -> Interval:
        return interval(numbers, sources, confidence=confidence)

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
    return Evaluation(
        task=Spec.parse(about["task"]).name,
        dataset=about["dataset"],
        split=about["split"],
        n=len(sources),
        sources=list(dict.fromkeys(sources)),
        draws=draws,
        confidence=confidence,
        interval=INTERVAL.format(draws=4000),
        figures=figures,
        reference=reference,
        methods={
            method: Row(kinds[method], {figure: mean(v) for figure, v in named.items()})
            for method, named in values.items()
        },
        differences=differences,
    )
