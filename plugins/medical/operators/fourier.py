"""Magnetic resonance: masked Fourier measurements by one or several coils, and their masks.

Pictures are complex, as two real channels (b, 2, h, w): real and imaginary part; k-space is complex
(b, coils, h, w) with its zero frequency in the middle, at (h // 2, w // 2).  The transform is
orthonormal, so that white noise in k-space is white in pictures, of the same deviation.
"""

import math
from collections.abc import Callable
from copy import copy
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from core.errors import InputError
from core.process.noise import derive

Kind = Literal["random", "equispaced", "density", "poisson", "radial"]


def to_complex(x: Float[Tensor, " b 2 h w"]) -> Complex[Tensor, " b h w"]:
    """Two real channels as one complex picture."""
    return torch.complex(x[:, 0], x[:, 1])


def to_real(x: Complex[Tensor, " b h w"]) -> Float[Tensor, " b 2 h w"]:
    """A complex picture as two real channels."""
    return torch.stack([x.real, x.imag], 1)


def fourier(x: Complex[Tensor, " *rows h w"]) -> Complex[Tensor, " *rows h w"]:
    """The orthonormal transform, origin and zero frequency in the middle."""
    moved = torch.fft.ifftshift(x, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.fft2(moved, norm="ortho"), dim=(-2, -1))


def inverse_fourier(k: Complex[Tensor, " *rows h w"]) -> Complex[Tensor, " *rows h w"]:
    """Its inverse, and its adjoint."""
    moved = torch.fft.ifftshift(k, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.ifft2(moved, norm="ortho"), dim=(-2, -1))


def root_sum_of_squares(x: Complex[Tensor, " b coils h w"]) -> Float[Tensor, " b h w"]:
    """The magnitude of all coils together."""
    return x.abs().square().sum(1).sqrt()


# --- the operator ------------------------------------------------------------------------------


class Fourier:
    """Coil-weighted, masked Fourier transform: y_c = M F S_c x; the adjoint is exact.

    Args:
        mask: of a registered kind, made for the size of what is measured.
        acceleration: how many times fewer frequencies than all.
        centre: share of the lines, or of the side of a square, that is always measured.
        seed: of the mask.

    Raises:
        InputError: an option out of its range.
    """

    def __init__(
        self,
        *,
        mask: Kind = "random",
        acceleration: float = 4.0,
        centre: float = 0.08,
        seed: int = 0,
    ) -> None:
        _check(mask, acceleration, centre)
        self._options = (mask, acceleration, centre, seed)
        self._masks: dict[tuple[int, int], Tensor] = {}
        self._given: Tensor | None = None
        self.sensitivities: Tensor | None = None

    def given(
        self,
        *,
        frequencies: Bool[Tensor, " h w"] | None = None,
        sensitivities: Complex[Tensor, "*b coils h w"] | None = None,
    ) -> "Fourier":
        """The same with what was measured and by which coils.

        Args:
            frequencies: a mask of your own, True where measured, instead of one that is made.
            sensitivities: S, of each coil, for all samples or for each; one coil that sees all
                evenly if None.
        """
        made = copy(self)
        made._given, made.sensitivities = frequencies, sensitivities
        return made

    def measured(self, height: int, width: int) -> Bool[Tensor, " h w"]:
        """Which frequencies are measured.

        Raises:
            InputError: a mask of your own has another size.
        """
        if self._given is not None:
            if tuple(self._given.shape) != (height, width):
                raise InputError(
                    f"a mask of {self._given.shape[1]}x{self._given.shape[0]} for a picture of "
                    f"{width}x{height}; give one of its size"
                )
            return self._given
        found = self._masks.get((height, width))
        if found is None:
            kind, acceleration, centre, seed = self._options
            found = sampling_mask(
                kind, height, width, acceleration=acceleration, centre=centre, seed=seed
            )
            self._masks[height, width] = found
        return found

    def forward(self, x: Float[Tensor, " b c h w"]) -> Complex[Tensor, " b coils h w"]:
        """The measured frequencies; the others are 0.

        Raises:
            InputError: other than two channels, or of another size than mask or sensitivities.
        """
        if x.shape[1] != 2:
            raise InputError(
                f"a picture of {x.shape[1]} channels; k-space is measured of 2, the real and the "
                "imaginary part"
            )
        picture = to_complex(x)[:, None]
        k = fourier(picture * self._coils(picture) if self.sensitivities is not None else picture)
        return k * self.measured(*x.shape[-2:]).to(x.device)

    def adjoint(self, y: Complex[Tensor, " b coils h w"]) -> Float[Tensor, " b 2 h w"]:
        """The zero-filled picture: A* y, with Re <A x, y> = <x, A* y>."""
        x = inverse_fourier(y * self.measured(*y.shape[-2:]).to(y.device))
        x = (x * self._coils(y).conj()).sum(1) if self.sensitivities is not None else x[:, 0]
        return to_real(x)

    def _coils(self, like: Tensor) -> Tensor:
        assert self.sensitivities is not None
        if self.sensitivities.shape[-2:] != like.shape[-2:]:
            high, wide = self.sensitivities.shape[-2:]
            raise InputError(
                f"sensitivities of {wide}x{high} for a picture of {like.shape[-1]}x"
                f"{like.shape[-2]}; give some of its size"
            )
        return self.sensitivities.to(like)


# --- masks -------------------------------------------------------------------------------------


def sampling_mask(
    kind: Kind,
    height: int,
    width: int,
    *,
    acceleration: float = 4.0,
    centre: float = 0.08,
    seed: int = 0,
) -> Bool[Tensor, " h w"]:
    """Which frequencies are measured, about height x width / acceleration of them.

    Args:
        kind: ``random`` and ``equispaced`` columns (phase encoding along x, as in fastMRI, Zbontar
            et al. 2018, arXiv:1811.08839), ``density``: points, rarer away from the middle (Lustig
            et al. 2007, Magn. Reson. Med. 58, 1182), ``poisson``: the same, no two of them near
            each other, ``radial``: spokes, at the nearest points of the grid.
        height: of k-space.
        width: of k-space.
        acceleration: how many times fewer frequencies than all.
        centre: share of the lines, or of each side, around the middle that is always measured.
        seed: of what is drawn.

    Raises:
        InputError: an option out of its range, or a centre that is more than all that is measured.
    """
    _check(kind, acceleration, centre)
    random = np.random.Generator(np.random.PCG64(derive("mask", seed)))
    wanted = height * width / acceleration
    if kind in ("random", "equispaced"):
        columns = _columns(kind, width, acceleration, centre, random)
        mask = np.broadcast_to(columns, (height, width))
    else:
        high, wide = (max(1, round(side * centre)) for side in (height, width))
        inner = np.zeros((height, width), bool)
        top, left = height // 2 - high // 2, width // 2 - wide // 2
        inner[top : top + high, left : left + wide] = True
        if inner.sum() > wanted:
            raise InputError(
                f"centre: {centre:g} of each side is {inner.sum()} frequencies, more than the "
                f"{wanted:.0f} that an acceleration of {acceleration:g} leaves; make one smaller"
            )
        rows = (np.arange(height) - height // 2) / (height / 2)
        radius = np.hypot(rows[:, None], (np.arange(width) - width // 2) / (width / 2))
        points = {"density": _density, "poisson": _poisson, "radial": _radial}[kind]
        mask = points(radius, inner, wanted, random)
    return torch.from_numpy(np.ascontiguousarray(mask))


def _check(kind: str, acceleration: float, centre: float) -> None:
    problems = []
    if kind not in get_args(Kind):
        problems.append(f"mask: expected one of {', '.join(get_args(Kind))}, got {kind!r}")
    if not acceleration >= 1:
        problems.append(f"acceleration: expected at least 1, got {acceleration:g}")
    if not 0 <= centre <= 1:
        problems.append(f"centre: expected 0 to 1, got {centre:g}")
    if problems:
        raise InputError("\n".join(problems))


def _columns(
    kind: Kind, width: int, acceleration: float, centre: float, random: np.random.Generator
) -> np.ndarray:
    """Columns: the middle ones, and as many others as make up the acceleration."""
    low = max(1, round(width * centre))
    wanted = round(width / acceleration)
    if low > wanted:
        raise InputError(
            f"centre: {centre:g} of {width} columns is {low}, more than the {wanted} that an "
            f"acceleration of {acceleration:g} leaves; make one smaller"
        )
    columns = np.zeros(width, bool)
    first = width // 2 - low // 2
    columns[first : first + low] = True
    others = np.flatnonzero(~columns)
    if kind == "random":
        columns[random.choice(others, wanted - low, replace=False)] = True
    elif wanted > low:
        step = len(others) / (wanted - low)
        at = (random.random() + np.arange(wanted - low)) * step
        columns[others[at.astype(int)]] = True
    return columns


def _density(
    radius: np.ndarray, inner: np.ndarray, wanted: float, random: np.random.Generator
) -> np.ndarray:
    """Points with probability (1 - r)^p, p so that there are as many as wanted."""
    draws, fall = random.random(radius.shape), (1 - radius / radius.max()).clip(0)

    def mask(power: float) -> np.ndarray:
        return inner | (draws < fall**power)

    return mask(_bisected(lambda power: mask(power).sum(), wanted, 0.0, 64.0))


def _poisson(
    radius: np.ndarray, inner: np.ndarray, wanted: float, random: np.random.Generator
) -> np.ndarray:
    """Points in random order, none within a distance of another that grows with the radius."""
    order = random.permutation(radius.size)
    rows, columns = np.unravel_index(order, radius.shape)

    def mask(slope: float) -> np.ndarray:
        reach = slope * (0.3 + radius)
        chosen, free = inner.copy(), ~inner
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if not free[row, column]:
                continue
            chosen[row, column] = True
            far = reach[row, column]
            near = math.floor(far)
            up, left = max(0, row - near), max(0, column - near)
            down = np.arange(up, min(radius.shape[0], row + near + 1)) - row
            across = np.arange(left, min(radius.shape[1], column + near + 1)) - column
            blocked = down[:, None] ** 2 + across**2 <= far**2
            free[up : up + len(down), left : left + len(across)] &= ~blocked
        return chosen

    return mask(_bisected(lambda slope: mask(slope).sum(), wanted, 0.0, 64.0, rounds=10))


def _radial(
    radius: np.ndarray, inner: np.ndarray, wanted: float, random: np.random.Generator
) -> np.ndarray:
    """Spokes through the middle, a golden angle apart, until there are as many as wanted.

    Source: Winkelmann et al. 2007, IEEE Trans. Med. Imaging 26, 68: 111.246 degrees.
    """
    height, width = radius.shape
    mask, angle = inner.copy(), random.random() * math.pi
    along = np.linspace(-1, 1, 4 * max(height, width))
    while mask.sum() < wanted:
        rows = np.round(height // 2 + along * math.sin(angle) * height / 2).astype(int)
        columns = np.round(width // 2 + along * math.cos(angle) * width / 2).astype(int)
        there = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        mask[rows[there], columns[there]] = True
        angle += math.radians(111.24611797498)
    return mask


def _bisected(
    count: Callable[[float], float], wanted: float, low: float, high: float, rounds: int = 30
) -> float:
    """Where a falling count comes to what is wanted."""
    for _ in range(rounds):
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) > wanted else (low, middle)
    return high


# --- coils -------------------------------------------------------------------------------------


def sensitivities(
    calibration: Complex[Tensor, " coils r s"],
    height: int,
    width: int,
    *,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.9,
) -> Complex[Tensor, " coils h w"]:
    """What each coil sees, from a fully measured middle of k-space; the first coil's phase is 0.

    The patches of the middle span a small space, and pictures whose own patches lie in it are
    eigenvectors with eigenvalue 1 of an operator that is a small matrix at each pixel: what the
    coils see.  Where the eigenvalue is less nothing is seen, and maps are 0; else their squares add
    up to 1.  Source: Uecker et al. 2014 (ESPIRiT), Magn. Reson. Med. 71, 990.

    Args:
        calibration: the middle of k-space, of all coils.
        height: of the picture.
        width: of the picture.
        kernel: side of a patch.
        threshold: singular values below this times the largest are noise.
        crop: eigenvalues below this are outside the object.

    Raises:
        InputError: a middle smaller than two patches.
    """
    coils, *sides = calibration.shape
    if min(sides) < 2 * kernel:
        raise InputError(
            f"calibration: a middle of {sides[1]}x{sides[0]} frequencies for patches of {kernel}; "
            f"measure at least {2 * kernel} each way, or give sensitivities"
        )
    patches = calibration.unfold(1, kernel, 1).unfold(2, kernel, 1)  # (coils, rows, columns, k, k)
    rows = patches.permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1)
    _, singular, span = torch.linalg.svd(rows, full_matrices=False)
    kept = span[singular > threshold * singular[0]].unflatten(1, (coils, kernel, kernel))
    matrices = torch.zeros(height, width, coils, coils, dtype=kept.dtype, device=kept.device)
    for one in kept.split(16):
        wide = one.new_zeros(len(one), coils, height, width)
        top, left = height // 2 - kernel // 2, width // 2 - kernel // 2
        wide[..., top : top + kernel, left : left + kernel] = one
        seen = inverse_fourier(wide) * math.sqrt(height * width) / kernel
        matrices += torch.einsum("nchw,ndhw->hwcd", seen, seen.conj())
    value, vector = torch.linalg.eigh(matrices)
    found = vector[..., -1].permute(2, 0, 1)
    found = found * torch.exp(-1j * found[:1].angle())
    return torch.where(value[..., -1] > crop, found, 0)
