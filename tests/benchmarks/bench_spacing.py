"""What priors add on scans of other pixel sizes than they learned, and how they are best used.

python tests/benchmarks/bench_spacing.py --kind ct --folder SCANS --prior one=RUN \\
    --prior range=RUN [--sizes 64,96,128,192] [--slices 2] [--views 23] [--default]

Slices of other patients are resampled to each number of pixels, their measurement is simulated of
twice the resolution (CT with counts of I0 = 1e5; MRI of random columns with noise of 0.005), and
each prior draws the mean of `--draws` from TV: as it is (`--spacing ignore`), and as the commands
use it (``fit``: given the spacing, or drawn on the nearest grid that it learned).  `--default` adds
the result of held-out measurements.  PSNR in dB, of all pixels and of the body alone.
"""

import argparse
import math
from pathlib import Path

from torch import Tensor

from core.data import collate, open_dataset
from core.inverse.measurement import Measurement
from core.model import Model
from core.parts.registry import Spec
from core.request import Machine
from plugins.medical.inference import choice as choosing
from plugins.medical.inference import volume
from plugins.medical.inference.predictors import ReconstructCt, ReconstructMri
from plugins.medical.inference.reconstruct import prior_of
from plugins.medical.inference.spacing import Fit, fit, learned
from plugins.medical.io.nifti import SUFFIXES
from plugins.medical.request import PosteriorOptions
from plugins.medical.tasks.reconstruction import AIR, Reconstruction

BUILDS = {"ct": ReconstructCt, "mri": ReconstructMri}


def decibels(x: Tensor, truth: Tensor) -> str:
    """PSNR of whole images, and of the body."""
    square = (x.clamp(-1, 1) - truth).square()
    found = (square.mean(), square[truth > AIR].mean())
    return " / ".join(f"{10 * math.log10(4 / float(one)):.2f}" for one in found)


def dataset_of(options: argparse.Namespace, size: int) -> Spec:
    """The slices of a folder of scans at a number of pixels."""
    found = any(p.name.lower().endswith(SUFFIXES) for p in options.folder.rglob("*"))
    modality = "CT" if options.kind == "ct" else "MR"
    return Spec(
        "medical/nifti_folder" if found else "medical/dicom_folder",
        {"root": options.folder, "size": size, "per_scan": 10, "test_share": 1.0,
         "modality": modality},
    )  # fmt: skip


def task_of(options: argparse.Namespace, side: float) -> Spec:
    """The measurement of a field of view of `side` millimetres."""
    if options.kind == "ct":
        return Spec("medical/ct", {"views": options.views, "side": side})
    return Spec("medical/mri", {"acceleration": options.acceleration})


def drawn(
    options: argparse.Namespace, model: Model, measurement: Measurement, like: Tensor, how: Fit
) -> dict[str, Tensor]:
    """The mean of draws of a prior, and the default result where it is asked for."""
    build = BUILDS[options.kind]
    some = PosteriorOptions(along=0.0, draws=options.draws)
    settings = [
        one.fitting(how, len(like))
        for one in choosing.settings_of(model.process, some, build.level, build.steps)
    ]
    common = {"draws": options.draws, "seed": 0}
    plain = volume.drawn(model, measurement, like, settings[0].how, start="TV", **common)
    found = {"mean": plain.mean}
    if options.default:
        choice = choosing.chosen(model, measurement, like, settings, start=None, **common)
        assert choice is not None
        best = volume.drawn(
            model, measurement, like, choice.setting.how, start=choice.start, choice=choice,
            **common,
        )  # fmt: skip
        found["default"] = best.mean
    return found


def row(options: argparse.Namespace, size: int, priors: dict[str, Path]) -> None:
    """Print the figures of one pixel size."""
    spec, items, first = dataset_of(options, size), list(range(options.slices)), True
    for name, path in priors.items():
        # The side follows from the slices, which are read by a task of any side.
        pixel = float(open_dataset(spec, "test", prior_of(path, task_of(options, 1.0)).task)[0][
            "pixel"])  # fmt: skip
        model = prior_of(path, task_of(options, pixel * size), Machine(threads=options.threads))
        task = model.task
        assert isinstance(task, Reconstruction)
        batch = collate(open_dataset(spec, "test", task), [5 + i for i in items])
        batch = {key: value.to(model.device) for key, value in batch.items()}
        measurement, like = task.measured(batch), task.middle(batch["image"])
        truth = task.picture(like)
        if first:
            known = {key: task.picture(x) for key, x in task.classical(measurement).items()}
            print(f"\n{size}x{size}, pixels of {pixel:.2f} mm")
            for key, x in known.items():
                print(f"  {key:24} {decibels(x, truth)}")
        first, given = False, bool(task.conditions)
        seen, (height, width) = learned(model.request), like.shape[2:]
        for way in ("ignore", "resample"):
            how = fit(seen, (height, width), (pixel, pixel), way, conditioned=given)
            if way == "resample" and how.grids is None:
                continue  # the same
            label = f"{name}, as it is" if how.grids is None else f"{name}, fit"
            for key, x in drawn(options, model, measurement, like, how).items():
                print(f"  {label + ', ' + key:24} {decibels(task.picture(x), truth)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=tuple(BUILDS), required=True)
    parser.add_argument("--folder", type=Path, required=True, help="scans of other patients")
    parser.add_argument("--prior", action="append", required=True, metavar="NAME=RUN")
    parser.add_argument("--sizes", default="64,96,128,192")
    parser.add_argument("--slices", type=int, default=2, help="of ten, from the sixth")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--views", type=int, default=23)
    parser.add_argument("--acceleration", type=float, default=4.0)
    parser.add_argument("--default", action="store_true", help="by held-out measurements, too")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    priors = {name: Path(path) for name, path in (one.split("=", 1) for one in options.prior)}
    print("PSNR in dB of all pixels / of the body")
    for size in map(int, options.sizes.split(",")):
        row(options, size, priors)


if __name__ == "__main__":
    main()
