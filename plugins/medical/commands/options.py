"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from plugins.medical.request import Beam, Modality, SamplingMask
from plugins.medical.request import Plane as PlaneName

Place = Annotated[
    Path, typer.Argument(help="A DICOM file or folder, a .nii or .nii.gz, or raw data.")
]
Series = Annotated[
    int | None, typer.Option(min=1, help="DICOM: number of the series, if there are several.")
]
Volume = Annotated[
    int | None, typer.Option(min=0, help="NIfTI: index of the volume of a 4-D file, from 0.")
]
Plane = Annotated[PlaneName, typer.Option(help="Plane of the slices.")]
Kind = Annotated[Modality, typer.Option(help="Modality.")]
Views = Annotated[int, typer.Option(min=1, help="CT: number of views.")]
Arc = Annotated[
    float | None,
    typer.Option(max=360, help="CT: angular range in degrees.", show_default="180, fan beam 360"),
]
Geometry = Annotated[Beam, typer.Option(help="CT: beam geometry.")]
Photons = Annotated[
    float,
    typer.Option(
        min=0, help="CT: photons per detector in the unattenuated beam (I0); 0 for no noise."
    ),
]
Mask = Annotated[SamplingMask, typer.Option(help="MRI: k-space sampling pattern.")]
Acceleration = Annotated[float, typer.Option(min=1, help="MRI: acceleration factor R.")]
Centre = Annotated[
    float, typer.Option(min=0, max=1, help="MRI: fraction of k-space, fully sampled in the centre.")
]
Noise = Annotated[
    float,
    typer.Option(
        min=0, help="MRI: standard deviation of k-space noise, for bright tissue of intensity 1."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]
Reduce = Annotated[
    int, typer.Option(min=1, help="Downsample the slices first, by means over REDUCE x REDUCE.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")]
