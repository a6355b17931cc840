"""``restore`` and ``upscale``: models trained for it at work on photographs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from plugins.image2image.commands.options import (
    Boxes,
    Deviation,
    Device,
    DryRun,
    Extend,
    Feather,
    Grow,
    Invert,
    MaskFile,
    MeanOf,
    Photos,
    Places,
    Record,
    Sampler,
    Samples,
    Seed,
    Shared,
    Threads,
    TileSide,
    Transparent,
)
from plugins.image2image.commands.pictures import Order, Restorer
from plugins.image2image.inference.region import Region


def restore(
    photos: Photos,
    checkpoint: Annotated[
        Path, typer.Option(help="Folder of a model of Palette's tasks that `polymode train` wrote.")
    ],
    out: Places,
    task: Annotated[
        str | None,
        typer.Option(help="Of a model of several: colourise, inpaint, uncrop or jpeg."),
    ] = None,
    mask: MaskFile = None,
    invert: Invert = False,
    box: Boxes = None,
    transparent: Transparent = False,
    extend: Extend = None,
    grow: Grow = 0,
    feather: Feather = 0,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the sampler; more is slower.")] = 4,
    samples: Samples = 1,
    mean_of: MeanOf = 1,
    deviation: Deviation = None,
    seed: Seed = 0,
    sampler: Sampler = "core/ancestral",
    tile: TileSide = 512,
    overlap: Shared = 64,
    dry_run: DryRun = False,
    record: Record = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Colour grey pictures, mend JPEG files, fill holes, continue pictures beyond their edges.

    The model says which.  What is known stays exactly: the luma of a grey picture, the coefficients
    of a JPEG file, every pixel outside the region.  In a folder results that would be JPEG or BMP
    are PNG, named photo.jpg.png.

    Examples: polymode image2image restore old.jpg --checkpoint runs/jpeg -o new.png; or,
    of models that fill, --mask holes.png, --box 10,20,64,48 or --extend right=50%
    """
    region = Region(mask, invert, tuple(box or ()), transparent, tuple(extend or ()), grow, feather)
    options = {
        "task": task, "mask": mask, "invert": invert, "box": region.boxes,
        "transparent": transparent, "extend": region.extend, "grow": grow, "feather": feather,
        "steps": steps, "seed": seed, "mean_of": mean_of, "sampler": sampler,
        "tile": tile, "overlap": overlap,
    }  # fmt: skip

    def load() -> Restorer:
        return _loaded("image2image/restore", options, checkpoint, device, threads)

    from plugins.image2image.inference.predictors import Restore

    order = Order("restore", photos, out, samples, mean_of, deviation, dry_run, record)
    order.run(load, name=Restore.result_name, reads=[mask], exact=True)


def upscale(
    photos: Photos,
    checkpoint: Annotated[Path, typer.Option(help="Folder that `polymode train` wrote.")],
    out: Places,
    scale: Annotated[
        int | None, typer.Option(min=2, help="Factor; must be the one the model was trained for.")
    ] = None,
    then: Annotated[
        Path | None, typer.Option(help="A second model, which enlarges what the first gives.")
    ] = None,
    level: Annotated[
        float, typer.Option(min=0, help="Noise that the second is given with it, to be told of it.")
    ] = 0.0,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the sampler; more is slower.")] = 20,
    samples: Samples = 1,
    mean_of: MeanOf = 1,
    deviation: Deviation = None,
    seed: Seed = 0,
    sampler: Sampler = "core/ancestral",
    tile: TileSide = 512,
    overlap: Shared = 64,
    dry_run: DryRun = False,
    record: Record = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Enlarge pictures with a trained SR3 model, or with two of them one after the other.

    Any size; RGB or grey; alpha, 16 bits, colour profile and EXIF are kept.

    Example: polymode image2image upscale photo.png --checkpoint runs/sr3 -o large.png
    """
    options = {
        "scale": scale, "then": then, "level": level, "steps": steps, "seed": seed,
        "mean_of": mean_of, "sampler": sampler, "tile": tile, "overlap": overlap,
    }  # fmt: skip

    def load() -> Restorer:
        return _loaded("image2image/upscale", options, checkpoint, device, threads)

    Order("upscale", photos, out, samples, mean_of, deviation, dry_run, record).run(load)


def _loaded(
    name: str, options: dict[str, Any], checkpoint: Path, device: str, threads: int | None
) -> Restorer:
    from core.parts.config import configure
    from core.parts.registry import Spec
    from core.request import Machine

    machine = Machine(device=device, threads=threads)
    return configure("predictor", Spec(name, options))(machine, checkpoint)
