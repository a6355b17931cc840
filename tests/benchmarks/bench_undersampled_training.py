"""A prior of undersampled k-space beside one of the same slices' whole images.

python tests/benchmarks/bench_undersampled_training.py --learn SCANS --test SCANS --out FOLDER \\
    [--steps 4800] [--items 10] [--plane sagittal] [--whole RUN]

Both priors are trained as `configs/reference-mri.yaml` states, by the same number of steps: one on
random poses of the images, one on every slice of a plane, each measured once (`--acceleration`,
random columns, noise 0.005).  A training that was stopped resumes; `--whole` is a prior of whole
images that has been trained already, in place of the first.  Then slices of other patients,
128x128, are measured by the same pattern and reconstructed by each: PSNR in dB of classical
methods, of one draw and of the mean of 8 (DiffPIR, 12 steps from TV at level 0.15).  The
undersampled prior is asked by subsets of k-space as in training (`medical/subsets`), and by all of
x_t at once.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from core import runs
from core.data import collate, open_dataset
from core.model import for_task, load_model
from core.parts.config import bind, configure
from core.parts.registry import Spec
from core.parts.yaml_file import read_yaml
from core.request import Machine, TrainRequest
from core.results.metrics import psnr
from core.scans.nifti import SUFFIXES
from plugins.medical.inference.draws import How
from plugins.medical.inference.reconstruct import draws, prior_of
from plugins.medical.request import RULE, SOLVER

CONFIGS = Path(__file__).resolve().parents[2] / "plugins" / "medical" / "configs"
CLOSE = Spec("core/karras", {"steps": 12, "sigma_min": 0.004, "sigma_max": 0.15, "rho": 3.0})
DRAWS = 8


def trained(name: str, dataset: dict[str, Any], options: Any) -> Path:
    """The checkpoints of one configuration, trained on a dataset, and its time and loss."""
    request = {**read_yaml(CONFIGS / f"{name}.yaml"), "dataset": dataset, "steps": options.steps}
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
    about = {"root": str(options.learn), "size": options.size, "pixel": options.pixel}
    whole = {
        **read_yaml(CONFIGS / "reference-mri.yaml")["dataset"], **about,
        "name": folder_of(options.learn),
    }  # fmt: skip
    part = {
        "name": "medical/undersampled_scans", **about, "test_share": 0.0, "plane": options.plane,
        "acceleration": options.acceleration,
    }  # fmt: skip
    return {"reference-mri": whole, "undersampled-mri": part}


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
    runs_of = {} if options.whole is None else {"reference-mri": options.whole}
    for name, data in datasets(options).items():
        runs_of[name] = runs_of.get(name) or trained(name, data, options)
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
    found = {
        "whole images": figures(whole, dataset, items),
        "undersampled, by subsets": figures(part, dataset, items),
        "undersampled, at once": figures(at_once, dataset, items),
    }
    for name, values in found.items():
        print(name)
        for method, value in values.items():
            print(f"    {method:24} {value:8.2f} dB")
    mean = f"mean of {DRAWS}"
    gap = found["undersampled, by subsets"][mean] - found["whole images"][mean]
    print(f"undersampled - whole images, {mean}: {gap:+.2f} dB")


if __name__ == "__main__":
    main()
