"""The verb medical/reconstruct: draws of held-out slices from simulated measurements."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.data import Dataset, collate, open_dataset
from core.errors import InputError
from core.inverse.measurement import Measurement
from core.model import Model, for_task, guided_by_default, load_model
from core.parts.config import bind, configure, plain
from core.parts.registry import Spec
from core.progress import counter
from core.request import Emit, Machine, Note, SampleResult, TrainRequest, silent
from core.results import samples
from core.storage.files import make_folder
from plugins.medical.inference.draws import How, reconstructed, streams
from plugins.medical.inference.measurement import BRIGHT
from plugins.medical.inference.spacing import learned
from plugins.medical.request import ReconstructRequest
from plugins.medical.tasks.ct import Ct
from plugins.medical.tasks.reconstruction import Reconstruction


def sample(
    request: ReconstructRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> SampleResult:
    """Draw reconstructions of a dataset's slices from simulated measurements.

    Args:
        request: options.
        out: folder of samples, as `core.runs.sample` writes it.
        machine: device and threads.
        emit: receives progress.

    Raises:
        InputError: a wrong part or option, an unknown start, or a prior of other images.
        StorageError: the disk is full or not writable.
    """
    begun = time.perf_counter()
    request = bind(ReconstructRequest, plain(request))
    model = single(prior_of(request.checkpoint, request.task, machine, emit=emit))
    task = model.task
    assert isinstance(task, Reconstruction)
    dataset = open_dataset(request.dataset, request.split, task)
    about = {
        **samples.described(request.task, request.dataset, dataset, request.split, request.count),
        "seed": request.seed,
        "posterior": plain(request.posterior),
        "sampler": plain(request.sampler),
        "grid": plain(request.grid),
        "start": request.start,
    }
    how = How(
        method=configure("posterior", request.posterior),
        solver=configure("sampler", request.sampler)(),
        grid=configure("grid", request.grid)(model.process),
        at_once=request.batch,
    )
    make_folder(out)
    note_spacing(model, dataset, emit)
    count = len(about["items"])
    progress = counter(emit, count, "slice")
    rows: list[Tensor] = []
    for first in range(0, count, request.batch):
        items = list(range(first, min(first + request.batch, count)))
        drawn = draws(model, dataset, items, how, request.start, request.samples, request.seed)
        rows.append(drawn.flatten(0, 1))
        samples.check_finite(
            rows[-1],
            lambda i, c=items: (
                f"{dataset.name(c[i // request.samples])}, draw {i % request.samples + 1}"
            ),
        )
        progress(items[-1] + 1)
    samples.write(out, torch.cat(rows), about, task, dataset)
    seconds = time.perf_counter() - begun
    return SampleResult(samples=out, items=count, draws=request.samples, seconds=seconds)


def prior_of(
    checkpoint: Path, task: Spec, machine: Machine | None = None, *, emit: Emit = silent
) -> Model:
    """A trained prior as the model of a reconstruction task.

    Raises:
        InputError: not a reconstruction task, or a prior of other images or another window.
    """
    prior = load_model(checkpoint, machine=machine, emit=emit)
    _check_prior(prior, task)
    if isinstance(prior.task, Reconstruction):
        task = Spec(task.name, {**task.options, **_given(prior.task)})
    model = for_task(prior, task)
    if isinstance(model.task, Ct):
        _check_window(prior.request, model.task)
    else:
        _note_percentile(prior.request, emit)
    model = guided_by_default(model, emit=emit)
    if not isinstance(model.task, Reconstruction):
        raise InputError(
            f"task: {task.name} is not a reconstruction task; use medical/ct or medical/mri"
        )
    return model


def _given(trained: Reconstruction) -> dict[str, Any]:
    """The options of a task that say what its network is given, where they are not the defaults."""
    found: dict[str, Any] = {"condition_on_pixel": True} if trained.conditions else {}
    return found | ({"slices": trained.slices} if trained.slices > 1 else {})


MODALITIES = {
    "medical/ct": "CT", "medical/lidc": "CT", "medical/lodopab": "CT",
    "medical/mri": "MR", "medical/fastmri": "MR", "medical/undersampled_mri": "MR",
    "medical/kspace_folder": "MR", "medical/undersampled_scans": "MR",
}  # fmt: skip
"""Of the tasks and datasets that have one."""


def _check_prior(prior: Model, task: Spec) -> None:
    """Refuse a prior that, by its own request, learned other images than those of the task.

    Raises:
        InputError: another modality, or other channels.
    """
    trained, wanted = prior.request, MODALITIES.get(task.name)
    stated = {
        "task": MODALITIES.get(trained.task.name),
        "dataset": MODALITIES.get(trained.dataset.name),
        "dataset.modality": trained.dataset.options.get("modality"),
    }
    kind = {"CT": "ct", "MR": "mri"}.get(wanted or "")
    for name, modality in stated.items():
        if modality in ("CT", "MR") and wanted not in (None, modality):
            raise InputError(
                f"checkpoint: {name} of its training says {modality}, expected a prior of {wanted} "
                f"images; train one with `polymode medical train-prior --kind {kind}`"
            )
    channels, expected = prior.task.channels, {"CT": 1, "MR": 2}.get(wanted or "")
    if not isinstance(prior.task, Reconstruction) and expected not in (None, channels):
        raise InputError(
            f"checkpoint: a prior of images of {channels} channels, expected {expected} for "
            f"{wanted}; train one with `polymode medical train-prior --kind {kind}`"
        )


def _check_window(trained: TrainRequest, task: Ct) -> None:
    """Refuse a prior that learned another window of Hounsfield units.

    Raises:
        InputError: its dataset states another one.
    """
    low, high = (trained.dataset.options.get(end) for end in ("low", "high"))
    if None not in (low, high) and (low, high) != task.shown_as[:2]:
        raise InputError(
            f"low, high: the prior was trained on {low:g} to {high:g} HU, got "
            f"{task.shown_as[0]:g} to {task.shown_as[1]:g}; state the prior's"
        )


def _note_percentile(trained: TrainRequest, emit: Emit) -> None:
    """A note where a prior of MR images learned another scale of intensities than measurements."""
    percentile = trained.dataset.options.get("percentile", BRIGHT)
    if percentile != BRIGHT:
        emit(Note(text=(
            f"the prior learned images whose {percentile:g}th percentile is 1, measurements are "
            f"scaled by their {BRIGHT:g}th: its contrasts are of another size; train one with "
            f"percentile {BRIGHT:g}"
        )))  # fmt: skip


def single(model: Model) -> Model:
    """The model, refused if it learned stacks: slices of a dataset have no neighbours.

    Raises:
        InputError: a prior of stacks.
    """
    if isinstance(model.task, Reconstruction) and model.task.slices > 1:
        raise InputError(
            "checkpoint: a prior of stacks of slices requires volumes; use reconstruct-ct, "
            "reconstruct-mri or their predictors, or a prior of single slices"
        )
    return model


def note_spacing(model: Model, dataset: Dataset, emit: Emit) -> None:
    """A note where the first slice's pixels are of another size than the prior learned."""
    known, pixel = learned(model.request), dataset[0].get("pixel") if len(dataset) else None
    if known is None or pixel is None or known.holds(float(pixel)):
        return
    emit(Note(text=(
        f"the prior learned pixels of {known}, those of {dataset.name(0)} are {float(pixel):.3g} "
        "mm: it is used as it is; set dataset.pixel, or reconstruct scans by the commands, which "
        "resample"
    )))  # fmt: skip


def draws(
    model: Model, dataset: Dataset, items: list[int], how: How, start: str, count: int, seed: int
) -> Tensor:
    """Draws of some items (items, count, c, h, w), each with a noise stream of its own.

    Raises:
        InputError: the task has no classical method named `start`.
    """
    task = model.task
    assert isinstance(task, Reconstruction)
    batch = {name: x.to(model.device) for name, x in collate(dataset, items).items()}
    how = replace(how, condition=task.condition(batch))
    measurement = task.measured(batch)
    first, _ = beginning(task, measurement, batch["image"], start)
    found = []
    for draw in range(count):
        noise = streams(seed, items, draw)
        found.append(reconstructed(model.denoise, measurement, how, first, noise).cpu())
    return torch.stack(found, 1)


def beginning(
    task: Reconstruction, measurement: Measurement, like: Tensor, start: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """The classical reconstruction that draws start from, and all of them.

    Raises:
        InputError: the task has no classical method of that name.
    """
    known = task.classical(measurement)
    return task.begun(measurement, known, start, like), known
