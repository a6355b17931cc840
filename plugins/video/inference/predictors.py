"""Predictors: clips predicted, interpolated or filled, for `polymode apply`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from core.errors import InputError
from core.model import load_model
from core.progress import print_note
from core.request import Machine, silent
from plugins.video.inference.clips import Wanted, complete_clip, filled, interpolated, predicted
from plugins.video.io.reading import FRAMES, VIDEOS, read_index
from plugins.video.io.writing import CODECS
from plugins.video.request import DrawOptions


def _named(name: str, *, lossless: bool = False) -> str:
    """The same name where its format is written, else with .mp4 behind it; .mkv if lossless."""
    ending = Path(name).suffix.lower()
    if lossless:
        return name if ending == ".mkv" else f"{name}.mkv"
    return name if ending in CODECS else f"{name}.mp4"


class _Clips(ABC):
    """A model of `video/complete`, loaded once."""

    suffixes: ClassVar[tuple[str, ...]] = VIDEOS

    def __init__(
        self, machine: Machine, checkpoint: Path, draw: DrawOptions, lossless: bool
    ) -> None:
        self._model = load_model(
            checkpoint, machine=machine, task="video/complete", emit=print_note
        )
        self._draw, self._lossless = draw, lossless

    @staticmethod
    def result_name(name: str) -> str:
        """The name of the result of a clip, lossy."""
        return _named(name)

    @staticmethod
    def result_names(options: Mapping[str, Any]) -> Callable[[str], str]:
        """The function from the name of a clip to that of its result."""
        return lambda name: _named(name, lossless=bool(options.get("lossless")))

    @abstractmethod
    def wanted(self, source: Path) -> Wanted:
        """The clip that is made of a file."""

    def __call__(self, source: Path, target: Path) -> Mapping[str, Any]:
        """Write one clip.

        Returns:
            ``frames``, how many it has, and ``drawn``, how many of them the model drew.

        Raises:
            InputError: `source` cannot be read, or has too few frames.
        """
        wanted = self.wanted(source)
        complete_clip(self._model, wanted, target, self._draw, lossless=self._lossless, emit=silent)
        return {
            "frames": wanted.total + wanted.held,
            "drawn": wanted.total - len(wanted.observed),
        }


class Predict(_Clips):
    """The frames behind a clip's last ones, or before its first; the output holds both.

    Args:
        context: frames that are given.
        frames: frames that are predicted.
        backward: predict what came before the first frames.
        draw: a group of options.
        lossless: keep every bit of RGB, in Matroska files.
    """

    def __init__(
        self,
        machine: Machine,
        checkpoint: Path,
        *,
        context: Annotated[int, Ge(1)] = 8,
        frames: Annotated[int, Ge(1)] = 8,
        backward: bool = False,
        draw: DrawOptions = DrawOptions(),
        lossless: bool = False,
    ) -> None:
        super().__init__(machine, checkpoint, draw, lossless)
        self._context, self._frames, self._backward = context, frames, backward

    def wanted(self, source: Path) -> Wanted:
        """Given frames and as many more as are asked for."""
        return predicted(read_index(source), self._context, self._frames, backward=self._backward)


class Interpolate(_Clips):
    """A higher frame rate: new frames between those of a clip, which keep their times.

    Args:
        factor: how many times the frame rate.
        cuts: draw nothing across a cut between scenes.
        draw: a group of options.
        lossless: keep every bit of RGB, in Matroska files.
    """

    def __init__(
        self,
        machine: Machine,
        checkpoint: Path,
        *,
        factor: Annotated[int, Ge(2)] = 2,
        cuts: bool = True,
        draw: DrawOptions = DrawOptions(),
        lossless: bool = False,
    ) -> None:
        super().__init__(machine, checkpoint, draw, lossless)
        self._factor, self._cuts = factor, cuts

    def wanted(self, source: Path) -> Wanted:
        """The clip with new frames between its own."""
        return interpolated(read_index(source), self._factor, scenes=self._cuts)


class Fill(_Clips):
    """Folders of numbered images with their missing numbers drawn, each as one file.

    Args:
        draw: a group of options.
        lossless: keep every bit of RGB, in Matroska files.
    """

    suffixes: ClassVar[tuple[str, ...]] = FRAMES
    folders: ClassVar[tuple[str, ...]] = FRAMES

    def __init__(
        self,
        machine: Machine,
        checkpoint: Path,
        *,
        draw: DrawOptions = DrawOptions(),
        lossless: bool = False,
    ) -> None:
        super().__init__(machine, checkpoint, draw, lossless)

    @staticmethod
    def reads(source: Path) -> tuple[Path, ...]:
        """The images of a folder."""
        if not source.is_dir():
            return (source,)
        found = (path for path in source.iterdir() if path.suffix.lower() in FRAMES)
        return tuple(sorted(path for path in found if not path.name.startswith(".")))

    def wanted(self, source: Path) -> Wanted:
        """All numbers from a folder's first image to its last."""
        if not source.is_dir():
            raise InputError(f"{source}: expected a folder of numbered images; put them into one")
        return filled(read_index(source))
