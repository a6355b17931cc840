"""A trained model's denoiser, bent as a request for samples wants it."""

import inspect
from dataclasses import replace

import torch
from torch import Tensor

from core.config import Spec, configure
from core.data import collate, open_dataset
from core.denoiser.parameterization import Condition, Denoiser, Prediction
from core.denoiser.variance import analytic, score_norms
from core.errors import InputError
from core.model import Model
from core.process.noise import Noise
from core.registry import installed
from core.request import Emit, Note, SampleRequest
from core.task import Batch, Correcting, Task

CALIBRATION = 64  # training items on which the variance of estimates is measured


def guided(model: Model, request: SampleRequest, emit: Emit) -> Denoiser:
    """The model's denoiser, knowing the variance its sampler asks for, guided as wanted.

    Args:
        model: trained.
        request: its `sampler` and `guidance` are looked at.
        emit: hears that variances are being measured.

    Raises:
        InputError: a guidance with inputs that only a program can supply.
    """
    denoise = model.denoise
    if request.sampler.options.get("variance") == "analytic":
        denoise = _knowing_its_variance(model, request, emit)
    if request.guidance is None:
        return denoise
    inputs = {"denoise": denoise, "process": model.process, "without": empty}
    build = installed().load("guidance", request.guidance.name)
    parameters = inspect.signature(build).parameters.values()
    names = [one.name for one in parameters if one.kind is not one.KEYWORD_ONLY]
    if strange := [name for name in names if name not in inputs]:
        raise InputError(
            f"guidance: {request.guidance.name} wants {', '.join(strange)}, which only a program "
            "can supply; call it from Python"
        )
    guide = configure("guidance", request.guidance, at="guidance")
    return guide(*(inputs[name] for name in names))


def corrected(denoise: Denoiser, task: Task, batch: Batch) -> Denoiser:
    """The denoiser with each estimate brought to agree with what the task was given."""
    if not isinstance(task, Correcting):
        return denoise

    def ask(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        said = denoise(x, t, condition)
        return replace(said, x0=task.correct(said.x0, batch))

    return ask


def empty(condition: Condition | None) -> Condition:
    """The condition of nothing: zeros, as in training with `unconditional`."""
    return {name: torch.zeros_like(value) for name, value in (condition or {}).items()}


def _knowing_its_variance(model: Model, request: SampleRequest, emit: Emit) -> Denoiser:
    """Bao et al.'s table, measured on the first training items."""
    spec: Spec = request.dataset or model.request.dataset
    dataset = open_dataset(spec, "train", model.task)
    size = min(request.batch, len(dataset), CALIBRATION)
    count = min(len(dataset), CALIBRATION) // size * size
    emit(Note(text=f"measuring the variance of the model's estimates on {count} items"))
    batches = []
    for first in range(0, count, size):
        batch = collate(dataset, list(range(first, first + size)))
        example = model.task.prepare({k: v.to(model.device) for k, v in batch.items()})
        batches.append((example.x0, example.condition))
    times = torch.tensor([model.process.t_max, model.process.t_first], dtype=torch.float64)
    low, high = model.process.log_snr(times).clamp(-20, 20).tolist()
    table = score_norms(
        model.denoise,
        model.process,
        batches,
        Noise.of(request.seed, "variance", each=range(size)),
        torch.linspace(low, high, 17, dtype=torch.float64),
    )
    # The error's form: with as few items the norm's is lost in its own noise at low log-SNR.
    return analytic(model.denoise, model.process, table, of="error")
