"""Predictors of image files: which files they read, and the names of their results."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from core.images import formats

if TYPE_CHECKING:
    from core.task import Panel


class ImageFiles:
    """A predictor from an image file to an image file, as `polymode apply` lists its inputs."""

    suffixes: ClassVar[tuple[str, ...]] = formats.READ
    unread: ClassVar[Mapping[str, str]] = formats.UNREAD
    lossless: ClassVar[bool] = False  # whether known values have to be kept exactly

    @classmethod
    def result_name(cls, name: str) -> str:
        """The same name; ``.png`` is appended where its format is not written, or is lossy."""
        return formats.output_name(name, {}, lossless=cls.lossless)

    @classmethod
    def result_names(cls, options: Mapping[str, Any]) -> Callable[[str], str]:
        """The function from the name of a file to that of its result."""
        return partial(formats.output_name, options=options, lossless=cls.lossless)

    @staticmethod
    def show(source: Path, target: Path, facts: Mapping[str, Any]) -> "Panel | None":
        """An input beside its result, for reports."""
        from plugins.image2image.inference.shown import before_and_after

        return before_and_after(source, target, facts)
