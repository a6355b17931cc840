"""Features of a diffusion model: outputs of its U-Net's blocks on the image with a little noise.

Source: Baranchuk et al. 2022, arXiv:2112.03126, section 4.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from core.denoiser.parameterization import NetworkDenoiser, network_output
from core.errors import InputError
from core.features import Maps
from core.model import Model, load_model
from core.network.taps import blocks_of, tapped
from core.process.noise import derive
from core.process.schedules import beta_table
from core.progress import print_note
from core.request import Machine
from core.storage import tensor_file
from plugins.segmentation.features.filters import Filters

CHAIN = 1000  # steps of the chain that `steps` counts
PUBLISHED = (("up.5", "up.6", "up.7", "up.8", "up.12"), (50, 150, 250))
"""Blocks and steps of ddpm-segmentation for ADM at 256x256 pixels, as of March 2022."""


class Diffusion:
    """Decoder features of a diffusion model of images, at a few small noise levels.

    One noise, the same for all images, is added; the network stops after the last block that is
    read.  Any size: the network pads to its own multiples.
    Source: Baranchuk et al. 2022, arXiv:2112.03126, section 4.

    Args:
        checkpoint: folder of a model of task core/generate without conditions, trained or imported.
        blocks: names of the U-Net's blocks, such as ``up.5``, which is the fifth output block of
            ADM counted from 0; by default all of the decoder.
        steps: noise levels, as steps from 0 to 999 of DDPM's linear chain of 1000; other processes
            are read at the same ratio of signal to noise.
        seed: random seed of the noise.
        preset: ddpm-segmentation for the published blocks (5, 6, 7, 8 and 12) and steps (50, 150
            and 250) of ADM's networks of 256x256 pixels, in place of `blocks` and `steps`.
        stretch: images are first stretched between percentiles of their values; by default where
            those that the model learned were.
        filters: the filters of `segmentation/filters` are maps too, at the image's own resolution.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        checkpoint: Path,
        blocks: tuple[str, ...] = (),
        steps: tuple[Annotated[int, Ge(0), Le(999)], ...] = (50, 150, 250),
        seed: Annotated[int, Ge(0)] = 0,
        preset: Literal["ddpm-segmentation"] | None = None,
        stretch: bool | None = None,
        filters: bool = False,
    ) -> None:
        if preset is not None:
            if blocks:
                raise InputError("preset: has blocks of its own; leave blocks out, or the preset")
            blocks, steps = PUBLISHED
        self._model = _prior(checkpoint, machine)
        if not steps:
            raise InputError("steps: expected at least one noise level, got none")
        if self._model.task.channels not in (1, 3):
            raise InputError(
                f"{checkpoint}: samples have {self._model.task.channels} channels; features are of "
                "models of grey (1) or RGB (3) images"
            )
        learned = bool(self._model.request.dataset.options.get("stretch"))
        self.stretch = learned if stretch is None else stretch
        network = self._model.network
        self._times = [_time_of(self._model, step) for step in steps]
        self.least = 2 * max(getattr(network, "multiples", (1,)))
        self.blocks = tuple(dict.fromkeys(blocks)) or _decoder(network)
        self._seed, self._steps = seed, tuple(steps)
        self._filters = Filters(machine) if filters else None
        # One call on nothing has every name checked and gives the number of channels.
        probe = torch.zeros(1, 3, self.least, self.least)
        self._channels = tuple(value.shape[1] for value in self(probe).values)

    @property
    def channels(self) -> Sequence[int]:
        """Channels of each map: of each block at the first step, then at the next; of filters."""
        return self._channels

    def digest(self) -> str:
        """SHA-256 of weights and options."""
        state = self._model.network.state_dict()
        weights = {name: value.cpu() for name, value in state.items()}
        found = hashlib.sha256(tensor_file.seal(weights).encode())
        more = (*("stretch",) * self.stretch, *("filters",) * (self._filters is not None))
        found.update(repr((self.blocks, self._steps, self._seed, *more)).encode())
        return found.hexdigest()

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, " b 3 h w"]) -> Maps:
        """The maps of RGB images in [-1, 1]."""
        model, size = self._model, (images.shape[-2], images.shape[-1])
        x0 = images.to(model.device)
        if model.task.channels == 1:
            x0 = x0.mean(1, keepdim=True)
        noise = self.noise(x0.shape[1], size).to(x0)
        values: list[Tensor] = []
        for t in self._times:
            # x_t = alpha x0 + sigma eps, eps shared by all images (section 4).
            alpha, sigma = (float(value) for value in model.process.alpha_sigma(t))
            with tapped(model.network, self.blocks, stop=True) as found:
                self._run(alpha * x0 + sigma * noise, t.to(x0.device))
            values += [found[name].float() for name in self.blocks]
        multiple = max(getattr(model.network, "multiples", (1,)))
        area = tuple(-(-side // multiple) * multiple for side in size)
        if self._filters is not None:
            (filtered,) = self._filters(images.to(model.device)).values
            lacks = (0, area[1] - size[1], 0, area[0] - size[0])
            values.append(F.pad(filtered, lacks, mode="replicate"))
        return Maps(tuple(values), (area[0], area[1]), size)

    def noise(self, channels: int, size: tuple[int, int]) -> Float[Tensor, " 1 c h w"]:
        """The noise of all images of a size."""
        draw = torch.Generator().manual_seed(derive("segmentation/noise", self._seed))
        return torch.randn((1, channels, *size), generator=draw)

    def _run(self, x: Tensor, t: Tensor) -> None:
        denoise = self._model.denoise
        assert isinstance(denoise, NetworkDenoiser), "load_model makes one"
        network_output(denoise.network, denoise.process, denoise.parameterization, x, t, None)


def _decoder(network: nn.Module) -> tuple[str, ...]:
    """Names of the decoder's blocks.

    Raises:
        InputError: it has none.
    """
    names = tuple(name for name in blocks_of(network) if name.startswith("up."))
    if not names:
        raise InputError(
            f"blocks: {type(network).__name__} has no decoder; name some of its blocks: "
            f"{', '.join(blocks_of(network))}"
        )
    return names


def _time_of(model: Model, step: int) -> Tensor:
    """The time of the model's process with the signal to noise of a step of DDPM's chain.

    Source: Ho et al. 2020, arXiv:2006.11239, section 4.
    """
    return model.process.time_of_log_snr(beta_table().log_snr((step + 1) / CHAIN))


def _prior(checkpoint: Path, machine: Machine) -> Model:
    """A model of images without conditions.

    Raises:
        InputError: as `load_model`, or the model has a condition.
    """
    model = load_model(checkpoint, machine=machine, task="core/generate", emit=print_note)
    if model.task.conditions:
        raise InputError(
            f"{checkpoint}: was trained with the condition {', '.join(model.task.conditions)}; "
            "features are of models without conditions, as `polymode segmentation train-prior` "
            "trains them"
        )
    return model
