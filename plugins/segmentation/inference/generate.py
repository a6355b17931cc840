"""The verb ``segmentation/generate``: images of a prior with labels of a classifier.

Source: DatasetDDPM, Baranchuk et al. 2022, arXiv:2112.03126, section 5; images of which the members
disagree are left out as in DatasetGAN, Zhang et al. 2021, arXiv:2104.06490, section 3.3.
"""

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image

from core.draw import draw
from core.errors import InputError
from core.images.pictures import reason
from core.model import load_model
from core.process.noise import derive
from core.progress import counter, print_note
from core.request import Emit, Machine, Note, silent
from core.results.sheet import to_bytes
from core.storage import files
from core.storage.files import make_folder
from plugins.segmentation.data.labelled import rgb
from plugins.segmentation.inference.classifier import load
from plugins.segmentation.io.classes import write_classes
from plugins.segmentation.io.masks import write_mask
from plugins.segmentation.request import GenerateRequest, GenerateResult

TABLE = "generated.csv"


def generate(
    request: GenerateRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> GenerateResult:
    """Draw images, label them, and leave out those of which the classifier is least certain.

    Written are ``00001.png`` and ``00001_mask.png`` ..., ``classes.json``, and ``generated.csv``
    with the uncertainty of all that were drawn, which comes last.  Labels are of the images as
    written, in 8 bits.

    Raises:
        InputError: a folder that is not empty, a prior with conditions, no classifier, or all
            images would be left out.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is not an empty folder; give a new one")
    machine = machine or Machine()
    model = load_model(request.checkpoint, machine=machine, task="core/generate", emit=print_note)
    if model.task.conditions or model.task.channels not in (1, 3):
        raise InputError(
            f"{request.checkpoint}: expected a model of grey or RGB images without conditions, as "
            "`polymode segmentation train-prior` trains"
        )
    classifier = load(request.classifier, machine)
    left_out = round(request.discard * request.count)
    if left_out >= request.count:
        raise InputError(
            f"discard: {request.discard:g} of {request.count} images leaves none; draw more"
        )
    make_folder(out)
    uncertainty: list[float] = []
    progress = counter(emit, request.count, "images")
    for first in range(0, request.count, request.batch):
        numbers = range(first, min(first + request.batch, request.count))
        seeds = [derive("segmentation/generate", request.seed, number) for number in numbers]
        for number, x0 in zip(numbers, draw(model, seeds, steps=request.steps), strict=True):
            path = _path(out, number)
            _save(path, to_bytes(x0.clamp(-1, 1).cpu()))
            found = classifier(rgb(path))
            write_mask(_mask(path), found.labels.numpy(), classifier.classes)
            uncertainty.append(float(found.uncertainty.mean()))
            progress(number + 1)
    order = np.argsort(np.negative(uncertainty), kind="stable")
    lost = {int(number) for number in order[:left_out]}
    for path in (_path(out, number) for number in lost):
        path.unlink()
        _mask(path).unlink()
    write_classes(out, classifier.classes)
    _write_table(out / TABLE, uncertainty, lost)
    emit(Note(text=f"{request.count - left_out} images kept, {left_out} left out as uncertain"))
    return GenerateResult(out, request.count - left_out)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number + 1:05d}.png"


def _mask(path: Path) -> Path:
    return path.with_name(f"{path.stem}_mask.png")


def _save(path: Path, pixels: np.ndarray) -> None:
    try:
        with files.replaced(path) as waiting, waiting.open("xb") as file:
            Image.fromarray(pixels.squeeze()).save(file, "PNG")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {reason(error)}") from error


def _write_table(path: Path, uncertainty: list[float], lost: set[int]) -> None:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image", "uncertainty", "kept"])
    rows.writerows(
        [_path(path, number).stem, f"{value:.6f}", int(number not in lost)]
        for number, value in enumerate(uncertainty)
    )
    try:
        files.write_text(path, text.getvalue())
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {reason(error)}") from error
