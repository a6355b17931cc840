"""The predictor that purifies an image file."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt

from core.denoiser.tiles import check_memory, continued, tiled
from core.errors import InputError
from core.images import formats
from core.images.pictures import Picture
from core.images.reading import read_picture
from core.images.writing import check_writable, write_picture
from core.parts.config import configure
from core.parts.registry import Spec
from core.process.noise import Noise
from core.progress import print_note
from core.request import Machine
from plugins.image2image.inference.colours import shown_colours, with_colours_of
from plugins.image2image.inference.image_files import ImageFiles
from plugins.image2image.inference.purify import check_level, load_prior, purify
from plugins.image2image.request import OutputOptions

TILE, SHARED = 512, 64  # side of a tile, and what tiles share, in pixels
FIELDS = 12  # float32 fields of an image's size that live at once


class Purify(ImageFiles):
    """Purification of an image file by an unconditional model; the output has the same name.

    Any size, in tiles of 512 pixels; alpha, 16 bits, colour profile and EXIF are kept.  A
    colour model is given a grey image as three equal channels and returns their mean; a colour
    image requires a colour model.

    Args:
        level: diffusion time t* of the model's process; larger removes more of a perturbation and
            of the image.
        steps: sampler steps; more is slower.
        seed: random seed; the same seed repeats the output.
        sampler: a stochastic sampler.
        output: a group of options.
    """

    def __init__(
        self,
        machine: Machine,
        checkpoint: Path,
        *,
        level: Annotated[float, Gt(0)] = 0.1,
        steps: Annotated[int, Ge(1)] = 20,
        seed: Annotated[int, Ge(0)] = 0,
        sampler: Annotated[Spec, "sampler"] = Spec("core/euler_maruyama"),
        output: OutputOptions = OutputOptions(),
    ) -> None:
        formats.check_options(vars(output))
        self._output = output
        solver = configure("sampler", sampler)()
        self._model, self._seed = load_prior(checkpoint, machine, emit=print_note), seed
        check_level(self._model.process, level)
        self._options: dict[str, Any] = {"level": level, "steps": steps, "solver": solver}

    def __call__(self, source: Path, target: Path) -> Mapping[str, Any]:
        """Write one purified image file.

        Returns:
            ``changed``, the root mean square change of a pixel in [-1, 1], and ``notes``.

        Raises:
            InputError: `source` cannot be used, or the format of `target` cannot hold the result.
        """
        picture = read_picture(source)
        size = picture.pixels.shape[1:]
        check_writable(target, alpha=picture.alpha is not None, depth=picture.depth, size=size)
        result = self.purify(picture)
        write_picture(target, result, quality=self._output.quality, strip=self._output.strip)
        change = (result.pixels - picture.pixels).square().mean().sqrt()
        return {"changed": round(float(change), 6), "notes": list(picture.notes)}

    def purify(self, picture: Picture) -> Picture:
        """The image, purified.

        Raises:
            InputError: a colour image for a grey model, or one too large for the memory.
        """
        x, channels = shown_colours(picture)[None], self._model.task.channels
        if x.shape[1] not in (1, channels):
            raise InputError(
                f"the image has {x.shape[1]} channels, the model {channels}; give a grey image or "
                "use a colour model"
            )
        height, width = x.shape[-2:]
        # The coarsest level of a network needs more than one cell: one alone has no variance.
        least = 2 * max(getattr(self._model.network, "multiples", (1,)))
        sides, device = [max(side, least) for side in (height, width)], self._model.device
        check_memory(FIELDS, channels, *sides, device=device)  # before any of it is moved there
        wide = continued(x.expand(-1, channels, -1, -1).to(device), sides)
        denoise = tiled(self._model.denoise, tile=TILE, overlap=SHARED)
        noise = Noise.of(self._seed, "purify", each=[0])
        found = purify(denoise, wide, noise, **self._options)
        pixels = found[0, :, :height, :width].clamp(-1, 1).cpu()
        return replace(picture, pixels=with_colours_of(picture.pixels, pixels))
