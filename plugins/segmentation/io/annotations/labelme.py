"""LabelMe JSON: a file for each image, filled as LabelMe does, by Pillow.

Source: github.com/wkentaro/labelme, `labelme.utils.shape_to_mask`: borders belong to a shape.
"""

import base64
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from plugins.segmentation.io.annotations.areas import Area, number
from plugins.segmentation.io.annotations.drawing import Drawing, Shape

WIDTH, RADIUS = 10, 5  # pixels of a line, of a point
Points = list[tuple[float, float]]


def drawing_of(document: Mapping[str, Any], file: Path) -> Drawing:
    """The annotation of a LabelMe document; its classes are in alphabetical order.

    Raises:
        KeyError, TypeError, ValueError: it is not what the format says.
    """
    size = document.get("imageHeight"), document.get("imageWidth")
    return Drawing(
        file,
        str(document.get("imagePath") or file.name).replace("\\", "/"),
        (int(size[0]), int(size[1])) if size[0] and size[1] else None,
        tuple(_shape(one) for one in document["shapes"]),
    )


def _shape(given: Mapping[str, Any]) -> Shape:
    kind = given.get("shape_type") or "polygon"
    points = [(number(x), number(y)) for x, y in given["points"]]
    least = {"polygon": 3, "rectangle": 2, "circle": 2, "line": 2, "linestrip": 2, "point": 1}
    name = str(given["label"])
    if kind == "mask":
        return Shape(name, 0, _stored(given["mask"], points), given.get("group_id"))
    if kind not in least or len(points) < least[kind]:
        raise ValueError(
            f"a {kind} of {len(points)} points of {name}; draw polygons, rectangles or circles"
        )
    return Shape(name, 0, lambda size: _drawn(kind, points, size), given.get("group_id"))


def _drawn(kind: str, points: Points, size: tuple[int, int]) -> Area:
    """A shape in the part of the image that it covers."""
    far = max(math.dist(points[0], points[1]) if kind == "circle" else 0, WIDTH) + 1
    (top, bottom), (left, right) = (
        (
            int(np.clip(math.floor(min(at) - far), 0, side)),
            int(np.clip(math.ceil(max(at) + far) + 1, 0, side)),
        )
        for at, side in (([y for _, y in points], size[0]), ([x for x, _ in points], size[1]))
    )
    image = Image.new("1", (right - left, bottom - top))
    if 0 in image.size:
        return Area(top, left, np.zeros((bottom - top, right - left), bool))
    draw = ImageDraw.Draw(image)
    xy = [(x - left, y - top) for x, y in points]
    (x, y), last = xy[0], xy[-1]
    match kind:
        case "polygon":
            draw.polygon(xy, outline=1, fill=1)
        case "rectangle":
            box = (min(x, last[0]), min(y, last[1]), max(x, last[0]), max(y, last[1]))
            draw.rectangle(box, outline=1, fill=1)
        case "circle":
            r = math.dist(xy[0], xy[1])
            draw.ellipse((x - r, y - r, x + r, y + r), outline=1, fill=1)
        case "point":
            draw.ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), outline=1, fill=1)
        case _:
            draw.line(xy, fill=1, width=WIDTH)
    return Area(top, left, np.asarray(image))


def _stored(text: str, points: Points) -> Callable[[tuple[int, int]], Area]:
    """A shape that is stored as a PNG of its rectangle, the last row and column included."""
    (x0, y0), (x1, y1) = points
    left, top, right, bottom = int(x0), int(y0), int(x1) + 1, int(y1) + 1

    def area(size: tuple[int, int]) -> Area:
        if not (0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]):
            raise ValueError(f"a mask outside the image of {size[1]} x {size[0]}")
        try:
            with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as image:
                found = image.size
                if found == (right - left, bottom - top):
                    return Area(top, left, np.asarray(image.convert("L")) > 0)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"a mask that is no PNG: {error}") from error
        raise ValueError(f"a mask of {found[0]} x {found[1]} pixels in a rectangle of another size")

    return area
