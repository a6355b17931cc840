"""Purification (DiffPure): noise is added to an image and removed by the reverse SDE.

Source: Nie et al. 2022 (DiffPure), arXiv:2205.07460.  Its robustness to
adaptive attacks is measured in `evaluation.robustness`.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.denoiser.parameterization import Denoiser
from core.errors import InputError
from core.model import Model, guided_by_default, load_model
from core.process.gaussian import GaussianPath
from core.process.noise import Noise, Source
from core.request import Emit, Machine, silent
from core.sampler.ancestral import EulerMaruyama
from core.sampler.sample import Gradients, edit
from core.sampler.solver import Solver

# Gradient through the purifier: exact, or the identity's (BPDA).
Way = Literal["exact", "identity"]


def purify(
    denoise: Denoiser,
    x: Float[Tensor, " b *shape"],
    noise: Source,
    *,
    level: float = 0.1,
    steps: int = 20,
    solver: Solver | None = None,
    gradients: Gradients = False,
) -> Float[Tensor, " b *shape"]:
    """`x` diffused to time `level` and denoised by the reverse SDE.

    x_t* = alpha(t*) x + sigma(t*) eps, then `solver` from t* to the clean end in even steps.
    Source: Nie et al. 2022, arXiv:2205.07460, eq. 4 and 5.  Their gradients are the adjoint
    SDE's, which are approximate; here those of the discrete steps, exactly.

    Args:
        denoise: denoiser of an unconditional model.
        x: images in [-1, 1].
        noise: one stream for each image.
        level: diffusion time t*; larger removes more of a perturbation, and of the image.
        steps: solver steps.
        solver: by default Euler-Maruyama on the reverse SDE.
        gradients: as in `core.sampler.sample`; ``recompute`` keeps the memory of one step.

    Raises:
        InputError: `level` is outside the process's times with noise.
    """
    check_level(denoise.process, level)
    grid = torch.linspace(level, denoise.process.t_min, steps + 1, dtype=torch.float64)
    return edit(
        denoise, grid, solver or EulerMaruyama(), x, noise,
        strength=1.0, gradients=gradients,
    )  # fmt: skip


def check_level(process: GaussianPath, level: float) -> None:
    """Refuse a level outside the process's times with noise.

    Raises:
        InputError: it is outside.
    """
    if not process.t_first < level <= process.t_max:
        raise InputError(
            f"level: expected a time of the process above {process.t_first:g} and at most "
            f"{process.t_max:g}, got {level}"
        )


class Purified(nn.Module):
    """A classifier of purified images: a randomised defence.

    Called with images alone, as other libraries do, it redraws at every call: row i of call k has
    the stream of (seed, k, i).

    Args:
        denoise: as in `purify`.
        classifier: images in [-1, 1] to logits.
        level: as in `purify`.
        steps: as in `purify`.
        solver: as in `purify`.
        seed: of the draws where no noise is given.

    Raises:
        InputError: as `purify`.
    """

    def __init__(
        self,
        denoise: Denoiser,
        classifier: nn.Module,
        *,
        level: float = 0.1,
        steps: int = 20,
        solver: Solver | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_level(denoise.process, level)
        self.classifier = classifier
        self._denoise = denoise
        self._options: dict[str, Any] = {"level": level, "steps": steps, "solver": solver}
        self._seed, self._calls = seed, 0

    def purify(
        self, x: Float[Tensor, " b *shape"], noise: Source | None = None, *, way: Way = "exact"
    ) -> Float[Tensor, " b *shape"]:
        """`x` purified, with its gradient where gradients are on.

        Args:
            x: images in [-1, 1].
            noise: one stream for each image.
            way: ``exact``, or ``identity``: the gradient of the identity (BPDA).
                Source: Athalye et al. 2018, arXiv:1802.00420, section 4.1.
        """
        if noise is None:
            noise = Noise.of(self._seed, "purified", self._calls, each=range(len(x)))
            self._calls += 1
        if way == "exact" and torch.is_grad_enabled():
            options: dict[str, Any] = {**self._options, "gradients": "recompute"}
            return purify(self._denoise, x, noise, **options)
        found = purify(self._denoise, x.detach(), noise, **self._options)
        return x + (found - x).detach() if torch.is_grad_enabled() else found

    def forward(
        self, x: Float[Tensor, " b *shape"], noise: Source | None = None, *, way: Way = "exact"
    ) -> Float[Tensor, " b classes"]:
        """The classifier's logits of `x` purified; arguments as in `purify`."""
        return self.classifier(self.purify(x, noise, way=way))


def load_prior(checkpoint: Path, machine: Machine | None = None, *, emit: Emit = silent) -> Model:
    """An unconditional model of images, for purification and editing.

    Raises:
        InputError: as `load_model`, or the model has a condition or another task.
    """
    model = guided_by_default(load_model(checkpoint, machine=machine, emit=emit), emit=emit)
    if model.request.task.name != "core/generate" or model.task.conditions:
        given = "".join(f" with {name}" for name in model.task.conditions)
        raise InputError(
            f"{checkpoint}: trained for {model.request.task.name}{given}; expected a model of "
            "task core/generate without conditions, as configs/unconditional.yaml trains"
        )
    return model
