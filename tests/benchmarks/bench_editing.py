"""How near do fillings of holes come to what was there?  Masked PSNR, printed.

The same crops of held-out photographs and the same holes for every method, beside biharmonic and
total-variation filling.  PSNR rewards the smooth mean of all that could be in a hole; a draw of a
model is one of them and scores lower than the mean even where it is perfect.

polymode train plugins/image2image/configs/unconditional.yaml -o runs/photos
python tests/benchmarks/bench_editing.py runs/photos
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from core.inverse.posterior import Method, ddnm, diffpir, dps, pigdm, projection, repaint
from core.model import load_model
from core.process.noise import Noise
from core.results.metrics import interval
from core.sampler.ancestral import Ancestral
from core.sampler.grids import uniform_time
from plugins.image2image.data.photos import Photos
from plugins.image2image.inference.editing import Prior, count_calls, inpaint, prior_of
from plugins.image2image.tasks.classical import biharmonic, total_variation
from plugins.image2image.tasks.random_masks import Kind, random_mask

SIZE, CROPS = 64, 4
KINDS: tuple[Kind, ...] = ("strokes", "boxes")
# Name in the table, method, steps.
METHODS: list[tuple[str, Method, int]] = [
    ("DDNM", ddnm, 20),
    ("DDNM", ddnm, 100),
    ("projection", projection, 100),
    ("DiffPIR", diffpir, 100),
    ("RePaint, 5 resamples", partial(repaint, resamples=5, jump=1), 20),
    ("RePaint, 10 resamples, jump 5", partial(repaint, resamples=10, jump=5), 25),
    ("DPS, scale 0.5", partial(dps, scale=0.5), 100),
    ("PiGDM", pigdm, 20),
    ("PiGDM", pigdm, 100),
]


def everywhere(one: Callable[[Tensor, Tensor], Tensor], x: Tensor, fill: Tensor) -> Tensor:
    """A filling of every crop, in the same hole."""
    return one(x, fill.expand(len(x), 1, -1, -1))


def crops() -> tuple[list[str], Tensor, list[Tensor]]:
    """Photographs' names, crops (12, 3, 64, 64), and the holes: one for each half of them."""
    data = Photos("test", size=SIZE, per_photo=CROPS)
    order = [k for first in range(2) for k in range(first, len(data), 2)]
    pictures = torch.stack([data[k]["image"] for k in order])
    holes = [random_mask(0, 0, SIZE, SIZE, kind) for kind in KINDS]
    return [data.source(k) for k in order], pictures, holes


def masked_psnr(found: Tensor, truth: Tensor, fill: Tensor) -> list[float]:
    """Over the pixels of the holes, of values in [0, 1] as a file holds them."""
    written = ((found.double().clamp(-1, 1) + 1) * 127.5).round() / 255
    apart = (written - (truth.double() + 1) / 2)[..., fill]
    return (-10 * apart.square().mean((1, 2)).log10()).tolist()


def measured(fillings: Callable[[Tensor, Tensor], Tensor]) -> tuple[list[float], float]:
    """PSNR of every crop, and seconds for one."""
    _, pictures, holes = crops()
    scores, begun = [], time.process_time()
    for half, fill in zip(pictures.chunk(2), holes, strict=True):
        scores += masked_psnr(fillings(half, fill), half, fill)
    return scores, (time.process_time() - begun) / len(pictures)


def fillings(model: Prior, method: Method, steps: int) -> Callable[[Tensor, Tensor], Tensor]:
    """What a posterior method draws, one draw for each crop."""
    grid = uniform_time(model.process, steps=steps)
    run = partial(inpaint, model, grid=grid, solver=Ancestral(), method=method)
    return lambda x, fill: run(x, Noise.of(0, "bench", each=range(len(x))), fill=fill)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path)
    model = prior_of(load_model(parser.parse_args().checkpoint, task="core/generate"))
    names = crops()[0]
    rows = []
    for name, one in (("biharmonic", biharmonic), ("total variation", total_variation)):
        rows.append((name, 0, *measured(partial(everywhere, one))))
    for name, method, steps in METHODS:
        grid = uniform_time(model.process, steps=steps)
        run = partial(inpaint, grid=grid, solver=Ancestral(), method=method)
        calls = count_calls(run, model).calls
        rows.append((name, calls, *measured(fillings(model, method, steps))))
        print(rows[-1][:2], flush=True)
    print("| filling | evaluations | masked PSNR, dB | CPU seconds |\n|---|---|---|---|")
    for name, calls, scores, seconds in rows:
        found = interval(scores, names, confidence=0.95)
        print(
            f"| {name} | {calls or '-'} | {found.mean:.2f} [{found.low:.1f}, {found.high:.1f}] | "
            f"{seconds:.2f} |"
        )


if __name__ == "__main__":
    main()
