"""Objects written: an image of their numbers, and a table of their measures."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32
from PIL import Image

from core.errors import InputError
from core.images.pictures import reason
from core.storage import files

MOST = 65535  # of an image of 16 bits
COLUMNS: tuple[str, ...] = (
    "label", "class", "area", "centroid_x", "centroid_y", "left", "top", "right", "bottom",
    "mean_intensity", "eccentricity",
)  # fmt: skip


def write_objects(
    image: Path,
    table: Path,
    numbers: Int32[np.ndarray, "h w"],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """A grey PNG of 16 bits with each object's number, and a CSV table with a row for each.

    Raises:
        InputError: more objects than 16 bits number, or a file that cannot be written.
    """
    if len(rows) > MOST:
        raise InputError(
            f"{image}: {len(rows)} objects, at most {MOST} are numbered in 16 bits; leave small "
            "ones out with --min-area"
        )
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    try:
        with files.replaced(image) as waiting, waiting.open("xb") as file:
            Image.fromarray(numbers.astype(np.uint16)).save(file, "PNG")
        files.write_text(table, text.getvalue())
    except OSError as error:
        raise InputError(f"{image}: cannot be written: {reason(error)}") from error
