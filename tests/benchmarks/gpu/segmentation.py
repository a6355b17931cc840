"""Minutes on a GPU: a prior of images without labels, and mean IoU from a few labelled crops.

python tests/benchmarks/gpu/segmentation.py --images TRAIN TEST [--minutes 10]

TRAIN and TEST are folders of images with masks of instances beside them (NAME_instances.png), such
as nuclei; without them scenes of digits are learned from and measured, which shows that all runs.
The prior learns crops of 128x128 pixels.  Figures are those of tests/benchmarks/bench_labels.py,
of the methods in `METHODS`, and images a second of which features are read.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from record import precision, trained, write_figures, write_weights

from core.data import open_dataset
from core.model import load_model
from core.parts.config import configure
from core.parts.registry import Spec
from core.request import Machine, TrainRequest
from plugins.segmentation.data.labelled import ENDINGS

sys.path.append(str(Path(__file__).parents[1]))
from bench_labels import (
    DIFFUSION,
    FIRST,
    PEER,
    Crop,
    crops,
    interval,
    labels_of,
    mean_iou,
    methods_of,
)

METHODS = (FIRST, "ensemble, prior", "ensemble, filters", PEER)
NETWORK = {
    "multipliers": (1, 2, 4, 6), "blocks": 1, "attention": (), "middle_attention": True,
}  # fmt: skip
SCENES = 60  # of digits, where there are no images


def datasets(images: list[Path] | None, size: int) -> tuple[Spec, list[Crop], list[Crop]]:
    """Images to learn a prior of, crops to label, and crops to measure."""
    if images is None:
        spec = Spec("segmentation/digits_scene", {"size": size})
        task = configure("task", Spec("core/generate", {"channels": 3}))()
        pool, test = (
            [(one["image"], (one["labels"] > 0).to(torch.uint8)) for one in
             (opened[i] for i in range(min(SCENES, len(opened))))]
            for opened in (open_dataset(spec, split, task) for split in ("train", "test"))
        )  # fmt: skip
        return spec, pool, test
    train, test = images
    options = {
        "root": train, "size": size, "stretch": True, "test_fraction": 0.0,
        "exclude": tuple(f"*{ending}.*" for ending in ENDINGS),
    }  # fmt: skip
    return (
        Spec("image2image/folder", options),
        crops(train, size, 4, 0, stretch=True),
        crops(test, size, 2, 1, stretch=True),
    )


def request_of(dataset: Spec, width: int, batch: int, steps: int) -> TrainRequest:
    """Training of a prior until the minutes are over, or the steps taken."""
    return TrainRequest(
        task=Spec("core/generate"), dataset=dataset, network=Spec("core/unet", {**NETWORK,
        "width": width, "head_channels": min(width, 32)}), process=Spec("core/vp_linear"),
        weighting=Spec("core/v"), times=Spec("core/log_normal", {"mean": -1.0, "std": 1.0}),
        precision=precision(), steps=steps, batch=batch, lr=1e-3, warmup=200, decay="constant",
        ema=0.999,
    )  # fmt: skip


def images_per_second(run: Path, machine: Machine, size: int, batch: int) -> float:
    """Images whose features are read in a second."""
    features = configure("features", Spec(DIFFUSION, {"checkpoint": run}))(machine)
    on_gpu = load_model(run, machine=machine).device.type == "cuda"
    images = torch.zeros(batch, 3, size, size)
    spent = []
    for _ in range(4):
        start = time.perf_counter()
        features(images)
        if on_gpu:
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - start)
    return round(batch / min(spent), 1)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", nargs=2, type=Path, metavar=("TRAIN", "TEST"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--steps", type=int, default=10**6, help="of the training, at most")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=128, help="pixels of a crop")
    parser.add_argument("--width", type=int, default=32, help="less, to try it on a CPU")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=METHODS, help="methods")
    parser.add_argument("--labels", type=int, nargs="+", default=[5, 20], help="labelled crops")
    parser.add_argument("--draws", type=int, default=3, help="of labelled crops")
    parser.add_argument("--seconds", type=float, default=45.0, help="of the U-Net from nothing")
    parser.add_argument("--workers", type=int, default=8 if torch.cuda.is_available() else 0)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    options = parser.parse_args(arguments)
    run, machine = options.out / "runs" / "nuclei", Machine()
    dataset, pool, test = datasets(options.images, options.size)
    request = request_of(dataset, options.width, options.batch, options.steps)
    figures: dict[str, Any] = {
        "training": trained(request, run, options.minutes, workers=options.workers),
        "images_per_second": images_per_second(run, machine, options.size, options.batch),
        "miou": {},
    }
    write_weights(options.out, "nuclei", run)
    with tempfile.TemporaryDirectory() as scratch:
        methods = methods_of(run, {}, Path(scratch), machine=machine, seconds=options.seconds)
        for name in options.only:
            for count in options.labels:
                values = [
                    mean_iou(methods[name](labels_of(pool, count, seed), seed), test)
                    for seed in range(options.draws)
                ]
                cells = figures["miou"].setdefault(name, {})
                cells[str(count)] = [round(value, 4) for value in interval(values)]
            write_figures(options.out, "segmentation-nuclei", {"nuclei": figures})


if __name__ == "__main__":
    main()
