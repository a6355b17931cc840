"""Small runs of training for the battery: their requests, and all that they left, as checksums."""

import hashlib
import json
from pathlib import Path
from typing import Any

from core.parts.registry import Spec
from core.request import Machine, Note, TrainRequest
from core.runs import train
from core.storage import checkpoint


def request(**options: Any) -> TrainRequest:
    """A request for points; the options of its parts as mappings."""
    spec = {
        kind: Spec(name, options.pop(kind, {}))
        for kind, name in (("network", "toy/layers"), ("dataset", "toy/cloud"))
    }
    settings = {"steps": 12, "batch": 8, "lr": 1e-2, "warmup": 2, **options}
    if "times" in settings:
        settings["times"] = Spec.parse(settings["times"])
    return TrainRequest(task=Spec("toy/points"), **spec, **settings)


def trained(wanted: TrainRequest, out: Path, *, stop: Any = None, **machine: Any) -> list[str]:
    """Train; what the user was told."""
    notes: list[str] = []
    train(
        wanted,
        out,
        machine=Machine(**{"threads": 1, "device": "cpu", **machine}),
        emit=lambda event: notes.append(event.text) if isinstance(event, Note) else None,
        stop=stop,
    )
    return notes


def sums(out: Path) -> dict[str, str]:
    """SHA-256 of every tensor of the newest checkpoint: model, average, optimizer and the rest."""
    return {
        f"{group}/{name}": hashlib.sha256(value.numpy().tobytes()).hexdigest()
        for group, named in checkpoint.load(out).tensors.items()
        for name, value in named.items()
    }


def rows(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    """The loss of every step."""
    return [row["loss"] for row in rows(out) if "loss" in row]


class After:
    """Whether to stop: once it has been asked more than so many times."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0
