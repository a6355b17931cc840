"""Minutes on a GPU: super-resolution and restoration models whose weights are small.

python tests/benchmarks/gpu/image2image.py --photos train --held-out test [--minutes 10]
python tests/benchmarks/gpu/image2image.py --cifar cifar-10-batches-bin

The minutes are divided evenly among the models of `MODELS`, or given to those that `--only` names;
those of `FROM_X4` go on from the weights of plugins/image2image/weights/x4.  Each model's default
of steps, draws and detail is chosen on the held-out crops, and the figures are of every choice.
The weights, in half precision, take 7 to 13 MiB.
Without --photos the photographs in scikit-image are learned from, and figures are of its held-out
crops.  With --cifar the models are those of 32x32 pictures with DDPM's network (Ho et al. 2020,
arXiv:2006.11239, appendix B), whose weights are too large to be written.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from record import precision, trained, write_figures, write_weights

from core.data import open_dataset
from core.model import load_model
from core.parts.registry import Spec
from core.request import EvaluateRequest, SampleRequest, TrainRequest
from core.runs import evaluate, sample
from plugins.image2image.evaluation.choose import choose
from plugins.image2image.request import ChooseRequest

SR3 = Spec("image2image/sr3", {"scale": 4, "back_projections": 5})
SMALL = {
    "width": 64, "multipliers": (1, 2, 2), "blocks": 2, "attention": (),
    "middle_attention": False, "patch": 2,
}  # fmt: skip
# An estimate on a coarse grid, for super-resolution that of the low-resolution image, and a small
# network for what it lacks; as plugins/image2image/configs/reference.yaml.
REFINED = {
    "width": 64, "blocks": 16, "patch": 4,
    "refiner": {"name": "core/unet", **SMALL, "width": 48, "multipliers": (1, 2)},
}  # fmt: skip
X4 = Path(__file__).parents[3] / "plugins" / "image2image" / "weights" / "x4"
DDPM = {"width": 128, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention": (2,)}
DEGRADED = {"scale": 4, "blur": 3.0, "noise": 0.06, "jpeg": 30, "filters": True, "twice": 0.3}
FROM_X4 = ("degraded", "multiscale", "restoration")
NETWORKS = dict.fromkeys(("x4", *FROM_X4), REFINED)
MODELS = {
    "x4": SR3,
    "degraded": Spec("image2image/sr3", DEGRADED),
    "multiscale": Spec("image2image/multiscale"),
    "restoration": Spec("image2image/multitask"),
    "photographs": Spec("core/generate", {"channels": 3}),
}
CIFAR = {"x4": SR3, "inpainting": Spec("image2image/inpaint")}


def request_of(
    task: Spec, dataset: Spec, network: dict[str, Any], batch: int, steps: int
) -> TrainRequest:
    """Training until the minutes are over, or the steps taken."""
    refined = "refiner" in network
    return TrainRequest(
        task=task, dataset=dataset, batch=batch, steps=steps, precision=precision(),
        network=Spec("core/predict_refine" if refined else "core/unet", network),
        objective=Spec("core/predict_refine" if refined else "core/denoising"),
        process=Spec("core/vp_linear"), weighting=Spec("core/v"), warmup=200, decay="constant",
        lr=8e-4 if refined else 5e-4 if network["width"] <= 64 else 2e-4,
        ema=0.999 if refined else 0.9995,
    )  # fmt: skip


def chosen_default(run: Path, items: int, held_out: Spec | None) -> dict[str, Any]:
    """PSNR of every combination of steps, draws and detail, and a copy of the model with the best.

    Args:
        run: a trained model.
        items: crops of each task, at most.
        held_out: where they are from; the data learned from by default.
    """
    request = ChooseRequest(checkpoint=run, dataset=held_out, count=items)
    found = choose(request, {}, run / "chosen")
    return json.loads(found.metrics.read_text())


def scored(run: Path, items: int, held_out: Spec | None) -> dict[str, dict[str, float]]:
    """Figures of one draw and of the mean of 8, beside classical methods, on held-out crops.

    Args:
        run: a trained model of one task.
        items: crops, at most.
        held_out: where they are from; the data learned from by default.
    """
    model = load_model(run)
    crops = open_dataset(held_out or model.request.dataset, "test", model.task)
    drawn = sample(
        SampleRequest(
            checkpoint=run, dataset=held_out, split="test", samples=8,
            count=min(items, len(crops)), batch=64,
            sampler=Spec("core/ancestral"), grid=Spec("core/uniform_time", {"steps": 10}),
        ),
        run / "sample",
    )  # fmt: skip
    return evaluate(EvaluateRequest(samples=drawn.samples), run / "evaluate").scores


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, help="folder to learn from")
    parser.add_argument("--held-out", type=Path, help="folder to measure on")
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--only", choices=tuple(MODELS), help="one model; all by default")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--steps", type=int, default=10**6, help="of each training, at most")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=96, help="pixels of a crop")
    parser.add_argument("--items", type=int, default=48, help="held-out crops; 0: no table")
    parser.add_argument("--width", type=int, help="of the network: less, to try it on a CPU")
    parser.add_argument("--workers", type=int, default=8 if torch.cuda.is_available() else 0)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    options = parser.parse_args(arguments)

    held_out = None
    if options.cifar:
        data = Spec("image2image/cifar10", {"root": options.cifar})
    elif options.photos:
        # All pictures of one folder are learned from, all of the other are measured on.
        data, held_out = (
            Spec("image2image/folder", {"root": root, "size": options.size, "test_fraction": part})
            for root, part in ((options.photos, 0.0), (options.held_out, 1.0))
        )
    else:
        data = Spec("image2image/photos", {"size": options.size})
    models = CIFAR if options.cifar else MODELS
    chosen = [options.only] if options.only else list(models)
    figures: dict[str, Any] = {}
    for name in chosen:
        run = options.out / "runs" / name
        network = DDPM if options.cifar else NETWORKS.get(name, SMALL)
        if options.width:
            network = {**network, "width": options.width}
        request = request_of(models[name], data, network, options.batch, options.steps)
        if name in FROM_X4 and not options.width:
            request = replace(request, start=X4)
        minutes = options.minutes / len(chosen)
        figures[name] = {"training": trained(request, run, minutes, workers=options.workers)}
        if options.items and name != "photographs":
            figures[name]["choices"] = chosen_default(run, options.items, held_out)
        if options.items and name not in ("photographs", "multiscale", "restoration"):
            figures[name]["scores"] = scored(run, options.items, held_out)
        if not options.cifar:
            kept = run / "chosen" / "checkpoints"
            write_weights(options.out, name, kept if kept.is_dir() else run)
        write_figures(options.out, f"image2image-{options.only or 'all'}", figures)


if __name__ == "__main__":
    main()
