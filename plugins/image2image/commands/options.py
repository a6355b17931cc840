"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

ImageFile = Annotated[
    Path, typer.Argument(metavar="IMAGE", help="Image file: PNG, JPEG, TIFF, WebP or BMP.")
]
ImageFiles = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGES...", help="Image files: PNG, JPEG, TIFF, WebP or BMP."),
]
OutputFile = Annotated[
    Path,
    typer.Option("--out", "-o", help="Output file; with `--samples` name-1, name-2, ..."),
]
OutputFileOrFolder = Annotated[
    Path, typer.Option("--out", "-o", help="Output: a file for one image, a folder for several.")
]

# Sampling.

UnconditionalCheckpoint = Annotated[
    Path,
    typer.Option(
        "--checkpoint",
        help="Folder of a model of task core/generate without conditions, trained or imported.",
    ),
]
Steps = Annotated[int, typer.Option(min=2, help="Sampler steps; more is slower.")]
Samples = Annotated[
    int, typer.Option(min=1, help="Number of draws, one output file each, and a contact sheet.")
]
MeanOf = Annotated[
    int,
    typer.Option(
        min=1, help="Number of draws averaged into the output: lower error, and smoother."
    ),
]
Deviation = Annotated[
    Path | None,
    typer.Option(
        help="Also write the standard deviation of the draws as an image; white is 64 grey levels "
        "or more."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed; the same seed repeats the output.")]
Sampler = Annotated[str, typer.Option(help="Registered sampler; see `polymode list sampler`.")]
Tile = Annotated[
    int, typer.Option(min=64, help="Tile side in pixels of the output; bounds the memory.")
]
Overlap = Annotated[int, typer.Option(min=0, help="Overlap of neighbouring tiles in pixels.")]
TrainedTile = Annotated[
    int | None,
    typer.Option(
        "--tile", min=16, help="Tile side in pixels; by default the model's training size."
    ),
]
TrainedOverlap = Annotated[
    int | None,
    typer.Option(
        "--overlap",
        min=0,
        help="Overlap of neighbouring tiles in pixels; by default a quarter of a tile.",
    ),
]

# The run.

DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print tiles, network evaluations, time and memory; write nothing."
    ),
]
Record = Annotated[
    bool, typer.Option(help="Also write all settings and the input's digest as .json.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")]

# The region.

MaskFile = Annotated[
    Path | None,
    typer.Option("--mask", help="Mask image of the same size; white pixels are filled."),
]
Invert = Annotated[bool, typer.Option("--invert", help="Invert the mask: white pixels are kept.")]
Boxes = Annotated[
    list[str] | None,
    typer.Option("--box", metavar="X,Y,W,H", help="Fill a rectangle, in pixels; repeatable."),
]
Transparent = Annotated[
    bool, typer.Option("--transparent", help="Fill pixels whose alpha is below one half.")
]
Extend = Annotated[
    list[str] | None,
    typer.Option(
        "--extend",
        metavar="SIDE=N",
        help="Extend the canvas, such as right=25% or top=64; repeatable.",
    ),
]
Grow = Annotated[int, typer.Option(min=0, max=1024, help="Dilate the mask by this many pixels.")]
Feather = Annotated[
    int, typer.Option(min=0, max=1024, help="Blend over this many pixels around the mask.")
]
