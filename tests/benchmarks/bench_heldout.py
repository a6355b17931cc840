"""Choices by held-out measurements beside those by the truth, on patients of other scanners.

python tests/benchmarks/bench_heldout.py --ct PRIOR --mri PRIOR --rows NAME:FOLDER ... \\
    [--items 0,5] [--keep FOLDER]

A row is ``ct23``, ``ct10``, ``mri4`` (random columns) or ``mri8`` (variable density) of a folder of
scans: slices of 128x128, CT with counts of I0 = 1e5 of the slice at twice the resolution, MRI with
a smooth phase and noise of 0.005.  PSNR in dB of the classical methods; of the mean of 8 draws from
the default level, which was the default (old); of the default (new); and of the best single
candidate by the truth (oracle); of the best classical method and the default in the body alone.
Coverage of the 90 % interval in the body: of the old default with Student's quantile, its variances
averaged over 5x5 pixels, and of the new one, the deviation as written times 1.645, there and at the
steepest tenth of its pixels.  `--keep` keeps draws, so that a run that was stopped resumes.
"""

import argparse
import hashlib
import math
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from scan_slices import case
from torch import Tensor

from core.inverse.measurement import Measurement
from core.results.calibration import calibration, rank_correlation
from core.results.metrics import psnr
from plugins.medical.inference import choice as choosing
from plugins.medical.inference import volume
from plugins.medical.inference.draws import How, reconstructed
from plugins.medical.tasks.reconstruction import AIR

DRAWS, NORMAL = 8, 1.6449
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "ct23": ("ct", {"views": 23}),
    "ct10": ("ct", {"views": 10}),
    "mri4": ("mri", {"acceleration": 4.0}),
    "mri8": ("mri", {"mask": "density", "acceleration": 8.0}),
}


def kept(folder: Path | None) -> None:
    """Keep every draw in files of a folder, found again by all that it depends on."""

    def draw(
        denoise: Any, measurement: Measurement, how: How, start: Tensor, noise: Any, **more: Any
    ) -> Tensor:
        if folder is None:
            return reconstructed(denoise, measurement, how, start, noise, **more)
        key = hashlib.sha256(repr((noise.seeds, how.grid.tolist())).encode())
        for tensor in (measurement.y, start):
            key.update(tensor.resolve_conj().numpy().tobytes())
        place = folder / f"{key.hexdigest()[:24]}.safetensors"
        if not place.exists():
            x = reconstructed(denoise, measurement, how, start, noise, **more)
            save_file({"x": x.contiguous()}, place)
        return load_file(place)["x"]

    choosing.reconstructed = volume.reconstructed = draw


def body(truth: Tensor, mean: Tensor) -> Tensor:
    return (truth > AIR) | (mean > AIR)


def decibels(x: Tensor, truth: Tensor, where: Tensor) -> float:
    """PSNR of the pixels of all slices that count."""
    return -10 * math.log10(float((x.clamp(-1, 1) - truth).square()[where].double().mean()) / 4)


def steepest(truth: Tensor, where: Tensor) -> Tensor:
    """The tenth of the pixels that count whose gradient is the largest."""
    rows, columns = torch.gradient(truth, dim=(-2, -1))
    slope = rows.square() + columns.square()
    return where & (slope >= slope[where].quantile(0.9))


def table(row: str, folder: Path, items: list[int], prior: Path, size: int) -> dict[str, float]:
    """The figures of one row, means over the slices."""
    measured = case(prior, folder, *ROWS[row], items, size, draws=DRAWS)
    model, measurement, like = measured.model, measured.measurement, measured.like
    task, truth, settings = measured.task, measured.truth, measured.settings

    def drawn(how: How, start: str, choice: Any = None) -> volume.Found:
        return volume.drawn(
            model, measurement, like, how, start=start, draws=DRAWS, seed=0, choice=choice
        )

    begun = time.process_time()
    choice = choosing.chosen(model, measurement, like, settings, start=None, draws=DRAWS, seed=0)
    spent = time.process_time() - begun
    assert choice is not None
    begun = time.process_time()
    ours = drawn(choice.setting.how, choice.start, choice)
    spent_again = time.process_time() - begun
    plain = {s.level: drawn(s.how, "TV") for s in settings}
    old = plain[settings[0].level]
    figures = {name: float(psnr(x, truth).mean()) for name, x in old.classical.items()}
    first = max(figures, key=lambda name: figures[name])
    best = figures[first]
    means = {
        f"from {at:g}": float(psnr(one.mean.clamp(-1, 1), truth).mean())
        for at, one in plain.items()
    }
    variants = task.variants(measurement, task.classical(measurement))
    more = {n: float(psnr(task.picture(x), truth).mean()) for n, x in variants.items()}
    new = float(psnr(ours.mean.clamp(-1, 1), truth).mean())
    oracle = max({**figures, **more, **means}.values())
    where = body(truth, ours.mean)
    error = (ours.mean - truth).abs()
    held = error <= NORMAL * ours.std
    figures |= means | more | {
        "old": means[f"from {settings[0].level:g}"], "new": new, "oracle": oracle,
        "new - best classical": new - best, "new - oracle": new - oracle,
        "coverage old": covered(model, measurement, like, truth, settings[0].how),
        f"body, {first}": decibels(old.classical[first], truth, where),
        "body, new": decibels(ours.mean, truth, where),
        "coverage new": 100 * float(held[where].double().mean()),
        "the same at edges": 100 * float(held[steepest(truth, where)].double().mean()),
        "rank new": rank_correlation(ours.std[where], error[where]),
        "scale": choice.scale, "seconds to choose": spent, "seconds to draw": spent_again,
    }  # fmt: skip
    print(f"{row} {folder.name}: {choice.record}", flush=True)
    return figures


def covered(model: Any, measurement: Measurement, like: Tensor, truth: Tensor, how: How) -> float:
    """Coverage of the old default's intervals, as the evaluation of samples gives it."""
    task = model.task
    first = task.classical(measurement)["TV"]
    every = [
        volume.reconstructed(
            model.denoise, measurement, how, first, volume.streams(0, range(len(like)), k)
        )
        for k in range(DRAWS)
    ]
    drawn = torch.stack([task.picture(x) for x in every], 1)
    found = calibration(drawn, truth, body(truth, drawn.mean(1)))
    return float(found["coverage"].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ct", type=Path, help="prior of CT")
    parser.add_argument("--mri", type=Path, help="prior of MRI")
    parser.add_argument("--rows", nargs="+", required=True, metavar="NAME:FOLDER")
    parser.add_argument("--items", default="0,5", help="numbers of ten slices of each scan")
    parser.add_argument(
        "--size", type=int, default=128, help="of slices: other pixels than learned"
    )
    parser.add_argument("--keep", type=Path, help="folder of draws, of the same priors")
    wanted = parser.parse_args()
    if wanted.keep is not None:
        wanted.keep.mkdir(parents=True, exist_ok=True)
    kept(wanted.keep)
    items = [int(number) for number in wanted.items.split(",")]
    for named in wanted.rows:
        row, folder = named.split(":", 1)
        prior = wanted.ct if row.startswith("ct") else wanted.mri
        found = table(row, Path(folder), items, prior, wanted.size)
        print(f"{row} {Path(folder).name}")
        for name, value in found.items():
            print(f"    {name:24} {value:8.3f}", flush=True)


if __name__ == "__main__":
    main()
