"""Options that several commands have, beside the groups in `request` and `inference.region`."""

from pathlib import Path
from typing import Annotated

import typer

from plugins.image2image.request import OutputOptions

ImageFile = Annotated[
    Path,
    typer.Argument(metavar="IMAGE", help="Image file: PNG, JPEG, TIFF, WebP, BMP, HEIC or AVIF."),
]
ImageFiles = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGE", help="Image files: PNG, JPEG, TIFF, WebP, BMP, HEIC or AVIF."),
]
# Text, since a path would lose the slash that makes a folder of it.
OutputFile = Annotated[
    str,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help="Output file, or a folder (folder/); with `--samples` name-1, name-2, ...",
    ),
]
OutputFileOrFolder = Annotated[
    str,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help="Output: a file for one image, or a folder (folder/) for any number.",
    ),
]
WrittenAs = Annotated[OutputOptions, ("quality", "strip")]

# Sampling.

UnconditionalCheckpoint = Annotated[
    Path,
    typer.Option(
        "--checkpoint",
        help="Folder of a model of task core/generate without conditions, trained or imported.",
    ),
]
Samples = Annotated[
    int, typer.Option(min=1, help="Number of draws, one output file each, and a contact sheet.")
]
Deviation = Annotated[
    Path | None,
    typer.Option(
        help="Also write the standard deviation of the draws as an image; white is 64 grey levels "
        "or more."
    ),
]
# The run.

Record = Annotated[
    bool, typer.Option(help="Also write all settings and the input's digest as .json.")
]
