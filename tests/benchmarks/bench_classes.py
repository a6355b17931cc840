"""Is the class that was asked for drawn?  Classifier-free guidance on digits, class by class.

A class-conditional model is trained on scikit-learn's digits with a fifth of the classes dropped,
and draws are judged by a classifier that was trained on the same digits.

pytest tests/benchmarks/bench_classes.py -m benchmark -s
python tests/benchmarks/bench_classes.py --steps 1500
"""

import argparse
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.parts.registry import Spec
from core.request import Machine, SampleRequest, TrainRequest
from core.runs import sample, train
from plugins.image2image.evaluation import classifier
from plugins.image2image.request import ClassifierRequest

pytestmark = pytest.mark.benchmark

CLASSES, EACH = 10, 100
ONE_CORE = Machine(device="cpu", threads=1)
NETWORK = {
    "width": 32, "multipliers": [1, 2], "blocks": 1, "attention": [], "middle_attention": False,
}  # fmt: skip


def as_asked(folder: Path, steps: int, scales: tuple[float, ...]) -> dict[float, list[float]]:
    """Scale of the guidance -> percentage of each class's draws that are of that class."""
    train(
        TrainRequest(
            task=Spec("core/generate", {"channels": 1, "classes": CLASSES}),
            dataset=Spec("image2image/digits"),
            network=Spec("core/unet", NETWORK),
            process=Spec("core/vp_linear"),
            weighting=Spec("core/v"),
            unconditional=0.2,
            steps=steps, batch=64, lr=2e-3, warmup=100, ema=0.995,
        ),
        folder / "model",
        machine=ONE_CORE,
    )  # fmt: skip
    result = classifier.train(ClassifierRequest(), folder / "classifier", machine=ONE_CORE)
    judge = classifier.Classifier(1, CLASSES)
    judge.load_state_dict(load_file(result.classifier))
    found = {}
    for scale in scales:
        out = folder / f"scale {scale}"
        sample(
            SampleRequest(
                checkpoint=folder / "model",
                dataset=Spec(
                    "core/blank",
                    {"shape": [1, 8, 8], "classes": CLASSES, "count": CLASSES * EACH},
                ),
                grid=Spec("core/uniform_log_snr", {"steps": 20}),
                guidance=Spec("core/classifier_free", {"scale": scale}),
                batch=250,
            ),
            out,
            machine=ONE_CORE,
        )
        drawn = load_file(out / "samples.safetensors")["samples"][:, 0]
        asked = torch.arange(len(drawn)) % CLASSES
        with torch.no_grad():
            right = (judge(drawn.clamp(-1, 1)).argmax(1) == asked).float()
        found[scale] = [100 * float(right[asked == c].mean()) for c in range(CLASSES)]
    return found


def report(steps: int) -> dict[float, list[float]]:
    """Measure, and print a line for each scale."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = as_asked(Path(folder), steps, (1.0, 3.0, 6.0))
    for scale, right in found.items():
        print(f"scale {scale:g}: " + ", ".join(f"{c}: {r:.0f} %" for c, r in enumerate(right)))
    print(f"{steps} steps, {EACH} draws a class, {time.perf_counter() - begun:.0f} s")
    return found


def bench_classes(capsys):
    with capsys.disabled():
        found = report(1500)
    # Class 0 is drawn as often as the others: five standard errors of a hundred draws at 95 %.
    assert min(found[3.0]) > 95 - 5 * 100 * (0.05 * 0.95 / EACH) ** 0.5


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    report(parser.parse_args().steps)
