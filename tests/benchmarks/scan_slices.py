"""Slices of scans and their simulated measurement, as the benchmarks of reconstruction use them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from core.data import collate, open_dataset
from core.inverse.measurement import Measurement
from core.model import Model
from core.parts.registry import Spec
from core.request import Machine
from core.scans.nifti import SUFFIXES
from core.task import Batch
from plugins.medical.inference import choice as choosing
from plugins.medical.inference import volume
from plugins.medical.inference.predictors import ReconstructCt, ReconstructMri
from plugins.medical.inference.reconstruct import prior_of
from plugins.medical.inference.spacing import fit, learned
from plugins.medical.request import PosteriorOptions, Spacing
from plugins.medical.tasks.reconstruction import Reconstruction

BUILDS = {"ct": ReconstructCt, "mri": ReconstructMri}


@dataclass(frozen=True)
class Case:
    """Slices of scans, measured, and the ways to draw them by a prior.

    Args:
        model: the prior as the model of a reconstruction task.
        batch: the slices, on the model's device.
        measurement: of all slices.
        like: a sample of each.
        truth: pictures of the slices.
        pixel: spacing in millimetres.
        settings: of draws, the default level first.
        resampled: whether draws lie on another grid than the slices.
    """

    model: Model
    batch: Batch
    measurement: Measurement
    like: Tensor
    truth: Tensor
    pixel: float
    settings: list[choosing.Setting]
    resampled: bool

    @property
    def task(self) -> Reconstruction:
        """The reconstruction task."""
        assert isinstance(self.model.task, Reconstruction)
        return self.model.task


def slices_of(folder: Path, kind: str, size: int) -> Spec:
    """Ten slices of each scan of a folder, resampled to `size` pixels along a side."""
    found = any(p.name.lower().endswith(SUFFIXES) for p in folder.rglob("*"))
    options = {"root": folder, "size": size, "per_scan": 10, "test_share": 1.0}
    modality = {"modality": "CT" if kind == "ct" else "MR"}
    return Spec("medical/nifti_folder" if found else "medical/dicom_folder", options | modality)


def case(
    prior: Path, folder: Path, kind: str, task: dict[str, Any], items: list[int], size: int, *,
    spacing: Spacing = "resample", draws: int = 8, threads: int = 1,
) -> Case:  # fmt: skip
    """Slices of scans, measured by a task with the options `task` over their own field of view.

    Args:
        prior: its checkpoint.
        folder: scans that the prior did not learn.
        kind: ``ct`` or ``mri``.
        task: options of medical/ct or medical/mri.
        items: numbers of the ten slices of each scan.
        size: pixels along a side.
        spacing: what is done where the prior did not learn the slices' spacing.
        draws: of a mean.
        threads: of the CPU.
    """
    spec, name = slices_of(folder, kind, size), f"medical/{kind}"
    # The side follows from the slices, which are read by a task of any side.
    first = open_dataset(spec, "test", prior_of(prior, Spec(name, task), Machine()).task)[0]
    pixel = float(first["pixel"])
    task = {**task, "side": pixel * size} if kind == "ct" else task
    model = prior_of(prior, Spec(name, task), Machine(threads=threads))
    assert isinstance(model.task, Reconstruction)
    batch = collate(open_dataset(spec, "test", model.task), items)
    batch = {key: value.to(model.device) for key, value in batch.items()}
    measurement, like = model.task.measured(batch), model.task.middle(batch["image"])
    build = BUILDS[kind]
    conditioned = bool(model.task.conditions)
    height, width = like.shape[2:]
    how = fit(learned(model.request), (height, width), (pixel, pixel), spacing,
              conditioned=conditioned)  # fmt: skip
    options = PosteriorOptions(along=0.0, draws=draws)
    settings = [
        one.fitting(how, len(like))
        for one in choosing.settings_of(model.process, options, build.level, build.steps)
    ]
    return Case(model, batch, measurement, like, model.task.picture(like), pixel, settings,
                how.grids is not None)  # fmt: skip


def default(measured: Case, draws: int) -> volume.Found:
    """The result of the commands: as held-out measurements choose, from TV where nothing is chosen.

    Args:
        measured: slices.
        draws: of the mean.
    """
    given = (measured.model, measured.measurement, measured.like)
    common = {"draws": draws, "seed": 0}
    choice = choosing.chosen(*given, measured.settings, start=None, **common)
    if choice is None:
        return volume.drawn(*given, measured.settings[0].how, start="TV", **common)
    return volume.drawn(*given, choice.setting.how, start=choice.start, choice=choice, **common)
