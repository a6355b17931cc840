"""The verb medical/samplers: posterior samplers with one prior, metrics against evaluations."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.data import collate, open_dataset
from core.denoiser.parameterization import Condition, Denoiser, Prediction
from core.errors import InputError
from core.inverse.measurement import Measurement
from core.model import Model
from core.parts.config import bind, configure, plain
from core.parts.registry import Spec
from core.process.gaussian import Time
from core.progress import counter
from core.request import Emit, Machine, Note, silent
from core.results import samples
from core.results.evaluation import Evaluation
from core.results.summary import summarised
from core.storage.files import make_folder
from core.task import Kind
from plugins.medical.inference.draws import How, reconstructed, streams
from plugins.medical.inference.reconstruct import prior_of, single
from plugins.medical.request import LEVELS, RULE, SOLVER, SamplersRequest, SamplersResult
from plugins.medical.tasks.reconstruction import Reconstruction

WHOLE = Spec("core/karras", {"sigma_min": 0.01, "sigma_max": 30.0, "rho": 5.0})
"""Levels from pure noise."""


@dataclass(frozen=True)
class Rule:
    """A posterior sampler.

    Args:
        posterior: its guidance by the measurement.
        sampler: solver of the reverse process.
        start: classical method of its initial image; ``noise`` for none.
        grid: its levels, without their number.
    """

    posterior: Spec
    sampler: Spec = SOLVER
    start: str = "noise"
    grid: Spec = WHOLE


CLOSE = Spec("core/karras", {key: LEVELS.options[key] for key in ("sigma_min", "sigma_max", "rho")})
CORRECTED = Spec("core/predictor_corrector")
RULES: Mapping[str, Rule] = {
    "projection (Song)": Rule(Spec("core/projection", {"strength": 0.2})),
    "score-MRI": Rule(Spec("core/projection", {"strength": 0.2}), CORRECTED),
    "CCDF": Rule(Spec("core/projection", {"strength": 0.2}), SOLVER, "TV", CLOSE),
    "DPS": Rule(Spec("core/dps", {"scale": 10.0})),
    "PiGDM": Rule(Spec("core/pigdm", {"iterations": 20, "tolerance": 1e-3})),
    "DDNM+": Rule(Spec("core/ddnm", {"noise_gain": 20.0})),
    "DiffPIR": Rule(RULE),
    "DDS": Rule(Spec("core/dds", {"iterations": 5})),
    "DiffPIR from TV": Rule(RULE, SOLVER, "TV", CLOSE),
}


class _Counted:
    """A denoiser that counts its calls."""

    def __init__(self, denoise: Denoiser) -> None:
        self._denoise, self.calls = denoise, 0
        self.process = denoise.process

    def __call__(self, x: Tensor, t: Time, condition: Condition | None = None) -> Prediction:
        self.calls += 1
        return self._denoise(x, t, condition)


def compare(
    request: SamplersRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> SamplersResult:
    """Draw the same slices by every sampler and number of steps, and score one draw and the mean.

    Args:
        request: options.
        out: folder of ``metrics.json``: a row for each sampler and classical method, and curves of
            PSNR against network evaluations; samplers that diverge are left out, with a note.
        machine: device and threads.
        emit: receives progress.

    Raises:
        InputError: a wrong part or option, or an unknown sampler.
    """
    begun = time.perf_counter()
    request = bind(SamplersRequest, plain(request))
    if strange := [name for name in request.methods if name not in RULES]:
        raise InputError(f"methods: expected some of {', '.join(RULES)}, got {strange[0]!r}")
    model = single(prior_of(request.checkpoint, request.task, machine))
    task = model.task
    assert isinstance(task, Reconstruction)
    dataset = open_dataset(request.dataset, request.split, task)
    about = samples.described(request.task, request.dataset, dataset, request.split, request.count)
    items = list(range(request.count))
    batch = {name: x.to(model.device) for name, x in collate(dataset, items).items()}
    measurement = task.measured(batch)
    classical = task.classical(measurement)
    rows = {name: task.figures_of(x, measurement, batch) for name, x in classical.items()}
    kinds: dict[str, Kind] = dict.fromkeys(classical, "baseline")
    curves: dict[str, list[list[float]]] = {}
    todo = [(name, steps) for name in request.methods or tuple(RULES) for steps in request.steps]
    progress = counter(emit, len(todo), "sampler")
    for number, (name, steps) in enumerate(todo, start=1):
        given = task.condition(batch)
        drawn, calls = _draws(model, measurement, RULES[name], steps, classical, given, request)
        progress(number)
        label = f"{name}, {calls:.0f}"
        if not all(bool(x.isfinite().all()) for x in drawn):
            emit(Note(text=f"{label}: diverged; left out"))
            continue
        rows[label] = task.figures_of(drawn[0], measurement, batch)
        kinds[label] = "draw"
        if len(drawn) > 1:
            mean = torch.stack(drawn).mean(0)
            averaged = f"{label}, mean of {len(drawn)}"
            rows[averaged], kinds[averaged] = task.figures_of(mean, measurement, batch), "mean"
        curves.setdefault(name, []).append([calls, float(rows[label]["psnr"].mean())])
    metrics = _report(rows, kinds, curves, about, task, request).write(make_folder(out))
    drawn_once = [name for name in rows if kinds[name] == "draw"]
    best = max(drawn_once, key=lambda name: float(rows[name]["psnr"].mean()), default="none")
    return SamplersResult(
        metrics=metrics,
        best=best,
        scores={m: {f: float(v.mean()) for f, v in row.items()} for m, row in rows.items()},
        seconds=time.perf_counter() - begun,
    )


def _draws(
    model: Model,
    measurement: Measurement,
    rule: Rule,
    steps: int,
    classical: Mapping[str, Tensor],
    condition: Condition,
    request: SamplersRequest,
) -> tuple[list[Tensor], float]:
    """Draws of all slices by one sampler, and its network evaluations for a slice."""
    counted = _Counted(model.denoise)
    how = How(
        method=configure("posterior", rule.posterior),
        solver=configure("sampler", rule.sampler)(),
        grid=configure("grid", Spec(rule.grid.name, {**rule.grid.options, "steps": steps}))(
            model.process
        ),
        at_once=request.batch,
        condition=condition,
    )
    any_of_them = next(iter(classical.values()))
    first = torch.zeros_like(any_of_them) if rule.start == "noise" else classical[rule.start]
    drawn = [
        reconstructed(
            counted, measurement, how, first, streams(request.seed, range(request.count), draw)
        )
        for draw in range(request.samples)
    ]
    parts = -(-request.count // request.batch)
    return drawn, counted.calls / parts / request.samples


def _report(
    rows: Mapping[str, Mapping[str, Tensor]],
    kinds: Mapping[str, Kind],
    curves: Mapping[str, list[list[float]]],
    about: Mapping[str, Any],
    task: Reconstruction,
    request: SamplersRequest,
) -> Evaluation:
    """The evaluation: every metric with its interval, and the curves."""
    report = summarised(
        {name: {f: v.tolist() for f, v in row.items()} for name, row in rows.items()},
        about,
        figures={name: task.figures[name] for name in rows[task.reference]},
        reference=task.reference,
        draws=request.samples,
        confidence=request.confidence,
        kinds=kinds,
    )
    chart = {
        "title": "One draw against network evaluations",
        "x": {"label": "network evaluations for a slice", "log": True},
        "y": {"label": "PSNR", "unit": "dB"},
        "series": [{"label": name, "points": points} for name, points in curves.items()],
    }
    return replace(report, charts=[chart])
