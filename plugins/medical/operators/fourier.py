"""Magnetic resonance: masked Fourier measurements by one or several coils.

Images are complex, as two real channels (b, 2, h, w): real and imaginary part; k-space is complex
(b, coils, h, w) with its zero frequency in the middle, at (h // 2, w // 2).  The transform is
orthonormal: white noise in k-space is white noise in images, of the same standard deviation.
"""

from collections.abc import Sequence
from copy import copy

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from core.errors import InputError
from core.process.noise import derive
from plugins.medical.operators.sampling import check, sampling_mask
from plugins.medical.request import SamplingMask


def to_complex(x: Float[Tensor, " b 2 h w"]) -> Complex[Tensor, " b h w"]:
    """Two real channels as one complex image."""
    return torch.complex(x[:, 0], x[:, 1])


def to_real(x: Complex[Tensor, " b h w"]) -> Float[Tensor, " b 2 h w"]:
    """A complex image as two real channels."""
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
    """Root sum of squares over the coils."""
    return x.abs().square().sum(1).sqrt()


# --- the operator ------------------------------------------------------------------------------


class Fourier:
    """Coil-weighted, masked Fourier transform: y_c = M F S_c x; the adjoint is exact.

    Args:
        mask: sampling pattern, for the size of the image.
        acceleration: acceleration factor R.
        centre: fraction of the lines, or of each side, that is fully sampled in the centre.
        seed: of the mask.

    Raises:
        InputError: an option out of its range.
    """

    def __init__(
        self,
        *,
        mask: SamplingMask = "random",
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
        """The same operator with a mask and coil sensitivities of an acquisition.

        Args:
            frequencies: sampling mask, True where sampled; by default a generated one.
            sensitivities: S, of each coil, for all samples or for each; None for one uniform coil.
        """
        made = copy(self)
        made._given, made.sensitivities = frequencies, sensitivities
        return made

    def measured(self, height: int, width: int) -> Bool[Tensor, " h w"]:
        """The sampling mask.

        Raises:
            InputError: the mask of an acquisition has another size.
        """
        if self._given is not None:
            if tuple(self._given.shape) != (height, width):
                raise InputError(
                    f"frequencies: expected a mask of {width}x{height}, as the image, got "
                    f"{self._given.shape[1]}x{self._given.shape[0]}"
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
        """Sampled k-space, 0 elsewhere.

        Raises:
            InputError: other than two channels, or of another size than mask or sensitivities.
        """
        if x.shape[1] != 2:
            raise InputError(
                f"expected an image of 2 channels, real and imaginary part, got {x.shape[1]}"
            )
        picture = to_complex(x)[:, None]
        k = fourier(picture * self._coils(picture) if self.sensitivities is not None else picture)
        return k * self.measured(*x.shape[-2:]).to(x.device)

    def adjoint(self, y: Complex[Tensor, " b coils h w"]) -> Float[Tensor, " b 2 h w"]:
        """The zero-filled image: A* y, with Re <A x, y> = <x, A* y>."""
        x = inverse_fourier(y * self.measured(*y.shape[-2:]).to(y.device))
        x = (x * self._coils(y).conj()).sum(1) if self.sensitivities is not None else x[:, 0]
        return to_real(x)

    def _coils(self, like: Tensor) -> Tensor:
        assert self.sensitivities is not None
        if self.sensitivities.shape[-2:] != like.shape[-2:]:
            high, wide = self.sensitivities.shape[-2:]
            raise InputError(
                f"sensitivities: expected {like.shape[-1]}x{like.shape[-2]}, as the image, got "
                f"{wide}x{high}"
            )
        return self.sensitivities.to(like)
