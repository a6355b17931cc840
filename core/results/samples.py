"""Samples on disk: all of a run in one file, or parts that several runs draw and one joins."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from core.data import Dataset, open_dataset
from core.errors import InputError
from core.parts.config import configure, plain
from core.parts.registry import Spec
from core.request import Emit, JoinRequest, Machine, Progress, SampleResult, silent
from core.results.sheet import write_sheet
from core.storage import files, formats, json_file, tensor_file
from core.storage.files import make_folder
from core.storage.formats import check_format
from core.task import Task

Chunk = TypeVar("Chunk")
WHOLE, PART = "samples", "part"  # stems of a .json and a .safetensors file
DESCRIBED = ("task", "dataset", "data", "split", "items")  # what a description always has


def chunks_of_part(chunks: Sequence[Chunk], part: int, parts: int) -> list[Chunk]:
    """The chunks of one of several parts: contiguous; sizes differ by at most one.

    Batches stay as they are: the same numbers in a batch of another size may differ in their last
    bits.

    Raises:
        InputError: no such part, or more parts than chunks.
    """
    if part > parts:
        raise InputError(f"part: expected 1 to {parts}, the number of parts, got {part}")
    if parts > len(chunks):
        raise InputError(
            f"parts: expected at most {len(chunks)}, the number of batches, got {parts}; lower "
            "parts or batch"
        )
    return list(chunks[len(chunks) * (part - 1) // parts : len(chunks) * part // parts])


def described(
    task: Spec, spec: Spec, dataset: Dataset, split: str, count: int | None
) -> dict[str, Any]:
    """The description of samples of the first `count` items: the content of ``samples.json``.

    Raises:
        InputError: the dataset has fewer.
    """
    count = count or len(dataset)
    if count > len(dataset):
        raise InputError(
            f"count: expected at most {len(dataset)}, the items of {spec.name} in {split}, got "
            f"{count}"
        )
    return {
        "format": formats.SAMPLES,
        "task": plain(task),
        "dataset": plain(spec),
        "data": dataset.digest(),
        "split": split,
        "items": [{"name": dataset.name(i), "source": dataset.source(i)} for i in range(count)],
    }


def check_finite(draws: Float[Tensor, " draws *shape"], name: Callable[[int], str]) -> None:
    """Refuse draws with values that are NaN or infinite.

    Args:
        draws: of one or several items.
        name: of the item that a draw is of, and of the draw.

    Raises:
        InputError: the sampler diverged, or the task's result is no number.
    """
    finite = draws.isfinite()
    for i, values in enumerate(finite):
        if not bool(values.all()):
            raise InputError(
                f"{name(i)}: {int((~values).sum()):,} of {values.numel():,} values are NaN or "
                "infinite, so nothing is written; take more steps of the grid, another sampler or "
                "less guidance"
            )


def write(
    out: Path,
    results: Float[Tensor, " draws *shape"],
    about: Mapping[str, Any],
    task: Task,
    dataset: Dataset,
) -> None:
    """Write all draws, item after item, their description, and a sheet if the task shows images."""
    whole = results.unflatten(0, (len(about["items"]), -1)).contiguous()
    tensor_file.save(out / f"{WHOLE}.safetensors", {WHOLE: whole})
    files.write_json(out / f"{WHOLE}.json", about)
    write_sheet(task, whole, dataset, out / "sheet.png")


@dataclass(frozen=True)
class Samples:
    """Samples that were read, with the task and dataset they were drawn for.

    Args:
        results: of each item, its draws.
        about: their description, ``samples.json``.
        task: whose results they are.
        dataset: its first items are those drawn for.
    """

    results: Float[Tensor, " items draws *shape"]
    about: Mapping[str, Any]
    task: Task
    dataset: Dataset


def read(folder: Path) -> Samples:
    """The samples that `sample` or `join` wrote into a folder.

    Raises:
        InputError: none there, of a newer format, or the dataset has changed since they were drawn.
    """
    about, results = _load(folder, WHOLE, WHOLE)
    task, dataset = _opened(about, folder / f"{WHOLE}.json")
    return Samples(results, about, task, dataset)


def _load(folder: Path, stem: str, group: str) -> tuple[dict[str, Any], Tensor]:
    """A document and the tensor `group` of the file beside it."""
    try:
        document = json_file.read(folder / f"{stem}.json")
        tensor = tensor_file.load(folder / f"{stem}.safetensors", mend="draw again")[group]
        if not isinstance(document, dict):
            raise ValueError(f"{stem}.json: expected names and values")
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{folder}: no {stem} that `sample` wrote: {error}") from error
    check_format(document, formats.SAMPLES, folder / f"{stem}.json")
    return document, tensor


def _opened(about: Mapping[str, Any], name: object) -> tuple[Task, Dataset]:
    """The task and the dataset of a description, the data checked to be those drawn for."""
    check_format(about, formats.SAMPLES, name)
    if missing := [key for key in DESCRIBED if key not in about]:
        raise InputError(f"{name}: has no {', '.join(missing)}; draw again")
    task: Task = configure("task", Spec.parse(about["task"]))()
    spec = Spec.parse(about["dataset"])
    dataset = open_dataset(spec, about["split"], task)
    if dataset.digest() != about["data"]:
        raise InputError(f"{name}: drawn for other data than {spec.name} holds now; draw again")
    return task, dataset


def write_part(
    out: Path,
    results: Float[Tensor, " draws *shape"],
    about: Mapping[str, Any],
    part: int,
    parts: int,
) -> None:
    """Write the draws of one part, with the description of the whole run."""
    tensor_file.save(out / f"{PART}.safetensors", {"draws": results.contiguous()})
    document = {"format": formats.SAMPLES, "part": part, "parts": parts, "of": about}
    files.write_json(out / f"{PART}.json", document)


def join(
    request: JoinRequest,
    inputs: Mapping[str, Path],
    out: Path,
    *,
    machine: Machine | None = None,
    emit: Emit = silent,
) -> SampleResult:
    """Join parts into the files that one run would have written, bit for bit.

    Args:
        request: has no options.
        inputs: the folders of all parts, in any order, under any labels.
        out: where the samples go.
        machine: not used: nothing is computed.
        emit: called with the number of parts read.

    Raises:
        InputError: they are not the parts of one run, each once, or the data have changed since.
    """
    start = time.perf_counter()
    parts = []
    for done, folder in enumerate(inputs.values(), start=1):
        parts.append(_read_part(folder))
        emit(Progress(done=done, total=len(inputs), unit="part", figures={}))
    parts.sort(key=lambda p: p[0]["part"])
    found = [(document["part"], document["parts"]) for document, _ in parts]
    if not found or found != [(i + 1, len(found)) for i in range(len(found))]:
        listed = ", ".join(f"{part} of {count}" for part, count in found) or "none"
        raise InputError(f"join: expected every part of one run once, got {listed}")
    about = parts[0][0]["of"]
    if any(document["of"] != about for document, _ in parts):
        raise InputError("join: these parts are of different runs; draw them again")
    task, dataset = _opened(about, "join")
    results, items = torch.cat([draws for _, draws in parts]), len(about["items"])
    if not items or len(results) % items:
        raise InputError(f"join: {len(results)} draws cannot be those of {items} items")
    write(make_folder(out), results, about, task, dataset)
    return SampleResult(
        samples=out,
        items=items,
        draws=len(results) // items,
        seconds=time.perf_counter() - start,
    )


def _read_part(folder: Path) -> tuple[dict[str, Any], Tensor]:
    document, draws = _load(folder, PART, "draws")
    types = {"part": int, "parts": int, "of": dict}
    if wrong := [name for name in types if not isinstance(document.get(name), types[name])]:
        raise InputError(
            f"{folder}: no part that `sample` wrote: {PART}.json has no {', '.join(wrong)}"
        )
    return document, draws
