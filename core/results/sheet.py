"""Images of samples: bytes of one, and a contact sheet of what a task shows of the first."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from core.data import Dataset, collate
from core.task import Panel, ShownTogether, Task

ITEMS = 16  # shown at most
TOGETHER = 4096  # items shown at most in one scatter plot
GAP = 2  # pixels between images
GROUND = 128


def to_bytes(x: Float[Tensor, " c h w"]) -> np.ndarray:
    """An image in [-1, 1] as uint8: (h, w, 3) of three channels, else (h, w) of the first."""
    pixels = ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    return pixels.permute(1, 2, 0).numpy() if len(x) == 3 else pixels[0].numpy()


def write_sheet(
    task: Task, results: Shaped[Tensor, " items draws *shape"], dataset: Dataset, path: Path
) -> bool:
    """Write a PNG of the first samples, if the task shows images; whether it was written.

    Args:
        task: whose samples they are.
        results: of the dataset's first items.
        dataset: they were drawn for.
        path: of the PNG.
    """
    from PIL import Image

    if isinstance(task, ShownTogether):
        chosen = list(range(min(TOGETHER, len(results))))
        panels = [task.show_together(results[: len(chosen)], collate(dataset, chosen))]
    else:
        chosen = list(range(min(ITEMS, len(results))))
        titles = [dataset.name(item) for item in chosen]
        panels = task.show(results[: len(chosen)], collate(dataset, chosen), titles)
    if not any(panel.images for panel in panels):
        return False
    Image.fromarray(contact_sheet(panels)).save(path)
    return True


def scatter(
    clouds: Sequence[tuple[Float[Tensor, " _ 2"], tuple[int, int, int]]],
    limit: float,
    *,
    side: int = 384,
) -> np.ndarray:
    """Points of the plane as dots on white, y upwards.  uint8 (side, side, 3).

    Args:
        clouds: points (x, y) and their colour; later ones are drawn over earlier ones.
        limit: the plot covers [-limit, limit] on both axes; points outside are left out.
        side: pixels.
    """
    image = np.full((side, side, 3), 255, dtype=np.uint8)
    for points, colour in clouds:
        across = (points.detach().cpu().double().numpy() / limit + 1) / 2 * side
        across = across[np.isfinite(across).all(axis=1)].clip(-side, 2 * side)
        column, row = np.floor(across[:, 0]).astype(int), side - 1 - np.floor(across[:, 1])
        row = row.astype(int)
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):  # a dot of two by two pixels
            i, j = row + down, column + right
            inside = (i >= 0) & (i < side) & (j >= 0) & (j < side)
            image[i[inside], j[inside]] = colour
    return image


def contact_sheet(panels: Sequence[Panel]) -> np.ndarray:
    """A row for each panel; a square where every panel has one image.  uint8 (h, w, 3)."""
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
