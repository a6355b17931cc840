"""How close few evaluations come to many: PSNR of a trained restoration against the number of them.

python tests/benchmarks/bench_restoration.py CHECKPOINT [--task NAME] [--items 12]

Every solver draws for the same items with the same seeds, in one run.  FEW evaluations have to
reach within 0.3 dB of MANY.
"""

import argparse
import time
from pathlib import Path

import torch

from core.data import collate, open_dataset
from core.model import corrected, for_task, load_model
from core.parts.config import configure
from core.parts.registry import Spec
from core.process.noise import Noise
from core.request import Machine
from core.results.metrics import psnr
from core.sampler.sample import prior, sample

FEW, MANY, APART = 20, 200, 0.3
COUNTS = (2, 4, 10, FEW, 50, MANY)
SOLVERS = {
    "ancestral": (Spec("core/ancestral"), "core/uniform_time"),
    "multistep": (Spec("core/multistep", {"weights": "midpoint"}), "core/uniform_log_snr"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--task", default="")
    parser.add_argument("--items", type=int, default=12)
    wanted = parser.parse_args()
    model = load_model(wanted.checkpoint, machine=Machine(threads=torch.get_num_threads()))
    if wanted.task:
        model = for_task(model, Spec(wanted.task))
    photos = Spec("image2image/photos", {"size": 64, "per_photo": -(-wanted.items // 3)})
    dataset = open_dataset(photos, "test", model.task)
    batch = collate(dataset, list(range(wanted.items)))
    example, truth = model.task.prepare(batch), batch["image"]
    denoise = corrected(model.denoise, model.task, batch)
    reference = model.task.score(truth[:, None], batch)[model.task.reference].figures["psnr"].mean()
    print(f"{model.request.task.name}, {wanted.items} items of 64x64; "
          f"{model.task.reference} {reference:.2f} dB")  # fmt: skip
    print("solver      evaluations  one sample, dB  mean of 4, dB  seconds a draw")
    for name, (spec, grid_name) in SOLVERS.items():
        reached = {}
        for count in COUNTS:
            solver = configure("sampler", spec)()
            grid = configure("grid", Spec(grid_name, {"steps": count}))(model.process)
            draws, began = [], time.monotonic()
            for k in range(4):
                noise = Noise.of(0, "bench", each=[f"{i}/{k}" for i in range(wanted.items)])
                x = prior(model.process, grid, example.x0, noise)
                x0 = sample(denoise, grid, solver, x, noise, example.condition)
                draws.append(model.task.finish(x0, batch))
            spent = (time.monotonic() - began) / 4 / wanted.items
            one = float(torch.stack([psnr(d, truth) for d in draws]).mean())
            mean = float(psnr(torch.stack(draws).mean(0), truth).mean())
            reached[count] = one
            print(f"{name:<12}{count:>10}{one:>16.2f}{mean:>15.2f}{spent:>16.3f}")
        gap = reached[MANY] - reached[FEW]
        print(f"{name}: {FEW} evaluations are {gap:+.2f} dB short of {MANY}"
              f" ({'within' if gap <= APART else 'NOT within'} {APART})")  # fmt: skip


if __name__ == "__main__":
    main()
