"""What every script here does: train for some minutes, write one JSON and small weights."""

import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

from core.errors import InputError
from core.progress import listener
from core.request import Machine, TrainRequest
from core.runs import train
from core.storage import checkpoint
from core.storage.files import make_folder, write_json
from core.training.stopping import Stopped

LARGEST = 16 * 2**20  # bytes of the weights of one model


def machine() -> dict[str, Any]:
    """The machine that figures are of."""
    facts: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    if not torch.cuda.is_available():
        return {"device": platform.processor() or platform.machine(), **facts}
    found = torch.cuda.get_device_properties(0)
    return {
        "device": found.name,
        "memory_gib": round(found.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **facts,
    }


def precision() -> str:
    """bf16 where a GPU has it, else fp32."""
    has_it = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has_it else "fp32"


def trained(
    request: TrainRequest, run: Path, minutes: float, *, workers: int, compiled: bool = False
) -> dict[str, float]:
    """Train until the minutes are over or the request's steps are taken; steps and their cost.

    Args:
        request: what to train.
        run: its folder.
        minutes: at most.
        workers: data-loading processes.
        compiled: compile the network first.
    """
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    start = time.monotonic()
    ends = start + 60 * minutes
    machine = Machine(workers=workers, compile=compiled, save_seconds=60.0)
    with listener(run.name) as emit:
        try:
            steps = train(
                request, run, machine=machine, emit=emit, stop=lambda: time.monotonic() > ends
            ).steps
        except Stopped as stopped:
            steps = stopped.step
    seconds = time.monotonic() - start
    return {
        "steps": steps,
        "batch": request.batch,
        "seconds": round(seconds, 1),
        "samples_per_second": round(steps * request.batch / seconds, 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else 0.0,
    }


def write_figures(out: Path, name: str, figures: dict[str, Any]) -> None:
    """Write ``<out>/<name>.json``: the machine, the day and the figures; and print it."""
    document = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "figures": figures}
    make_folder(out)
    write_json(out / f"{name}.json", document)
    print(json.dumps(document, indent=1), flush=True)


def write_weights(out: Path, name: str, run: Path) -> Path:
    """Write a run's averaged weights, in half precision, as a checkpoint that every command takes.

    Raises:
        InputError: more than `LARGEST` bytes; nothing is written.
    """
    saved = checkpoint.load(run, groups=("ema",))
    halves = {
        key: value.half() if value.is_floating_point() else value
        for key, value in saved.tensors["ema"].items()
    }
    size = sum(value.numel() * value.element_size() for value in halves.values())
    if size > LARGEST:
        raise InputError(
            f"{name}: {size / 2**20:.1f} MiB of weights in half precision, at most "
            f"{LARGEST >> 20}; train a narrower network"
        )
    return checkpoint.save(out / "weights" / name, saved.step, {"ema": halves}, saved.state)
