"""``polymode video predict``, ``interpolate``, ``fill`` and ``generate``: clips in, clips out."""

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.commands import Checkpoint, OnMachine, Overwrite, check_new
from core.request import Machine
from plugins.video.request import DrawOptions

if TYPE_CHECKING:
    from plugins.video.inference.clips import Wanted

ClipPath = Annotated[Path, typer.Argument(help="A video file, or a folder of images.")]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", help="Video file (.mp4, .mov, .mkv, .webm, .gif) or PNG folder."),
]
Lossless = Annotated[bool, typer.Option("--lossless", help="Keep every bit of RGB (.mkv, folder).")]


def predict(
    clip: ClipPath,
    checkpoint: Checkpoint,
    out: Out,
    context: Annotated[int, typer.Option(min=1, help="Frames that are given.")] = 8,
    frames: Annotated[int, typer.Option(min=1, help="Frames that are predicted.")] = 8,
    backward: Annotated[
        bool, typer.Option("--backward", help="Predict what came before the first frames.")
    ] = False,
    lossless: Lossless = False,
    overwrite: Overwrite = False,
    *,
    draw: DrawOptions,
    machine: OnMachine,
) -> None:
    """Predict the frames behind a clip's last ones; the output holds those and the new ones.

    Example: polymode video predict clip.mp4 --checkpoint runs/mine --frames 16 -o longer.mp4
    """
    from plugins.video.inference.clips import predicted
    from plugins.video.io.reading import read_index

    wanted = predicted(read_index(clip), context, frames, backward=backward)
    _make("predict", wanted, checkpoint, out, draw, lossless, overwrite, machine)


def interpolate(
    clip: ClipPath,
    checkpoint: Checkpoint,
    out: Out,
    factor: Annotated[int, typer.Option(min=2, help="How many times the frame rate.")] = 2,
    cuts: Annotated[
        bool, typer.Option("--cuts/--no-cuts", help="Draw nothing across a cut between scenes.")
    ] = True,
    lossless: Lossless = False,
    overwrite: Overwrite = False,
    *,
    draw: DrawOptions,
    machine: OnMachine,
) -> None:
    """Raise the frame rate: new frames between those of a clip, which keep their times.

    Example: polymode video interpolate clip.mp4 --checkpoint runs/mine --factor 2 -o smooth.mp4
    """
    from plugins.video.inference.clips import interpolated
    from plugins.video.io.reading import read_index

    wanted = interpolated(read_index(clip), factor, scenes=cuts)
    _make("interpolate", wanted, checkpoint, out, draw, lossless, overwrite, machine)


def fill(
    folder: Annotated[Path, typer.Argument(help="Folder of numbered images, some missing.")],
    checkpoint: Checkpoint,
    out: Out,
    lossless: Lossless = False,
    overwrite: Overwrite = False,
    *,
    draw: DrawOptions,
    machine: OnMachine,
) -> None:
    """Draw the frames whose numbers are missing in a folder of images.

    Example: polymode video fill frames --checkpoint runs/mine -o whole
    """
    from plugins.video.inference.clips import filled
    from plugins.video.io.reading import read_index

    wanted = filled(read_index(folder))
    _make("fill", wanted, checkpoint, out, draw, lossless, overwrite, machine)


def generate(
    checkpoint: Checkpoint,
    out: Out,
    frames: Annotated[int, typer.Option(min=1, help="Frames of the clip.")] = 16,
    rate: Annotated[int, typer.Option(min=1, help="Frames a second.")] = 8,
    lossless: Lossless = False,
    overwrite: Overwrite = False,
    *,
    draw: DrawOptions,
    machine: OnMachine,
) -> None:
    """Generate a clip from nothing, of any length.

    Example: polymode video generate --checkpoint runs/digits --frames 64 -o digits.mp4
    """
    from plugins.video.inference.clips import Wanted

    wanted = Wanted(None, {}, frames, Fraction(rate))
    _make("generate", wanted, checkpoint, out, draw, lossless, overwrite, machine)


def _make(
    label: str, wanted: "Wanted", checkpoint: Path, out: Path, draw: DrawOptions, lossless: bool,
    overwrite: bool, machine: Machine,
) -> None:  # fmt: skip
    from core.progress import listener
    from plugins.video.inference.clips import make_clip

    check_new([out], overwrite=overwrite)
    with listener(label) as emit:
        made = make_clip(
            wanted, checkpoint, out, draw, lossless=lossless, machine=machine, emit=emit
        )
    print(made)
