"""What ``upscale``, ``restore`` and ``polymode apply`` call: pictures made larger, and restored."""

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor

from core.denoiser.tiles import Estimate, check_memory, mirrored, tiled
from core.errors import InputError
from core.model import Model, for_task, load_model
from core.parts.config import configure, plain
from core.parts.registry import Spec
from core.process.noise import Noise
from core.request import Emit, Machine, silent
from core.task import Task
from plugins.image2image.inference.draws import How, cascade, estimated, restored, summary
from plugins.image2image.inference.purify import check_level, load_prior, purify
from plugins.image2image.inference.region import Region
from plugins.image2image.inference.subject import Subject, colourised, completed, enlarged, repaired
from plugins.image2image.io.pictures import SUFFIXES, Picture
from plugins.image2image.io.reading import read_picture
from plugins.image2image.io.writing import check_writable, write_picture
from plugins.image2image.tasks.colourise import Colourise
from plugins.image2image.tasks.inpaint import Inpaint
from plugins.image2image.tasks.jpeg import JPEG
from plugins.image2image.tasks.multitask import MultiTask
from plugins.image2image.tasks.super_resolution import SR3

Which = Literal["colourise", "inpaint", "uncrop", "jpeg"]


class _Drawn(ABC):
    """What predictors that draw pictures share: a file of one becomes a file of the other."""

    suffixes: ClassVar[tuple[str, ...]] = tuple(SUFFIXES)
    _how: How

    @abstractmethod
    def subject(self, photo: Path, picture: Picture) -> Subject:
        """The picture as the model sees it."""

    @abstractmethod
    def draws(
        self, subject: Subject, count: int, *, emit: Emit = silent
    ) -> Iterator[Float[Tensor, " 3 h w"]]:
        """Draws of it."""

    def __call__(self, source: Path, target: Path) -> Mapping[str, Any]:
        """Make a new file of one picture: the mean of some draws.

        Returns:
            ``size``, width and height of the result, and ``notes``, what reading left out.

        Raises:
            InputError: `source` is no picture that can be used, or cannot be held by the format
                that `target` names.
        """
        picture = read_picture(source)
        subject = self.subject(source, picture)
        subject.check_writable(target)
        result = subject.finish(summary(self.draws(subject, self._how.draws)).mean)
        write_picture(target, result)
        return {"size": list(result.pixels.shape[:0:-1]), "notes": list(subject.picture.notes)}


class Upscale(_Drawn):
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

    def subject(self, photo: Path, picture: Picture) -> Subject:
        """The picture as the model sees it."""
        return enlarged([_task(stage) for stage, _ in self.stages], picture)

    def draws(
        self, subject: Subject, count: int, *, emit: Emit = silent
    ) -> Iterator[Float[Tensor, " 3 h w"]]:
        """Draws of the picture, `scale` times as large.

        Raises:
            InputError: the result would not fit into memory.
        """
        low = subject.given["low"].to(self.stages[0][0].device)
        for drawn in cascade(self.stages, low, replace(self._how, draws=count), emit=emit):
            yield drawn[0].cpu()

    def takes(self, subject: Subject, count: int) -> list[Estimate]:
        """What so many draws will take, for each stage.

        Raises:
            InputError: as `draws`.
        """
        found, (height, width) = [], subject.given["low"].shape[-2:]
        for stage, _ in self.stages:
            height, width = height * _task(stage).scale, width * _task(stage).scale
            found.append(estimated(stage, (height, width), replace(self._how, draws=count)))
        return found


class Restore(_Drawn):
    """A photograph restored by a model trained for one of Palette's tasks.

    Colourisation keeps the luma of a grey picture (of one in colours it takes the luma); JPEG
    restoration reads JPEG files and keeps their coefficients; inpainting and uncropping want a
    region and keep every other pixel.  Any size; alpha, 16 bits, colour profile and EXIF are kept.

    Args:
        task: which task of a model that was trained for several; others say it themselves.
        steps: of the sampler; more is slower.
        seed: the same seed gives the same picture.
        mean_of: draws to average: closer on average, and smoother.
        sampler: rule of a step.
        tile: side of a tile of the result, in pixels; bounds the memory.
        overlap: pixels that tiles share.
        mask: picture of the photographs' size: white is to be filled.
        invert: white in the mask is to be kept instead.
        box: rectangles to fill, each ``x,y,width,height``.
        transparent: fill what a photograph's alpha makes transparent.
        extend: sides by which the canvas grows, each as ``right=25%`` or ``left=64``.
        grow: pixels by which the region grows.
        feather: pixels around the region over which the result is blended.
    """

    def __init__(
        self,
        machine: Machine,
        checkpoint: Path,
        *,
        task: Which | None = None,
        steps: Annotated[int, Ge(2)] = 4,
        seed: Annotated[int, Ge(0)] = 0,
        mean_of: Annotated[int, Ge(1)] = 1,
        sampler: Annotated[Spec, "sampler"] = Spec("core/ancestral"),
        tile: Annotated[int, Ge(64)] = 512,
        overlap: Annotated[int, Ge(0)] = 64,
        mask: Path | None = None,
        invert: bool = False,
        box: tuple[str, ...] = (),
        transparent: bool = False,
        extend: tuple[str, ...] = (),
        grow: Annotated[int, Ge(0)] = 0,
        feather: Annotated[int, Ge(0)] = 0,
    ) -> None:
        solver = configure("sampler", sampler)()
        self._region = Region(mask, invert, box, transparent, extend, grow, feather)
        model = self._model = _restorer(checkpoint, machine, task)
        _check_region(self._region, model.task)
        tiled(model.denoise, tile=tile, overlap=overlap)  # refuses tiles that share too much
        grid = configure("grid", Spec("core/uniform_time", {"steps": steps}))(model.process)
        self._how = How(
            solver=solver, grid=grid, seed=seed, draws=mean_of, tile=tile, overlap=overlap
        )
        self.about = {
            "task": model.request.task.name,
            **(self._region.about if isinstance(model.task, Inpaint) else {}),
            "steps": steps,
            "seed": seed,
            "mean_of": mean_of,
            "sampler": plain(sampler),
            "tile": tile,
            "overlap": overlap,
            "checkpoint": model.checkpoint.name,
            "model": plain(model.request),
        }
        """Everything that decided the pixels but the picture, as JSON's types."""

    @staticmethod
    def result_name(name: str) -> str:
        """The name itself where that format keeps every bit; others get ``.png`` behind it."""
        kept = Path(name).suffix.lower() in (".png", ".tif", ".tiff", ".webp")
        return name if kept else f"{name}.png"

    def subject(self, photo: Path, picture: Picture) -> Subject:
        """The picture as the model sees it.

        Raises:
            InputError: a region that does not fit it, or for JPEG restoration no JPEG file.
        """
        task = self._model.task
        if isinstance(task, Colourise):
            return colourised(task, picture)
        if isinstance(task, JPEG):
            return repaired(task, picture, photo)
        assert isinstance(task, Inpaint), "checked when it was loaded"
        picture, fill = self._region.on(picture, needed=True)
        assert fill is not None, "a region was needed"
        feather, reach = self._region.feather, self._how.tile
        return completed(task, picture, fill, feather=feather, reach=reach)

    def draws(
        self, subject: Subject, count: int, *, emit: Emit = silent
    ) -> Iterator[Float[Tensor, " 3 h w"]]:
        """Draws of what the picture was.

        Raises:
            InputError: the result would not fit into memory.
        """
        given = {name: value.to(self._model.device) for name, value in subject.given.items()}
        for drawn in restored(self._model, given, replace(self._how, draws=count), emit=emit):
            yield subject.place(drawn[0].cpu())

    def takes(self, subject: Subject, count: int) -> list[Estimate]:
        """What so many draws will take.

        Raises:
            InputError: as `draws`.
        """
        found = estimated(self._model, subject.size, replace(self._how, draws=count))
        return [found._replace(size=subject.result)]


def _restorer(checkpoint: Path, machine: Machine, which: Which | None) -> Model:
    """A model that restores, for the task that is wanted of it.

    Raises:
        InputError: one that was trained for something else, or for several where none is named.
    """
    model = load_model(checkpoint, machine=machine)
    for note in model.notes:
        print(note, file=sys.stderr)
    trained, tasks = model.request.task.name, ", ".join(get_args(Which))
    if isinstance(model.task, MultiTask):
        if which is None:
            raise InputError(f"task: the model was trained for several; name one of {tasks}")
        return for_task(model, Spec(f"image2image/{which}", {"target": model.task.target}))
    if not isinstance(model.task, Colourise | Inpaint | JPEG):
        raise InputError(
            f"{checkpoint}: trained for {trained}, wanted a model of image2image/multitask, {tasks}"
        )
    if which is not None and trained != f"image2image/{which}":
        raise InputError(
            f"task: the model was trained for {trained}, {which} was asked; leave it out"
        )
    return model


def _check_region(region: Region, task: Task) -> None:
    said = region.mask or region.boxes or region.transparent or region.extend
    if isinstance(task, Inpaint) and not said:
        raise InputError("nothing says what to fill; give mask, box, transparent or extend")
    if not isinstance(task, Inpaint) and region != Region():
        raise InputError(
            "mask, box, transparent, extend, grow, feather: the model restores whole pictures; "
            "leave them out"
        )


def _enlarger(checkpoint: Path, machine: Machine) -> Model:
    """A model that enlarges; says what was noticed when it was read."""
    model = load_model(checkpoint, machine=machine, task="image2image/sr3")
    for note in model.notes:
        print(note, file=sys.stderr)
    return model


def _task(model: Model) -> SR3:
    assert isinstance(model.task, SR3), "load_model was asked for it"
    return model.task


TILE, SHARED = 512, 64  # side of a tile, and what tiles share, in pixels
FIELDS = 12  # float32 fields of a picture's size that live at once


class Purify:
    """A picture purified by an unconditional model, as a file of the same name.

    Any size, in tiles of 512 pixels; alpha, 16 bits, colour profile and EXIF are kept.  A grey
    picture goes through a model of colours as equal channels and comes back as their mean; a colour
    picture wants such a model.

    Args:
        level: t*, a time of the model's process; more removes more of an attack, and of the
            picture.
        steps: of the sampler; more is slower.
        seed: the same seed gives the same picture.
        sampler: rule of a step; one that draws noise.
    """

    suffixes: ClassVar[tuple[str, ...]] = tuple(SUFFIXES)

    def __init__(
        self,
        machine: Machine,
        checkpoint: Path,
        *,
        level: Annotated[float, Gt(0)] = 0.1,
        steps: Annotated[int, Ge(1)] = 20,
        seed: Annotated[int, Ge(0)] = 0,
        sampler: Annotated[Spec, "sampler"] = Spec("core/euler_maruyama"),
    ) -> None:
        solver = configure("sampler", sampler)()
        self._model, self._seed = load_prior(checkpoint, machine), seed
        check_level(self._model.process, level)
        for note in self._model.notes:
            print(note, file=sys.stderr)
        self._how: dict[str, Any] = {"level": level, "steps": steps, "solver": solver}

    @staticmethod
    def result_name(name: str) -> str:
        """The name itself, and with it the format."""
        return name

    def __call__(self, source: Path, target: Path) -> Mapping[str, Any]:
        """Purify one picture into a new file.

        Returns:
            ``changed``, the root mean square change of a pixel in [-1, 1], and ``notes``.

        Raises:
            InputError: `source` is no picture that can be used, or cannot be held by the format
                that `target` names.
        """
        picture = read_picture(source)
        size = picture.pixels.shape[1:]
        check_writable(target, alpha=picture.alpha is not None, depth=picture.depth, size=size)
        result = self.purify(picture)
        write_picture(target, result)
        change = (result.pixels - picture.pixels).square().mean().sqrt()
        return {"changed": round(float(change), 6), "notes": list(picture.notes)}

    def purify(self, picture: Picture) -> Picture:
        """The picture, purified.

        Raises:
            InputError: a colour picture for a model of grey ones, or one too large for the memory.
        """
        x, channels = picture.pixels[None].to(self._model.device), self._model.task.channels
        if x.shape[1] not in (1, channels):
            raise InputError(
                f"the picture has {x.shape[1]} channels, the model {channels}; give a grey picture "
                "or a model of colours"
            )
        height, width = x.shape[-2:]
        # A network's coarsest level wants more than one cell: one alone has no variance.
        least = 2 * max(getattr(self._model.network, "multiples", (1,)))
        rows, columns = (mirrored(side, max(side, least)).to(x.device) for side in (height, width))
        check_memory(FIELDS, channels, len(rows), len(columns))
        wide = x.expand(-1, channels, -1, -1)[..., rows, :][..., columns]
        denoise = tiled(self._model.denoise, tile=TILE, overlap=SHARED)
        noise = Noise.of(self._seed, "purify", each=[0])
        found = purify(denoise, wide, noise, **self._how)
        pixels = found[0, :, :height, :width].clamp(-1, 1).cpu()
        return replace(picture, pixels=pixels.mean(0, keepdim=True) if x.shape[1] == 1 else pixels)
