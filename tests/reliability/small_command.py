"""The battery's training command: a small super-resolution network, a second from start to end."""

import hashlib
from pathlib import Path

from core.storage import checkpoint

STEPS = 24
SETTINGS = ("task=image2image/sr3", "dataset=image2image/photos", "dataset.size=32",
            "dataset.patches=64", "network.width=8", "network.multipliers=[1, 2]",
            "network.blocks=1", "network.attention=[]", "batch=4", "warmup=5")  # fmt: skip


def command(out: object, *more: str, steps: int = STEPS) -> list[object]:
    """Words after ``python -m core``."""
    settings = [
        word for setting in (*SETTINGS, f"steps={steps}", *more) for word in ("--set", setting)
    ]
    return ["train", "--threads", "1", "--save-seconds", "0.1", *settings, "-o", out]


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every tensor of the newest checkpoint: model, average and optimizer."""
    found = checkpoint.load(out)
    assert not found.passed_over
    return {
        f"{group}/{name}": hashlib.sha256(value.numpy().tobytes()).hexdigest()
        for group, named in found.tensors.items()
        for name, value in named.items()
    }
