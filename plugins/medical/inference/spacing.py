"""Pixel spacings that a prior learned, compared with a scan's, and draws on a grid that it knows.

Within the range that a prior learned it is given the scan's spacing.  Beyond, draws have pixels of
the nearest spacing learned.  The scan is T x + d, where T takes draws x to its grid and d is the
detail of the start s that no draw can have, s - T T+ s: x is drawn given y - A d with A T as the
operator, so that the measurement stays on the scan's own grid.  Of coarser scans d is 0.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Inexact
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from core.inverse.measurement import LinearOperator, Measurement, residual, update
from core.network.conditioning import Condition
from core.parts.registry import Spec
from core.request import TrainRequest
from core.scans.scan import Scan
from plugins.medical.data.augmentation import Pose
from plugins.medical.data.lodopab import SIDE
from plugins.medical.request import Spacing
from plugins.medical.tasks.reconstruction import spacing_condition

NEAR = 1.1  # factor beyond the range learned up to which a spacing counts as learned
FEWEST = 16  # pixels along a side of a draw


@dataclass(frozen=True)
class Learned:
    """Pixel spacings that a prior was trained on.

    Args:
        least: of them, in millimetres.
        most: of them.
        gaps: least and most distance of slices, of a prior of stacks; None for the scans' own.
    """

    least: float
    most: float
    gaps: tuple[float, float] | None = None

    def __str__(self) -> str:
        ends = f"{self.least:.3g}", f"{self.most:.3g}"
        return f"{ends[0]} mm" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]} mm"

    def holds(self, spacing: float) -> bool:
        """Whether a spacing is in the range, or near it."""
        return self.least / NEAR <= spacing <= self.most * NEAR

    def nearest(self, spacing: float) -> float:
        """The spacing of the range that is nearest to `spacing`."""
        return min(max(spacing, self.least), self.most)


def learned(trained: TrainRequest) -> Learned | None:
    """The pixel spacings that a prior was trained on, by its request; None where it states none.

    One spacing with scaling of the images as augmentation is a range.
    """
    dataset: Spec = trained.dataset
    options = dataset.options
    gaps = None if options.get("gap_range") is None else tuple(options["gap_range"])
    if options.get("pixel_range") is not None:
        least, most = options["pixel_range"]
        return Learned(float(least), float(most), gaps)
    if options.get("pixel") is not None:
        usual = 1.0 if dataset.name == "medical/undersampled_scans" else Pose().zoom
        pixel, zoom = float(options["pixel"]), float(options.get("zoom", usual))
        return Learned(pixel / zoom, pixel * zoom, gaps)
    sides = {"medical/phantoms": options.get("side"), "medical/lodopab": SIDE}
    side, size = sides.get(dataset.name), options.get("size")
    if side is None or size is None:
        return None
    return Learned(side / size, side / size)


# --- from the grid of a scan to that of draws and back -------------------------------------------


@dataclass(frozen=True, eq=False)
class Resampling:
    """Linear maps between the pixels of a scan and those of draws, along rows and columns.

    Larger pixels are the means of the smaller ones that they cover; smaller ones are interpolated
    by cubic polynomials.  Both grids cover one field of view.

    Args:
        to_scan: matrices (scan's, draws') of rows and of columns.
        to_draws: matrices (draws', scan's) of rows and of columns.
    """

    to_scan: tuple[Float[Tensor, " h i"], Float[Tensor, " w j"]]
    to_draws: tuple[Float[Tensor, " i h"], Float[Tensor, " j w"]]

    @property
    def coarser(self) -> bool:
        """Whether draws have fewer pixels than the scan: its finest detail is in none of them."""
        return any(matrix.shape[1] < matrix.shape[0] for matrix in self.to_scan)

    def on_scan(self, x: Float[Tensor, " b c i j"]) -> Float[Tensor, " b c h w"]:
        """T x: draws on the scan's grid."""
        return _along(x, *self.to_scan)

    def back(self, x: Float[Tensor, " b c h w"]) -> Float[Tensor, " b c i j"]:
        """T* x, the adjoint of `on_scan`."""
        return _along(x, self.to_scan[0].T, self.to_scan[1].T)

    def detail(self, x: Float[Tensor, " b c h w"]) -> Float[Tensor, " b c h w"]:
        """x - T T+ x: what images of the scan's grid have and no draw can have."""
        rows, columns = (t.double() @ torch.linalg.pinv(t.double()) for t in self.to_scan)
        return x - _along(x, rows, columns)

    def on_draws(self, x: Float[Tensor, " b c h w"]) -> Float[Tensor, " b c i j"]:
        """S x: images of the scan's grid on that of draws."""
        return _along(x, *self.to_draws)


def resampling(size: tuple[int, int], to: tuple[int, int]) -> Resampling:
    """The maps between grids of two sizes that cover one field of view.

    Args:
        size: height and width of the scan, in pixels.
        to: height and width of draws.
    """
    scan = tuple(_matrix(n, m) for n, m in zip(to, size, strict=True))
    draws = tuple(_matrix(n, m) for n, m in zip(size, to, strict=True))
    return Resampling((scan[0], scan[1]), (draws[0], draws[1]))


def _along(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return rows.to(x) @ x @ columns.to(x).T


def _matrix(given: int, wanted: int) -> Float[Tensor, " wanted given"]:
    """Means over intervals to fewer pixels, cubic interpolation to more."""
    if wanted <= given:
        ends = torch.arange(wanted + 1, dtype=torch.float64) * given / wanted
        low, high = ends[:-1, None], ends[1:, None]
        left = torch.arange(given, dtype=torch.float64)
        overlap = torch.minimum(high, left + 1) - torch.maximum(low, left)
        return (overlap.clamp(min=0) * wanted / given).float()
    unit = torch.eye(given, dtype=torch.float64)[None, None]
    return F.interpolate(unit, (wanted, given), mode="bicubic")[0, 0].float()


@dataclass(frozen=True)
class Resampled:
    """The operator A T, of draws whose grid is not the scan's.

    Args:
        operator: A, on the scan's grid.
        grids: of the scan and of draws.
    """

    operator: LinearOperator
    grids: Resampling

    def forward(self, x: Float[Tensor, " b c i j"]) -> Inexact[Tensor, " b *measured"]:
        return self.operator.forward(self.grids.on_scan(x))

    def adjoint(self, y: Inexact[Tensor, " b *measured"]) -> Float[Tensor, " b c i j"]:
        return self.grids.back(self.operator.adjoint(y))


def beside_detail(
    measurement: Measurement, grids: Resampling, detail: Float[Tensor, " b c h w"]
) -> Measurement:
    """The measurement of draws: y - A d by the operator A T."""
    y = residual(measurement, detail)
    return Measurement(Resampled(measurement.operator, grids), y, measurement.noise_std)


def consistent(
    measurement: Measurement, x: Float[Tensor, " b c h w"], variance: Float[Tensor, " b"]
) -> Float[Tensor, " b c h w"]:
    """The most probable image given y, where `x` is off by so much."""
    noise = torch.full_like(variance, measurement.noise_std**2)
    r = residual(measurement, x)
    return x + update(measurement.operator, r, variance, noise, iterations=20, tolerance=1e-3)


# --- a scan's spacing beside a prior's -----------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Fit:
    """How a prior is used for a scan.

    Args:
        pixel: spacing in millimetres that the network is given; None where it is given none.
        grids: of the scan and of draws, where they differ.
        notes: sentences for the user.
        gap: distance of slices in millimetres that the network of a prior of stacks is given.
    """

    pixel: float | None = None
    grids: Resampling | None = None
    notes: tuple[str, ...] = ()
    gap: float | None = None

    def condition(self, depth: int) -> Condition | None:
        """The condition of a network for so many slices; None where it has none."""
        if self.pixel is None:
            return None
        gap = None if self.gap is None else torch.full((depth,), self.gap)
        return spacing_condition(torch.full((depth,), self.pixel), gap)

    def stacked(self, prior: Learned | None, scan: Scan) -> "Fit":
        """The same for a prior of stacks, which sees each slice beside its neighbours."""
        gap, notes = scan.spacing[0], self.notes
        gaps = Learned(*prior.gaps) if prior and prior.gaps else Learned(gap, gap)
        if len(scan.voxels) == 1:
            notes += ("the prior learned stacks of slices, and this is one: it has no neighbours",)
        elif not gaps.holds(gap):
            notes += (
                f"the prior learned slices {gaps} apart, those of this scan are {gap:.3g} mm apart",
            )
        return replace(self, gap=None if self.pixel is None else gaps.nearest(gap), notes=notes)


def fit(
    prior: Learned | None,
    size: tuple[int, int],
    spacing: tuple[float, float] | None,
    otherwise: Spacing,
    *,
    conditioned: bool,
) -> Fit:
    """How a prior is used for slices of a size and a spacing of rows and columns.

    Args:
        prior: the spacings that it learned; None if unknown.
        size: height and width, in pixels.
        spacing: of rows and columns, in millimetres; None if unknown.
        otherwise: what to do about a spacing that it did not learn.
        conditioned: whether its network is given the spacing.

    Raises:
        InputError: a spacing that it did not learn, where those are refused, or where fewer pixels
            than a draw needs would remain; or an unknown one that the network requires.
    """
    if spacing is None:
        return _unknown(prior) if conditioned else Fit()
    mean = math.sqrt(spacing[0] * spacing[1])
    if prior is None:
        return Fit(mean if conditioned else None)
    nearest = prior.nearest(mean)
    given = nearest if conditioned else None
    if otherwise == "ignore" or all(prior.holds(one) for one in spacing):
        return Fit(given)
    about = f"the prior learned pixels of {prior}, those of this scan are {_written(spacing)}"
    if otherwise == "refuse":
        raise InputError(
            f"{about}; train a prior with a pixel_range that includes it, or state --spacing "
            "resample, or ignore to use this one as it is"
        )
    rows, columns = (round(n * one / nearest) for n, one in zip(size, spacing, strict=True))
    if min(rows, columns) < FEWEST:
        raise InputError(
            f"{about}; at {nearest:.3g} mm a draw would be {columns}x{rows} pixels, expected at "
            f"least {FEWEST} a side: use a prior of such pixels, or --spacing ignore to use this "
            "one as it is"
        )
    note = f"{about}: draws are of {columns}x{rows} pixels of {nearest:.3g} mm (--spacing)"
    return Fit(given, resampling(size, (rows, columns)), (note,))


def _unknown(prior: Learned | None) -> Fit:
    """The middle of what a prior learned, for a network that requires a spacing.

    Raises:
        InputError: it is not known what it learned.
    """
    if prior is None:
        raise InputError(
            "the prior requires a pixel spacing, and the raw data state none; add pixel_mm, the "
            "distance of rows and columns, to the JSON"
        )
    middle = math.sqrt(prior.least * prior.most)
    return Fit(middle, notes=(
        f"the raw data state no pixel spacing: the prior was given {middle:.3g} mm, the middle of "
        "what it learned; add pixel_mm, the distance of rows and columns, to the JSON",
    ))  # fmt: skip


def _written(spacing: tuple[float, float]) -> str:
    down, across = (f"{one:.3g}" for one in spacing)
    return f"{down} mm" if down == across else f"{down} x {across} mm"
