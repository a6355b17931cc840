"""Training times, one a sample, from its own stream: `(process, weighting, noise) -> Drawn`.

Times that only change the variance of the loss say by how much each draw is to be counted, so that
the mean is that of uniform times.  Times that are meant to change the objective count all alike.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.errors import InputError
from core.objective.weighting import Weighting, inside
from core.process.gaussian import GaussianPath
from core.process.noise import Noise


class Drawn(NamedTuple):
    """Times of a batch, float64.

    Args:
        t: (b,), from t_first to t_max.
        weight: (b,), what the sample's loss is multiplied by: the density of uniform times over
            the density drawn from, or 1.
    """

    t: Tensor
    weight: Tensor


Times = Callable[[GaussianPath, Weighting, Noise], Drawn]


@runtime_checkable
class Adaptive(Protocol):
    """Times that learn from the losses seen; what they learned is saved with the run."""

    def __call__(self, process: GaussianPath, weighting: Weighting, noise: Noise) -> Drawn: ...

    def seen(self, process: GaussianPath, t: Tensor, loss: Tensor) -> None:
        """Take note of the losses (b,) at the times drawn, importance weights left out."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that was learned."""
        ...

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` gave."""
        ...


def _spread(process: GaussianPath, u: Tensor) -> Tensor:
    return process.t_first + u * (process.t_max - process.t_first)


def _alike(t: Tensor) -> Drawn:
    return Drawn(t, torch.ones_like(t))


def _in_strata(noise: Noise) -> Tensor:
    """Uniform numbers, the i-th of b in the i-th of b equal strata."""
    return (torch.arange(len(noise), dtype=torch.float64) + noise.uniform()) / len(noise)


def _from_table(
    nodes: Float64[Tensor, " n"], cumulative: Float64[Tensor, " n"], u: Float64[Tensor, " b"]
) -> Drawn:
    """Times at which a piecewise linear distribution function is u, and exact ratios."""
    cell = torch.searchsorted(cumulative, u, right=True).clamp(1, len(nodes) - 1)
    below, above = cumulative[cell - 1], cumulative[cell]
    left, right = nodes[cell - 1], nodes[cell]
    t = left + (u - below) / (above - below) * (right - left)
    return Drawn(t, (right - left) / (above - below) / (nodes[-1] - nodes[0]))


def uniform() -> Times:
    """Uniform on [t_first, t_max]."""
    return lambda process, weighting, noise: _alike(_spread(process, noise.uniform()))


def stratified(*, draws: Literal["each", "one"] = "each") -> Times:
    """Uniform on the whole, and spread evenly over a batch: less variance.

    Source: Kingma et al. 2021, arXiv:2107.00630, appendix I.1, which has one draw for the batch.

    Args:
        draws: each puts sample i of b anywhere in the i-th of b equal strata; one shifts equally
            spaced times by the first sample's draw, round the end of time.
    """

    def draw(process: GaussianPath, weighting: Weighting, noise: Noise) -> Drawn:
        if draws == "each":
            return _alike(_spread(process, _in_strata(noise)))
        start = noise.uniform()[0]
        return _alike(
            _spread(process, (start + torch.arange(len(noise)).double() / len(noise)) % 1)
        )

    return draw


def log_normal(*, mean: float = -1.2, std: float = 1.2) -> Times:
    """log(sigma/alpha) normal, within the process's range: an objective of its own.

    Source: Karras et al. 2022, arXiv:2206.00364, table 1.

    Args:
        mean: of log(sigma/alpha).
        std: of log(sigma/alpha).

    Raises:
        InputError: std not positive.
    """
    if std <= 0:
        raise InputError(f"log_normal: expected std > 0, got {std}")

    def draw(process: GaussianPath, weighting: Weighting, noise: Noise) -> Drawn:
        level = mean + std * noise.normal((), torch.float64)
        return _alike(process.time_of_log_snr(-2 * level).clamp(process.t_first, process.t_max))

    return draw


def logit_normal(*, mean: float = 0.0, std: float = 1.0) -> Times:
    """log(t / (1 - t)) normal, t from 0 to 1 over the range of time: an objective of its own.

    Source: Esser et al. 2024, arXiv:2403.03206, eq. 19.

    Args:
        mean: of the logit; above 0 for more noise.
        std: of the logit.

    Raises:
        InputError: std not positive.
    """
    if std <= 0:
        raise InputError(f"logit_normal: expected std > 0, got {std}")

    def draw(process: GaussianPath, weighting: Weighting, noise: Noise) -> Drawn:
        share = torch.sigmoid(mean + std * noise.normal((), torch.float64))
        return _alike(_spread(process, share))

    return draw


@lru_cache(maxsize=8)
def _table(process: GaussianPath, weighting: Weighting) -> tuple[Tensor, Tensor]:
    """Nodes, even in time and even in log-SNR, and the distribution function of the weight."""
    even = torch.linspace(0, 1, 2049, dtype=torch.float64)
    times = _spread(process, even)
    ends = process.log_snr(inside(process, times[[0, -1]]))
    levels = process.time_of_log_snr(ends[0] + even * (ends[1] - ends[0]))
    nodes = torch.cat([times, levels]).clamp(process.t_first, process.t_max).unique()
    weight = weighting(process, inside(process, nodes))
    mass = ((weight[1:] + weight[:-1]) * nodes.diff()).cumsum(0)
    return nodes, torch.cat([mass.new_zeros(1), mass / mass[-1]])


def importance(*, stratified: bool = True) -> Times:
    """Density in proportion to the objective's weight, counted so that the mean loss stays.

    For `core/likelihood` the times are uniform in log-SNR.  The variance is smallest where the
    unweighted error is about the same at every time.
    Source: Song et al. 2021, arXiv:2101.09258, section 5.1.

    Args:
        stratified: spread a batch evenly over the density.
    """

    def draw(process: GaussianPath, weighting: Weighting, noise: Noise) -> Drawn:
        u = _in_strata(noise) if stratified else noise.uniform()
        return _from_table(*_table(process, weighting), u)

    return draw


class LossAware:
    """Density in proportion to the root of the mean squared loss seen lately, bin by bin of time.

    Counted so that the mean loss stays.  Uniform until every bin has a full history.
    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, section 3.3, eq. 18.

    Args:
        bins: equal parts of the range of time.
        history: losses remembered in each.
        uniform: share of the draws that stays uniform, so that no bin is forgotten.

    Raises:
        InputError: bins or history below 1, or a share not in (0, 1].
    """

    def __init__(self, *, bins: int = 100, history: int = 10, uniform: float = 0.001) -> None:
        if bins < 1 or history < 1 or not 0 < uniform <= 1:
            raise InputError(
                "loss_aware: expected bins >= 1, history >= 1 and 0 < uniform <= 1, got "
                f"bins={bins}, history={history}, uniform={uniform}"
            )
        self._uniform = uniform
        self._losses = torch.zeros(bins, history, dtype=torch.float64)
        self._seen = torch.zeros(bins, dtype=torch.int64)

    def probabilities(self) -> Float64[Tensor, " bins"]:
        """Of drawing from each bin."""
        bins, history = self._losses.shape
        even = torch.full((bins,), 1 / bins, dtype=torch.float64)
        size = self._losses.square().mean(1).sqrt()
        if bool((self._seen < history).any()) or float(size.sum()) == 0:
            return even
        return (1 - self._uniform) * size / size.sum() + self._uniform * even

    def __call__(self, process: GaussianPath, weighting: Weighting, noise: Noise) -> Drawn:
        """One time a sample."""
        bins = len(self._losses)
        nodes = _spread(process, torch.linspace(0, 1, bins + 1, dtype=torch.float64))
        whole = self.probabilities().cumsum(0)
        cumulative = torch.cat([whole.new_zeros(1), whole / whole[-1]])
        return _from_table(nodes, cumulative, noise.uniform())

    def seen(
        self, process: GaussianPath, t: Float[Tensor, " b"], loss: Float[Tensor, " b"]
    ) -> None:
        """Remember the losses, the oldest of a bin forgotten first."""
        bins, history = self._losses.shape
        share = (t.detach().cpu().double() - process.t_first) / (process.t_max - process.t_first)
        where = (share * bins).long().clamp(0, bins - 1)
        for place, value in zip(where.tolist(), loss.detach().cpu().tolist(), strict=True):
            self._losses[place, int(self._seen[place]) % history] = value
            self._seen[place] += 1

    def tensors(self) -> dict[str, Tensor]:
        """The losses remembered and how many each bin has seen."""
        return {"losses": self._losses.clone(), "seen": self._seen.clone()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` gave."""
        self._losses.copy_(tensors["losses"])
        self._seen.copy_(tensors["seen"])
