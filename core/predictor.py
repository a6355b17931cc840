"""Predictors: a trained model applied to one file after another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol


class Predictor(Protocol):
    """A model, loaded once, that is called for one file after another.

    A predictor is a class built from a `core.request.Machine` and the path of a checkpoint; its
    options are keyword-only.  Its constructor raises `InputError` for what no file could be done
    with.  The checkpoint is not an option, since in a job it is another step's result.
    """

    suffixes: ClassVar[tuple[str, ...]]
    """Of the files it reads: in lower case, with the dot.  A class attribute, known unloaded."""

    @staticmethod
    def result_name(name: str) -> str:
        """The name of the result of a file of that name; not a path."""
        ...

    def __call__(self, source: Path, target: Path) -> Mapping[str, Any] | None:
        """Make one file of another; the same file gives the same bytes, whatever came before.

        Args:
            source: a file with one of the suffixes; it may hold anything.
            target: a new file to write, whose name ends as `result_name` says.

        Returns:
            Plain facts for the record, or None.

        Raises:
            InputError: `source` cannot be used; it is not tried again while it stays as it is.
        """
        ...
