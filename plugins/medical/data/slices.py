"""Square slices of scans: cut where they lie to test, in any nearby pose to train.

A slice is taken at half its pixel from the volume, linearly, and averaged over 2x2: it is as
sharp as a slice whose pixels are means of finer ones, and that finer slice is there to be measured.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from plugins.medical.io.scan import Plane, Scan, canonical, like_canonical

FINER = 2  # how many points along each side of a pixel
TRIES = 8  # at a slice that is more than air
DARK, LEAST = 0.1, 0.1  # share of the range that is dark, and of the picture that is not


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How far a slice to train on may be moved, each drawn evenly.

    Args:
        turn: within its plane, to either side, in degrees.
        tilt: of its plane, about each of its axes, in degrees.
        zoom: greatest factor that it is enlarged or reduced by.
        shift: of its middle, share of its side.
        mirror: whether left and right may be exchanged.
        contrast: how much a tissue's brightness may change against another's, as a factor, where
            no window says what it means: sequences and scanners differ.
    """

    turn: float = 15.0
    tilt: float = 15.0
    zoom: float = 1.3
    shift: float = 0.1
    mirror: bool = True
    contrast: float = 2.0


@dataclass(frozen=True)
class Volume:
    """A scan made ready to be cut.

    Args:
        values: 1 1 d h w, 0 for air: of CT (HU + 1000) / 2000 of the window, of MR the share of the
            brightest; not clipped.
        spacing: between slices, rows and columns, in millimetres.
        windowed: whether its values have a meaning of their own.
    """

    values: Float[Tensor, "1 1 d h w"]
    spacing: tuple[float, float, float]
    windowed: bool


def prepared(
    scan: Scan,
    plane: Plane,
    pixel: float,
    *,
    window: tuple[float, float] | None,
    percentile: float,
) -> Volume:
    """The scan with 0 for air and 1 for the end of its range, at about half a pixel's spacing.

    Args:
        scan: as it was read.
        plane: of the slices.
        pixel: side of a slice's pixel in millimetres: finer voxels are averaged in whole numbers.
        window: the values that become 0 and 1.
        percentile: where there is no window, 0 and this one do.
    """
    turned = canonical(scan, plane)
    low, high = window or (0.0, max(float(np.percentile(turned.voxels, percentile)), 1e-6))
    values = torch.from_numpy((turned.voxels - low) / (high - low))[None, None]
    spacing = turned.spacing
    fewer = [
        max(1, min(math.floor(pixel / FINER / step + 1e-3), size))
        for step, size in zip(spacing, values.shape[2:], strict=True)
    ]
    if max(fewer) > 1:
        values = F.avg_pool3d(values, fewer)
        spacing = (spacing[0] * fewer[0], spacing[1] * fewer[1], spacing[2] * fewer[2])
    return Volume(values, spacing, window is not None)


def cut(
    volume: Volume,
    at: float,
    size: int,
    pixel: float,
    *,
    turn: float = 0.0,
    tilt: tuple[float, float] = (0.0, 0.0),
    shift: tuple[float, float] = (0.0, 0.0),
    mirror: bool = False,
) -> Float[Tensor, " fine fine"]:
    """The slice at twice the resolution.

    Args:
        volume: that is cut.
        at: which slice, counted from 0; may lie between two.
        size: side of the slice in pixels.
        pixel: side of a pixel in millimetres.
        turn: within its plane, in degrees.
        tilt: of its plane about its rows' and its columns' axis, in degrees.
        shift: of its middle down and to the right, in millimetres.
        mirror: exchange left and right.
    """
    fine = size * FINER
    line = (torch.arange(fine, dtype=torch.float64) - (fine - 1) / 2) * pixel / FINER
    across = -line if mirror else line
    a, b, c = (math.radians(angle) for angle in (turn, *tilt))
    right = torch.tensor([0.0, math.sin(a), math.cos(a)], dtype=torch.float64)
    down = torch.tensor([0.0, math.cos(a), -math.sin(a)], dtype=torch.float64)
    normal = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    down, normal = (
        math.cos(b) * down + math.sin(b) * normal,
        math.cos(b) * normal - math.sin(b) * down,
    )
    right = math.cos(c) * right + math.sin(c) * normal
    shape = torch.tensor(volume.values.shape[2:], dtype=torch.float64)
    spacing = torch.tensor(volume.spacing, dtype=torch.float64)
    middle = (shape - 1) / 2 * spacing
    middle[0] = at * spacing[0]
    middle[1:] += torch.tensor(shift, dtype=torch.float64)
    points = middle + line[:, None, None] * down + across[:, None] * right  # h w 3, millimetres
    index = points / spacing
    grid = ((2 * index + 1) / shape - 1).flip(-1).float()[None, None]
    found = F.grid_sample(volume.values, grid, padding_mode="zeros", align_corners=False)
    return found[0, 0, 0]


def recoloured(
    fine: Float[Tensor, " h w"], random: np.random.Generator, contrast: float
) -> Float[Tensor, " h w"]:
    """The slice as another sequence and coil might show it: air stays air.

    Brightness goes through a curve by six points, each moved by a factor of up to `contrast`, and
    is multiplied by a field that varies slowly over the slice, between 1 / 1.5 and 1.5 in all.
    Source: random intensities for one contrast's sake, Billot et al. 2023, arXiv:2107.09559.
    """
    knots = np.linspace(0, 1, 6)
    moved = knots * np.exp(random.uniform(-1, 1, 6) * math.log(contrast))
    height, width = fine.shape
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    terms = [x + 0 * y, y + 0 * x, x * y, x**2 + 0 * y, y**2 + 0 * x]
    field = sum(random.uniform(-1, 1) * term for term in terms)
    field = np.exp(field / np.abs(field).max() * random.uniform(0, math.log(1.5)))
    found = np.interp(fine.numpy(), knots, moved) * field
    brightest = max(float(np.quantile(found, 0.998)), 1e-6)
    return torch.from_numpy(found / brightest * random.uniform(0.6, 1)).float().clamp(0, 1)


def halved(fine: Float[Tensor, " c h w"]) -> Float[Tensor, " c y x"]:
    """Means over 2x2."""
    return F.avg_pool2d(fine, FINER)


def _ranged(fine: Float[Tensor, " h w"]) -> Float[Tensor, "1 h w"]:
    return (2 * fine.clamp(0, 1) - 1)[None]


class Slices:
    """Slices of the scans of one split.

    An item holds ``image`` (1, size, size) in [-1, 1]: the range of the window, or of MR twice the
    share of the brightest less 1.  To test it holds ``fine`` as well (1, 2 size, 2 size), whose
    means it is.

    Args:
        scans: of each its patient's name and what reads it; read when first needed, and kept within
            the cache.
        split: ``train`` cuts in any pose, ``test`` where slices lie.
        size: side of a slice in pixels.
        pixel: side of a pixel in millimetres; None for what shows the whole of each scan.
        planes: of the slices; the first one to test.
        window: of a scan, as `prepared` wants it.
        percentile: as in `prepared`.
        count: of items to train; to test, of each scan.
        pose: how far they may be moved.
        seed: of the poses.
        cache: bytes of volumes that are kept.
    """

    def __init__(
        self,
        scans: Sequence[tuple[str, Callable[[], Scan]]],
        *,
        split: str,
        size: int,
        pixel: float | None,
        planes: Sequence[Plane],
        window: Callable[[Scan], tuple[float, float] | None],
        percentile: float,
        count: int,
        pose: Pose,
        seed: int,
        cache: int,
    ) -> None:
        self._scans, self._split, self._size, self._pixel = list(scans), split, size, pixel
        self._planes, self._window, self._percentile = tuple(planes), window, percentile
        self._count, self._pose = count, pose
        self._seed, self._most = seed, cache
        self._kept: OrderedDict[tuple[int, Plane], tuple[Volume, float, int]] = OrderedDict()
        self._places: list[tuple[int, float]] = []
        if split == "test":
            for number in range(len(self._scans)):
                depth = self._volume(number, self._planes[0])[2]
                here = min(count, depth)
                at = (np.arange(here) + 0.5) * depth / here - 0.5
                self._places += [(number, float(round(x))) for x in at]

    def __len__(self) -> int:
        return len(self._places) if self._split == "test" else self._count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        if self._split == "test":
            number, at = self._places[index]
            volume, pixel, depth = self._volume(number, self._planes[0])
            at = (at + 0.5) * volume.values.shape[2] / depth - 0.5
            fine = _ranged(cut(volume, at, self._size, pixel))
            return {"image": halved(fine), "fine": fine}
        random = self._random(index)
        number = int(random.integers(len(self._scans)))
        plane = self._planes[int(random.integers(len(self._planes)))]
        volume, pixel, _ = self._volume(number, plane)
        fine = self._drawn(random, volume, pixel)
        for _ in range(TRIES):
            if (fine > DARK).float().mean() > LEAST:
                break
            fine = self._drawn(random, volume, pixel)
        fine = fine.clamp(0, 1)
        if not volume.windowed:
            fine = recoloured(fine, random, self._pose.contrast)
        return {"image": halved(_ranged(fine))}

    def _random(self, index: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=np.array([self._seed, index], np.uint64)))

    def _drawn(self, random: np.random.Generator, volume: Volume, pixel: float) -> Tensor:
        pose, depth = self._pose, volume.values.shape[2]
        zoom = math.exp(random.uniform(-1, 1) * math.log(pose.zoom))
        reach = pose.shift * self._size * pixel
        down, right = random.uniform(-reach, reach, 2).tolist()
        first, second = random.uniform(-pose.tilt, pose.tilt, 2).tolist()
        return cut(
            volume,
            random.uniform(0, depth - 1),
            self._size,
            pixel / zoom,
            turn=random.uniform(-pose.turn, pose.turn),
            tilt=(first, second),
            shift=(down, right),
            mirror=pose.mirror and bool(random.integers(2)),
        )

    def _volume(self, number: int, plane: Plane) -> tuple[Volume, float, int]:
        """A scan's volume, the side of a slice's pixel, and how many slices the scan has."""
        found = self._kept.pop((number, plane), None)
        if found is None:
            scan = self._scans[number][1]()
            shape, spacing = like_canonical(scan, plane)
            pixel = self._pixel or max(shape[1] * spacing[1], shape[2] * spacing[2]) / self._size
            zoom = self._pose.zoom if self._split == "train" else 1.0
            volume = prepared(
                scan, plane, pixel / zoom, window=self._window(scan), percentile=self._percentile
            )
            found = volume, pixel, shape[0]
        self._kept[number, plane] = found
        while len(self._kept) > 1 and self._bytes() > self._most:
            self._kept.popitem(last=False)
        return found

    def _bytes(self) -> int:
        return sum(volume.values.nbytes for volume, _, _ in self._kept.values())

    def source(self, index: int) -> str:
        """The scan of an item."""
        if self._split == "test":
            return self._scans[self._places[index][0]][0]
        return self._scans[int(self._random(index).integers(len(self._scans)))][0]

    def name(self, index: int) -> str:
        """``patient-7f3a91c2, slice 12``, counted from 1; to train, ``pose 12``."""
        if self._split == "test":
            return f"{self.source(index)}, slice {self._places[index][1] + 1:g}"
        return f"{self.source(index)}, pose {index + 1}"
