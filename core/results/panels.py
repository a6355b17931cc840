"""Panels of a task as files and plain values, for reports.

Images are PNG, and whole images of which they are crops JPEG.  A clip is one PNG with its frames in
rows from the top left; a volume likewise with its slices, 16-bit values as red x 256 + green.  A
cloud is n x 3 little-endian uint16 coordinates of one cube and then n x 3 uint8 colours.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.task import Clip, Cloud, Panel, Volume

PIXELS = 4 << 20  # of a clip or a volume; with more, every second or third along each axis is shown
SIDE, QUALITY = 1280, 88  # of a whole image: pixels of its longer side at most, and its JPEG
POINTS = 20_000  # of a cloud; of more, some spread evenly over their order are shown
STOPS = ((53, 48, 110), (49, 104, 142), (38, 150, 139), (94, 190, 103), (240, 214, 72))


def write_panels(panels: Sequence[Panel], folder: Path) -> list[dict[str, Any]]:
    """Write every view into a folder; their descriptions, with file names relative to its parent.

    Args:
        panels: of a task.
        folder: an existing one.

    Raises:
        ValueError: arrays of another type or shape than the panel's documentation says.
    """
    written = []
    for number, panel in enumerate(panels):
        views: dict[str, Any] = {"title": panel.title, "images": []}
        views |= {"note": panel.note} if panel.note else {}
        place = 0
        for kind, write in WRITERS.items():
            named: Mapping[str, Any] = getattr(panel, kind)
            for label, view in named.items():
                path = folder / f"{number:03d}-{place}.{SUFFIXES.get(kind, 'png')}"
                view_facts = {
                    "label": label,
                    "file": f"{folder.name}/{path.name}",
                    **write(view, path),
                }
                views.setdefault(kind, []).append(view_facts)
                place += 1
        written.append(views)
    return written


def check_panels(panels: Sequence[Panel]) -> None:
    """Check the arrays of panels as `write_panels` does, and write nothing.

    Raises:
        ValueError: arrays of another type or shape than the panel's documentation says.
    """
    for panel in panels:
        for kind, check in CHECKS.items():
            views: Mapping[str, Any] = getattr(panel, kind)
            for view in views.values():
                check(view)


def _check_image(pixels: np.ndarray) -> None:
    _check(pixels, "a picture", ("uint8",), ("h w", "h w 3", "h w 1"))


def _check_clip(clip: Clip) -> None:
    _check(clip.frames, "a clip", ("uint8",), ("t h w", "t h w 3"))


def _check_volume(volume: Volume) -> None:
    _check(volume.voxels, "a volume", ("uint8", "uint16"), ("d h w",))


def _check_cloud(cloud: Cloud) -> None:
    points, colours = np.asarray(cloud.points), cloud.colours
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise ValueError(f"a cloud: expected points (n, 3), got {points.shape}")
    if colours is not None and (colours.shape != points.shape or colours.dtype != np.uint8):
        raise ValueError(f"a cloud: expected uint8 colours {points.shape}, got {colours.shape}")


def _image(pixels: np.ndarray, path: Path) -> dict[str, Any]:
    _check_image(pixels)
    _save(pixels.squeeze(-1) if pixels.shape[2:] == (1,) else pixels, path)
    return {"width": pixels.shape[1], "height": pixels.shape[0]}


def _whole(pixels: np.ndarray, path: Path) -> dict[str, Any]:
    """A photograph has megapixels, of which a page shows fewer: reduced, with its own size."""
    from PIL import Image

    _check_image(pixels)
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[2:] == (1,) else pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.save(path, "JPEG", quality=QUALITY)
    return {"width": image.width, "height": image.height,
            "full_width": width, "full_height": height}  # fmt: skip


def _clip(clip: Clip, path: Path) -> dict[str, Any]:
    _check_clip(clip)
    frames = clip.frames
    every = math.ceil(math.sqrt(math.prod(frames.shape[:3]) / PIXELS))
    frames = frames[:, ::every, ::every]
    pixels, across = _sprite(frames)
    _save(pixels, path)
    return {"width": frames.shape[2], "height": frames.shape[1], "frames": len(frames),
            "across": across, "rate": float(clip.rate)}  # fmt: skip


def _volume(volume: Volume, path: Path) -> dict[str, Any]:
    _check_volume(volume)
    voxels = volume.voxels
    every = math.ceil((voxels.size / PIXELS) ** (1 / 3))
    voxels = voxels[::every, ::every, ::every]
    bits = 8 * voxels.dtype.itemsize
    stack = voxels
    if bits == 16:
        stack = np.stack((voxels >> 8, voxels & 255, np.zeros_like(voxels)), axis=-1)
    pixels, across = _sprite(stack)
    _save(pixels, path)
    low, high = float(volume.low), float(volume.high)
    centre, width = volume.window or ((low + high) / 2, high - low)
    return {"width": voxels.shape[2], "height": voxels.shape[1], "depth": len(voxels),
            "across": across, "bits": bits, "low": low, "high": high, "unit": volume.unit,
            "spacing": [float(size) for size in volume.spacing], "every": every,
            "centre": float(centre), "window": float(width)}  # fmt: skip


def _cloud(cloud: Cloud, path: Path) -> dict[str, Any]:
    _check_cloud(cloud)
    points, colours = np.asarray(cloud.points, dtype=np.float64), cloud.colours
    finite = np.isfinite(points).all(axis=1)
    points = points[finite] if finite.any() else np.zeros((1, 3))
    colours = colours[finite] if colours is not None and finite.any() else None
    total = len(points)
    if total > POINTS:
        chosen = np.linspace(0, total - 1, POINTS).round().astype(int)
        points, colours = points[chosen], None if colours is None else colours[chosen]
    low, high = points.min(axis=0), points.max(axis=0)
    side = float((high - low).max()) or 1.0
    cube = ((points - (low + high) / 2) / side + 0.5) * 65535
    colours = _by_height(points[:, 1]) if colours is None else colours
    path.write_bytes(cube.round().astype("<u2").tobytes() + colours.tobytes())
    return {"points": len(points), "of": total, "side": side}


def _by_height(height: np.ndarray) -> np.ndarray:
    span = float(np.ptp(height)) or 1.0
    at = (height - height.min()) / span * (len(STOPS) - 1)
    stops = np.array(STOPS, dtype=np.float64).T
    return np.stack([np.interp(at, range(len(STOPS)), row) for row in stops], axis=1).astype("u1")


def _sprite(stack: np.ndarray) -> tuple[np.ndarray, int]:
    """Pictures of a stack in rows, nearly square, black where the last row is short."""
    count, high, wide = stack.shape[:3]
    across = min(count, max(1, round(math.sqrt(count * high / wide))))
    down = math.ceil(count / across)
    full = np.zeros((down * across, *stack.shape[1:]), dtype=np.uint8)
    full[:count] = stack  # of 16-bit values, both bytes apart: no more than 255
    rows = full.reshape(down, across, *stack.shape[1:]).swapaxes(1, 2)
    return rows.reshape(down * high, across * wide, *stack.shape[3:]), across


def _save(pixels: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(pixels)).save(path)


def _check(array: np.ndarray, what: str, types: Sequence[str], shapes: Sequence[str]) -> None:
    def fits(shape: str) -> bool:
        axes = shape.split()
        pairs = zip(axes, array.shape, strict=False)
        return len(axes) == array.ndim and all(
            size == int(axis) if axis.isdigit() else size > 0 for axis, size in pairs
        )

    if array.dtype.name not in types or not any(map(fits, shapes)):
        raise ValueError(
            f"{what}: expected {' or '.join(types)} of ({' or '.join(shapes)}), "
            f"got {array.dtype} {array.shape}"
        )


CHECKS: Mapping[str, Callable[[Any], None]] = {
    "images": _check_image, "whole": _check_image, "clips": _check_clip, "volumes": _check_volume,
    "clouds": _check_cloud,
}  # fmt: skip
WRITERS = {
    "images": _image, "whole": _whole, "clips": _clip, "volumes": _volume, "clouds": _cloud,
}  # fmt: skip
SUFFIXES = {"whole": "jpg", "clouds": "points"}
