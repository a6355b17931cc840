"""Pictures made larger by a trained model: what ``upscale`` and ``polymode apply`` call."""

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from core.config import Spec, configure, plain
from core.errors import InputError
from core.model import Model, load_model
from core.request import Emit, Machine, silent
from plugins.image2image import io
from plugins.image2image.restore import How, cascade, summary
from plugins.image2image.tasks import SR3
from plugins.image2image.tiles import tiled


class Upscale:
    """A photograph enlarged by a trained SR3 model, as a file of the same name.

    Any size; RGB or grey; alpha, 16 bits, colour profile and EXIF are kept.

    Args:
        scale: factor; must be the one the model was trained for, and is that by default.
        steps: of the sampler; more is slower.
        seed: the same seed gives the same picture.
        mean_of: draws to average: closer on average, and smoother.
        sampler: rule of a step.
        tile: side of a tile of the result, in pixels; bounds the memory.
        overlap: pixels that tiles share.
        then: checkpoint of a second model that enlarges what the first gives: a cascade.
        level: deviation of the noise that the second is given with it, at most its ``augment``.
    """

    suffixes: ClassVar[tuple[str, ...]] = tuple(io.SUFFIXES)

    def __init__(
        self,
        machine: Machine,
        checkpoint: Path,
        *,
        scale: Annotated[int, Ge(2)] | None = None,
        steps: Annotated[int, Ge(2)] = 20,
        seed: Annotated[int, Ge(0)] = 0,
        mean_of: Annotated[int, Ge(1)] = 1,
        sampler: Annotated[Spec, "sampler"] = Spec("core/ancestral"),
        tile: Annotated[int, Ge(64)] = 512,
        overlap: Annotated[int, Ge(0)] = 64,
        then: Path | None = None,
        level: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        solver = configure("sampler", sampler)()
        places = [(checkpoint, 0.0), *([] if then is None else [(then, level)])]
        self.stages = [(_enlarger(place, machine), noise) for place, noise in places]
        model = self.stages[0][0]
        trained = math.prod(_task(stage).scale for stage, _ in self.stages)
        if scale is not None and scale != trained:
            raise InputError(
                f"scale: the model was trained for {trained}, {scale} was asked; leave it out or "
                "train with task.scale set"
            )
        if level and then is None:
            raise InputError("level: is of what a second model is given; name one with then")
        tiled(model.denoise, tile=tile, overlap=overlap)  # refuses tiles that share too much
        grid = configure("grid", Spec("core/uniform_time", {"steps": steps}))(model.process)
        self._how = How(
            solver=solver, grid=grid, seed=seed, draws=mean_of, tile=tile, overlap=overlap
        )
        self.about = {
            "scale": trained,
            "steps": steps,
            "seed": seed,
            "mean_of": mean_of,
            "sampler": plain(sampler),
            "tile": tile,
            "overlap": overlap,
            "level": level,
            "checkpoint": model.checkpoint.name,
            "model": plain(model.request),
        }
        if then is not None:
            second = self.stages[1][0]
            self.about |= {"then": second.checkpoint.name, "second": plain(second.request)}
        """Everything that decided the pixels but the picture, as JSON's types."""

    @staticmethod
    def result_name(name: str) -> str:
        """The name itself, and with it the format."""
        return name

    def __call__(self, source: Path, target: Path) -> Mapping[str, Any]:
        """Enlarge one picture into a new file.

        Returns:
            ``size``, width and height of the result, and ``notes``, what reading left out.

        Raises:
            InputError: `source` is no picture that can be used, or cannot be held by the format
                that `target` names.
        """
        picture = io.read(source)
        io.check_writable(target, alpha=picture.alpha is not None, depth=picture.depth)
        result = self.enlarge(picture)
        io.write(target, result)
        return {"size": list(result.pixels.shape[:0:-1]), "notes": list(picture.notes)}

    def enlarge(self, picture: io.Picture, *, emit: Emit = silent) -> io.Picture:
        """The picture, `scale` times as large; alpha is enlarged bicubically.

        Grey pictures go through the model as equal channels and come back as their mean.

        Raises:
            InputError: the result would not fit into memory.
        """
        low = picture.pixels.expand(3, -1, -1)[None].to(self.stages[0][0].device)
        pixels = summary(cascade(self.stages, low, self._how, emit=emit)).mean
        if len(picture.pixels) == 1:
            pixels = pixels.mean(0, keepdim=True)
        alpha = picture.alpha
        if alpha is not None:
            for stage, _ in self.stages:
                alpha = _task(stage).operator.up(alpha[None])[0].clamp(0, 1)
        return replace(picture, pixels=pixels, alpha=alpha)


def _enlarger(checkpoint: Path, machine: Machine) -> Model:
    """A model that enlarges; says what was noticed when it was read."""
    model = load_model(checkpoint, machine=machine, task="image2image/sr3")
    for note in model.notes:
        print(note, file=sys.stderr)
    return model


def _task(model: Model) -> SR3:
    assert isinstance(model.task, SR3), "load_model was asked for it"
    return model.task
