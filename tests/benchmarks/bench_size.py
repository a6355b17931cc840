"""Sizes of the network of four-fold super-resolution, each trained from nothing for the same time.

python tests/benchmarks/bench_size.py PHOTOGRAPHS HELD_OUT --out FOLDER [--minutes 6]
    [--sizes 32x8 64x8 64x16 96x16] [--batch 16] [--threads 1]

A size is the width of the estimate's layers and the number of its blocks.  The estimate alone is
trained (`configs/reference.yaml`, a constant rate, weights averaged) until the minutes of processor
time are spent.  Held out are whole photographs, reduced four-fold to 8 bits and enlarged with
`--detail 0`: mean PSNR of RGB, and the seconds of one.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import bench_photographs
import torch

from core import runs
from core.model import load_model
from core.parts.config import bind
from core.parts.yaml_file import read_yaml
from core.request import Machine, TrainRequest
from core.results.metrics import psnr
from core.training.stopping import Stopped
from plugins.image2image.tasks.restoration import to_levels

CONFIG = Path(__file__).resolve().parents[2] / "plugins/image2image/configs/reference.yaml"
MOST = 1_000_000  # steps


def request(size: str, options: argparse.Namespace) -> TrainRequest:
    """The reference's training of the estimate alone, at one size, longer than there is time."""
    values: dict[str, Any] = read_yaml(CONFIG)
    width, blocks = (int(number) for number in size.split("x"))
    values["network"] |= {"width": width, "blocks": blocks}
    values["dataset"] |= {"root": options.photographs}
    values["objective"] = {"name": values["objective"], "refine_weight": 0.0}
    values |= {"steps": MOST, "batch": options.batch, "warmup": 50, "ema": 0.995}
    return bind(TrainRequest, values)


def trained(size: str, run: Path, machine: Machine, options: argparse.Namespace) -> int:
    """Train one size for the minutes of processor time; its number of steps."""
    until = time.process_time() + 60 * options.minutes

    def stop() -> bool:
        return time.process_time() > until

    try:
        return runs.train(request(size, options), run, machine=machine, stop=stop).steps
    except Stopped as stopped:
        return stopped.step


def held_out(checkpoint: Path, folder: Path) -> tuple[list[float], float]:
    """PSNR of each photograph and the median seconds of one."""
    name = bench_photographs.EXPECTED
    methods = bench_photographs.classical() | bench_photographs.ours(checkpoint, None, 1)
    found, seconds = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted(p for p in folder.iterdir() if p.suffix in bench_photographs.SUFFIXES):
            truth = bench_photographs.read(path)
            file = Path(scratch, f"{path.stem}.png")
            bench_photographs.reduced(truth).save(file)
            began = time.monotonic()
            found.append(float(psnr(to_levels(methods[name](file)), truth)))
            seconds.append(time.monotonic() - began)
    return found, statistics.median(seconds)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photographs", type=Path, help="folder to learn from")
    parser.add_argument("held_out", type=Path, help="folder of other photographs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--sizes", nargs="+", default=["32x8", "64x8", "64x16", "96x16"])
    parser.add_argument("--minutes", type=float, default=6.0, help="of training, for each size")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    machine = Machine(device="cpu", threads=options.threads)
    print("| width x blocks | parameters | steps | PSNR, dB | seconds an image |")
    print("|---|---|---|---|---|")
    for size in options.sizes:
        run = options.out / size
        steps = trained(size, run, machine, options)
        found, seconds = held_out(run, options.held_out)
        print(
            f"| {size} | {estimate_parameters(run):,} | {steps} "
            f"| {statistics.mean(found):.3f} | {seconds:.1f} |",
            flush=True,
        )


def estimate_parameters(run: Path) -> int:
    """Parameters of a run's estimate, without those of the network that refines it."""
    network = load_model(run, machine=Machine(device="cpu")).network
    return sum(p.numel() for name, p in network.named_parameters() if "refiner" not in name)


if __name__ == "__main__":
    main()
