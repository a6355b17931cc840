"""Options that several commands share, beside the groups in `request`."""

from pathlib import Path
from typing import Annotated

import typer

from plugins.medical.request import Modality

Place = Annotated[
    Path, typer.Argument(help="A DICOM file or folder, a .nii or .nii.gz, or raw data.")
]
Kind = Annotated[Modality, typer.Option(help="Modality.")]
