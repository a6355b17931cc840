"""Minutes on a GPU: one model of clips on moving digits; prediction and interpolation scored.

python tests/benchmarks/gpu/video.py [--minutes 10] [--mnist FOLDER]

Digits are those of scikit-learn, or of MNIST's files in a folder; clips are 16 frames of 32x32
pixels.  Scored on the test split are 8 frames predicted from 4 (the model sees 12) and 5 frames in
the middle of 16, by the figures of the task.  Targets of one digit: the mean of 8 samples at 22 dB
of prediction and 26 dB of interpolation, the centre of mass within one pixel, and the last
direction of motion right in 85 % of the clips.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from record import precision, trained, write_figures, write_weights

from core.parts.registry import Spec
from core.request import EvaluateRequest, SampleRequest, TrainRequest
from core.runs import evaluate, sample

TASK = "video/complete"
FRAMES = 16
TASKS = {
    "predict 8 from 4": {"given": "future", "known": 4, "length": 12},
    "interpolate 5 of 16": {"given": "hole", "known": 11},
}
SAMPLES = 8


def request_of(dataset: Spec, width: int, batch: int, steps: int) -> TrainRequest:
    """Training of one model for all tasks until the minutes are over, or the steps taken."""
    network = {
        "width": width, "multipliers": (1, 2, 4), "blocks": 1, "attention": (),
        "head_channels": min(width, 16), "patch": 2,
    }  # fmt: skip
    return TrainRequest(
        task=Spec(TASK, {"channels": 1}), dataset=dataset, network=Spec("video/unet3d", network),
        parameterization=Spec("core/x0"), weighting=Spec("core/p2", {"k": 0.05}),
        precision=precision(), steps=steps, batch=batch, lr=1e-3, warmup=200, decay="constant",
        ema=0.999,
    )  # fmt: skip


def scored(run: Path, items: int, steps: int) -> dict[str, dict[str, dict[str, float]]]:
    """Figures of each task and method; PSNR of the squared error over all clips beside the mean."""
    found = {}
    for name, options in TASKS.items():
        folder = run / name.split()[0]
        drawn = sample(
            SampleRequest(
                checkpoint=run, task=Spec(TASK, {"channels": 1, **options}), split="test",
                count=items, samples=SAMPLES, batch=64, grid=Spec("core/uniform_log_snr",
                {"steps": steps}),
            ),
            folder,
        )  # fmt: skip
        scores = evaluate(EvaluateRequest(samples=drawn.samples), folder / "scores").scores
        found[name] = {
            method: {**figures, "pooled_psnr": -10 * math.log10(max(figures["mse"] / 1000, 1e-30))}
            for method, figures in scores.items()
        }
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's IDX files")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--steps", type=int, default=10**6, help="of the training, at most")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=32, help="pixels of a frame")
    parser.add_argument("--width", type=int, default=48, help="less, to try it on a CPU")
    parser.add_argument("--items", type=int, default=256, help="clips that are scored")
    parser.add_argument("--grid", type=int, default=25, help="steps of the sampler")
    parser.add_argument("--workers", type=int, default=8 if torch.cuda.is_available() else 0)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    options = parser.parse_args(arguments)
    chosen: dict[str, Any] = {
        "size": options.size, "side": options.size * 7 // 16, "frames": FRAMES,
    }  # fmt: skip
    if options.mnist is not None:
        chosen["root"] = options.mnist
    dataset = Spec("video/moving_digits", chosen)
    request = request_of(dataset, options.width, options.batch, options.steps)
    run = options.out / "runs" / "digits"
    figures: dict[str, Any] = {
        "training": trained(request, run, options.minutes, workers=options.workers)
    }
    write_weights(options.out, "digits", run)
    figures["scores"] = scored(run, options.items, options.grid)
    write_figures(options.out, "video-digits", {"digits": figures})


if __name__ == "__main__":
    main()
