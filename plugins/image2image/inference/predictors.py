"""Predictors: an image file upscaled, restored or purified into another."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor

from core.denoiser.tiles import Cost, free_memory, tiled
from core.errors import InputError
from core.images import formats
from core.images.pictures import Picture
from core.images.reading import read_picture
from core.images.stripes import check_striped, write_stripes
from core.images.writing import write_picture
from core.model import Model, for_task, guided_by_default, load_model
from core.parts.config import configure, plain
from core.parts.registry import Spec
from core.progress import print_note
from core.request import Count, Emit, Machine, silent
from core.sampler.draws import summary
from core.task import Task
from plugins.image2image.inference.draws import (
    FIELDS,
    Sampling,
    default_drawing,
    draw_cascade,
    draw_restorations,
    estimate_cost,
)
from plugins.image2image.inference.image_files import ImageFiles
from plugins.image2image.inference.input_image import (
    InputImage,
    for_colourisation,
    for_inpainting,
    for_jpeg,
    for_upscaling,
)
from plugins.image2image.inference.region import Region, mask_beside
from plugins.image2image.inference.stripes import (
    Stripe,
    draw_stripes,
    finished_rows,
    parse_size,
    planned,
    striped_cost,
)
from plugins.image2image.request import DrawOptions, OutputOptions, RestorationTask
from plugins.image2image.tasks.colourise import Colourise
from plugins.image2image.tasks.inpaint import Inpaint, Uncrop
from plugins.image2image.tasks.jpeg import JPEG
from plugins.image2image.tasks.multiscale import MultiScale
from plugins.image2image.tasks.multitask import MultiTask
from plugins.image2image.tasks.super_resolution import SR3


class _MeanOfDraws(ImageFiles, ABC):
    """Predictors that sample: the output file is the mean of some draws."""

    _sampling: Sampling
    _output: OutputOptions

    @property
    def mean_of(self) -> int:
        """Number of draws averaged into a result."""
        return self._sampling.draws

    @abstractmethod
    def prepare(self, path: Path, picture: Picture) -> InputImage:
        """The image file as the model's input."""

    @abstractmethod
    def draws(
        self, image: InputImage, count: int, *, emit: Emit = silent
    ) -> Iterator[Float[Tensor, " 3 h w"]]:
        """Posterior draws of the result."""

    def write_in_stripes(self, image: InputImage, target: Path, *, emit: Emit = silent) -> bool:
        """Whether the result does not fit into memory and was written from the top in stripes."""
        return False

    def __call__(self, source: Path, target: Path) -> Mapping[str, Any]:
        """Write the mean of some draws for one image file.

        Returns:
            ``size``, width and height of the result, and ``notes`` of what reading discarded.

        Raises:
            InputError: `source` cannot be used, or the format of `target` cannot hold the result.
        """
        picture = read_picture(source)
        image = self.prepare(source, picture)
        image.check_writable(target)
        if self.write_in_stripes(image, target):
            return {"size": list(image.result_size[::-1]), "notes": list(image.picture.notes)}
        result = image.finish(summary(self.draws(image, self._sampling.draws)).mean)
        write_picture(target, result, quality=self._output.quality, strip=self._output.strip)
        return {"size": list(result.pixels.shape[:0:-1]), "notes": list(image.picture.notes)}


class Upscale(_MeanOfDraws):
    """Super-resolution of an image file by a trained SR3 model; the output has the same name.

    Any size; RGB or grey; alpha, 16 bits, colour profile and EXIF are kept.

    Args:
        scale: upscaling factor, above 1; by default the model's, or the largest of a model of
            ``image2image/multiscale``, which draws at the others too.  Another is reached by the
            model, as often as needed, and an antialiased reduction whose result is consistent with
            the image.
        width: width of the result in pixels, instead of a factor.
        height: height of the result in pixels; with `width` alone the proportions are kept.
        drawing: a group of options.
        output: a group of options.
        then: checkpoint of a second model, which upscales the output of the first: a cascade.
        level: standard deviation of the noise added before the second model (conditioning
            augmentation), at most its ``augment``.
        memory: memory for the result's fields, such as ``2GiB``; a larger result at the model's
            factor is written in stripes, as PNG or TIFF.  By default what is free, and half of it
            where that does not suffice.
    """

    def __init__(
        self,
        machine: Machine,
        checkpoint: Path,
        *,
        scale: Annotated[float, Gt(1)] | None = None,
        width: Count | None = None,
        height: Count | None = None,
        drawing: DrawOptions = DrawOptions(),
        output: OutputOptions = OutputOptions(),
        then: Path | None = None,
        level: Annotated[float, Ge(0)] = 0.0,
        memory: str | None = None,
    ) -> None:
        formats.check_options(vars(output))
        self._memory = None if memory is None else parse_size(memory)
        folders = [(checkpoint, 0.0), *([] if then is None else [(then, level)])]
        self.stages = [(_load_sr3(folder, machine), noise) for folder, noise in folders]
        model = self.stages[0][0]
        if then is not None and any(isinstance(m.task, MultiScale) for m, _ in self.stages):
            raise InputError("then: expected two models of one factor each; leave it out")
        if scale is not None and (width or height):
            raise InputError("scale: excludes width and height; leave one of them out")
        self._scale, self._width, self._height = scale, width, height
        trained = self._trained = math.prod(_largest_scale(stage) for stage, _ in self.stages)
        if level and then is None:
            raise InputError("level: applies to the input of a second model; name one with then")
        self._sampling, self._output = _sampling(model, drawing), output
        self.checkpoint = model.checkpoint
        self.about = {
            "scale": scale or trained,
            "width": width,
            "height": height,
            **plain(drawing),
            **plain(drawing.drawing(default_drawing(model))),
            **plain(output),
            "level": level,
            "model": plain(model.request),
        }
        if then is not None:
            second = self.stages[1][0]
            self.about |= {"then": second.checkpoint.name, "second": plain(second.request)}

    def prepare(self, path: Path, picture: Picture) -> InputImage:
        """The image file as the model's input."""
        height, width = picture.pixels.shape[1:]
        tasks = [_sr3(stage) for stage, _ in self._stages(height, width)]
        return for_upscaling(tasks, picture, path, self._result_size(height, width))

    def _factors(self, height: int, width: int) -> tuple[int | float, int | float]:
        """Those of height and width, as they were stated."""
        across = self._width and self._width / width
        down = self._height and self._height / height
        scale = self._scale or across or down or self._trained
        return down or across or scale, across or down or scale

    def _result_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result.

        Raises:
            InputError: it would be smaller than the image.
        """
        down, across = self._factors(height, width)
        found, wide = round(down * height), round(across * width)
        if found < height or wide < width:
            raise InputError(
                f"width, height: expected at least {width}x{height}, the image's, got "
                f"{wide}x{found}; reduce it with an image editor instead"
            )
        return found, wide

    def _stages(self, height: int, width: int) -> list[tuple[Model, float]]:
        """The models in turn, repeated until they reach the result's size."""
        factor, count = max(self._factors(height, width)), 1
        while self._trained**count < factor - 1 / min(height, width):  # sides are rounded
            count += 1
        model = self.stages[0][0]
        if isinstance(model.task, MultiScale):
            each = min(max(factor ** (1 / count), model.task.least), model.task.most)
            return [(for_task(model, model.task.spec(each)), 0.0)] * count
        return self.stages * count

    def draws(
        self, image: InputImage, count: int, *, emit: Emit = silent
    ) -> Iterator[Float[Tensor, " 3 h w"]]:
        """Draws of the upscaled image.

        Raises:
            InputError: the result would not fit into memory.
        """
        low = image.batch["low"].to(self.stages[0][0].device)
        stages = self._stages(*low.shape[-2:])
        for draw in draw_cascade(stages, low, replace(self._sampling, draws=count), emit=emit):
            yield image.paste(draw[0].cpu())

    def write_in_stripes(self, image: InputImage, target: Path, *, emit: Emit = silent) -> bool:
        """Whether the result does not fit into memory and was written from the top in stripes.

        Raises:
            InputError: no stripe fits, or the format is not written in stripes.
        """
        stripes = self._stripes(image)
        if not stripes:
            return False
        check_striped(target)
        low = image.batch["low"]
        model, _ = self._stages(*low.shape[-2:])[0]
        drawn = draw_stripes(model, low, self._sampling, stripes, emit=emit)
        pictures = (finished_rows(image.picture, stripe, rows) for stripe, rows in drawn)
        strip = self._output.strip
        write_stripes(target, image.picture, image.result_size, pictures, strip=strip)
        return True

    def _stripes(self, image: InputImage) -> list[Stripe]:
        """The stripes of a result that does not fit into memory; none of one that does.

        Raises:
            InputError: no stripe fits.
        """
        low = image.batch["low"]
        (model, _), *more = self._stages(*low.shape[-2:])
        free = free_memory(model.device)
        needed = FIELDS * 3 * 4 * math.prod(image.model_size)
        striped = not more and _sr3(model).scale % 1 == 0 and image.model_size == image.result_size
        if needed <= (self._memory or free) or not striped:
            return []
        return planned(model, low.shape[-2:], self._sampling, self._memory or free // 2)

    def costs(self, image: InputImage, count: int) -> list[Cost]:
        """Cost of `count` draws, for each stage; of a result in stripes, their memory.

        Raises:
            InputError: as `draws`.
        """
        sampling = replace(self._sampling, draws=count)
        if count == self._sampling.draws and (stripes := self._stripes(image)):
            model, _ = self._stages(*image.batch["low"].shape[-2:])[0]
            return [striped_cost(model, image.result_size, sampling, stripes)]
        found, size = [], (image.batch["low"].shape[-2], image.batch["low"].shape[-1])
        for stage, _ in self._stages(*size):
            size = _sr3(stage).operator.enlarged(size)
            found.append(estimate_cost(stage, size, sampling))
        return found


class Restore(_MeanOfDraws):
    """Restoration of an image file by a model trained for Palette's tasks.

    Colourisation keeps the luma of the image; JPEG restoration reads JPEG files and keeps their
    coefficients; inpainting and uncropping require a region and keep every other pixel.  Any size;
    alpha, 16 bits, colour profile and EXIF are kept.

    Args:
        task: the task of a model that was trained for several.
        drawing: a group of options.
        output: a group of options.
        region: a group of options.
    """

    lossless = True
    reads_by_option: ClassVar = {"mask": mask_beside}

    def __init__(
        self,
        machine: Machine,
        checkpoint: Path,
        *,
        task: RestorationTask | None = None,
        drawing: DrawOptions = DrawOptions(),
        output: OutputOptions = OutputOptions(),
        region: Region = Region(),
    ) -> None:
        formats.check_options(vars(output))
        self._region = region
        model = self._model = _load_restoration_model(checkpoint, machine, task)
        _check_region(self._region, model.task)
        self._sampling, self._output = _sampling(model, drawing), output
        self.checkpoint = model.checkpoint
        self.about = {
            "task": model.request.task.name,
            **(region.about if isinstance(model.task, Inpaint) else {}),
            **plain(drawing),
            **plain(drawing.drawing(default_drawing(model))),
            **plain(output),
            "model": plain(model.request),
        }

    def prepare(self, path: Path, picture: Picture) -> InputImage:
        """The image file as the model's input.

        Raises:
            InputError: a region that does not fit the image, or for JPEG restoration another file.
        """
        task = self._model.task
        if isinstance(task, Colourise):
            return for_colourisation(task, picture)
        if isinstance(task, JPEG):
            return for_jpeg(task, picture, path)
        assert isinstance(task, Inpaint), "checked when it was loaded"
        picture, fill = self._region.on(picture, path, needed=True)
        assert fill is not None, "a region was needed"
        feather, reach = self._region.feather, self._sampling.tile
        return for_inpainting(task, picture, fill, feather=feather, reach=reach)

    def draws(
        self, image: InputImage, count: int, *, emit: Emit = silent
    ) -> Iterator[Float[Tensor, " 3 h w"]]:
        """Draws of the restored image.

        Raises:
            InputError: the result would not fit into memory.
        """
        batch = {name: value.to(self._model.device) for name, value in image.batch.items()}
        sampling = replace(self._sampling, draws=count)
        for draw in draw_restorations(self._model, batch, sampling, emit=emit):
            yield image.paste(draw[0].cpu())

    def costs(self, image: InputImage, count: int) -> list[Cost]:
        """Cost of `count` draws.

        Raises:
            InputError: as `draws`.
        """
        found = estimate_cost(self._model, image.model_size, replace(self._sampling, draws=count))
        return [found._replace(size=image.result_size)]


def _sampling(model: Model, drawing: DrawOptions) -> Sampling:
    """How a model is sampled, by the options of a predictor.

    Raises:
        InputError: an overlap that leaves no step.
    """
    tiled(model.denoise, tile=drawing.tile, overlap=drawing.overlap)  # refuses such an overlap
    drawn = drawing.drawing(default_drawing(model))
    grid = Spec("core/uniform_time", {"steps": drawn.steps})
    return Sampling(
        solver=configure("sampler", drawing.sampler)(),
        grid=configure("grid", grid)(model.process),
        seed=drawing.seed,
        draws=drawn.mean_of,
        detail=drawn.detail,
        tile=drawing.tile,
        overlap=drawing.overlap,
    )


def _load_restoration_model(
    checkpoint: Path, machine: Machine, task: RestorationTask | None
) -> Model:
    """The model of a restoration task, for the task chosen.

    Raises:
        InputError: a model of another task, or of several tasks where none is chosen.
    """
    model = load_model(checkpoint, machine=machine, emit=print_note)
    model = guided_by_default(model, emit=print_note)
    trained, tasks = model.request.task.name, ", ".join(get_args(RestorationTask))
    if isinstance(model.task, MultiTask):
        if task is None:
            raise InputError(f"task: the model was trained for several; choose one of {tasks}")
        return for_task(model, Spec(f"image2image/{task}", {"target": model.task.target}))
    if not isinstance(model.task, Colourise | Inpaint | JPEG):
        raise InputError(
            f"{checkpoint}: trained for {trained}; expected image2image/multitask or a model of "
            f"{tasks}"
        )
    if task is not None and trained != f"image2image/{task}":
        raise InputError(
            f"task: expected {trained}, which the model was trained for, got image2image/{task}; "
            f"give a checkpoint of that task or of image2image/multitask"
        )
    return model


def _check_region(region: Region, task: Task) -> None:
    given = region.mask or region.box or region.transparent or region.extend
    if isinstance(task, Inpaint) and not given:
        one = (
            "extend, such as right=50%" if isinstance(task, Uncrop) else "mask, box or transparent"
        )
        raise InputError(f"no region to fill; give {one}")
    if not isinstance(task, Inpaint) and region != Region():
        raise InputError(
            "mask, box, transparent, extend, grow, feather: the model restores whole images; "
            "leave these out"
        )


def _load_sr3(checkpoint: Path, machine: Machine) -> Model:
    """The super-resolution model of a checkpoint; prints its notes."""
    tasks = ("image2image/sr3", "image2image/multiscale")
    model = load_model(checkpoint, machine=machine, task=tasks, emit=print_note)
    return guided_by_default(model, emit=print_note)


def _largest_scale(model: Model) -> int | float:
    """The factor of a model, or the largest of those that it draws at."""
    return model.task.most if isinstance(model.task, MultiScale) else _sr3(model).scale


def _sr3(model: Model) -> SR3:
    assert isinstance(model.task, SR3), "load_model was asked for it"
    return model.task
