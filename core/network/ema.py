"""Moving averages of a network's weights: exponential, and power functions chosen afterwards.

A power-function average at step t gives the weights of step s the coefficient
(s^(g+1) - (s-1)^(g+1)) / t^(g+1): the same part of every run, whatever its length.  Its width is
the standard deviation of that profile over t.  Saved averages of two widths give that of any other.
Source: Karras et al. 2024, arXiv:2312.02696, section 3 and appendix C; numbers of equations are
those of that paper.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from core.errors import InputError
from core.network.upgrade import renamed, with_null_class
from core.storage import tensor_file

WIDTHS = (0.05, 0.10)  # of the averages that snapshots hold
_SNAPSHOT = re.compile(r"(\d{8})\.safetensors$")


Weights = dict[str, Shaped[Tensor, "..."]]  # by name, as in a state dict


class WeightAverage(Protocol):
    """An average of a network's weights, updated after every optimizer step."""

    def update(self, network: nn.Module, updates: int) -> None:
        """Update the average with the network's weights.

        Args:
            network: whose weights are averaged.
            updates: number of earlier updates.
        """
        ...


def _copy(network: nn.Module) -> Weights:
    return {k: v.detach().clone() for k, v in network.state_dict().items()}


@torch.no_grad()
def _lerp(weights: Weights, network: nn.Module, fraction: float) -> None:
    """Lerp float entries towards the network's by `fraction`; copy the others."""
    now = network.state_dict()
    floats = [name for name, value in weights.items() if value.is_floating_point()]
    # One call for all: on a GPU a few kernels rather than one for each weight.
    averages, values = [weights[name] for name in floats], [now[name] for name in floats]
    torch._foreach_lerp_(averages, values, fraction)  # pyright: ignore[reportPrivateImportUsage]
    for name in weights.keys() - set(floats):
        weights[name].copy_(now[name])


def _load(weights: Weights, saved: Weights) -> None:
    for name, value in weights.items():
        value.copy_(saved[name])


class ExponentialAverage:
    """`w_ema <- d w_ema + (1 - d) w`, d = min(decay, (1 + n) / (10 + n)) at update n.

    The rising decay lets short runs forget their initial weights.
    Source: TensorFlow's ExponentialMovingAverage (``num_updates``); Karras et al. 2022,
    arXiv:2206.00364, appendix F.2, ramp theirs up for the same reason.

    Args:
        network: whose weights are averaged.
        decay: largest d.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = _copy(network)

    def update(self, network: nn.Module, updates: int) -> None:
        """Update the average after `updates` earlier ones."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        _lerp(self.weights, network, 1 - decay)

    def load(self, weights: Weights) -> None:
        """Copy saved averages."""
        _load(self.weights, weights)


def exponent_of(width: float) -> float:
    """The exponent g at which the profile s^g on [0, t] has standard deviation `width` t.

    Solves (g + 1)^(1/2) (g + 2)^-1 (g + 3)^(-1/2) = width, a cubic, for its root above 0
    (eq. 126, Algorithm 2).

    Args:
        width: relative standard deviation, in (0, 12^-1/2].

    Raises:
        InputError: out of range.
    """
    if not 0 < width <= 12**-0.5:
        raise InputError(f"ema_width: expected more than 0, at most {12**-0.5:.4f}, got {width}")
    w = width**-2  # (g + 2)^2 (g + 3) = w (g + 1), as powers of g:
    roots = np.roots([1.0, 7.0, 16.0 - w, 12.0 - w])
    return max(0.0, float(roots[np.abs(roots.imag) < 1e-6].real.max()))


def width_of(exponent: float) -> float:
    """Standard deviation of the profile s^g on [0, 1], g = `exponent` >= 0 (eq. 123)."""
    g = exponent
    return (g + 1) ** 0.5 / (g + 2) / (g + 3) ** 0.5


class PowerAverage:
    """`w_ema <- b w_ema + (1 - b) w`, b = (1 - 1/t)^(g+1) at step t: a profile s^g over the run.

    Source: Karras et al. 2024, arXiv:2312.02696, section 3.1.

    Args:
        network: whose weights are averaged.
        width: relative standard deviation of the profile; see `exponent_of`.
    """

    def __init__(self, network: nn.Module, width: float) -> None:
        self.width, self.exponent = width, exponent_of(width)
        self.weights = _copy(network)

    def update(self, network: nn.Module, updates: int) -> None:
        """Update the average after `updates` earlier ones."""
        t = updates + 1
        beta = (1 - 1 / t) ** (self.exponent + 1)  # eq. 127
        _lerp(self.weights, network, 1 - beta)

    def load(self, weights: Weights) -> None:
        """Copy saved averages."""
        _load(self.weights, weights)


# --- averages chosen afterwards ----------------------------------------------------------------


class Profile(NamedTuple):
    """Density (g + 1) s^g / t^(g+1) over steps s in (0, t], eq. 121; g = `exponent`, t = `step`."""

    step: int
    exponent: float


def inner_product(one: Profile, other: Profile) -> float:
    """The integral of the product of two profiles over s (eq. 151, Algorithm 3)."""
    first, last = sorted((one, other))  # the product is 0 after the earlier step
    g, h = first.exponent, last.exponent
    return (g + 1) * (h + 1) / (g + h + 1) * (first.step / last.step) ** h / last.step


def mixture(profiles: Sequence[Profile], target: Profile) -> list[float]:
    """Coefficients, of sum 1, of the profiles whose sum is nearest to the target.

    Nearest in the integral of the squared difference.  That they sum to 1 is added to the source's
    least squares: weights that never moved are then kept.
    Source: Karras et al. 2024, arXiv:2312.02696, section 3.2 and appendix C, Algorithm 3.
    """
    n, unit = len(profiles), float(target.step)
    # Normal equations of the least squares, bordered by the constraint and its multiplier.
    system, answer = np.zeros((n + 1, n + 1)), np.ones(n + 1)
    system[n, :n] = system[:n, n] = 1
    for i, one in enumerate(profiles):
        system[i, :n] = [unit * inner_product(one, other) for other in profiles]
        answer[i] = unit * inner_product(one, target)
    # Neighbouring snapshots are almost parallel; directions below float64's rounding are left out.
    return np.linalg.lstsq(system, answer, rcond=1e-13)[0][:n].tolist()


def by_width(averages: Iterable[PowerAverage]) -> Weights:
    """The weights of all averages, as ``<width>/<name>``."""
    return {f"{a.width}/{name}": value for a in averages for name, value in a.weights.items()}


def save_snapshot(folder: Path, step: int, averages: Iterable[PowerAverage]) -> None:
    """Write ``<step>.safetensors`` whole or not at all; named as `by_width` does.

    Raises:
        StorageError: the disk is full or not writable.
    """
    tensor_file.save(folder / f"{step:08d}.safetensors", by_width(averages))


def snapshots(folder: Path, *, until: int) -> dict[int, Path]:
    """Snapshots in a folder up to a step, by step, earliest first."""
    found = {int(m[1]): p for p in folder.glob("*.safetensors") if (m := _SNAPSHOT.match(p.name))}
    return {step: found[step] for step in sorted(found) if step <= until}


def reconstruct(
    folder: Path, width: float, *, until: int, network: str = "", classes: int = 0
) -> tuple[int, Weights]:
    """The step of the newest snapshot, and the power-function average of that width there.

    Args:
        folder: of snapshots.
        width: relative standard deviation of the profile; see `exponent_of`.
        until: step of the last snapshot that is read.
        network: full name of the part whose weights they are; names of format 1 are read as
            today's.
        classes: of the network; embeddings without a row for no class get one.

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
    coefficients = dict(zip(kept, mixture(profiles, Profile(last, exponent)), strict=True))
    total: Weights = {}
    dtypes: dict[str, torch.dtype] = {}
    for step, path in found.items():
        for label, value in tensor_file.load(path).items():
            kind, name = label.split("/", 1)
            name = renamed(network, name)
            value = with_null_class(name, value, classes + 1)
            dtypes[name] = value.dtype
            if value.is_floating_point():
                part = coefficients[step, float(kind)] * value.double()
                total[name] = total[name] + part if name in total else part
            else:
                total[name] = value
    return last, {name: value.to(dtypes[name]) for name, value in total.items()}
