"""Request and result of `apply`: a predictor applied to every file in a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from core.parts.registry import Spec


@dataclass(frozen=True, kw_only=True)
class ApplyRequest:
    """Make one file of each file in a folder and those inside it.

    Args:
        predictor: what makes one file of another.
        checkpoint: the model's folder or file.
        folder: the files; those that the predictor does not read are named or counted.
    """

    predictor: Annotated[Spec, "predictor"]
    checkpoint: Path
    folder: Path


@dataclass(frozen=True, kw_only=True)
class ApplyResult:
    """A folder of results.

    Args:
        results: a file for each that could be used, in the same folders.
        files: what became of each file: one line of JSON, `pipelines.apply.ledger.Record`.
        done: files with a result.
        bad: files that cannot be used.
        failed: files that something else went wrong with; they are tried again next time.
    """

    results: Path
    files: Path
    done: int
    bad: int
    failed: int
