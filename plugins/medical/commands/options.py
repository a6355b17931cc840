"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Place = Annotated[
    Path, typer.Argument(help="A DICOM file or folder, a .nii or .nii.gz, or raw data.")
]
Series = Annotated[int | None, typer.Option(min=1, help="Which DICOM series, as `info` counts.")]
Volume = Annotated[int | None, typer.Option(min=0, help="Which volume of a 4-D NIfTI, from 0.")]
Plane = Annotated[str, typer.Option(help="acquired, axial, coronal or sagittal.")]
Kind = Annotated[str, typer.Option(help="ct or mri.")]
Views = Annotated[int, typer.Option(min=1, help="CT: how many angles.")]
Arc = Annotated[
    float | None, typer.Option(help="CT: degrees they are spread over; 180, of a fan 360.")
]
Geometry = Annotated[str, typer.Option(help="CT: parallel or fan.")]
Photons = Annotated[float, typer.Option(min=0, help="CT: counted without a patient; 0: no noise.")]
Mask = Annotated[
    str, typer.Option(help="MRI: random, equispaced, density, poisson or radial frequencies.")
]
Acceleration = Annotated[float, typer.Option(min=1, help="MRI: how many times fewer.")]
Centre = Annotated[float, typer.Option(min=0, max=1, help="MRI: share that is always measured.")]
Noise = Annotated[float, typer.Option(min=0, help="MRI: deviation, where bright tissue is 1.")]
Seed = Annotated[int, typer.Option(min=0, help="Every draw follows from it.")]
Reduce = Annotated[
    int, typer.Option(min=1, help="Average so many pixels each way first; slices get smaller.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")]
