"""``polymode video compare``: PSNR and SSIM of two clips, frame by frame and pooled."""

import csv
import sys
from pathlib import Path
from typing import Annotated

import typer

from core.commands import keeps_nothing


@keeps_nothing
def compare(
    first: Annotated[Path, typer.Argument(help="A video file, or a folder of images.")],
    second: Annotated[Path, typer.Argument(help="Another, of the same size and length.")],
) -> None:
    """Print a CSV of each frame's PSNR and SSIM, and of all frames together.

    PSNR of all frames is that of their mean squared error, not the mean of decibels.  A lossy file
    is compared as it plays: compare lossless ones to measure a model.

    Example: polymode video compare truth.mkv predicted.mkv > scores.csv
    """
    from plugins.video.evaluation.compare import compared

    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(("frame", "psnr", "ssim"))
    for row in compared(first, second):
        similar = "" if row.ssim is None else f"{row.ssim:.4f}"
        rows.writerow((row.frame, f"{row.psnr:.2f}", similar))
