"""Runs along the probability-flow ODE of a trained model: encode, interpolate, likelihood."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.data import Dataset, check_classes, collate, open_dataset
from core.errors import InputError
from core.model import Model, for_task, load_model
from core.parts.config import bind, configure, plain
from core.process.noise import Noise, derive
from core.progress import counter
from core.request import (
    Emit,
    EncodeRequest,
    EncodeResult,
    InterpolateRequest,
    LikelihoodRequest,
    LikelihoodResult,
    Machine,
    SampleResult,
    silent,
)
from core.results import samples
from core.results.summary import summarised
from core.sampler import likelihood as exact
from core.sampler import sample as along
from core.storage import files, tensor_file
from core.storage.files import output_folder
from core.task import Batch, Example, Figure

REFERENCE = "uniform"  # the density 1/2 of each element on [-1, 1]
FIGURES = {
    "bits": Figure("bits per dimension", "bits/dim", "lower"),
    "nats": Figure("negative log-likelihood", "nats", "lower"),
}

Request = EncodeRequest | InterpolateRequest | LikelihoodRequest


@dataclass(frozen=True)
class _Opened:
    """A model with the items that a request names.

    Args:
        model: the trained model, for the request's task.
        dataset: split of the dataset.
        about: description of the items, as samples have it.
    """

    model: Model
    dataset: Dataset
    about: dict[str, Any]

    @property
    def items(self) -> range:
        """Indices of the items."""
        return range(len(self.about["items"]))

    def batches(
        self, items: range, size: int, emit: Emit
    ) -> Iterator[tuple[list[int], Batch, Example]]:
        """Indices, batches and examples, in order, on the model's device; reports progress."""
        progress = counter(emit, len(items), "item")
        for first in range(0, len(items), size):
            chosen = list(items[first : first + size])
            batch = collate(self.dataset, chosen)
            batch = {name: value.to(self.model.device) for name, value in batch.items()}
            example = self.model.task.prepare(batch)
            check_classes(example, self.model.task, lambda i, c=chosen: self.dataset.name(c[i]))
            yield chosen, batch, example
            progress(first + len(chosen))


def _open(request: Request, machine: Machine | None, emit: Emit) -> _Opened:
    model = load_model(
        request.checkpoint,
        machine=machine,
        ema=request.ema,
        ema_width=request.ema_width,
        emit=emit,
    )
    if request.task is not None:
        model = for_task(model, request.task)
    spec = request.dataset or model.request.dataset
    dataset = open_dataset(spec, request.split, model.task)
    about = samples.described(model.request.task, spec, dataset, request.split, request.count)
    return _Opened(model, dataset, {**about, "checkpoint_step": model.step})


# --- encode -----------------------------------------------------------------------------------


def encode(
    request: EncodeRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> EncodeResult:
    """Encode the first `count` items of a dataset's split to latents at the noisy end.

    The latents are decoded again by the same steps; the distance to the items says whether there
    were enough of them.

    Args:
        request: the items and the steps.
        out: ``latents.safetensors`` and ``latents.json`` go there.
        machine: where to run.
        emit: called with progress.

    Raises:
        InputError: as `core.runs.sample`; or the solver draws noise, or a result is not finite.
        StorageError: the disk is full or not writable.
    """
    start = time.perf_counter()
    request = bind(EncodeRequest, plain(request))
    opened = _open(request, machine, emit)
    denoise = opened.model.denoise
    solver = configure("sampler", request.sampler)()
    grid = configure("grid", request.grid)(opened.model.process)
    latents, squares, elements = [], 0.0, 0
    with output_folder(out):
        for chosen, _, example in opened.batches(opened.items, request.batch, emit):
            x = along.encode(denoise, grid, solver, example.x0, example.condition)
            again = along.sample(denoise, grid, solver, x, Noise(chosen), example.condition)
            squares += float((again - example.x0).double().square().sum())
            elements += example.x0.numel()
            latents.append(x.cpu())
        error = (squares / elements) ** 0.5
        if not math.isfinite(error):
            raise InputError(
                "latents, or what they decode to, are NaN or infinite, so nothing is written; take "
                "more steps of the grid or another sampler"
            )
        tensor_file.save(out / "latents.safetensors", {"latents": torch.cat(latents).contiguous()})
        parts = {"sampler": plain(request.sampler), "grid": plain(request.grid)}
        files.write_json(out / "latents.json", {**opened.about, **parts, "error": error})
    return EncodeResult(
        latents=out, items=len(opened.items), error=error, seconds=time.perf_counter() - start
    )


# --- interpolate ------------------------------------------------------------------------------


def interpolate(
    request: InterpolateRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> SampleResult:
    """Decode latents on the arc between those of each item and of the next one.

    Draw k of item i is decoded, under the condition of item i, from the latent k / (frames - 1) of
    the way to item i + 1.

    Args:
        request: the items, the frames and the steps.
        out: ``samples.safetensors``, ``samples.json`` and ``sheet.png`` go there, as of `sample`.
        machine: where to run.
        emit: called with progress.

    Raises:
        InputError: as `core.runs.sample`; or the solver draws noise, or a result is not finite.
        StorageError: the disk is full or not writable.
    """
    start = time.perf_counter()
    request = bind(InterpolateRequest, plain(request))
    opened = _open(request, machine, emit)
    model, denoise = opened.model, opened.model.denoise
    solver = configure("sampler", request.sampler)()
    grid = configure("grid", request.grid)(model.process)
    way = partial(along.interpolate, path=request.path)
    rows: list[Float[Tensor, " frames *shape"]] = []
    before: tuple[Tensor, Example, Batch] | None = None
    with output_folder(out):
        for chosen, batch, example in opened.batches(opened.items, 1, emit):
            latent = along.encode(denoise, grid, solver, example.x0, example.condition)
            if before is not None:
                first, under, its_batch = before
                steps = torch.linspace(0, 1, request.frames).tolist()
                x = torch.cat([way(first, latent, fraction) for fraction in steps])
                condition = {n: v.expand(len(x), *v.shape[1:]) for n, v in under.condition.items()}
                x0 = along.sample(denoise, grid, solver, x, Noise(chosen * len(x)), condition)
                whole = {n: v.expand(len(x), *v.shape[1:]) for n, v in its_batch.items()}
                rows.append(model.task.finish(x0, whole).cpu())
                title = opened.dataset.name(chosen[0] - 1)
                samples.check_finite(rows[-1], lambda i, t=title: f"{t}, frame {i + 1}")
            before = latent, example, batch
        about = {**opened.about, "sampler": plain(request.sampler), "grid": plain(request.grid)}
        about |= {"items": about["items"][:-1], "interpolated": "with the next item"}
        samples.write(out, torch.cat(rows), about, model.task, opened.dataset)
    return SampleResult(
        samples=out,
        items=len(rows),
        draws=request.frames,
        seconds=time.perf_counter() - start,
    )


# --- likelihood -------------------------------------------------------------------------------


def likelihood(
    request: LikelihoodRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> LikelihoodResult:
    """Negative log-likelihood of the first `count` items, by the probability-flow ODE.

    Source: Song et al. 2021, arXiv:2011.13456, eq. 39 and 40; see `core.sampler.likelihood.nll`.

    Args:
        request: the items, the quantisation and the tolerances.
        out: ``metrics.json`` goes there: bits per dimension and nats with intervals, as of
            `evaluate`, and ``likelihood.json``, both for each item.
        machine: where to run.
        emit: called with progress.

    Raises:
        InputError: as `core.runs.sample`; or the items are not quantised to `levels` values, or a
            likelihood is not finite.
        StorageError: the disk is full or not writable.
    """
    start = time.perf_counter()
    request = bind(LikelihoodRequest, plain(request))
    opened = _open(request, machine, emit)
    nats: list[float] = []
    elements = 0
    with output_folder(out):
        for chosen, _, example in opened.batches(opened.items, request.batch, emit):
            noise = Noise([derive(request.seed, "likelihood", item) for item in chosen])
            x0, elements = example.x0, example.x0[0].numel()
            if request.levels is not None:
                x0 = exact.dequantise(x0, noise, levels=request.levels)
            found = exact.nll(
                opened.model.denoise, x0, noise, example.condition,
                trace=request.trace, probes=request.probes, rtol=request.rtol, atol=request.atol,
            )  # fmt: skip
            nats += _finite(found.nats.tolist(), [opened.dataset.name(i) for i in chosen])
        uniform = [elements * math.log(2)] * len(nats)
        values = {
            REFERENCE: _figures(uniform, elements, request.levels),
            "model": _figures(nats, elements, request.levels),
        }
        report = summarised(
            values, opened.about, figures=FIGURES, reference=REFERENCE, draws=0,
            confidence=request.confidence, kinds={REFERENCE: "baseline", "model": "model"},
        )  # fmt: skip
        report.write(out)
        files.write_json(out / "likelihood.json", {**opened.about, **values["model"]})
    bits = report.methods["model"].figures["bits"]
    assert bits.low is not None
    assert bits.high is not None
    return LikelihoodResult(
        metrics=out / "metrics.json",
        bits_per_dim=bits.mean,
        low=bits.low,
        high=bits.high,
        items=len(nats),
        seconds=time.perf_counter() - start,
    )


def _finite(nats: list[float], names: list[str]) -> list[float]:
    """The likelihoods of named items.

    Raises:
        InputError: one is NaN or infinite.
    """
    for value, name in zip(nats, names, strict=True):
        if not math.isfinite(value):
            raise InputError(f"{name}: its likelihood is {value}; tighten rtol and atol")
    return nats


def _figures(nats: list[float], elements: int, levels: int | None) -> dict[str, list[float]]:
    bits = exact.bits_per_dim(torch.tensor(nats, dtype=torch.float64), elements, levels=levels)
    return {"bits": bits.tolist(), "nats": nats}
