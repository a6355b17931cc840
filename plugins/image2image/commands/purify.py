"""``polymode image2image purify``: a picture without what was added to it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from plugins.image2image.commands.pictures import check_kept


def purify(
    photo: Annotated[Path, typer.Argument(help="A picture: PNG, JPEG, TIFF, WebP, BMP.")],
    checkpoint: Annotated[
        Path, typer.Option(help="Folder of an unconditional model that `polymode train` wrote.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    level: Annotated[
        float, typer.Option(help="Time of the process to diffuse to; more removes more.")
    ] = 0.1,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler; more is slower.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same picture.")] = 0,
    sampler: Annotated[
        str, typer.Option(help="See `polymode list sampler`.")
    ] = "core/euler_maruyama",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
) -> None:
    """Diffuse a picture to some level and bring it back: small things added to it are lost.

    What an attacker who knows of this still achieves is measured by the verb
    image2image/robustness; see README.md.

    Example: polymode image2image purify digit.png --checkpoint runs/digits -o clean.png
    """
    check_kept([out], [photo])
    from plugins.image2image.io.reading import read_picture
    from plugins.image2image.io.writing import check_writable, write_picture

    # Everything that can be wrong is found before the slow part.
    picture = read_picture(photo)
    size = picture.pixels.shape[1:]
    check_writable(out, alpha=picture.alpha is not None, depth=picture.depth, size=size)
    from core.parts.config import configure
    from core.parts.registry import Spec
    from core.request import Machine

    options = {"level": level, "steps": steps, "seed": seed, "sampler": sampler}
    machine = Machine(device=device, threads=threads)
    purifier = configure("predictor", Spec("image2image/purify", options))(machine, checkpoint)
    for note in picture.notes:
        print(f"{photo.name}: {note}", file=sys.stderr)
    write_picture(out, purifier.purify(picture))
    print(out)
