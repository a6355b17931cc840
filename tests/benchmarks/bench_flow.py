"""Optical flow as a predictor of the test clips of a dataset: what a model has to beat.

python tests/benchmarks/bench_flow.py video/moving_digits [--known 8] [--clips 32]
    [--set size=32 frames=16]

The last two given frames have a flow by Farnebäck's method (OpenCV, optional: opencv-python-
headless), which is continued with constant velocity: frame k is the last one warped by k times the
flow.  PSNR in dB of the mean squared error over all predicted frames of all clips, and the mean
over clips of that of the first two, beside copies of the last frame.
"""

import argparse
import sys

import numpy as np
import torch

from core.parts.config import configure
from core.parts.registry import Spec
from core.parts.yaml_file import parse_yaml
from plugins.video.tasks.figures import decibels, frame_errors

OPTIONS = {"pyr_scale": 0.5, "levels": 3, "winsize": 9, "iterations": 5, "poly_n": 5,
           "poly_sigma": 1.1, "flags": 0}  # fmt: skip


def continued(clip: np.ndarray, known: int) -> np.ndarray:
    """A clip (t, h, w), uint8, its frames from `known` on replaced by the last one warped."""
    import cv2

    before, last = clip[known - 2], clip[known - 1]
    # From the last frame to the one before it: a pixel of frame k comes from k times as far back.
    flow = cv2.calcOpticalFlowFarneback(last, before, None, **OPTIONS)
    y, x = np.mgrid[: clip.shape[1], : clip.shape[2]].astype(np.float32)
    found = clip.copy()
    for number in range(known, len(clip)):
        far = (number - known + 1) * flow
        found[number] = cv2.remap(last, x + far[..., 0], y + far[..., 1], cv2.INTER_LINEAR)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="name of a dataset of grey clips")
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE")
    parser.add_argument("--known", type=int, default=8)
    parser.add_argument("--clips", type=int, default=32)
    options = parser.parse_args(arguments)
    try:
        import cv2  # noqa: F401
    except ImportError:
        sys.exit("bench_flow: OpenCV is missing: pip install opencv-python-headless")
    stated = dict(one.split("=", 1) for one in options.set)
    chosen = {name: parse_yaml(value, "--set") for name, value in stated.items()}
    dataset = configure("dataset", Spec(options.dataset, chosen))("test")
    squares: dict[str, list[torch.Tensor]] = {}
    for number in range(options.clips):
        truth = dataset[number]["clip"]
        frames = ((truth[0] + 1) * 127.5).round().byte().numpy()
        copies = frames.copy()
        copies[options.known :] = frames[options.known - 1]
        for name, clip in {"copies": copies, "flow": continued(frames, options.known)}.items():
            values = torch.from_numpy(clip).float() / 127.5 - 1
            errors = frame_errors(values[None, None], truth[None])[0, options.known :]
            squares.setdefault(name, []).append(errors)
    for name, found in squares.items():
        errors = torch.stack(found)
        pooled, first = decibels(errors.mean()), decibels(errors[:, :2].mean(1)).mean()
        print(f"{name}: {float(pooled):.2f} dB, first two frames {float(first):.2f} dB")


if __name__ == "__main__":
    main()
