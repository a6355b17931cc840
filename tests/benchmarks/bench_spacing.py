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

from scan_slices import BUILDS, Case, case, default
from torch import Tensor

from plugins.medical.inference import volume
from plugins.medical.tasks.reconstruction import AIR


def decibels(x: Tensor, truth: Tensor) -> str:
    """PSNR of whole images, and of the body."""
    square = (x.clamp(-1, 1) - truth).square()
    found = (square.mean(), square[truth > AIR].mean())
    return " / ".join(f"{10 * math.log10(4 / float(one)):.2f}" for one in found)


def drawn(options: argparse.Namespace, measured: Case) -> dict[str, Tensor]:
    """The mean of draws of a prior, and the default result where it is asked for."""
    given, how = (measured.model, measured.measurement, measured.like), measured.settings[0].how
    found = {"mean": volume.drawn(*given, how, start="TV", draws=options.draws, seed=0).mean}
    return found | ({"default": default(measured, options.draws).mean} if options.default else {})


def row(options: argparse.Namespace, size: int, priors: dict[str, Path]) -> None:
    """Print the figures of one pixel size."""
    ct = options.kind == "ct"
    task = {"views": options.views} if ct else {"acceleration": options.acceleration}
    items = [5 + i for i in range(options.slices)]
    known: dict[str, Tensor] = {}
    for name, path in priors.items():
        for spacing in ("ignore", "resample"):
            measured = case(
                path, options.folder, options.kind, task, items, size,
                spacing=spacing, draws=options.draws, threads=options.threads,
            )  # fmt: skip
            if not known:
                known = measured.task.classical(measured.measurement)
                print(f"\n{size}x{size}, pixels of {measured.pixel:.2f} mm")
                for key, x in known.items():
                    print(f"  {key:24} {decibels(measured.task.picture(x), measured.truth)}")
            if spacing == "resample" and not measured.resampled:
                continue  # the same
            label = f"{name}, fit" if measured.resampled else f"{name}, as it is"
            for key, x in drawn(options, measured).items():
                psnr = decibels(measured.task.picture(x), measured.truth)
                print(f"  {label + ', ' + key:24} {psnr}", flush=True)


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
