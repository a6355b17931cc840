"""Drift of long clips: ink and sharpness of each frame that is rolled out from a few given ones.

python tests/benchmarks/bench_rollout.py CHECKPOINT [--frames 64] [--given 4] [--clips 6]
    [--steps 12] [--ways plain history ...] [-o FIGURE.svg]

Clips are of `video/moving_digits` as the checkpoint learned them, of its test digits.  Ink is the
sum of a frame, sharpness its total variation for each unit of ink; both relative to the true clip's
mean, 1 at best, the mean over clips.  The ways: plain; history, guidance of scale 1.5 by the given
frames; partly, the same by given frames with noise of 0.5; stabilised, frames that were drawn are
stated to carry noise of 0.1; hierarchy, spread frames first.  The table has means over blocks of
frames; the chart has a point for each block.
"""

import argparse
import itertools
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from figure import write_svg

from core.model import Model, load_model
from core.parts.config import configure
from core.parts.registry import Spec
from core.request import Machine, silent
from plugins.video.inference.clips import sample_request
from plugins.video.inference.plan import planned
from plugins.video.inference.rollout import Spool, complete, prepared, to_pixels
from plugins.video.request import DrawOptions

WAYS = {
    "plain": DrawOptions(),
    "history": DrawOptions(history=1.5),
    "partly": DrawOptions(history=1.5, history_noise=0.5),
    "stabilised": DrawOptions(stabilise=0.1),
    "hierarchy": DrawOptions(scheme="hierarchy_2"),
}
BLOCKS = 8  # of the drawn frames


def rolled(model: Model, clip: np.ndarray, given: int, options: DrawOptions) -> np.ndarray:
    """A clip (t, h, w, c), uint8, whose first frames are `clip`'s."""
    total = len(clip)
    request = sample_request(model.checkpoint, options)
    roll = prepared(model, request, stabilise=options.stabilise, overlap=None, emit=silent)
    window = model.shape[1]
    observed = range(given)
    calls = planned(options.scheme, total, observed, window=window, step=window // 2)
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder, "spool"), clip.shape[1:], {})
        spool.write(observed, clip[:given])
        times = [float(i) for i in range(total)]
        complete(roll, calls, times, frozenset(observed), spool, silent)
        return spool.read(range(total))


def ink(clip: np.ndarray) -> np.ndarray:
    """The sum of each frame, in units of white pixels."""
    return clip.astype(np.float64).sum((1, 2, 3)) / 255


def sharpness(clip: np.ndarray) -> np.ndarray:
    """Anisotropic total variation of each frame, for each unit of its ink."""
    values = clip.astype(np.float64)[..., 0] / 255
    rough = sum(np.abs(np.diff(values, axis=axis)).sum((1, 2)) for axis in (1, 2))
    return rough / np.maximum(ink(clip), 1e-6)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--given", type=int, default=4)
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/rollout.svg"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    machine = Machine(device="cpu", threads=options.threads)
    model = load_model(options.checkpoint, machine=machine, task="video/complete")
    learned = model.request.dataset
    spec = Spec(learned.name, {**learned.options, "frames": options.frames})
    dataset = configure("dataset", spec)("test")
    truths = [to_pixels(dataset[i]["clip"]) for i in range(options.clips)]
    edges = np.linspace(options.given, options.frames, BLOCKS + 1).round().astype(int)
    middles = [(a + b - 1) / 2 for a, b in itertools.pairwise(edges)]
    lines: dict[str, list[list[float]]] = {}
    print(
        "| | seconds a clip | " + " | ".join(f"{a}-{b - 1}" for a, b in itertools.pairwise(edges)),
        "|",
    )
    print("|---" * (BLOCKS + 2) + "|")
    for name in options.ways:
        way = replace(WAYS[name], steps=options.steps)
        begun = time.process_time()
        clips = [rolled(model, truth, options.given, replace(way, seed=i))
                 for i, truth in enumerate(truths)]  # fmt: skip
        seconds = (time.process_time() - begun) / len(truths)
        for what, of in (("ink", ink), ("sharpness", sharpness)):
            ratio = np.mean([of(c) / of(t).mean() for c, t in zip(clips, truths, strict=True)], 0)
            blocks = [ratio[a:b].mean() for a, b in itertools.pairwise(edges)]
            lines[f"{what}, {name}"] = [list(p) for p in zip(middles, blocks, strict=True)]
            cells = " | ".join(f"{value:.2f}" for value in blocks)
            print(f"| {what}, {name} | {seconds:.0f} | {cells} |", flush=True)
    title = f"{options.frames} frames from {options.given}, relative to the true clip"
    write_svg(options.out, title, "frame", "ratio", lines)


if __name__ == "__main__":
    main()
