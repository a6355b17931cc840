"""What tiles cost and whether they show: an enlargement of 2048x1536 pixels beside half of it.

polymode train plugins/image2image/configs/demo.yaml -o runs/sr3
python tests/benchmarks/bench_tiles.py runs/sr3 [--threads 1] [--steps 4]

Each size is drawn in a process of its own, so that its peak memory is its own.  Twice the tiles may
cost at most 2.1 times the time, and the seam ratio may be at most 1.05: the mean gradient across
the lines where tiles begin and end over that across other lines at multiples of the factor.
"""

import argparse
import multiprocessing
import resource
import time
from pathlib import Path

import torch
from skimage import data

from core.denoiser.tiles import seam_ratio
from core.model import load_model
from core.parts.config import configure
from core.parts.registry import Spec
from core.request import Machine
from plugins.image2image.inference.draws import Sampling, draw_restorations

TILE, OVERLAP = 512, 64
SIZES = {"half": (960, 2048), "whole": (1536, 2048)}
SLOWER, SEAM = 2.1, 1.05


def drawn(checkpoint: Path, size: tuple[int, int], threads: int, steps: int) -> dict[str, float]:
    """One enlargement to a size: its tiles, seconds, peak memory, and seam ratios."""
    model = load_model(checkpoint, machine=Machine(threads=threads), task="image2image/sr3")
    task = model.task
    grid = configure("grid", Spec("core/uniform_time", {"steps": steps}))(model.process)
    solver = configure("sampler", Spec("core/ancestral"))()
    how = Sampling(solver=solver, grid=grid, tile=TILE, overlap=OVERLAP)
    rows, columns = (side // task.scale for side in size)
    pixels = torch.from_numpy(data.coffee()[:rows, :columns].copy())
    low = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1
    begun = time.perf_counter()
    (found,) = draw_restorations(model, {"low": low}, how)
    seconds = time.perf_counter() - begun
    return {
        "tiles": how.tiles(*size),
        "seconds": seconds,
        "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "seam": seam_ratio(found, TILE, OVERLAP, every=task.scale),
        "bicubic": seam_ratio(task.operator.up(low), TILE, OVERLAP, every=task.scale),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    wanted = parser.parse_args()
    found = {}
    for name, size in SIZES.items():
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            given = (wanted.checkpoint, size, wanted.threads, wanted.steps)
            row = found[name] = alone.apply(drawn, given)
        print(f"{size[1]}x{size[0]}: {row['tiles']} tiles, {row['seconds']:.0f} s, peak "
              f"{row['MiB']:.0f} MiB, seam ratio {row['seam']:.3f}, of bicubic "
              f"{row['bicubic']:.3f}", flush=True)  # fmt: skip
    half, whole = found["half"], found["whole"]
    cost = whole["seconds"] / half["seconds"]
    more = whole["tiles"] / half["tiles"]
    print(f"{more:g} times the tiles in {cost:.2f} times the time"
          f" ({'within' if cost <= SLOWER else 'NOT within'} {SLOWER})")  # fmt: skip
    seam = max(row["seam"] for row in found.values())
    print(f"seam ratio {seam:.3f} ({'within' if seam <= SEAM else 'NOT within'} {SEAM})")


if __name__ == "__main__":
    main()
