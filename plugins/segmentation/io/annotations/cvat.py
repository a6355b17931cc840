"""CVAT for images 1.1, as XML: polygons, boxes, ellipses and masks.

Source: docs.cvat.ai, "CVAT for image".  Polygons and boxes are filled as in CVAT's exports of
masks, which are COCO's.
"""

from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from plugins.segmentation.io.annotations import areas
from plugins.segmentation.io.annotations.areas import Area, number
from plugins.segmentation.io.annotations.drawing import Drawing, Shape

NO_AREA = ("polyline", "points", "skeleton", "cuboid")


def drawings_of(root: Element, file: Path) -> list[Drawing]:
    """The annotations of a CVAT document; classes are ranked in the order of the task's labels.

    Raises:
        KeyError, ValueError: it is not what the format says.
    """
    if root.tag != "annotations":
        raise ValueError(f"an XML document of {root.tag!r}; export as CVAT for images 1.1")
    if root.find("track") is not None:
        raise ValueError("annotations of a video; export as CVAT for images 1.1")
    labels = [one.findtext("name") for meta in root.iter("meta") for one in meta.iter("label")]
    ranks = {name: place for place, name in enumerate(labels)}
    return [
        Drawing(
            file,
            image.attrib["name"],
            (int(image.attrib["height"]), int(image.attrib["width"])),
            # `sorted` keeps the file's order of those at one height.
            tuple(
                _shape(one, ranks.get(one.attrib["label"], len(ranks)))
                for one in sorted(
                    (one for one in image if one.tag != "tag"),
                    key=lambda one: int(one.attrib.get("z_order", 0)),
                )
            ),
        )
        for image in root.iter("image")
    ]


def _shape(element: Element, rank: int) -> Shape:
    given, name = element.attrib, element.attrib["label"]
    group = given.get("group_id")
    kinds = {"polygon": _polygon, "box": _box, "ellipse": _ellipse, "mask": _mask}
    if element.tag not in kinds:
        why = "which has no area" if element.tag in NO_AREA else "which is not read"
        raise ValueError(f"a {element.tag} of {name}, {why}; draw polygons, boxes or masks")
    return Shape(name, rank, kinds[element.tag](given), group)


Pixels = Callable[[tuple[int, int]], Area]


def _polygon(given: dict[str, str]) -> Pixels:
    points = areas.points_of([v for pair in given["points"].split(";") for v in pair.split(",")])
    return lambda size: areas.polygon(points, size)


def _box(given: dict[str, str]) -> Pixels:
    x0, y0, x1, y1 = (number(given[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    degrees = float(given.get("rotation", 0))
    if degrees:
        corners = areas.turned(corners, ((x0 + x1) / 2, (y0 + y1) / 2), degrees)
    return lambda size: areas.polygon(corners, size)


def _ellipse(given: dict[str, str]) -> Pixels:
    x, y, rx, ry = (number(given[key]) for key in ("cx", "cy", "rx", "ry"))
    degrees = float(given.get("rotation", 0))
    return lambda size: areas.ellipse((x, y), (rx, ry), degrees, size)


def _mask(given: dict[str, str]) -> Pixels:
    top, left, high, wide = (int(number(given[key])) for key in ("top", "left", "height", "width"))
    text = given["rle"]

    def area(size: tuple[int, int]) -> Area:
        if top < 0 or left < 0 or high < 1 or top + high > size[0] or left + wide > size[1]:
            raise ValueError(
                f"a mask in rows {top} to {top + high} and columns {left} to {left + wide}, "
                f"outside the image of {size[1]} x {size[0]}"
            )
        counts = [int(count) for count in text.split(",")]
        return Area(top, left, areas.runs(counts, high * wide).reshape(high, wide))  # by rows

    return area
