"""The denoising loss on measured frequencies alone: a prior of images that nobody saw whole."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn

from core.denoiser.parameterization import Condition, network_output
from core.errors import InputError
from core.objective.denoising import Denoising
from core.objective.weighting import inside
from core.process.gaussian import over
from plugins.medical.operators.fourier import fourier, inverse_fourier, to_complex, to_real

KSPACE, COILS, SAMPLED = "kspace", "sensitivities", "frequencies"
"""Entries of a batch, and of an example's condition, that hold a measurement."""


def measure(
    x: Float[Tensor, " b 2 h w"],
    coils: Complex[Tensor, " b coils h w"],
    sampled: Bool[Tensor, " b h w"],
) -> Complex[Tensor, " b coils h w"]:
    """A x = M F S x, with coils and a mask of each sample's own."""
    return fourier(to_complex(x)[:, None] * coils) * sampled[:, None]


def combined(
    k: Complex[Tensor, " b coils h w"],
    coils: Complex[Tensor, " b coils h w"],
    sampled: Bool[Tensor, " b h w"],
) -> Float[Tensor, " b 2 h w"]:
    """A* k: the zero-filled image."""
    return to_real((inverse_fourier(k * sampled[:, None]) * coils.conj()).sum(1))


@dataclass(frozen=True)
class Measured(Denoising):
    """The denoising loss on measured frequencies, of an input that holds no others.

    With y = A x0 the network sees A* (alpha y + sigma A eps), and |A D - y|^2 is averaged over the
    sampled frequencies.  Its minimiser there is A E[x0 | A x_t]: the denoiser of the clean prior,
    given the sampled part of x_t.  Masks that cover all frequencies teach all of it, one part at a
    time; `medical/subsets` puts an estimate of whole images together from such parts.  Of noisy
    measurements E[y | A x_t] is a known mixture of A D and A x_t, so that D is the same: exact for
    one coil, from the level of that noise on; below it nothing is learned.
    Source: Daras et al. 2023, arXiv:2305.19256, and Aali et al. 2024, arXiv:2403.08728 (MRI), whose
    further undersampling teaches unmeasured frequencies too; noisy data, Daras et al. 2024,
    arXiv:2404.10177, theorem 4.1.

    Args:
        process: the forward process.
        parameterization: the meaning of the network's output.
        weighting: of a time, in units of the squared eps error.
        times: the distribution of training times.
        norm: squared (l2) or absolute (l1) error; only the first has that minimiser.
        noise: standard deviation of the noise of the measurements, of real and imaginary part each,
            for images with maximum 1.

    Raises:
        InputError: negative noise.
    """

    _: KW_ONLY
    norm: Literal["l1", "l2"] = "l2"  # again, since options are read from the text of a class
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise InputError(f"measured: expected noise >= 0, got {self.noise:g}")

    def loss(
        self,
        network: nn.Module,
        x0: Float[Tensor, " b *shape"],
        t: Float[Tensor, "..."],
        eps: Float[Tensor, " b *shape"],
        condition: Condition | None = None,
        mask: Float[Tensor, " b *shape"] | None = None,
    ) -> Float[Tensor, " b"]:
        """The loss of each sample; of images without k-space that of `Denoising`.

        Args:
            network: F.
            x0: zero-filled images A* y, or clean ones.
            t: one time for each.
            eps: the noise, standard normal.
            condition: y, coils and sampled frequencies, which the network is not given.
            mask: as of `Denoising.loss`, for clean images.
        """
        given = dict(condition or {})
        if KSPACE not in given:
            return super().loss(network, x0, t, eps, condition, mask)
        y, coils, sampled = (given.pop(name) for name in (KSPACE, COILS, SAMPLED))
        t = inside(self.process, t)
        alpha, sigma = self.process.alpha_sigma(t)
        # Noise of the measurement is a part of x_t's: alpha^2 noise^2 of sigma^2.
        fraction = (alpha * self.noise / sigma).square().clamp(max=1)
        added = sigma * (1 - fraction).sqrt()
        k = over(alpha, x0) * y + over(added, x0) * measure(eps, coils, sampled)
        x = combined(k, coils, sampled)
        output, _, row = network_output(network, self.process, self.parameterization, x, t, given)
        estimate = over(row.skip, x) * x + over(row.out, x) * output.to(x)
        # E[y | A x_t] = (1 - fraction) A D + fraction A x_t / alpha
        predicted = over(1 - fraction, x0) * measure(estimate, coils, sampled)
        predicted = predicted + over(fraction / alpha, x0) * k
        factor = self.weighting(self.process, t).sqrt() * alpha / sigma
        error = torch.view_as_real(over(factor, x0) * (predicted - y)).flatten(1)
        each = error.square() if self.norm == "l2" else error.abs()
        return each.sum(1) / (2 * sampled.flatten(1).sum(1).clamp(min=1))
