"""Minutes on a GPU: priors of CT and MR slices, and what they add to sparse measurements.

python tests/benchmarks/gpu/medical.py --ct train test --mri train test [--minutes 10] [--one]

Each pair is a folder of scans to learn from and one of other patients to measure (DICOM or NIfTI).
Without them phantoms are learned from and measured, which shows that all runs.  The minutes are
divided evenly between the two priors, or given to the one that `--only` names.  Priors learn the
ranges of pixel spacings of the configurations, or one spacing each by `--one`.  A network has 6.6
million parameters; its averaged weights, in half precision, take 13 MiB.  Tables are those of the
plug-in's README: ten slices of 128x128, CT of 23 and 10 views, MRI at a quarter and an eighth.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from record import precision, trained, write_figures, write_weights

from core.parts.registry import Spec
from core.request import EvaluateRequest, TrainRequest
from core.runs import evaluate
from core.scans.nifti import SUFFIXES
from plugins.medical.inference.reconstruct import sample as reconstruct
from plugins.medical.operators.radon import Radon
from plugins.medical.request import ReconstructRequest

NETWORK = {
    "width": 64, "multipliers": (1, 2, 2), "blocks": 2, "attention": (),
    "middle_attention": False, "patch": 2,
}  # fmt: skip
CLOSE = Spec("core/karras", {"steps": 12, "sigma_min": 0.004, "sigma_max": 0.15, "rho": 3.0})
TASKS = {"ct": "medical/ct", "mri": "medical/mri"}
CROPS = {
    "ct": {"pixel_range": (2.0, 6.0), "water": 0.02},
    "mri": {"pixel_range": (0.8, 2.5), "tilt": 20.0, "gamma": 1.3},
}
ONE = {"ct": {"pixel": 4.0}, "mri": {"pixel": 1.7, "tilt": 20.0}}
MEASURED = {
    "ct": {
        "23 views": (Spec("medical/ct", {"views": 23, "side": 500.0}), {}),
        "10 views": (Spec("medical/ct", {"views": 10, "side": 500.0}), {}),
    },
    "mri": {
        "4x random": (Spec("medical/mri", {"acceleration": 4.0}), {"grid": CLOSE}),
        "8x density": (
            Spec("medical/mri", {"mask": "density", "acceleration": 8.0}), {"grid": CLOSE},
        ),
    },
}  # fmt: skip
DATA_STD, MEAN = {"ct": 0.5, "mri": 0.25}, {"ct": -1.9, "mri": -2.6}


def folder_of(root: Path) -> str:
    """The dataset that reads a folder."""
    names = (path.name.lower() for path in root.rglob("*"))
    found = any(name.endswith(SUFFIXES) for name in names)
    return "medical/nifti_folder" if found else "medical/dicom_folder"


def datasets(kind: str, roots: list[Path] | None, size: int, *, one: bool) -> tuple[Spec, Spec]:
    """Slices to learn from and to measure."""
    if roots is None:
        made = Spec("medical/phantoms", {"size": size})
        return made, made
    learned, measured = roots
    crops = ONE[kind] if one else {**CROPS[kind], "elastic": 0.02, "mirror_sagittal": False}
    return Spec(
        folder_of(learned),
        {"root": learned, "plane": "any", "size": size, "zoom": 1.25, "shift": 0.25,
         "test_share": 0.0, "count": 10**6, **crops},
    ), Spec(
        folder_of(measured), {"root": measured, "size": 128, "per_scan": 10, "test_share": 1.0}
    )  # fmt: skip


def request_of(
    kind: str, dataset: Spec, width: int, batch: int, steps: int, *, one: bool
) -> TrainRequest:
    """Training of a prior until the minutes are over, or the steps taken."""
    edm = Spec("core/edm", {"data_std": DATA_STD[kind]})
    return TrainRequest(
        task=Spec(TASKS[kind], {"condition_on_pixel": not one}), dataset=dataset,
        network=Spec("core/unet", {**NETWORK, "width": width}),
        process=Spec("core/edm"), parameterization=edm, weighting=edm,
        times=Spec("core/log_normal", {"mean": MEAN[kind], "std": 1.2}), precision=precision(),
        steps=steps, batch=batch, lr=1e-3, warmup=200, decay="constant", ema=0.9995,
    )  # fmt: skip


def measured(kind: str, run: Path, dataset: Spec, items: int) -> dict[str, Any]:
    """The table of one prior."""
    found = {}
    for name, (task, options) in MEASURED[kind].items():
        out = run / name.replace(" ", "-")
        start = time.monotonic()
        request = ReconstructRequest(
            checkpoint=run, task=task, dataset=dataset, count=items, **options
        )
        drawn = reconstruct(request, out)
        seconds = time.monotonic() - start
        scores = evaluate(EvaluateRequest(samples=drawn.samples), out / "evaluate").scores
        found[name] = {"seconds_per_draw": round(seconds / items / 8, 3), "scores": scores}
    return found


def projector(size: int = 256, views: int = 180, batch: int = 4) -> dict[str, float]:
    """Milliseconds of Joseph's projector and of its adjoint on this device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scan = Radon(height=size, width=size, views=views)
    image = torch.rand(batch, 1, size, size, device=device)
    y = scan.forward(image)
    found = {}
    for name, call in (
        ("forward", lambda: scan.forward(image)),
        ("adjoint", lambda: scan.adjoint(y)),
    ):
        spent = []
        for _ in range(8):
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            spent.append(time.perf_counter() - start)
        found[f"{name}_ms"] = round(1e3 * sorted(spent)[len(spent) // 2], 2)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for kind in TASKS:
        parser.add_argument(f"--{kind}", nargs=2, type=Path, metavar=("LEARNED", "MEASURED"))
    parser.add_argument("--only", choices=tuple(TASKS))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--steps", type=int, default=10**6, help="of each training, at most")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=96, help="pixels of a slice to learn from")
    parser.add_argument("--items", type=int, default=10, help="slices measured; 0: no table")
    parser.add_argument("--width", type=int, default=64, help="less, to try it on a CPU")
    parser.add_argument("--one", action="store_true", help="one pixel spacing, given to no network")
    parser.add_argument("--workers", type=int, default=8 if torch.cuda.is_available() else 0)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    options = parser.parse_args(arguments)
    chosen = [options.only] if options.only else list(TASKS)
    figures: dict[str, Any] = {"projector 256x256, 180 views, batch 4": projector()}
    for kind in chosen:
        run = options.out / "runs" / kind
        learned, held_out = datasets(kind, getattr(options, kind), options.size, one=options.one)
        request = request_of(
            kind, learned, options.width, options.batch, options.steps, one=options.one
        )
        minutes = options.minutes / len(chosen)
        figures[kind] = {"training": trained(request, run, minutes, workers=options.workers)}
        write_weights(options.out, kind, run)
        if options.items:
            figures[kind] |= measured(kind, run, held_out, options.items)
        write_figures(options.out, f"medical-{options.only or 'all'}", figures)


if __name__ == "__main__":
    main()
