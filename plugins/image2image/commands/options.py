"""Options that several commands have, beside the groups in `request` and `inference.region`."""

from pathlib import Path
from typing import Annotated

import typer

ImageFile = Annotated[
    Path, typer.Argument(metavar="IMAGE", help="Image file: PNG, JPEG, TIFF, WebP or BMP.")
]
ImageFiles = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGE", help="Image files: PNG, JPEG, TIFF, WebP or BMP."),
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
