"""COCO JSON of objects: polygons, and run lengths as numbers or as COCO's string.

Source: cocodataset.org, "Data format", object detection.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plugins.segmentation.io.annotations import areas
from plugins.segmentation.io.annotations.areas import Area
from plugins.segmentation.io.annotations.drawing import Drawing, Shape


def drawings_of(document: Mapping[str, Any], file: Path) -> list[Drawing]:
    """The annotations of a COCO document; classes are ranked by the numbers of their categories.

    Raises:
        KeyError, TypeError, ValueError: it is not what the format says.
    """
    names = {category["id"]: str(category["name"]) for category in document["categories"]}
    shapes: dict[Any, list[Shape]] = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        category, image = annotation["category_id"], annotation["image_id"]
        if category not in names:
            raise ValueError(f"an annotation of category {category!r}, which is not listed")
        if image not in shapes:
            raise ValueError(f"an annotation of image {image!r}, which is not listed")
        shapes[image].append(_shape(annotation, names[category], int(category)))
    return [
        Drawing(file, str(one["file_name"]), _size(one), tuple(shapes[one["id"]]))
        for one in document["images"]
    ]


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    if "height" not in image or "width" not in image:
        return None
    return int(image["height"]), int(image["width"])


def _shape(annotation: Mapping[str, Any], name: str, rank: int) -> Shape:
    segmentation, number = annotation.get("segmentation"), annotation.get("id")
    if isinstance(segmentation, Mapping):
        high, wide = (int(side) for side in segmentation["size"])
        counts = segmentation["counts"]
        if not isinstance(counts, list | str):
            raise TypeError(f"run lengths as {type(counts).__name__}")
        return Shape(name, rank, lambda size: _runs(counts, (high, wide), size))
    if not segmentation:
        raise ValueError(f"annotation {number!r} has no polygon or mask; export segmentations")
    polygons = [areas.points_of(points) for points in segmentation]
    return Shape(name, rank, lambda size: _union([areas.polygon(p, size) for p in polygons]))


def _runs(counts: list[Any] | str, stated: tuple[int, int], size: tuple[int, int]) -> Area:
    if stated != size:
        raise ValueError(
            f"a mask of {stated[1]} x {stated[0]}, the image has {size[1]} x {size[0]}"
        )
    lengths = areas.decompressed(counts) if isinstance(counts, str) else counts
    inside = areas.runs(lengths, size[0] * size[1]).reshape(size[::-1]).T  # by columns
    return Area(0, 0, inside)


def _union(parts: list[Area]) -> Area:
    if len(parts) == 1:
        return parts[0]
    top, left = min(one.top for one in parts), min(one.left for one in parts)
    bottom = max(one.top + one.inside.shape[0] for one in parts)
    right = max(one.left + one.inside.shape[1] for one in parts)
    whole = np.zeros((bottom - top, right - left), bool)
    for one in parts:
        Area(one.top - top, one.left - left, one.inside).paint(whole, True)
    return Area(top, left, whole)
