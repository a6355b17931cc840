"""An evaluation as values: `metrics.json`, whoever writes it, and as reports read it.

In format 2 of the document `kinds` states what each method is; format 1 named the `drawn` methods
and a `floor` at most, and is read as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from core.errors import InputError, brief
from core.parts.config import plain
from core.results.metrics import Interval
from core.storage import files, formats
from core.task import Figure, Kind, Method, Scores

KINDS = get_args(Kind)
DRAWN = ("draw", "mean", "model")  # kinds that are of a model


@dataclass(frozen=True)
class Row:
    """A method's figures of merit.

    Args:
        kind: what the method is; None in a document that does not state it.
        figures: by name; a method may lack figures that do not fit it.
    """

    kind: Kind | None
    figures: Mapping[str, Interval]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of methods on one set of items, and differences to a reference.

    Args:
        task: full name of what was evaluated.
        dataset: the items' dataset with its options, plain.
        split: of the dataset.
        n: number of items.
        sources: of the items, each once.
        draws: for each item.
        confidence: of the intervals.
        interval: how they were computed, in words.
        figures: label, unit and direction of each figure; the first one leads a report.
        reference: the method that others are compared with.
        methods: by name.
        differences: of a method's figures to the reference's, item by item.
        panels: views, as `core.results.panels.write_panels` describes them.
        charts: curves, as `pipelines.report.panels.read_charts` reads them.
        further: entries of one writer's own.

    Raises:
        ValueError: the reference is no method, or a figure is not described.
    """

    task: str
    dataset: Mapping[str, Any]
    split: str
    n: int
    sources: Sequence[str]
    draws: int
    confidence: float
    interval: str
    figures: Mapping[str, Figure]
    reference: str
    methods: Mapping[str, Row]
    differences: Mapping[str, Mapping[str, Interval]]
    panels: Sequence[Mapping[str, Any]] = ()
    charts: Sequence[Mapping[str, Any]] = ()
    further: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.reference not in self.methods:
            raise ValueError(
                f"no method {brief(self.reference)}, the reference; methods are "
                f"{', '.join(map(repr, self.methods)) or 'none'}"
            )
        named = [*(row.figures for row in self.methods.values()), *self.differences.values()]
        if unknown := {figure for row in named for figure in row} - self.figures.keys():
            raise ValueError(
                f"no description of {', '.join(map(repr, sorted(unknown)))}; described are "
                f"{', '.join(map(repr, self.figures)) or 'none'}"
            )

    def means(self) -> dict[str, dict[str, float]]:
        """Method -> figure -> mean."""
        return {
            method: {name: cell.mean for name, cell in row.figures.items()}
            for method, row in self.methods.items()
        }

    def document(self) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        keep = ("task", "dataset", "split", "n", "sources", "draws", "confidence", "interval")
        entries = {
            **{name: getattr(self, name) for name in keep},
            "metrics": self.figures,
            "reference": self.reference,
            "methods": {method: row.figures for method, row in self.methods.items()},
            "kinds": {method: row.kind for method, row in self.methods.items() if row.kind},
            "differences": self.differences,
            "panels": self.panels,
            **({"charts": self.charts} if self.charts else {}),
        }
        return {"format": formats.METRICS, **plain(entries), **self.further}

    def write(self, out: Path) -> Path:
        """Write ``metrics.json`` into a folder; its path."""
        files.write_json(out / "metrics.json", self.document())
        return out / "metrics.json"


def methods_of(scores: Scores | Mapping[str, Any], reference: str) -> dict[str, Method]:
    """The methods that a task scored, each with its kind.

    A task written before kinds gives mappings of figures alone: its reference is taken for a
    baseline, the others for draws.
    """
    return {
        name: one
        if isinstance(one, Method)
        else Method("baseline" if name == reference else "draw", one)
        for name, one in scores.items()
    }


def read_evaluation(document: Mapping[str, Any], name: object) -> Evaluation:
    """The evaluation of a document that was read.

    Args:
        document: the content of ``metrics.json``.
        name: its path, for the error.

    Raises:
        InputError: it is of a newer format, or not what any format says.
    """
    formats.check_format(document, formats.METRICS, name)
    try:
        kinds, n = _kinds(document), int(document["n"])
        return Evaluation(
            task=str(document["task"]),
            dataset=document.get("dataset", {}),
            split=str(document["split"]),
            n=n,
            sources=list(document["sources"]),
            draws=int(document["draws"]),
            confidence=float(document["confidence"]),
            interval=str(document["interval"]),
            figures={key: Figure(**one) for key, one in document["metrics"].items()},
            reference=str(document["reference"]),
            methods={
                method: Row(kinds.get(method), _cells(row, n))
                for method, row in document["methods"].items()
            },
            differences={m: _cells(row, n) for m, row in document["differences"].items()},
            panels=document.get("panels", ()),
            charts=document.get("charts", ()),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{name}: not what `evaluate` writes ({type(error).__name__}: {error}); evaluate again"
        ) from error


def _cells(row: Mapping[str, Mapping[str, Any]], n: int) -> dict[str, Interval]:
    """Figures of a row; one without a number is left out, and ends may be unknown."""

    def end(value: Any) -> float | None:
        return None if value is None else float(value)

    return {
        name: Interval(
            float(cell["mean"]), end(cell.get("low")), end(cell.get("high")), int(cell.get("n", n))
        )
        for name, cell in row.items()
        if cell["mean"] is not None
    }


def _kinds(document: Mapping[str, Any]) -> dict[str, Kind]:
    """The kinds that a document states; of format 1, of the drawn methods and the floor."""
    stated = document.get("kinds")
    if not isinstance(stated, Mapping):
        drawn = document.get("drawn")
        stated = dict.fromkeys(drawn if isinstance(drawn, list) else (), "draw")
        stated |= {document["floor"]: "floor"} if "floor" in document else {}
    known = {method: kind for method, kind in stated.items() if kind in KINDS}
    return cast(dict[str, Kind], known)
