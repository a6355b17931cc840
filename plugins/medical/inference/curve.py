"""A chart of held-out misfit against the level that draws start from, as an image."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from core.results.sheet import GROUND
from plugins.medical.inference.choice import POSTERIOR

SIDE = 320  # pixels
AWAY = 0.18  # of the side: left and below the axes
PAPER, INK, LINE, BEST = (255, 255, 255), (40, 40, 40), (31, 98, 178), (188, 64, 20)


def below(sheet: np.ndarray, chart: np.ndarray) -> np.ndarray:
    """A contact sheet with a chart below it, at the left.

    Args:
        sheet: uint8 (h, w, 3).
        chart: the same.
    """
    wide = max(sheet.shape[1], chart.shape[1])
    rows = [
        np.pad(one, ((0, 0), (0, wide - one.shape[1]), (0, 0)), constant_values=GROUND)
        for one in (sheet, chart)
    ]
    return np.concatenate(rows)


def misfit_curve(record: Mapping[str, Any], side: int = SIDE) -> np.ndarray:
    """The draws' misfit by level with its standard error, the best classical one, and the result.

    Args:
        record: of a choice, as `Choice.record` gives it.
        side: of the square image, in pixels.

    Returns:
        uint8 (side, side, 3).
    """
    found: Mapping[str, Mapping[str, float]] = record["misfit"]
    mark = f"{POSTERIOR} from "
    levels = sorted(
        (float(name.removeprefix(mark)), one["mean"], one["standard_error"])
        for name, one in found.items()
        if name.startswith(mark)
    )
    classical = {n: one["mean"] for n, one in found.items() if n != "result" and mark not in n}
    best = min(classical, key=lambda name: classical[name])
    result = found["result"]["mean"]
    values = [value for _, value, _ in levels] + [classical[best], result]
    low, high = min(values), max(values)
    margin = 0.15 * (high - low) or 0.1 * high
    low, high = low - margin, high + margin
    image = Image.new("RGB", (side, side), PAPER)
    pen = ImageDraw.Draw(image)
    left, top, right, bottom = AWAY * side, 0.12 * side, 0.95 * side, (1 - AWAY) * side

    def across(number: int) -> float:
        return left + (number + 0.5) * (right - left) / len(levels)

    def down(value: float) -> float:
        return bottom - min(max((value - low) / (high - low), 0), 1) * (bottom - top)

    pen.rectangle((left, top, right, bottom), outline=INK)
    for value in (low + margin, high - margin):
        pen.text((left - 4, down(value)), f"{value:.3g}", fill=INK, anchor="rm")
    for name, value, colour in ((best, classical[best], INK), ("result", result, BEST)):
        pen.line((left, down(value), right, down(value)), fill=colour)
        pen.text((left + 3, down(value) - 2), name, fill=colour, anchor="lb")
    points = [(across(k), down(value)) for k, (_, value, _) in enumerate(levels)]
    pen.line(points, fill=LINE, width=2)
    for (x, y), (level, value, error) in zip(points, levels, strict=True):
        if math.isfinite(error):
            pen.line((x, down(value - error), x, down(value + error)), fill=LINE)
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=LINE)
        pen.text((x, bottom + 4), f"{level:g}", fill=INK, anchor="mt")
    pen.text((side / 2, side - 4), "level that draws start from", fill=INK, anchor="mb")
    pen.text((side / 2, 4), "misfit of held-out measurements", fill=INK, anchor="mt")
    return np.asarray(image)
