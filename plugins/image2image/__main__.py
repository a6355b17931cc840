"""``python -m plugins.image2image``: what a user with photographs would say."""

import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from core.cli import run_app
from core.errors import InputError
from plugins.image2image.editing_commands import edit, guide, repaint
from plugins.image2image.purify_command import purify

app = typer.Typer(
    help="Your own photographs made larger, edited, completed and purified.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _verbs() -> None:
    """Your own photographs made larger, edited, completed and purified."""


app.command()(edit)
app.command()(guide)
app.command()(purify)
app.command()(repaint)


@app.command()
def upscale(
    photos: Annotated[list[Path], typer.Argument(help="Pictures: PNG, JPEG, TIFF, WebP, BMP.")],
    checkpoint: Annotated[Path, typer.Option(help="Folder that `polymode train` wrote.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File for one picture, folder for several.")
    ],
    scale: Annotated[
        int | None, typer.Option(min=2, help="Factor; must be the one the model was trained for.")
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the sampler; more is slower.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same picture.")] = 0,
    mean_of: Annotated[
        int, typer.Option(min=1, help="Average so many draws: closer on average, and smoother.")
    ] = 1,
    sampler: Annotated[str, typer.Option(help="See `polymode list sampler`.")] = "core/ancestral",
    tile: Annotated[int, typer.Option(min=64, help="Side of a tile; bounds the memory.")] = 512,
    overlap: Annotated[int, typer.Option(min=0, help="Pixels that tiles share.")] = 64,
    record: Annotated[bool, typer.Option(help="Write the settings beside it, as .json.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
) -> None:
    """Enlarge pictures with a trained SR3 model.

    Any size; RGB or grey; alpha, 16 bits, colour profile and EXIF are kept.

    Example: python -m plugins.image2image upscale photo.png --checkpoint runs/sr3 -o large.png
    """
    jobs = _targets(photos, out)
    from plugins.image2image import io

    # Everything that can be wrong is found before the slow part, and before torch is needed.
    pictures = [io.read(photo) for photo, _ in jobs]
    for (_, target), picture in zip(jobs, pictures, strict=True):
        io.check_writable(target, alpha=picture.alpha is not None, depth=picture.depth)
    from core.config import Spec, configure
    from core.progress import listener
    from core.request import Machine

    options = {
        "scale": scale, "steps": steps, "seed": seed, "mean_of": mean_of, "sampler": sampler,
        "tile": tile, "overlap": overlap,
    }  # fmt: skip
    machine = Machine(device=device, threads=threads)
    upscaler = configure("predictor", Spec("image2image/upscale", options))(machine, checkpoint)
    for (photo, target), picture in zip(jobs, pictures, strict=True):
        for note in picture.notes:
            print(f"{photo.name}: {note}", file=sys.stderr)
        with listener(f"upscale {photo.name}") as emit:
            result = upscaler.enlarge(picture, emit=emit)
        io.write(target, result)
        if record:
            text = json.dumps({"input": photo.name, **upscaler.about}, indent=1)
            target.with_suffix(".json").write_text(text + "\n")
        print(target)


def _targets(photos: list[Path], out: Path) -> list[tuple[Path, Path]]:
    """Which file each picture is written to.

    Raises:
        InputError: several pictures for one file, or a result that would replace its own input.
    """
    if len(photos) == 1 and not out.is_dir():
        jobs = [(photos[0], out)]
    elif out.suffix and not out.is_dir():
        raise InputError(f"{out}: {len(photos)} pictures need a folder; give one with -o")
    else:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{out}: cannot be made: {error.strerror}") from error
        jobs = [(photo, out / photo.name) for photo in photos]
    for photo, target in jobs:
        if target.exists() and photo.exists() and target.samefile(photo):
            raise InputError(f"{target}: would replace the picture itself; choose another name")
    names = [target for _, target in jobs]
    doubled = sorted({str(name) for name in names if names.count(name) > 1})
    if doubled:
        raise InputError(f"{doubled[0]}: two pictures of that name; enlarge them one by one")
    return jobs


def main() -> NoReturn:
    """The entry point."""
    run_app(app)


if __name__ == "__main__":
    main()
