"""Magnetic resonance: masked Fourier measurements by one or several coils.

Pictures are complex, as two real channels (b, 2, h, w): real and imaginary part; k-space is complex
(b, coils, h, w) with its zero frequency in the middle, at (h // 2, w // 2).  The transform is
orthonormal, so that white noise in k-space is white in pictures, of the same deviation.
"""

from collections.abc import Sequence
from copy import copy

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from core.errors import InputError
from core.process.noise import derive
from plugins.medical.operators.sampling import Kind, check, sampling_mask


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


def white_noise(
    shape: Sequence[int], *, std: float, key: tuple[int | str, ...]
) -> Complex[Tensor, "*shape"]:
    """Complex white noise of k-space, the same for the same key.

    Args:
        shape: of the noise.
        std: standard deviation of the real and imaginary part each.
        key: `derive` makes its seed of it.
    """
    draw = torch.Generator().manual_seed(derive(*key))
    real, imaginary = torch.randn(2, *shape, generator=draw)
    return std * torch.complex(real, imaginary)


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
        check(mask, acceleration, centre)
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
