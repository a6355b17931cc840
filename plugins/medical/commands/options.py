"""Options that several commands share, beside the groups in `request`."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from core.scans.request import Modality

Place = Annotated[
    Path, typer.Argument(help="A DICOM file or folder, a NIfTI, .mha or .nrrd, or raw data.")
]
Kind = Annotated[Modality, typer.Option(help="Modality.")]


def print_notes(notes: Iterable[str]) -> None:
    """Print to standard error what reading a scan assumed or replaced."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
