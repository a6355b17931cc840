"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Photos = Annotated[list[Path], typer.Argument(help="Pictures: PNG, JPEG, TIFF, WebP, BMP.")]
Places = Annotated[
    Path, typer.Option("--out", "-o", help="File for one picture, folder for several.")
]
Samples = Annotated[int, typer.Option(min=1, help="Draws, each a file, and a contact sheet.")]
MeanOf = Annotated[
    int, typer.Option(min=1, help="Average so many draws: closer on average, and smoother.")
]
Deviation = Annotated[
    Path | None,
    typer.Option(help="Also a map of what the draws do not agree on: white is 64 levels or more."),
]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same pictures.")]
Sampler = Annotated[str, typer.Option(help="See `polymode list sampler`.")]
TileSide = Annotated[int, typer.Option(min=64, help="Side of a tile; bounds the memory.")]
Shared = Annotated[int, typer.Option(min=0, help="Pixels that tiles share.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what it would take, and write nothing.")
]
Record = Annotated[bool, typer.Option(help="Write the settings beside it, as .json.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")]


MaskFile = Annotated[
    Path | None, typer.Option("--mask", help="Picture of the same size: white is to be filled.")
]
Invert = Annotated[bool, typer.Option("--invert", help="White in the mask is to be kept instead.")]
Boxes = Annotated[
    list[str] | None,
    typer.Option("--box", metavar="X,Y,W,H", help="Fill a rectangle, in pixels; repeatable."),
]
Transparent = Annotated[
    bool, typer.Option("--transparent", help="Fill what the picture's alpha makes transparent.")
]
Extend = Annotated[
    list[str] | None,
    typer.Option(
        "--extend", metavar="SIDE=N", help="Grow the canvas, as right=25% or top=64; repeatable."
    ),
]
Grow = Annotated[int, typer.Option(min=0, max=1024, help="Let the mask grow by so many pixels.")]
Feather = Annotated[
    int, typer.Option(min=0, max=1024, help="Blend over so many pixels around the mask.")
]
