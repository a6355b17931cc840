"""Moving averages of a network's weights: exponential, and power functions chosen afterwards.

A power-function average at step t gives the weights of step s the share (s^(g+1) - (s-1)^(g+1)) /
t^(g+1): the same part of every run, whatever its length.  Its width is the standard deviation of
that profile over t.  From saved averages of two widths that of any other is put together.
Source: Karras et al. 2024, arXiv:2312.02696, section 3 and appendix C.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import InputError
from core.network.upgrade import renamed
from core.storage import tensor_file

WIDTHS = (0.05, 0.10)  # of the averages that snapshots hold
_SNAPSHOT = re.compile(r"(\d{8})\.safetensors$")


class Follower(Protocol):
    """What is told of the weights after every step."""

    def update(self, network: nn.Module, updates: int) -> None:
        """Move towards the network's weights; `updates` counts those made before."""
        ...


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in network.state_dict().items()}


@torch.no_grad()
def _move(weights: dict[str, Tensor], network: nn.Module, share: float) -> None:
    """Weights <- weights + share (network - weights); what is no float is taken over."""
    for name, theirs in network.state_dict().items():
        if weights[name].is_floating_point():
            weights[name].lerp_(theirs.detach(), share)
        else:
            weights[name].copy_(theirs)


def _load(weights: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    for name, value in weights.items():
        value.copy_(saved[name])


class Average:
    """w_ema <- d w_ema + (1 - d) w, d = min(decay, (1 + n) / (10 + n)) at update n.

    The rising decay lets short runs forget their initial weights.
    Source: TensorFlow's ExponentialMovingAverage (``num_updates``); Karras et al. 2022,
    arXiv:2206.00364, appendix F.2, ramp theirs up for the same reason.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = _copy(network)

    def update(self, network: nn.Module, updates: int) -> None:
        """Move towards the network's weights; `updates` counts those made before."""
        _move(self.weights, network, 1 - min(self.decay, (1 + updates) / (10 + updates)))

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over saved averages."""
        _load(self.weights, weights)


def exponent_of(width: float) -> float:
    """The exponent g at which the profile s^g on [0, t] has standard deviation `width` t.

    Solves (g + 1)^(1/2) (g + 2)^-1 (g + 3)^(-1/2) = width, a cubic, for its root above 0.

    Args:
        width: relative standard deviation, in (0, 12^-1/2].

    Raises:
        InputError: out of range.
    """
    if not 0 < width <= 12**-0.5:
        raise InputError(f"ema_width: expected more than 0, at most {12**-0.5:.4f}, got {width}")
    w = width**-2
    roots = np.roots([1.0, 7.0, 16.0 - w, 12.0 - w])
    return max(0.0, float(roots[np.abs(roots.imag) < 1e-6].real.max()))


def width_of(exponent: float) -> float:
    """Standard deviation of the profile s^g on [0, 1], g = `exponent` >= 0."""
    g = exponent
    return (g + 1) ** 0.5 / (g + 2) / (g + 3) ** 0.5


class PowerAverage:
    """w_ema <- b w_ema + (1 - b) w, b = (1 - 1/t)^(g+1) at step t: a profile s^g over the run.

    Source: Karras et al. 2024, arXiv:2312.02696, section 3.1.

    Args:
        network: whose weights are averaged.
        width: relative standard deviation of the profile; see `exponent_of`.
    """

    def __init__(self, network: nn.Module, width: float) -> None:
        self.width, self.exponent = width, exponent_of(width)
        self.weights = _copy(network)

    def update(self, network: nn.Module, updates: int) -> None:
        """Move towards the network's weights; `updates` counts those made before."""
        _move(self.weights, network, 1 - (1 - 1 / (updates + 1)) ** (self.exponent + 1))

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over saved averages."""
        _load(self.weights, weights)


# --- averages chosen afterwards ----------------------------------------------------------------


class Profile(NamedTuple):
    """The weights (g + 1) s^g / t^(g+1) of steps s in (0, t]; g = `exponent`, t = `step`."""

    step: int
    exponent: float


def inner_product(one: Profile, other: Profile) -> float:
    """The integral of the product of two profiles over s."""
    first, last = sorted((one, other))
    g, h = first.exponent, last.exponent
    return (g + 1) * (h + 1) / (g + h + 1) * (first.step / last.step) ** h / last.step


def mixture(profiles: Sequence[Profile], wanted: Profile) -> list[float]:
    """Coefficients, of sum 1, of the profiles whose sum is nearest to the wanted one.

    Nearest in the integral of the squared difference.  That they sum to 1 is added to the source's
    least squares: weights that never moved are then kept.
    Source: Karras et al. 2024, arXiv:2312.02696, section 3.2 and appendix C.
    """
    n, unit = len(profiles), float(wanted.step)
    system, answer = np.zeros((n + 1, n + 1)), np.ones(n + 1)
    system[n, :n] = system[:n, n] = 1
    for i, one in enumerate(profiles):
        system[i, :n] = [unit * inner_product(one, other) for other in profiles]
        answer[i] = unit * inner_product(one, wanted)
    # Neighbouring snapshots are almost alike; what float64 cannot tell apart is left out.
    return np.linalg.lstsq(system, answer, rcond=1e-13)[0][:n].tolist()


def by_width(averages: Iterable[PowerAverage]) -> dict[str, Tensor]:
    """The weights of all of them, as ``<width>/<name>``."""
    return {f"{a.width}/{name}": value for a in averages for name, value in a.weights.items()}


def save_snapshot(folder: Path, step: int, averages: Iterable[PowerAverage]) -> None:
    """Write ``<step>.safetensors`` whole or not at all; named as `by_width` does.

    Raises:
        StorageError: the disk is full or not writable.
    """
    tensor_file.save(folder / f"{step:08d}.safetensors", by_width(averages))


def snapshots(folder: Path, *, until: int) -> dict[int, Path]:
    """Snapshots in a folder up to a step, by step, the earliest first."""
    found = {int(m[1]): p for p in folder.glob("*.safetensors") if (m := _SNAPSHOT.match(p.name))}
    return {step: found[step] for step in sorted(found) if step <= until}


def reconstruct(
    folder: Path, width: float, *, until: int, network: str = ""
) -> tuple[int, dict[str, Tensor]]:
    """The step of the newest snapshot, and the power-function average of that width there.

    Args:
        folder: of snapshots.
        width: relative standard deviation of the profile; see `exponent_of`.
        until: step of the last snapshot that is read.
        network: full name of the part whose weights they are; names of format 1 are read as
            today's.

    Raises:
        InputError: no snapshot, one that cannot be read, or a width out of range.
    """
    exponent, found = exponent_of(width), snapshots(folder, until=until)
    if not found:
        raise InputError(
            f"ema_width: {folder} holds no snapshots of averages; train with --set snapshots=N, "
            "or leave ema_width out"
        )
    last = max(found)
    kept = [(step, kind) for step in found for kind in WIDTHS]
    profiles = [Profile(step, exponent_of(kind)) for step, kind in kept]
    shares = dict(zip(kept, mixture(profiles, Profile(last, exponent)), strict=True))
    total: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for step, path in found.items():
        for label, value in tensor_file.load(path).items():
            kind, name = label.split("/", 1)
            name = renamed(network, name)
            dtypes[name] = value.dtype
            if value.is_floating_point():
                part = shares[step, float(kind)] * value.double()
                total[name] = total[name] + part if name in total else part
            else:
                total[name] = value
    return last, {name: value.to(dtypes[name]) for name, value in total.items()}
