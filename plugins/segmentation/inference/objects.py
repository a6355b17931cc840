"""Objects in the masks of classes: connected components, or a watershed of their distance.

Source: watershed of the distance transform from its peaks, Beucher and Lantuejoul 1979; as in
scikit-image's `skimage.segmentation.watershed`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int32, UInt8

from plugins.segmentation.request import Objects

SMOOTH = 1.0  # pixels, of the distance before its peaks are looked for


class Found(NamedTuple):
    """Objects of an image.

    Args:
        numbers: of each pixel's object, from 1 in the order of their first rows; 0 outside.
        classes: class index of each object.
    """

    numbers: Int32[np.ndarray, "h w"]
    classes: Sequence[int]


def objects_in(
    labels: UInt8[np.ndarray, "h w"], how: Objects, *, min_area: int = 0, apart: int = 5
) -> Found:
    """The objects of every class but the first; pixels that touch by a corner are connected.

    Args:
        labels: class indices.
        how: components of each class, or these divided between the peaks of their distance to
            other classes.
        min_area: pixels of an object at least; smaller ones are left out.
        apart: pixels between the peaks of two objects at least; for the watershed.
    """
    from skimage.measure import label, regionprops

    whole = np.zeros(labels.shape, np.int32)
    for index in np.unique(labels[labels > 0]).tolist():
        inside = labels == index
        parts = np.asarray(label(inside, connectivity=2))
        if how == "watershed":
            parts = _divided(inside, parts, apart)
        whole[inside] = parts[inside] + whole.max()
    # The class of an object is any of its pixels', and numbers are consecutive.
    kept = [one for one in regionprops(whole) if one.area >= min_area]
    kept.sort(key=lambda one: tuple(one.coords[0]))
    table = np.zeros(int(whole.max()) + 1, np.int32)
    for number, one in enumerate(kept, start=1):
        table[one.label] = number
    return Found(table[whole], [int(labels[tuple(one.coords[0])]) for one in kept])


def _divided(inside: np.ndarray, parts: np.ndarray, apart: int) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt, gaussian_filter
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    # Beyond the image is background: an object at the border keeps its middle.
    distance = np.asarray(distance_transform_edt(np.pad(inside, 1)))[1:-1, 1:-1]
    smooth = gaussian_filter(distance, SMOOTH) * inside
    peaks = peak_local_max(smooth, min_distance=apart, labels=parts, exclude_border=False)
    markers = np.zeros(inside.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    divided = watershed(-smooth, markers, mask=inside)
    lost = inside & (divided == 0)  # a part without a peak is one object
    divided[lost] = parts[lost] + divided.max()
    return divided


def measured(
    found: Found, image: Float[np.ndarray, "h w"], names: Sequence[str]
) -> list[Mapping[str, Any]]:
    """A row for each object: where it is, and how large, bright and elongated.

    Args:
        found: the objects.
        image: brightness.
        names: of the classes.
    """
    from skimage.measure import regionprops

    rows = []
    for one in regionprops(found.numbers, intensity_image=image):
        (y, x), (top, left, bottom, right) = one.centroid, one.bbox
        rows.append(
            {
                "label": int(one.label),
                "class": names[found.classes[one.label - 1]],
                "area": int(one.area),
                "centroid_x": round(float(x), 3),
                "centroid_y": round(float(y), 3),
                "left": int(left),
                "top": int(top),
                "right": int(right),
                "bottom": int(bottom),
                "mean_intensity": round(float(one.intensity_mean), 6),
                "eccentricity": round(float(one.eccentricity), 6),
            }
        )
    return rows
