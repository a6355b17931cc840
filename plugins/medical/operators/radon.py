"""Computed tomography: line integrals by parallel and by fan beams, and filtered back-projection.

Pictures (b, c, h, w) hold attenuation per millimetre, or anything linear in it; sinograms (b, c,
views, detectors) its line integrals.  Angles are in degrees against the clock, lengths in
millimetres.  At angle 0 a parallel beam's lines run along y and its detectors along x.
"""

import math
from collections.abc import Callable
from copy import copy
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from plugins.medical.operators.projector import Gathered, Lines, Stored, Through

Way = Literal["auto", "stored", "gathered"]
Window = Literal["ramp", "hann"]
WIDE = 3.0  # times the usual gap between two angles: nothing was measured in it
MOST = 2 << 30  # bytes of a stored matrix and its transpose; building them takes three times that


class Radon:
    """Line integrals along parallel lines, by Joseph's method; the adjoint is exact.

    It has no `pseudo_inverse`: filtered back-projection is not one.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        pixel: pixel spacing, in millimetres.
        views: number of view angles, evenly over `arc`, its end excluded.
        start: first angle, in degrees.
        arc: angular range in degrees; less than 180 is limited-angle CT.
        detectors: number of detectors; by default enough for the whole image.
        spacing: detector spacing in millimetres; by default a pixel.
        offset: position of the detector's middle along its line, in millimetres; 0 where the axis
            of rotation is projected.
        way: ``stored`` keeps a sparse matrix, fast on a CPU; ``gathered`` recomputes the weights;
            ``auto`` stores up to 2 GiB on a CPU, and gathers otherwise.

    Raises:
        InputError: an option out of its range.
    """

    def __init__(
        self,
        *,
        height: int = 256,
        width: int = 256,
        pixel: float = 1.0,
        views: int = 180,
        start: float = 0.0,
        arc: float = 180.0,
        detectors: int | None = None,
        spacing: float | None = None,
        offset: float = 0.0,
        way: Way = "auto",
    ) -> None:
        _check(height=height, width=width, pixel=pixel, views=views, arc=arc,
               detectors=detectors, spacing=spacing)  # fmt: skip
        self.shape, self.pixel, self.arc, self._way = (height, width), pixel, arc, way
        self.spacing = pixel if spacing is None else spacing
        self.offset = offset
        across = math.hypot(height, width) * pixel
        self.detectors = detectors or math.ceil(across / self.spacing)
        self.angles = start + arc * torch.arange(views, dtype=torch.float64) / views
        self.start, self._even = start, True
        self._shares: Tensor | None = None  # of the arc, for each view; even where None

    def at(self, angles: Float[Tensor, " v"]) -> "Radon":
        """The same operator with views at other angles, in any order and spacing.

        In filtered back-projection a view stands for half of the gap to each neighbour.  A gap of
        more than three times the usual one is where nothing was measured (limited angles).

        Args:
            angles: in degrees.
        """
        made = self._copied()
        made.angles, made._even = angles.double(), False
        made.start, made.arc, made._shares = _shares_of(made.angles, self._period)
        return made

    _period = 180.0  # degrees after which a view measures the same lines

    def _copied(self) -> "Radon":
        made = copy(self)
        for name in ("lines", "_stored", "_gathered"):  # made of the angles
            made.__dict__.pop(name, None)
        return made

    def of_views(self, chosen: Bool[Tensor, " v"]) -> "Radon":
        """The same operator of some views alone.

        Filtered back-projection divides the part of the arc of a view that is left out between the
        nearest ones of both sides.
        """
        if not self._even:
            return self.at(self.angles[chosen])
        made = self._copied()
        shares, kept = torch.zeros(len(chosen)), chosen.nonzero().flatten()
        for view in range(len(chosen)):
            after = int(torch.searchsorted(kept, view)) % len(kept)
            before = after if bool(chosen[view]) else after - 1
            shares[kept[before]] += 0.5
            shares[kept[after]] += 0.5
        made.angles, made._shares = self.angles[chosen], shares[chosen] * len(kept) / len(chosen)
        return made

    @property
    def positions(self) -> Float[Tensor, " detectors"]:
        """Detector positions along their line, in millimetres from the axis of rotation."""
        number = torch.arange(self.detectors, dtype=torch.float64)
        return (number - (self.detectors - 1) / 2) * self.spacing + self.offset

    @cached_property
    def lines(self) -> Lines:
        """One for each view and detector."""
        turn = torch.deg2rad(self.angles)[:, None]
        normal = torch.stack([turn.cos(), turn.sin()], -1)
        origin = self.positions[:, None] * normal
        way = torch.stack([-turn.sin(), turn.cos()], -1)
        return Lines(origin, way.expand_as(origin), self.shape, self.pixel)

    @cached_property
    def _stored(self) -> Stored:
        return Stored(self.lines)

    @cached_property
    def _gathered(self) -> Gathered:
        return Gathered(self.lines)

    def _system(self, like: Tensor) -> Stored | Gathered:
        fits = like.device.type == "cpu" and self.lines.stored_bytes <= MOST
        stored = self._way == "stored" or (self._way == "auto" and fits)
        return self._stored if stored else self._gathered

    def forward(self, x: Float[Tensor, " b c h w"]) -> Float[Tensor, " b c v d"]:
        """The sinogram.

        Raises:
            InputError: an image of another size than the geometry's.
        """
        if tuple(x.shape[-2:]) != self.shape:
            raise InputError(
                f"expected an image of {self.shape[1]}x{self.shape[0]} pixels, as the geometry, "
                f"got {x.shape[-1]}x{x.shape[-2]}; set height and width"
            )
        system = self._system(x)
        y = _through(x.flatten(0, 1).flatten(1), system.forward, system.adjoint)
        return y.reshape(*x.shape[:2], len(self.angles), self.detectors)

    def adjoint(self, y: Float[Tensor, " b c v d"]) -> Float[Tensor, " b c h w"]:
        """Back-projection without a filter: A* y, with <A x, y> = <x, A* y>.

        Raises:
            InputError: a sinogram of another size than the geometry's.
        """
        self._check_sinogram(y)
        system = self._system(y)
        x = _through(y.flatten(0, 1).flatten(1), system.adjoint, system.forward)
        return x.reshape(*y.shape[:2], *self.shape)

    def filtered_back_projection(
        self, y: Float[Tensor, " b c v d"], *, window: Window = "ramp"
    ) -> Float[Tensor, " b c h w"]:
        """Filtered back-projection: exact for many views without noise.

        The ramp is sampled in space, so that the mean is kept; detectors are interpolated linearly
        at each pixel.  Source: Kak and Slaney 1988, Principles of computerized tomographic imaging,
        section 3.3.

        Args:
            y: sinograms.
            window: of the filter: the ramp itself, or the ramp times a Hann window.

        Raises:
            InputError: a sinogram of another size than the geometry's.
        """
        self._check_sinogram(y)
        filtered = self._shared(ramp_filtered(y, self.spacing, window))
        # Every line is measured once in 180 degrees, twice in 360.
        weight = math.radians(self.arc) / len(self.angles) * min(1.0, 180 / self.arc)
        x, up = self._centres(y)
        total = y.new_zeros(*y.shape[:2], *self.shape)
        for view, angle in enumerate(torch.deg2rad(self.angles).tolist()):
            at = (x * math.cos(angle) + up * math.sin(angle) - self.offset) / self.spacing
            total += interpolated(filtered[..., view, :], at + (self.detectors - 1) / 2)
        return total * weight

    def _shared(self, filtered: Tensor) -> Tensor:
        return filtered if self._shares is None else filtered * self._shares.to(filtered)[:, None]

    def _centres(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Where columns are along x and rows (h, 1) along y, in millimetres."""
        height, width = self.shape
        x = (torch.arange(width) - (width - 1) / 2) * self.pixel
        y = ((height - 1) / 2 - torch.arange(height)) * self.pixel
        return x.to(like), y.to(like)[:, None]

    def _check_sinogram(self, y: Tensor) -> None:
        if tuple(y.shape[-2:]) != (len(self.angles), self.detectors):
            raise InputError(
                f"expected a sinogram of {len(self.angles)} views and {self.detectors} detectors, "
                f"as the geometry, got {y.shape[-2]} and {y.shape[-1]}; set views and detectors"
            )


class FanBeam(Radon):
    """Line integrals along fans: from a point source to a flat detector, both turning.

    At angle 0 the source is at (0, -source) and looks along y.  Options that are not described here
    are those of `Radon`.  A short scan covers 180 degrees and the angle of the fan.

    Args:
        arc: angular range in degrees.
        spacing: detector spacing in millimetres; by default a pixel at the isocentre, magnified.
        source: distance from the source to the isocentre, in millimetres.
        detector: distance from the detector to the isocentre, in millimetres.

    Raises:
        InputError: an option out of its range, or a source within the image.
    """

    def __init__(
        self,
        *,
        height: int = 256,
        width: int = 256,
        pixel: float = 1.0,
        views: int = 360,
        start: float = 0.0,
        arc: float = 360.0,
        detectors: int | None = None,
        spacing: float | None = None,
        offset: float = 0.0,
        source: float = 500.0,
        detector: float = 500.0,
        way: Way = "auto",
    ) -> None:
        radius = math.hypot(height, width) * pixel / 2
        if not source > radius or detector < 0:
            raise InputError(
                f"source, detector: expected a source beyond the image's corner, {radius:g} mm "
                f"from the isocentre, and a detector at 0 mm or more, got {source:g}, {detector:g}"
            )
        magnified = (source + detector) / source
        step = pixel * magnified if spacing is None else spacing
        half = (source + detector) * math.tan(math.asin(radius / source))
        super().__init__(
            height=height, width=width, pixel=pixel, views=views, start=start, arc=arc,
            detectors=detectors or math.ceil(2 * half / step) + 1, spacing=step, offset=offset,
            way=way,
        )  # fmt: skip
        self.source, self.detector = source, detector

    _period = 360.0

    @cached_property
    def lines(self) -> Lines:
        """One for each view and detector, from the source."""
        turn = torch.deg2rad(self.angles)[:, None]
        along = torch.stack([turn.cos(), turn.sin()], -1)
        ahead = torch.stack([-turn.sin(), turn.cos()], -1)
        middle = (self.source + self.detector) * ahead
        way = self.positions[:, None] * along + middle
        way = way / way.norm(dim=-1, keepdim=True)
        return Lines((-self.source * ahead).expand_as(way), way, self.shape, self.pixel)

    def filtered_back_projection(
        self, y: Float[Tensor, " b c v d"], *, window: Window = "ramp"
    ) -> Float[Tensor, " b c h w"]:
        """Fan-beam filtered back-projection, of a whole turn or a short scan.

        Rays are weighted by the cosine of their angle in the fan, pixels by the inverse square of
        how much nearer to the source than the middle they are.  Lines that a short scan measures
        twice share a weight of 1; of less than a short scan the result is approximate.
        Source: Kak and Slaney 1988, section 3.4.2; Parker 1982, Med. Phys. 9, 254.

        Args:
            y: sinograms.
            window: of the filter.

        Raises:
            InputError: a sinogram of another size than the geometry's.
        """
        self._check_sinogram(y)
        scale = self.source / (self.source + self.detector)  # the detector moved to the middle
        positions = (self.positions * scale).to(y)
        cosine = self.source / torch.hypot(positions, positions.new_tensor(self.source))
        weighted = y * cosine * self._redundancy().to(y)
        filtered = self._shared(ramp_filtered(weighted, self.spacing * scale, window))
        x, up = self._centres(y)
        total = y.new_zeros(*y.shape[:2], *self.shape)
        for view, angle in enumerate(torch.deg2rad(self.angles).tolist()):
            along = x * math.cos(angle) + up * math.sin(angle)
            far = (self.source - x * math.sin(angle) + up * math.cos(angle)) / self.source
            at = (along / far / scale - self.offset) / self.spacing + (self.detectors - 1) / 2
            total += interpolated(filtered[..., view, :], at) / far**2
        return total * math.radians(self.arc) / len(self.angles)

    def _redundancy(self) -> Float[Tensor, " v d"]:
        """Weights of the rays; those of a line that is measured twice add up to 1."""
        if self.arc == 360:
            return torch.full((len(self.angles), self.detectors), 0.5, dtype=torch.float64)
        # The ray at angle g of the fan and b of the source is that at -g and b + 180 + 2 g.
        g = -torch.atan(self.positions / (self.source + self.detector))
        reach = math.asin(min(1.0, math.hypot(*self.shape) * self.pixel / 2 / self.source))
        widest = min(reach, float(g.abs().max()))
        more = max((math.radians(self.arc) - math.pi) / 2, widest)
        # Views stand for the middle of their part of the arc.
        b = torch.deg2rad((self.angles - self.start) % 360 + self.arc / len(self.angles) / 2)
        b, g = b[:, None], g.clamp(-widest, widest)
        rising = torch.where(more - g > 0, b / (more - g).clamp(min=1e-12), torch.inf)
        falling = (math.pi + 2 * more - b) / (more + g).clamp(min=1e-12)
        part = torch.minimum(rising, falling).clamp(0, 2)  # 2 where a line is measured once
        return torch.sin(math.pi / 4 * part).square()


def _shares_of(
    angles: Float[Tensor, " v"], period: float
) -> tuple[float, float, Float[Tensor, " v"]]:
    """First angle, arc, and the part of it that each view stands for, 1 on average."""
    turned, order = (angles % period).sort()
    gaps = torch.diff(turned, append=turned[:1] + period)  # to the next one
    usual = gaps[gaps > 1e-6].median() if len(gaps) > 1 else gaps[0]
    widest = int(gaps.argmax())
    if gaps[widest] > WIDE * usual:
        gaps[widest] = usual
    arc = period if float(gaps.sum()) > period - 1e-6 else float(gaps.sum())
    shares = torch.empty_like(angles)
    shares[order] = (gaps + gaps.roll(1)) / 2 * len(angles) / arc
    return float(turned[(widest + 1) % len(angles)]), arc, shares


def ramp_filtered(
    y: Float[Tensor, " *rows d"], spacing: float, window: Window
) -> Float[Tensor, " *rows d"]:
    """Each row convolved with the ramp filter of its bandwidth, in units of 1 / millimetre.

    Source: Kak and Slaney 1988, eq. 61: 1/4 at 0, -1 / (pi n)^2 at odd n, over the spacing.
    """
    bins = y.shape[-1]
    size = 2 ** math.ceil(math.log2(2 * bins))
    number = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    kernel = torch.where(number % 2 == 1, -1 / (math.pi * number) ** 2, 0.0)
    kernel[0] = 0.25
    response = torch.fft.rfft(kernel).real / spacing
    if window == "hann":
        response *= 0.5 * (1 + torch.cos(math.pi * torch.arange(len(response)) / (size // 2)))
    spectrum = torch.fft.rfft(y, n=size) * response.to(y)
    return torch.fft.irfft(spectrum, n=size)[..., :bins]


def interpolated(
    rows: Float[Tensor, " b c d"], at: Float[Tensor, " h w"]
) -> Float[Tensor, " b c h w"]:
    """The rows between their entries, linearly; 0 beyond them."""
    last = rows.shape[-1] + 1
    wide = F.pad(rows, (1, 1)).flatten(0, 1)
    shape, at = at.shape, (at + 1).clamp(0, last).flatten()
    lower = at.long().clamp(max=last - 1)
    low, high = wide.index_select(1, lower), wide.index_select(1, lower + 1)
    return torch.lerp(low, high, at - lower).reshape(*rows.shape[:2], *shape)


def _through(
    x: Tensor, ahead: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
) -> Tensor:
    found = Through.apply(x, ahead, back)
    assert isinstance(found, Tensor)
    return found


def _check(**options: float | int | None) -> None:
    wrong = [
        f"{name}: expected more than 0, got {value:g}"
        for name, value in options.items()
        if value is not None and not 0 < value < math.inf
    ]
    if wrong:
        raise InputError("\n".join(wrong))
