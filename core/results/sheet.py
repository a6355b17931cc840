"""Pictures for people: pixels of a sample, and what a task shows of the first on one sheet."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.data import Dataset, collate
from core.task import Panel, Task

ITEMS = 16  # shown at most
GAP = 2  # pixels between pictures
GROUND = 128


def to_bytes(x: Float[Tensor, " c h w"]) -> np.ndarray:
    """A picture in [-1, 1] as uint8: (h, w, 3) of three channels, else (h, w) of the first."""
    levels = ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    return levels.permute(1, 2, 0).numpy() if len(x) == 3 else levels[0].numpy()


def write_sheet(task: Task, results: Tensor, dataset: Dataset, path: Path) -> bool:
    """Put the first samples on a PNG, where the task shows pictures; whether there is one.

    Args:
        task: whose samples they are.
        results: (items, draws, *shape), of the dataset's first items.
        dataset: they were drawn for.
        path: of the PNG.
    """
    from PIL import Image

    chosen = list(range(min(ITEMS, len(results))))
    titles = [dataset.name(item) for item in chosen]
    panels = task.show(results[: len(chosen)], collate(dataset, chosen), titles)
    if not any(panel.images for panel in panels):
        return False
    Image.fromarray(contact_sheet(panels)).save(path)
    return True


def contact_sheet(panels: Sequence[Panel]) -> np.ndarray:
    """A row for each panel; a square where every panel has one picture.  uint8 (h, w, 3)."""
    rows = [list(panel.images.values()) for panel in panels]
    if all(len(row) == 1 for row in rows):
        across = math.ceil(math.sqrt(len(rows)))
        alone = [row[0] for row in rows]
        rows = [alone[i : i + across] for i in range(0, len(alone), across)]
    high, wide = (max(p.shape[axis] for row in rows for p in row) for axis in (0, 1))
    across = max(map(len, rows))
    size = (GAP + len(rows) * (high + GAP), GAP + across * (wide + GAP), 3)
    sheet = np.full(size, GROUND, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, pixels in enumerate(row):
            top, left = GAP + i * (high + GAP), GAP + j * (wide + GAP)
            colour = pixels if pixels.ndim == 3 else pixels[..., None]
            sheet[top : top + pixels.shape[0], left : left + pixels.shape[1]] = colour
    return sheet
