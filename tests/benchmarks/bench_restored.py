"""Restoration of whole photographs: one network for four tasks, specialists, classical methods.

python tests/benchmarks/bench_restored.py FOLDER CHECKPOINT... [--quality 10] [--crop 256]

Prints a table in Markdown for colourisation, inpainting, uncropping and JPEG restoration: mean PSNR
over photographs at 8 bits, of the first estimate, the classical methods, and each checkpoint's
expected image (`--detail 0`) and default.  A checkpoint of one task is a row of that task alone.
Photographs are cut to multiples of 16, or to their central square with --crop.  Holes are random by
a photograph's place in the folder; for inpainting and uncropping PSNR in the hole stands beside.
"above" counts the photographs on which the expected image is above all classical results.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from core.errors import InputError
from core.model import Model, for_task, load_model
from core.parts.config import configure
from core.parts.registry import Spec
from core.request import Machine
from core.results.metrics import psnr
from core.sampler.draws import summary
from core.task import Batch
from plugins.image2image.inference.draws import Sampling, default_drawing, draw_restorations
from plugins.image2image.tasks.colourise import Colourise
from plugins.image2image.tasks.inpaint import Inpaint
from plugins.image2image.tasks.jpeg import JPEG
from plugins.image2image.tasks.multitask import MultiTask

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
CLASSICAL, EXPECTED, DEFAULT = "classical", "expected", "default"


@dataclass(frozen=True)
class Row:
    """PSNR by photograph of one method for one task, and in the hole where there is one."""

    name: str
    kind: str
    psnr: list[float]
    hole: list[float]


def read(path: Path, crop: int) -> torch.Tensor:
    """A photograph in [-1, 1], (3, h, w): cut to multiples of 16, or its central square."""
    with Image.open(path) as image:
        values = np.asarray(image.convert("RGB"))
    height, width = (crop or side // 16 * 16 for side in values.shape[:2])
    top, left = (values.shape[0] - height) // 2, (values.shape[1] - width) // 2
    cut = values[top : top + height, left : left + width]
    return torch.from_numpy(cut.copy()).permute(2, 0, 1).float() / 127.5 - 1


def tasks(quality: int) -> dict[str, Spec]:
    names = {name: Spec(name) for name in MultiTask.names}
    return {**names, "image2image/jpeg": Spec("image2image/jpeg", {"quality": quality})}


def models_of(spec: Spec, checkpoints: list[Path]) -> Iterator[tuple[str, Model]]:
    """The checkpoints that serve a task, by name."""
    for path in checkpoints:
        model = load_model(path, machine=Machine(threads=torch.get_num_threads()))
        trained = model.request.task.name
        if isinstance(model.task, MultiTask) or trained == spec.name:
            yield (
                f"{path.parent.name if path.name == 'checkpoints' else path.name}",
                for_task(model, spec),
            )


def restored(model: Model, batch: Batch, detail: float | None) -> torch.Tensor:
    """The expected image (detail 0), or the checkpoint's default (None)."""
    drawn = default_drawing(model)
    grid = configure("grid", Spec("core/uniform_time", {"steps": drawn.steps}))(model.process)
    sampling = Sampling(
        solver=configure("sampler", Spec("core/ancestral"))(),
        grid=grid,
        seed=0,
        draws=1 if detail == 0 else drawn.mean_of,
        detail=drawn.detail if detail is None else detail,
    )
    return summary(draw_restorations(model, batch, sampling)).mean


def measured(spec: Spec, photographs: list[torch.Tensor], checkpoints: list[Path]) -> list[Row]:
    """The rows of one task."""
    task = configure("task", spec)()
    assert isinstance(task, Colourise | Inpaint | JPEG), "one of `tasks`"
    found: dict[str, Row] = {}
    models = list(models_of(spec, checkpoints))
    for index, image in enumerate(photographs):
        item = task.degrade({"image": image}, index)
        batch = {name: value[None] for name, value in item.items()}
        results = {(name, CLASSICAL): result for name, result in task.baselines(batch).items()}
        for name, model in models:
            results[f"{name}, expected", EXPECTED] = restored(model, batch, 0.0)
            if default_drawing(model).detail > 0:
                results[f"{name}, default", DEFAULT] = restored(model, batch, None)
        for (name, kind), result in results.items():
            row = found.setdefault(name, Row(name, kind, [], []))
            written = task.written(result, batch)
            row.psnr.append(float(psnr(written, batch["image"])))
            if "hole" in batch:
                row.hole.append(float(task.further_figures(written, batch)["hole"]))
        print(f"{spec.name}: {index + 1} of {len(photographs)}", file=sys.stderr)
    return list(found.values())


def table(rows: list[Row]) -> Iterator[str]:
    best = [
        max(values) for values in zip(*(r.psnr for r in rows if r.kind == CLASSICAL), strict=True)
    ]
    yield "| method | PSNR, dB | in the hole, dB | above |"
    yield "|---|---|---|---|"
    for row in rows:
        above = sum(ours > other for ours, other in zip(row.psnr, best, strict=True))
        hole = f"{statistics.mean(row.hole):.2f}" if row.hole else ""
        count = "" if row.kind == CLASSICAL else f"{above} of {len(best)}"
        yield f"| {row.name} | {statistics.mean(row.psnr):.2f} | {hole} | {count} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="photographs that nothing was learned from")
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--quality", type=int, default=10, help="of JPEG files")
    parser.add_argument("--crop", type=int, default=0, help="central square; whole by default")
    parser.add_argument("--only", help="one task, such as image2image/jpeg")
    options = parser.parse_args(arguments)
    if options.crop % 16:
        raise InputError(f"--crop: expected a multiple of 16, got {options.crop}")
    files = sorted(path for path in options.folder.iterdir() if path.suffix.lower() in SUFFIXES)
    photographs = [read(path, options.crop) for path in files]
    for name, spec in tasks(options.quality).items():
        if options.only in (None, name):
            rows = measured(spec, photographs, options.checkpoints)
            print(f"\n{name}\n\n" + "\n".join(table(rows)), flush=True)


if __name__ == "__main__":
    main()
