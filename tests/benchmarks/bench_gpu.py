"""Minutes on a GPU: super-resolution 8 to 32 and inpainting with a network of a published size.

python tests/benchmarks/bench_gpu.py --cifar cifar-10-batches-bin [--minutes 10] [--out runs/gpu]

Half of the minutes train each.  The network is DDPM's for CIFAR-10 (Ho et al. 2020,
arXiv:2006.11239, appendix B: width 128, multipliers 1, 2, 2, 2, two blocks, attention at 16x16)
with ADM's adaptive norms, 38.3 million parameters, conditioned by concatenation.  Without --cifar
crops of the photographs in scikit-image are learned from, which shows that all runs, and no figure
to compare.
"""

import argparse
import platform
import time
from pathlib import Path

import torch

from core.parts.registry import Spec
from core.progress import listener
from core.request import EvaluateRequest, Machine, SampleRequest, TrainRequest
from core.runs import evaluate, sample, train
from core.training.stopping import Stopped

NETWORK = Spec("core/unet", {
    "width": 128, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention": (2,),
})  # fmt: skip
TASKS = {
    "SR 8 to 32": Spec("image2image/sr3", {"scale": 4, "back_projections": 2}),
    "inpainting": Spec("image2image/inpaint"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--width", type=int, default=128, help="less, to try it on a CPU")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    wanted = parser.parse_args()
    photos = Spec("image2image/photos", {"size": 32, "per_photo": -(-wanted.items // 3)})
    data = Spec("image2image/cifar10", {"root": wanted.cifar}) if wanted.cifar else photos
    on_gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if on_gpu else platform.processor() or "CPU"
    print(f"{name}, torch {torch.__version__}, {data.name}, {wanted.minutes:g} minutes in all")
    for label, task in TASKS.items():
        place = wanted.out / label.replace(" ", "-")
        request = TrainRequest(
            task=task, dataset=data, batch=wanted.batch, steps=10**6, decay="constant", lr=2e-4,
            network=Spec(NETWORK.name, {**NETWORK.options, "width": wanted.width}),
            process=Spec("core/vp_linear"), weighting=Spec("core/v"), warmup=200, ema=0.999,
            precision="bf16" if on_gpu and torch.cuda.is_bf16_supported() else "fp32",
        )  # fmt: skip
        ends = time.monotonic() + 60 * wanted.minutes / len(TASKS)
        machine = Machine(workers=8 if on_gpu else 0)
        began, step = time.monotonic(), 0
        with listener(label) as emit:
            try:
                train(request, place, machine=machine, emit=emit,
                      stop=lambda ends=ends: time.monotonic() > ends)  # fmt: skip
            except Stopped as stopped:
                step = stopped.step
        spent = time.monotonic() - began
        peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else float("nan")
        rate = step * wanted.batch / spent
        print(f"{label}: {step} steps of {wanted.batch} in {spent:.0f} s, "
              f"{rate:.0f} samples a second, peak {peak:.1f} GiB")  # fmt: skip
        drawn = sample(
            SampleRequest(
                checkpoint=place, count=wanted.items, samples=8, batch=64,
                sampler=Spec("core/ancestral"), grid=Spec("core/uniform_time", {"steps": 10}),
            ),
            place / "sample",
        )  # fmt: skip
        scores = evaluate(EvaluateRequest(samples=drawn.samples), place / "evaluate").scores
        for method, figures in scores.items():
            print(f"  {method:<28}" + "  ".join(f"{k} {v:.4g}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
