"""Magnetic resonance along any trajectory, such as spokes and spirals, by a non-uniform FFT.

It is computed by mri-nufft with FINUFFT, on the CPU, which an extra of its own brings.
"""

import importlib
import importlib.util
import math
from copy import copy
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from core.errors import InputError
from plugins.medical.operators.fourier import to_complex, to_real
from plugins.medical.operators.projector import Through

INSTALL = "pip install 'polymode[medical-noncartesian]'"
LIBRARY = "mrinufft"


class NonUniform:
    """y_c(k) = (h w)^-1/2 sum_r S_c(r) x(r) e^(-2 pi i k r); the adjoint is exact.

    Positions r count pixels from the middle one, (h // 2, w // 2), as those of `fourier` do: on its
    frequencies the two operators are one.

    Args:
        trajectory: k of each sample along rows and columns, in cycles per pixel, from -1/2 to 1/2.
        height: of the image.
        width: of the image.
        sensitivities: S, of each coil, for all samples or for each; None for one uniform coil.
        readouts: number of readouts, such as spokes, of equal length, one after another; 1 where
            that is unknown.

    Raises:
        InputError: mri-nufft is not installed, or frequencies out of range.
    """

    def __init__(
        self,
        trajectory: Float[Tensor, " n 2"],
        height: int,
        width: int,
        sensitivities: Complex[Tensor, "*b coils h w"] | None = None,
        *,
        readouts: int = 1,
    ) -> None:
        if importlib.util.find_spec(LIBRARY) is None:
            raise InputError(
                f"k-space along a trajectory needs mri-nufft, not installed here; install with: "
                f"{INSTALL}"
            )
        if not bool((trajectory.abs() <= 0.5).all()):
            raise InputError(
                "trajectory: expected frequencies from -0.5 to 0.5, in cycles per pixel, got "
                f"{float(trajectory.min()):.4g} to {float(trajectory.max()):.4g}; divide by the "
                "matrix size where they are whole numbers"
            )
        self.trajectory, self.shape = trajectory, (height, width)
        self.sensitivities, self.readouts = sensitivities, readouts
        self._made: dict[tuple[int, torch.dtype], Any] = {}

    def given(self, sensitivities: Complex[Tensor, "*b coils h w"]) -> "NonUniform":
        """The same operator with coil sensitivities."""
        made = copy(self)
        made.sensitivities = sensitivities
        return made

    def of_readouts(self, chosen: Bool[Tensor, " readouts"]) -> "NonUniform":
        """The same operator of some readouts alone."""
        kept = self.trajectory[self.samples_of(chosen)]
        number = int(chosen.sum())
        return NonUniform(kept, *self.shape, self.sensitivities, readouts=number)

    def samples_of(self, chosen: Bool[Tensor, " readouts"]) -> Bool[Tensor, " n"]:
        """The samples of some readouts."""
        return chosen.repeat_interleave(len(self.trajectory) // self.readouts)

    def forward(self, x: Float[Tensor, " b 2 h w"]) -> Complex[Tensor, " b coils n"]:
        """The samples.

        Raises:
            InputError: an image of another size than the trajectory's.
        """
        if tuple(x.shape[-2:]) != self.shape:
            raise InputError(
                f"expected an image of {self.shape[1]}x{self.shape[0]} pixels, as the "
                f"trajectory's, got {x.shape[-1]}x{x.shape[-2]}"
            )
        picture = to_complex(x)[:, None]
        if self.sensitivities is not None:
            picture = picture * self.sensitivities.to(picture)
        return self.sampled(picture)

    def adjoint(self, y: Complex[Tensor, " b coils n"]) -> Float[Tensor, " b 2 h w"]:
        """A* y, with Re <A x, y> = <x, A* y>."""
        x = self.spread(y)
        if self.sensitivities is not None:
            return to_real((x * self.sensitivities.to(x).conj()).sum(1))
        return to_real(x[:, 0])

    def sampled(self, x: Complex[Tensor, " b c h w"]) -> Complex[Tensor, " b c n"]:
        """The transform of each image, without sensitivities."""
        return _through(x, self._sampled, self._spread)

    def spread(self, y: Complex[Tensor, " b c n"]) -> Complex[Tensor, " b c h w"]:
        """Its adjoint."""
        return _through(y, self._spread, self._sampled)

    def density(self) -> Float[Tensor, " n"]:
        """1 / |A A* 1|: weights that make the adjoint an approximate inverse.

        A A* 1 counts the samples around each, through the transform of the field of view.
        Source: Pipe and Menon 1999, Magn. Reson. Med. 41, 179, of which it is the first iteration;
        with this kernel, which has negative lobes, further ones diverge.
        """
        ones = torch.ones(1, 1, len(self.trajectory), dtype=self.trajectory.dtype)
        seen = self._sampled(self._spread(torch.complex(ones, 0 * ones)))
        return 1 / seen[0, 0].abs().clamp(min=1e-6)

    def gridded(
        self, y: Complex[Tensor, " b coils n"], weights: Float[Tensor, " n"] | None = None
    ) -> Float[Tensor, " b 2 h w"]:
        """The density-compensated adjoint, scaled to fit the samples best.

        Args:
            y: the samples.
            weights: as of `density`.
        """
        weights = self.density() if weights is None else weights
        x = self.adjoint(y * weights.to(y.device))
        again = self.forward(x)
        over = (again.conj() * y).real.flatten(1).sum(1)
        scale = over / again.abs().square().flatten(1).sum(1).clamp(min=1e-30)
        return x * scale[:, None, None, None]

    def _sampled(self, x: Tensor) -> Tensor:
        images = x.detach().resolve_conj().cpu().flatten(0, 1)[:, None].contiguous()
        found = self._nufft(len(images), images.dtype).op(images.numpy())
        return self._scaled(found, x).reshape(*x.shape[:2], len(self.trajectory))

    def _spread(self, y: Tensor) -> Tensor:
        samples = y.detach().resolve_conj().cpu().flatten(0, 1)[:, None].contiguous()
        found = self._nufft(len(samples), samples.dtype).adj_op(samples.numpy())
        return self._scaled(found, y).reshape(*y.shape[:2], *self.shape)

    def _scaled(self, found: Any, like: Tensor) -> Tensor:
        """Mri-nufft divides by the root of its grid of twice the size; we by that of the image."""
        return (2 * torch.from_numpy(found)).to(like.device)

    def _nufft(self, number: int, dtype: torch.dtype) -> Any:
        """The transform of so many images at once."""
        if (number, dtype) not in self._made:
            real = torch.float64 if dtype == torch.complex128 else torch.float32
            self._made[number, dtype] = importlib.import_module(LIBRARY).get_operator("finufft")(
                samples=(2 * math.pi * self.trajectory.double()).to(real).numpy(), n_coils=1,
                shape=self.shape, n_batchs=number, density=False, squeeze_dims=False,
            )  # fmt: skip
        return self._made[number, dtype]


def _through(x: Tensor, ahead: Any, back: Any) -> Tensor:
    found = Through.apply(x, ahead, back)
    assert isinstance(found, Tensor)
    return found


def radial(spokes: int, samples: int) -> Float[Tensor, " n 2"]:
    """Spokes through the middle, a golden angle apart.

    Source: Winkelmann et al. 2007, IEEE Trans. Med. Imaging 26, 68: 111.246 degrees.

    Args:
        spokes: number of spokes.
        samples: of each spoke.
    """
    angle = torch.arange(spokes, dtype=torch.float64) * math.radians(111.24611797498)
    along = (torch.arange(samples, dtype=torch.float64) - samples // 2) / samples
    ends = torch.stack([angle.sin(), angle.cos()], -1)
    return (along[None, :, None] * ends[:, None]).flatten(0, 1)


def spiral(interleaves: int, samples: int, *, turns: float = 8.0) -> Float[Tensor, " n 2"]:
    """Archimedean spirals from the middle, turned against each other evenly.

    Args:
        interleaves: number of spirals.
        samples: of each.
        turns: of each.
    """
    along = torch.arange(samples, dtype=torch.float64) / samples
    start = 2 * math.pi * torch.arange(interleaves, dtype=torch.float64) / interleaves
    angle = start[:, None] + 2 * math.pi * turns * along
    return (0.5 * along[None, :, None] * torch.stack([angle.sin(), angle.cos()], -1)).flatten(0, 1)
