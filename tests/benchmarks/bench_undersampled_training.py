"""Priors of undersampled k-space alone beside one of the same slices' whole images.

python tests/benchmarks/bench_undersampled_training.py --learn SCANS --test SCANS --out FOLDER \\
    [--steps 4800] [--items 10] [--plane sagittal] [--whole RUN] [--reconstructed RUN]

Priors are trained as `configs/reference-mri.yaml` states, by the same number of steps: one on
random poses of the images; one by `medical/measured` on every slice of a plane, each measured once
(`--acceleration`, random columns, noise 0.005); one on random poses of the volume that total
variation reconstructs of those same measurements, slice by slice.  A training that was stopped
resumes; `--whole` and `--reconstructed` are runs of the first and the last that are there already.
Then slices of other patients,
128x128, are measured by the same pattern and reconstructed by each: PSNR in dB of classical
methods, of one draw and of the mean of 8 (DiffPIR, 12 steps from TV at level 0.15).  The
undersampled prior is asked by subsets of k-space as in training (`medical/subsets`), and by all of
x_t at once.
"""

import argparse
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from core import runs
from core.data import collate, open_dataset
from core.inverse.measurement import Measurement
from core.model import for_task, load_model
from core.parts.config import bind, configure
from core.parts.registry import Spec
from core.parts.yaml_file import read_yaml
from core.request import Machine, TrainRequest
from core.results.metrics import psnr
from core.scans.nifti import SUFFIXES
from core.storage.files import make_folder
from plugins.medical.inference.draws import How
from plugins.medical.inference.reconstruct import draws, prior_of
from plugins.medical.operators.fourier import Fourier, to_complex
from plugins.medical.request import RULE, SOLVER
from plugins.medical.tasks import classical

CONFIGS = Path(__file__).resolve().parents[2] / "plugins" / "medical" / "configs"
CLOSE = Spec("core/karras", {"steps": 12, "sigma_min": 0.004, "sigma_max": 0.15, "rho": 3.0})
DRAWS = 8
WEIGHT = 6.0  # of total variation, the default of medical/mri


def trained(name: str, dataset: dict[str, Any], options: Any) -> Path:
    """The checkpoints of one configuration, trained on a dataset, and its time and loss."""
    config = "undersampled-mri" if name == "undersampled-mri" else "reference-mri"
    request = {**read_yaml(CONFIGS / f"{config}.yaml"), "dataset": dataset, "steps": options.steps}
    request["network"] = {**request["network"], "width": options.width}
    if "guidance" in request:
        request["guidance"] = {**request["guidance"], "acceleration": options.acceleration}
    out = options.out / name
    machine = Machine(threads=options.threads)
    found = runs.train(bind(TrainRequest, request), out, machine=machine)
    print(f"{name}: {found.steps} steps, {found.seconds:.0f} s, loss {found.loss:.4f}", flush=True)
    return out


def datasets(options: Any) -> dict[str, dict[str, Any]]:
    """Whole images in any pose, and slices that were measured once."""
    about = {"size": options.size, "pixel": options.pixel}
    common = {**read_yaml(CONFIGS / "reference-mri.yaml")["dataset"], **about}
    whole = {**common, "root": str(options.learn), "name": folder_of(options.learn)}
    part = {
        **about, "root": str(options.learn), "name": "medical/undersampled_scans",
        "test_share": 0.0, "plane": options.plane, "acceleration": options.acceleration,
    }  # fmt: skip
    folder = str(options.out / "volume")
    volume = {**common, "root": folder, "name": "medical/nifti_folder", "test_share": 0.0}
    return {"reference-mri": whole, "undersampled-mri": part, "reconstructed-mri": volume}


def reconstruct(part: dict[str, Any], options: Any) -> None:
    """Write the volume that total variation makes of the measured slices, as NIfTI."""
    target = options.out / "volume" / "tv.nii.gz"
    if target.exists():
        return
    chosen = {name: value for name, value in part.items() if name != "name"}
    dataset = configure("dataset", Spec(part["name"], {**chosen, "mirror": False}))("train")
    found = []
    for number in range(len(dataset)):
        item = dataset[number]
        operator = Fourier().given(
            frequencies=item["frequencies"], sensitivities=item["sensitivities"][None]
        )
        measurement = Measurement(operator, item["kspace"][None], 0.005)
        zero = operator.adjoint(measurement.y)
        x = classical.total_variation(measurement, zero, weight=WEIGHT)
        found.append(to_complex(x).abs()[0])
    voxels = (1000 * torch.stack(found)).numpy().astype(np.float32)
    make_folder(target.parent)
    spacing = [options.slice_mm, options.pixel, options.pixel, 1.0]
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag(spacing)), target)


def folder_of(root: Path) -> str:
    """The dataset that reads a folder."""
    found = any(path.name.lower().endswith(SUFFIXES) for path in root.rglob("*"))
    return "medical/nifti_folder" if found else "medical/dicom_folder"


def figures(model: Any, dataset: Any, items: list[int]) -> dict[str, float]:
    """PSNR of the methods, means over the slices."""
    how = How(
        method=configure("posterior", RULE),
        solver=configure("sampler", SOLVER)(),
        grid=configure("grid", CLOSE)(model.process),
        at_once=8,
    )
    drawn = draws(model, dataset, items, how, "TV", DRAWS, 0)
    batch = collate(dataset, items)
    compared = model.task.classical(model.task.measured(batch))
    compared |= {"one draw": drawn[:, 0], f"mean of {DRAWS}": drawn.mean(1)}
    truth = model.task.picture(batch["image"])
    return {name: float(psnr(model.task.picture(x), truth).mean()) for name, x in compared.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--learn", type=Path, required=True, help="folder of MR scans")
    parser.add_argument("--test", type=Path, required=True, help="folder of another patient's")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--whole", type=Path, help="a prior of whole images")
    parser.add_argument("--reconstructed", type=Path, help="a prior of reconstructions")
    parser.add_argument("--slice-mm", type=float, default=0.667, help="distance of the slices")
    parser.add_argument("--steps", type=int, default=4800)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--size", type=int, default=96, help="pixels of a slice to learn from")
    parser.add_argument("--pixel", type=float, default=1.7, help="of it, in millimetres")
    parser.add_argument("--plane", default="sagittal", help="of the slices that are measured")
    parser.add_argument("--acceleration", type=float, default=4.0)
    parser.add_argument("--items", type=int, default=10, help="slices to test")
    parser.add_argument("--tested-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    given = {"reference-mri": options.whole, "reconstructed-mri": options.reconstructed}
    runs_of = {name: run for name, run in given.items() if run is not None}
    data = datasets(options)
    if "reconstructed-mri" not in runs_of:
        reconstruct(data["undersampled-mri"], options)
    for name, chosen in data.items():
        runs_of[name] = runs_of.get(name) or trained(name, chosen, options)
    task = Spec("medical/mri", {"acceleration": options.acceleration})
    machine = Machine(threads=options.threads)
    whole = prior_of(runs_of["reference-mri"], task, machine)
    part = prior_of(runs_of["undersampled-mri"], task, machine)
    at_once = for_task(load_model(runs_of["undersampled-mri"], machine=machine), task)
    tested = Spec(
        folder_of(options.test),
        {"root": options.test, "size": options.tested_size, "per_scan": options.items,
         "test_share": 1.0, "modality": "MR"},
    )  # fmt: skip
    dataset = open_dataset(tested, "test", whole.task)
    items = list(range(min(options.items, len(dataset))))
    volume = prior_of(runs_of["reconstructed-mri"], task, machine)
    found = {
        "whole images": figures(whole, dataset, items),
        "reconstructions by total variation": figures(volume, dataset, items),
        "undersampled, by subsets": figures(part, dataset, items),
        "undersampled, at once": figures(at_once, dataset, items),
    }
    for name, values in found.items():
        print(name)
        for method, value in values.items():
            print(f"    {method:24} {value:8.2f} dB")
    mean = f"mean of {DRAWS}"
    for name in ("undersampled, by subsets", "reconstructions by total variation"):
        gap = found[name][mean] - found["whole images"][mean]
        print(f"{name} - whole images, {mean}: {gap:+.2f} dB")


if __name__ == "__main__":
    main()
