"""Posterior samplers compared with one prior: figures against evaluations of the network."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from core.data import collate, open_dataset
from core.denoiser.parameterization import Condition, Denoiser, Prediction
from core.errors import InputError
from core.parts.config import bind, configure, plain
from core.parts.registry import Spec
from core.process.gaussian import Time
from core.request import Emit, Machine, Note, Progress, silent
from core.results import samples
from core.results.summary import summarised
from core.storage import files
from core.storage.files import make_folder
from plugins.medical.inference.draws import How, reconstructed, streams
from plugins.medical.inference.reconstruct import prior_of
from plugins.medical.request import LEVELS, RULE, SOLVER, SamplersRequest, SamplersResult
from plugins.medical.tasks.reconstruction import Reconstruction

WHOLE = Spec("core/karras", {"sigma_min": 0.01, "sigma_max": 30.0, "rho": 5.0})
"""Levels from noise that nothing is seen through."""


@dataclass(frozen=True)
class Rule:
    """A posterior sampler.

    Args:
        posterior: what holds it to the measurement.
        sampler: its rule of a step.
        start: classical method that it begins from; ``noise`` for none.
        grid: its levels, but for how many.
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
    """A denoiser that counts how often it is asked about each of a batch."""

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
        request: what is compared.
        out: ``metrics.json`` goes there: a row for each, the classical methods', and curves of PSNR
            against evaluations of the network; what grows without end is left out, and said.
        machine: where to run.
        emit: hears of progress.

    Raises:
        InputError: a part or option is wrong, or no sampler of that name.
    """
    begun = time.perf_counter()
    request = bind(SamplersRequest, plain(request))
    if strange := [name for name in request.methods if name not in RULES]:
        raise InputError(f"methods: no {strange[0]!r}; known: {', '.join(RULES)}")
    model = prior_of(request.checkpoint, request.task, machine)
    task = model.task
    assert isinstance(task, Reconstruction)
    dataset = open_dataset(request.dataset, request.split, task)
    about = samples.described(request.task, request.dataset, dataset, request.split, request.count)
    items = list(range(request.count))
    batch = {name: x.to(model.device) for name, x in collate(dataset, items).items()}
    measurement = task.measured(batch)
    classical = task.classical(measurement)
    rows = {name: task.figures_of(x, measurement, batch) for name, x in classical.items()}
    curves: dict[str, list[list[float]]] = {}
    names = request.methods or tuple(RULES)
    todo = [(name, steps) for name in names for steps in request.steps]
    for number, (name, steps) in enumerate(todo, start=1):
        rule = RULES[name]
        counted = _Counted(model.denoise)
        spec = Spec(rule.grid.name, {**rule.grid.options, "steps": steps})
        how = How(
            method=configure("posterior", rule.posterior),
            solver=configure("sampler", rule.sampler)(),
            grid=configure("grid", spec)(model.process),
            at_once=request.batch,
        )
        first = torch.zeros_like(batch["image"]) if rule.start == "noise" else classical[rule.start]
        drawn = []
        for draw in range(request.samples):
            noise = streams(request.seed, items, draw)
            drawn.append(reconstructed(counted, measurement, how, first, noise))
        parts = -(-request.count // request.batch)
        calls = counted.calls / parts / request.samples
        label = f"{name}, {calls:.0f}"
        if not all(bool(x.isfinite().all()) for x in drawn):
            emit(Note(text=f"{label}: grew without end; left out"))
            continue
        rows[label] = task.figures_of(drawn[0], measurement, batch)
        if len(drawn) > 1:
            mean = torch.stack(drawn).mean(0)
            rows[f"{label}, mean of {len(drawn)}"] = task.figures_of(mean, measurement, batch)
        curves.setdefault(name, []).append([calls, float(rows[label]["psnr"].mean())])
        emit(Progress(done=number, total=len(todo), unit="sampler", figures={}))
    report = summarised(
        {name: {f: v.tolist() for f, v in row.items()} for name, row in rows.items()},
        about,
        figures={name: task.figures[name] for name in rows[task.reference]},
        reference=task.reference,
        draws=request.samples,
        confidence=request.confidence,
        drawn=[name for name in rows if name not in classical],
    )
    report["charts"] = [
        {
            "title": "One draw against evaluations of the network",
            "x": {"label": "evaluations for a slice", "log": True},
            "y": {"label": "PSNR", "unit": "dB"},
            "series": [{"label": name, "points": points} for name, points in curves.items()],
        }
    ]
    make_folder(out)
    files.write_json(out / "metrics.json", report)
    single = [name for name in rows if name not in classical and ", mean of" not in name]
    best = max(single, key=lambda name: float(rows[name]["psnr"].mean()), default="none")
    return SamplersResult(
        metrics=out / "metrics.json",
        best=best,
        scores={m: {f: float(v.mean()) for f, v in row.items()} for m, row in rows.items()},
        seconds=time.perf_counter() - begun,
    )
