"""PSNR against the amount measured: TV, ours, and deepinv's DPS and DiffPIR with the same prior.

python tests/benchmarks/bench_measurements.py --kind ct --prior RUN --folder SCANS \\
    [--amounts 10,15,23,40,60] [--items 2,7] [--size 128] [--peers "DPS, 100"] [-o FIGURE.svg]

The amount is the number of views of CT (counts of I0 = 1e5 of the slice at twice the resolution) or
the acceleration of MRI (random columns, noise of 0.005), of slices of scans that the prior did not
learn.  Ours is the default of the commands: the mean of 8 draws, chosen by held-out measurements.
deepinv (optional) is given the same denoiser, operator and noise; of it one draw counts, as its
options are its defaults.  PSNR in dB, the mean over slices; a table in Markdown, and a chart.
"""

import argparse
import time
from pathlib import Path

from bench_posterior import peers
from figure import write_svg
from scan_slices import BUILDS, Case, case, default

from core.results.metrics import psnr

DRAWS = 8
AMOUNTS = {"ct": (10, 15, 23, 40, 60), "mri": (2, 3, 4, 6, 8, 12)}
NAMES = {"ct": "views", "mri": "acceleration"}


def column(measured: Case, some: list[str]) -> dict[str, float]:
    """PSNR of every method at one amount."""
    task, truth, found = measured.task, measured.truth, {}
    begun = time.process_time()
    result = default(measured, DRAWS)
    seconds = {"ours": time.process_time() - begun}
    for name in task.methods:
        found[name] = float(psnr(result.classical[name], truth).mean())
    found["ours"] = float(psnr(result.mean.clamp(-1, 1), truth).mean())
    condition = task.condition(measured.batch)
    others = peers(measured.model, measured.measurement, measured.like, condition)
    for name, draw in others.items():
        if any(name.endswith(one) for one in some):
            begun = time.process_time()
            found[name] = float(psnr(task.picture(draw()), truth).mean())
            seconds[name] = time.process_time() - begun
    print("  seconds: " + ", ".join(f"{name} {s:.0f}" for name, s in seconds.items()), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=tuple(BUILDS), required=True)
    parser.add_argument("--prior", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="scans of other patients")
    parser.add_argument("--amounts", help="by default 10 to 60 views, or 2 to 12")
    parser.add_argument("--items", default="2,7", help="numbers of ten slices of each scan")
    parser.add_argument("--size", type=int, default=128, help="pixels along a side")
    parser.add_argument("--peers", nargs="*", default=["DiffPIR, 20", "DPS, 100"])
    parser.add_argument("-o", "--out", type=Path, help="the chart, as SVG")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    kind, name = options.kind, NAMES[options.kind]
    stated = options.amounts.split(",") if options.amounts else AMOUNTS[kind]
    items = [int(number) for number in options.items.split(",")]
    lines: dict[str, list[list[float]]] = {}
    for amount in map(int, stated):
        print(f"{name} {amount}")
        task = {name: amount if kind == "ct" else float(amount)}
        measured = case(
            options.prior, options.folder, kind, task, items, options.size,
            draws=DRAWS, threads=options.threads,
        )  # fmt: skip
        for method, value in column(measured, options.peers).items():
            lines.setdefault(method, []).append([amount, value])
    print(f"\n| {name} | " + " | ".join(str(amount) for amount in stated) + " |")
    print("|---" * (len(stated) + 1) + "|")
    for method, points in lines.items():
        print(f"| {method} | " + " | ".join(f"{value:.2f}" for _, value in points) + " |")
    if options.out is not None:
        title = f"PSNR of slices of {options.size}x{options.size} pixels"
        write_svg(options.out, title, name, "PSNR, dB", lines)


if __name__ == "__main__":
    main()
