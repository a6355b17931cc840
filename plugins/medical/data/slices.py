"""Square slices of scans: as acquired for testing, in random nearby poses for training.

A slice is interpolated linearly at half its pixel spacing and averaged over 2x2, so that its pixels
are means; the finer slice is what measurements are simulated of.  Where the pixel spacing is drawn
from a range, the volume is averaged to half of the spacing's octave first, and points are twice as
dense where voxels still are denser, so that detail finer than a pixel does not alias.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional as F

from core.data import Cache
from core.process.noise import generator
from core.scans.intensities import EMPTY
from core.scans.request import Plane
from core.scans.scan import Scan, canonical, like_canonical, plane_of
from plugins.medical.data.augmentation import Pose, attenuated, displacement, recoloured

FINER = 2  # points along each side of a pixel
APART = 1.25  # spacings of the voxels between two points of a slice, at most
TRIES = 8  # to find a slice that is more than air
DARK, LEAST = 0.1, 0.1  # an air pixel's largest value; least fraction of other pixels


@dataclass(frozen=True)
class Volume:
    """A scan prepared for slicing.

    Args:
        values: 1 1 d h w, with 0 and 1 at the ends of the window, or at 0 and the percentile; not
            clipped.
        spacing: between slices, rows and columns, in millimetres.
        windowed: whether the intensities are calibrated (CT).
        air: value of -1000 HU, where they are.
        sagittal: whether the slices are sagittal, so that columns run from front to back.
    """

    values: Float[Tensor, "1 1 d h w"]
    spacing: tuple[float, float, float]
    windowed: bool
    air: float = 0.0
    sagittal: bool = False


def prepared(
    scan: Scan,
    plane: Plane,
    pixel: float,
    *,
    window: tuple[float, float] | None,
    percentile: float,
) -> Volume:
    """The scan normalised to [0, 1] and averaged to about half a pixel's spacing.

    Args:
        scan: as read.
        plane: of the slices.
        pixel: pixel spacing of a slice, in millimetres.
        window: the values that become 0 and 1.
        percentile: without a window, of the intensity that becomes 1; 0 stays.
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
    air = (EMPTY - low) / (high - low)
    return Volume(values, spacing, window is not None, air, plane_of(turned) == "sagittal")


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
    moved: Float64[Tensor, "2 fine fine"] | None = None,
    along: tuple[float, ...] = (0.0,),
    finer: int = FINER,
) -> Float[Tensor, " slices fine fine"]:
    """A slice of a volume, or parallel ones, at `finer` times the resolution.

    Args:
        volume: to slice.
        at: index of the slice, from 0; may lie between two.
        size: side of the slice, in pixels.
        pixel: pixel spacing, in millimetres.
        turn: in-plane rotation, in degrees.
        tilt: rotation about the axis of rows and of columns, in degrees.
        shift: translation down and to the right, in millimetres.
        mirror: flip left and right.
        moved: displacement of each point down and to the right, in millimetres.
        along: distances of the slices from that one along its normal, in millimetres.
        finer: points along each side of a pixel.
    """
    fine = size * finer
    line = (torch.arange(fine, dtype=torch.float64) - (fine - 1) / 2) * pixel / finer
    across = -line if mirror else line
    a, b, c = (math.radians(angle) for angle in (turn, *tilt))
    right = torch.tensor([0.0, math.sin(a), math.cos(a)], dtype=torch.float64)
    down = torch.tensor([0.0, math.cos(a), -math.sin(a)], dtype=torch.float64)
    normal = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    down, normal = (
        math.cos(b) * down + math.sin(b) * normal,
        math.cos(b) * normal - math.sin(b) * down,
    )
    right, normal = (
        math.cos(c) * right + math.sin(c) * normal,
        math.cos(c) * normal - math.sin(c) * right,
    )
    shape = torch.tensor(volume.values.shape[2:], dtype=torch.float64)
    spacing = torch.tensor(volume.spacing, dtype=torch.float64)
    middle = (shape - 1) / 2 * spacing
    middle[0] = at * spacing[0]
    middle[1:] += torch.tensor(shift, dtype=torch.float64)
    points = middle + line[:, None, None] * down + across[:, None] * right  # h w 3, millimetres
    if moved is not None:
        points = points + moved[0, ..., None] * down + moved[1, ..., None] * right
    found = []
    for distance in along:
        index = (points + distance * normal) / spacing if distance else points / spacing
        grid = ((2 * index + 1) / shape - 1).flip(-1).float()[None, None]
        values = F.grid_sample(volume.values, grid, padding_mode="zeros", align_corners=False)
        found.append(values[0, 0, 0])
    return torch.stack(found)


def halved(fine: Float[Tensor, " c h w"]) -> Float[Tensor, " c y x"]:
    """Means over 2x2."""
    return F.avg_pool2d(fine, FINER)


def _ranged(fine: Float[Tensor, " c h w"]) -> Float[Tensor, " c h w"]:
    return 2 * fine.clamp(0, 1) - 1


class Slices:
    """Slices of the scans of one split.

    An item holds ``image`` (slices, size, size) in [-1, 1] and ``pixel``, its pixel spacing in
    millimetres; of several slices also ``gap``, their distance; a test item also ``fine``
    (slices, 2 size, 2 size), whose means over 2x2 are the image.

    Args:
        scans: pseudonym and reader of each; read when first needed, and cached.
        split: ``train`` in random poses, ``test`` as acquired.
        size: side of a slice, in pixels.
        pixel: pixel spacing in millimetres; None for the one that fits each scan's whole slice.
        pixel_range: the least and the most, between which the pixel spacing of each training slice
            is drawn, evenly by its logarithm; None for `pixel`.
        slices: of an item, adjacent and parallel: an odd number.
        gap_range: the least and the most, between which the distance of the slices of a training
            item is drawn, evenly by its logarithm; None for the scan's own.
        planes: of the slices; the first one for testing.
        window: of a scan, as of `prepared`.
        percentile: as of `prepared`.
        count: number of training slices; of test slices of each scan.
        pose: ranges of the random poses.
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
        pixel_range: tuple[float, float] | None = None,
        slices: int = 1,
        gap_range: tuple[float, float] | None = None,
        planes: Sequence[Plane],
        window: Callable[[Scan], tuple[float, float] | None],
        percentile: float,
        count: int,
        pose: Pose,
        seed: int,
        cache: int,
    ) -> None:
        self._scans, self._split, self._size, self._pixel = list(scans), split, size, pixel
        self._range = pixel_range if split == "train" else None
        self._slices, self._gaps = slices, gap_range if split == "train" else None
        self._planes, self._window, self._percentile = tuple(planes), window, percentile
        self._count, self._pose = count, pose
        self._seed = seed
        self._kept = Cache[_Kept](cache)
        self._places: list[tuple[int, float]] = []
        if split == "test":
            for number in range(len(self._scans)):
                depth = self._volume(number, self._planes[0]).depth
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
            kept = self._volume(number, self._planes[0])
            volume, pixel = kept.volume, kept.pixel
            at = (at + 0.5) * volume.values.shape[2] / kept.depth - 0.5
            along = _distances(self._slices, kept.gap)
            fine = _ranged(cut(volume, at, self._size, pixel, along=along))
            return {"image": halved(fine), "fine": fine, **self._stated(pixel, kept.gap)}
        random = self._random(index)
        number = int(random.integers(len(self._scans)))
        plane = self._planes[int(random.integers(len(self._planes)))]
        drawn = None if self._range is None else log_uniform(random, self._range)
        kept = self._volume(number, plane, drawn)
        volume, pixel, gap = kept.volume, kept.pixel if drawn is None else drawn, kept.gap
        along = (0.0,)
        if self._slices > 1:
            gap = gap if self._gaps is None else log_uniform(random, self._gaps)
            along = _distances(self._slices, gap * (1 - 2 * int(random.integers(2))))
        fine = self._drawn(random, volume, pixel, along)
        for _ in range(TRIES):
            if (fine > DARK).float().mean() > LEAST:
                break
            fine = self._drawn(random, volume, pixel, along)
        image = halved(_ranged(self._coloured(random, volume, fine)))
        return {"image": image, **self._stated(pixel, gap)}

    def _stated(self, pixel: float, gap: float) -> dict[str, Tensor]:
        """The distances that an item states."""
        found = {"pixel": torch.tensor(pixel)}
        return found | ({"gap": torch.tensor(gap)} if self._slices > 1 else {})

    def _random(self, index: int) -> np.random.Generator:
        return generator(self._seed, index)

    def _drawn(
        self, random: np.random.Generator, volume: Volume, pixel: float, along: tuple[float, ...]
    ) -> Tensor:
        pose, depth = self._pose, volume.values.shape[2]
        zoom = math.exp(random.uniform(-1, 1) * math.log(pose.zoom))
        reach = pose.shift * self._size * pixel
        down, right = random.uniform(-reach, reach, 2).tolist()
        first, second = random.uniform(-pose.tilt, pose.tilt, 2).tolist()
        finer = FINER if self._range is None else dense_enough(volume, pixel)
        found = cut(
            volume,
            random.uniform(0, depth - 1),
            self._size,
            pixel / zoom,
            turn=random.uniform(-pose.turn, pose.turn),
            tilt=(first, second),
            shift=(down, right),
            mirror=pose.mirror and bool(random.integers(2)) and self._mirrored(volume),
            moved=self._moved(random, self._size * finer, pixel),
            along=along,
            finer=finer,
        )
        return found if finer == FINER else halved(found)

    def _mirrored(self, volume: Volume) -> bool:
        """Whether a volume's columns may be flipped."""
        return self._pose.mirror_sagittal or not volume.sagittal

    def _moved(self, random: np.random.Generator, side: int, pixel: float) -> Tensor | None:
        """An elastic displacement in millimetres, if there is any."""
        largest = self._pose.elastic * self._size * pixel
        return displacement(random, side, largest) if largest else None

    def _coloured(self, random: np.random.Generator, volume: Volume, fine: Tensor) -> Tensor:
        """The slice with the intensities of another scanner."""
        pose = self._pose
        if volume.windowed:
            return attenuated(fine, random, pose.water, volume.air) if pose.water else fine
        return recoloured(
            fine.clamp(0, 1), random, pose.contrast, gamma=pose.gamma, bias=pose.bias,
            gain=pose.gain,
        )  # fmt: skip

    def _volume(self, number: int, plane: Plane, pixel: float | None = None) -> "_Kept":
        """A scan prepared for slicing.

        Args:
            number: of the scan.
            plane: of the slices.
            pixel: spacing drawn from the range: volumes are prepared for each octave of it.
        """
        octave = 0.0
        if pixel is not None and self._range is not None:
            octave = math.floor(math.log2(pixel / self._range[0]))
        found = self._kept.get((number, plane, octave))
        if found is None:
            scan = self._scans[number][1]()
            shape, spacing = like_canonical(scan, plane)
            finest = self._pixel or max(shape[1] * spacing[1], shape[2] * spacing[2]) / self._size
            if self._range is not None:
                finest = self._range[0] * 2**octave
            zoom = self._pose.zoom if self._split == "train" else 1.0
            volume = prepared(
                scan, plane, finest / zoom, window=self._window(scan), percentile=self._percentile
            )
            found = _Kept(volume, finest, shape[0], spacing[0])
            self._kept.keep((number, plane, octave), found, volume.values.nbytes)
        return found

    def source(self, index: int) -> str:
        """The scan of an item."""
        if self._split == "test":
            return self._scans[self._places[index][0]][0]
        return self._scans[int(self._random(index).integers(len(self._scans)))][0]

    def name(self, index: int) -> str:
        """``patient-7f3a91c2, slice 12``, from 1; of training, ``pose 12``."""
        if self._split == "test":
            return f"{self.source(index)}, slice {self._places[index][1] + 1:g}"
        return f"{self.source(index)}, pose {index + 1}"


@dataclass(frozen=True)
class _Kept:
    """A scan's volume, pixel spacing in millimetres, number of slices and their distance."""

    volume: Volume
    pixel: float
    depth: int
    gap: float


def _distances(slices: int, gap: float) -> tuple[float, ...]:
    """Distances of parallel slices from the middle one."""
    return tuple((k - slices // 2) * gap for k in range(slices))


def dense_enough(volume: Volume, pixel: float) -> int:
    """Points along each side of a pixel that are hardly further apart than the voxels."""
    return FINER if pixel / FINER <= APART * min(volume.spacing[1:]) else 2 * FINER


def log_uniform(random: np.random.Generator, ends: tuple[float, float]) -> float:
    """A number between two, drawn evenly by its logarithm."""
    low, high = (math.log(end) for end in ends)
    return math.exp(random.uniform(low, high))
