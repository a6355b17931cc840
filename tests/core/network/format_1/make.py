"""Makes this folder: run it with the code of commit 259b982, whose checkpoints had format 1.

    PYTHONPATH=<that commit> python make.py <new folder>

Two steps of four are trained; `outputs.safetensors` has what that code computes from them: x and
level, and the outputs of the averaged weights (ema), of the last ones (model), of the averages
after the other two steps (resumed), and of the power-function average of width 0.2 there (wide).
"""

import shutil
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

import torch
from safetensors.torch import save_file

from core.model import load_model
from core.parts.registry import Spec
from core.request import Machine, TrainRequest
from core.runs import train
from core.training.stopping import Stopped

NETWORKS = {
    "unet": Spec(
        "core/unet",
        {"width": 2, "multipliers": [1, 2], "blocks": 1, "attention": [2], "heads": 2},
    ),
    "transformer": Spec("core/transformer", {"width": 8, "depth": 1, "heads": 2, "patch": 4}),
    "classes": Spec("core/transformer", {"width": 8, "depth": 1, "heads": 2, "patch": 4}),
}


def request(network: Spec, classes: int) -> TrainRequest:
    """A run of four steps on zeros."""
    return TrainRequest(
        task=Spec("core/generate", {"channels": 1, "classes": classes}),
        dataset=Spec("core/blank", {"shape": [1, 8, 8], "classes": classes}),
        network=network,
        steps=4,
        batch=2,
        lr=0.03,
        warmup=1,
        snapshots=2,
        seed=5,
    )


def make(out: Path) -> None:
    """Write the two runs and their outputs."""
    machine = Machine(threads=1, device="cpu", save_seconds=1e9)
    for name, network in NETWORKS.items():
        asked, classes = count(), 3 if name == "classes" else 0
        wanted = request(network, classes)
        with suppress(Stopped):
            train(wanted, out / name, machine=machine, stop=lambda n=asked: next(n) >= 2)
        resumed = shutil.copytree(out / name, out / f"{name} resumed")
        train(wanted, resumed, machine=machine)
        x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        found = {"x": x, "level": torch.tensor([3.0, -100.0])}
        condition = {"class": torch.tensor([2, 0])} if classes else None
        for kind, place, options in (
            ("ema", out / name, {}),
            ("model", out / name, {"ema": False}),
            ("resumed", resumed, {}),
            ("wide", resumed, {"ema_width": 0.2}),
        ):
            network = load_model(place, **options).network
            with torch.no_grad():
                found[kind] = network(x, found["level"], condition)
        save_file(found, out / name / "outputs.safetensors")
        shutil.rmtree(resumed)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
