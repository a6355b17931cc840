"""Samples on disk: whole, or in parts that several runs draw and one joins."""

import json
import time
from collections.abc import Mapping, Sequence
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
from core.request import SampleResult
from core.results.sheet import write_sheet
from core.storage import files, tensor_file
from core.storage.files import STATE_FORMAT, make_folder
from core.task import Task

Chunk = TypeVar("Chunk")
WHOLE, PART = "samples", "part"  # names of the two files of each


def share(chunks: Sequence[Chunk], part: int, parts: int) -> list[Chunk]:
    """The chunks of one of several parts, as equal as can be, in order.

    Batches stay as they are: the same numbers in a batch of another size may differ in their last
    bits.

    Raises:
        InputError: no such part, or more parts than chunks.
    """
    if part > parts:
        raise InputError(f"part: expected 1 to {parts}, the number of parts, got {part}")
    if parts > len(chunks):
        raise InputError(
            f"parts: {len(chunks)} batches cannot be shared by {parts}; ask for fewer parts or a "
            "smaller batch"
        )
    return list(chunks[len(chunks) * (part - 1) // parts : len(chunks) * part // parts])


def described(
    task: Spec, spec: Spec, dataset: Dataset, split: str, count: int | None
) -> dict[str, Any]:
    """What samples of the first `count` items, all by default, say of themselves.

    Raises:
        InputError: the dataset has fewer.
    """
    count = count or len(dataset)
    if count > len(dataset):
        raise InputError(f"count: {count} wanted, {spec.name} has {len(dataset)} in {split}")
    return {
        "format": STATE_FORMAT,
        "task": plain(task),
        "dataset": plain(spec),
        "data": dataset.digest(),
        "split": split,
        "items": [{"name": dataset.name(i), "source": dataset.source(i)} for i in range(count)],
    }


def write(
    out: Path,
    results: Float[Tensor, " draws *shape"],
    about: Mapping[str, Any],
    task: Task,
    dataset: Dataset,
) -> None:
    """Write all draws, item after item, what they are, and a sheet where the task shows some."""
    whole = results.unflatten(0, (len(about["items"]), -1)).contiguous()
    tensor_file.save(out / f"{WHOLE}.safetensors", {WHOLE: whole})
    files.write_json(out / f"{WHOLE}.json", about)
    write_sheet(task, whole, dataset, out / "sheet.png")


@dataclass(frozen=True)
class Drawn:
    """Samples that were read, and what they were drawn for.

    Args:
        results: (items, draws, *shape).
        about: what `sample` wrote of them.
        task: whose results they are.
        dataset: their items are its first ones.
    """

    results: Tensor
    about: Mapping[str, Any]
    task: Task
    dataset: Dataset


def read(place: Path) -> Drawn:
    """The samples that `sample` or `join` wrote into a folder.

    Raises:
        InputError: none there, or the dataset has changed since they were drawn.
    """
    try:
        about = json.loads((place / f"{WHOLE}.json").read_text())
        results = tensor_file.load(place / f"{WHOLE}.safetensors", mend="draw again")[WHOLE]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{place}: no samples that `sample` wrote: {error}") from error
    task, spec = configure("task", Spec.parse(about["task"]))(), Spec.parse(about["dataset"])
    dataset = open_dataset(spec, about["split"], task)
    if dataset.digest() != about["data"]:
        raise InputError(f"{place}: drawn for other data than {spec.name} holds now; draw again")
    return Drawn(results, about, task, dataset)


def write_part(
    out: Path,
    results: Float[Tensor, " draws *shape"],
    about: Mapping[str, Any],
    part: int,
    parts: int,
) -> None:
    """Write the draws of one part, and of what they are part."""
    tensor_file.save(out / f"{PART}.safetensors", {"draws": results.contiguous()})
    files.write_json(out / f"{PART}.json", {"part": part, "parts": parts, "of": about})


def join(inputs: Mapping[str, Path], out: Path) -> SampleResult:
    """Put parts together to what one run would have written, bit for bit.

    Args:
        inputs: the folders of all parts, in any order, by whatever labels.
        out: where the samples go.

    Raises:
        InputError: they are not the parts of one run, each once, or the data have changed since.
    """
    start = time.perf_counter()
    read = sorted((_read(folder) for folder in inputs.values()), key=lambda part: part[0]["part"])
    abouts = [about for about, _ in read]
    found = [(about["part"], about["parts"]) for about in abouts]
    if not found or found != [(i + 1, len(found)) for i in range(len(found))]:
        said = ", ".join(f"{part} of {parts}" for part, parts in found) or "none"
        raise InputError(f"join: expected every part of one run once, got {said}")
    about = abouts[0]["of"]
    if any(other["of"] != about for other in abouts):
        raise InputError("join: these parts are of different runs; draw them again")
    task: Task = configure("task", Spec.parse(about["task"]))()
    spec = Spec.parse(about["dataset"])
    dataset = open_dataset(spec, about["split"], task)
    if dataset.digest() != about["data"]:
        raise InputError(f"join: drawn for other data than {spec.name} holds now; draw again")
    results, items = torch.cat([draws for _, draws in read]), len(about["items"])
    if not items or len(results) % items:
        raise InputError(f"join: {len(results)} draws cannot be those of {items} items")
    write(make_folder(out), results, about, task, dataset)
    return SampleResult(
        samples=out,
        items=items,
        draws=len(results) // items,
        seconds=time.perf_counter() - start,
    )


def _read(place: Path) -> tuple[dict[str, Any], Tensor]:
    try:
        about = json.loads((place / f"{PART}.json").read_text())
        draws = tensor_file.load(place / f"{PART}.safetensors", mend="draw it again")["draws"]
        wanted = {"part": int, "parts": int, "of": dict}
        if any(not isinstance(about[name], kind) for name, kind in wanted.items()):
            raise ValueError(f"{PART}.json is not what `sample` writes")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{place}: no part that `sample` wrote: {error}") from error
    return about, draws
