"""Purification: a picture is diffused to some level and brought back, and what was added is lost.

Source: Nie et al. 2022 (DiffPure), arXiv:2205.07460.  How much of an attack it withstands is
measured in `plugins.image2image.robustness`, by attacks that know of it.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor, nn

from core.denoiser.parameterization import Denoiser
from core.errors import InputError
from core.model import Model, load_model
from core.parts.config import configure
from core.parts.registry import Spec
from core.process.gaussian import GaussianPath
from core.process.noise import Noise, Source
from core.request import Machine
from core.sampler.ancestral import EulerMaruyama
from core.sampler.sample import Gradients, edit
from core.sampler.solver import Solver
from plugins.image2image import io
from plugins.image2image.tiles import check_memory, mirrored, tiled

TILE, SHARED = 512, 64  # side of a tile, and what tiles share, in pixels
FIELDS = 12  # float32 fields of a picture's size that live at once

# What of a gradient passes the purifier: all of it, or the classifier's as if nothing were there.
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
    """`x` diffused to time `level` and brought back by the reverse SDE.

    x_t* = alpha(t*) x + sigma(t*) eps, then `solver` from t* to the clean end in even steps.
    Source: Nie et al. 2022, arXiv:2205.07460, eq. 4 and 5.  Their gradients are the adjoint
    SDE's, which are approximate; here those of the steps that were taken, exactly.

    Args:
        denoise: estimates the clean picture; of an unconditional model.
        x: pictures in [-1, 1].
        noise: one stream for each.
        level: t*, a time of the process; more removes more of an attack, and of the picture.
        steps: of the solver.
        solver: rule of a step; by default Euler-Maruyama on the reverse SDE.
        gradients: as in `core.sampler.sample`; ``recompute`` keeps the memory of one step.

    Raises:
        InputError: `level` is no time of the process with noise in it.
    """
    check_level(denoise.process, level)
    grid = torch.linspace(level, denoise.process.t_min, steps + 1, dtype=torch.float64)
    return edit(
        denoise, grid, solver or EulerMaruyama(), x, noise,
        strength=1.0, gradients=gradients,
    )  # fmt: skip


def check_level(process: GaussianPath, level: float) -> None:
    """Refuse a level that is no time of the process with noise in it.

    Raises:
        InputError: it is none.
    """
    if not process.t_first < level <= process.t_max:
        raise InputError(
            f"level: expected a time of the process above {process.t_first:g} and at most "
            f"{process.t_max:g}, got {level}"
        )


class Purified(nn.Module):
    """A classifier that sees purified pictures: a randomised defence.

    Called with pictures alone, as by other libraries, it draws anew each time, from streams that
    follow from `seed`: row i of call k from (seed, k, i).

    Args:
        denoise: as in `purify`.
        classifier: pictures in [-1, 1] to logits.
        level: as in `purify`.
        steps: as in `purify`.
        solver: as in `purify`.
        seed: of the draws where none are given.

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
        self._how: dict[str, Any] = {"level": level, "steps": steps, "solver": solver}
        self._seed, self._calls = seed, 0

    def purify(
        self, x: Float[Tensor, " b *shape"], noise: Source | None = None, *, way: Way = "exact"
    ) -> Float[Tensor, " b *shape"]:
        """`x` purified, with its gradient where gradients are on.

        Args:
            x: pictures in [-1, 1].
            noise: one stream for each.
            way: ``exact``, or ``identity``, which passes the gradient on unchanged (BPDA).
                Source: Athalye et al. 2018, arXiv:1802.00420, section 4.1.
        """
        if noise is None:
            noise = Noise.of(self._seed, "purified", self._calls, each=range(len(x)))
            self._calls += 1
        if way == "exact" and torch.is_grad_enabled():
            how: dict[str, Any] = {**self._how, "gradients": "recompute"}
            return purify(self._denoise, x, noise, **how)
        found = purify(self._denoise, x.detach(), noise, **self._how)
        return x + (found - x).detach() if torch.is_grad_enabled() else found

    def forward(
        self, x: Float[Tensor, " b *shape"], noise: Source | None = None, *, way: Way = "exact"
    ) -> Float[Tensor, " b classes"]:
        """The classifier's logits of `x` purified; arguments as in `purify`."""
        return self.classifier(self.purify(x, noise, way=way))


def load_prior(checkpoint: Path, machine: Machine | None = None) -> Model:
    """A model of pictures and of nothing else, as purification and editing want it.

    Raises:
        InputError: as `load_model`, or it wants a condition that a picture does not come with.
    """
    model = load_model(checkpoint, machine=machine)
    if model.request.task.name != "core/generate" or model.task.conditions:
        given = "".join(f" with {name}" for name in model.task.conditions)
        raise InputError(
            f"{checkpoint}: trained for {model.request.task.name}{given}, wanted a model of "
            "task core/generate without conditions, as configs/unconditional.yaml trains"
        )
    return model


class Purify:
    """A picture purified by an unconditional model, as a file of the same name.

    Any size, in tiles of 512 pixels; alpha, 16 bits, colour profile and EXIF are kept.  A grey
    picture goes through a model of colours as equal channels and comes back as their mean; a colour
    picture wants such a model.

    Args:
        level: t*, a time of the model's process; more removes more of an attack, and of the
            picture.
        steps: of the sampler; more is slower.
        seed: the same seed gives the same picture.
        sampler: rule of a step; one that draws noise.
    """

    suffixes: ClassVar[tuple[str, ...]] = tuple(io.SUFFIXES)

    def __init__(
        self,
        machine: Machine,
        checkpoint: Path,
        *,
        level: Annotated[float, Gt(0)] = 0.1,
        steps: Annotated[int, Ge(1)] = 20,
        seed: Annotated[int, Ge(0)] = 0,
        sampler: Annotated[Spec, "sampler"] = Spec("core/euler_maruyama"),
    ) -> None:
        solver = configure("sampler", sampler)()
        self._model, self._seed = load_prior(checkpoint, machine), seed
        check_level(self._model.process, level)
        for note in self._model.notes:
            print(note, file=sys.stderr)
        self._how: dict[str, Any] = {"level": level, "steps": steps, "solver": solver}

    @staticmethod
    def result_name(name: str) -> str:
        """The name itself, and with it the format."""
        return name

    def __call__(self, source: Path, target: Path) -> Mapping[str, Any]:
        """Purify one picture into a new file.

        Returns:
            ``changed``, the root mean square change of a pixel in [-1, 1], and ``notes``.

        Raises:
            InputError: `source` is no picture that can be used, or cannot be held by the format
                that `target` names.
        """
        picture = io.read(source)
        size = picture.pixels.shape[1:]
        io.check_writable(target, alpha=picture.alpha is not None, depth=picture.depth, size=size)
        result = self.purify(picture)
        io.write(target, result)
        change = (result.pixels - picture.pixels).square().mean().sqrt()
        return {"changed": round(float(change), 6), "notes": list(picture.notes)}

    def purify(self, picture: io.Picture) -> io.Picture:
        """The picture, purified.

        Raises:
            InputError: a colour picture for a model of grey ones, or one too large for the memory.
        """
        x, channels = picture.pixels[None].to(self._model.device), self._model.task.channels
        if x.shape[1] not in (1, channels):
            raise InputError(
                f"the picture has {x.shape[1]} channels, the model {channels}; give a grey picture "
                "or a model of colours"
            )
        height, width = x.shape[-2:]
        # A network's coarsest level wants more than one cell: one alone has no variance.
        least = 2 * max(getattr(self._model.network, "multiples", (1,)))
        rows, columns = (mirrored(side, max(side, least)).to(x.device) for side in (height, width))
        check_memory(FIELDS, channels, len(rows), len(columns))
        wide = x.expand(-1, channels, -1, -1)[..., rows, :][..., columns]
        denoise = tiled(self._model.denoise, tile=TILE, overlap=SHARED)
        noise = Noise.of(self._seed, "purify", each=[0])
        found = purify(denoise, wide, noise, **self._how)
        pixels = found[0, :, :height, :width].clamp(-1, 1).cpu()
        return replace(picture, pixels=pixels.mean(0, keepdim=True) if x.shape[1] == 1 else pixels)
