"""Training times, one a sample, from its own stream: `(process, weighting, noise) -> SampledTimes`.

Times that only lower the variance of the loss carry importance weights, so that its mean is that of
uniform times.  Times that change the objective itself have weight 1.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from core.errors import InputError
from core.objective.weighting import Weighting, inside
from core.process.gaussian import GaussianPath
from core.process.noise import Noise


class SampledTimes(NamedTuple):
    """Times of a batch, float64.

    Args:
        t: from t_first to t_max.
        weight: factor of the sample's loss: the density of uniform times over the density drawn
            from, or 1.
    """

    t: Float64[Tensor, " b"]
    weight: Float64[Tensor, " b"]


Times = Callable[[GaussianPath, Weighting, Noise], SampledTimes]


@runtime_checkable
class Adaptive(Protocol):
    """Times that adapt to the losses of past steps; their state is saved with the run."""

    def __call__(
        self, process: GaussianPath, weighting: Weighting, noise: Noise
    ) -> SampledTimes: ...

    def update(
        self, process: GaussianPath, t: Float[Tensor, " b"], loss: Float[Tensor, " b"]
    ) -> None:
        """Record the losses at the times drawn, without importance weights."""
        ...

    def tensors(self) -> dict[str, Shaped[Tensor, "..."]]:
        """The state, for a checkpoint."""
        ...

    def load(self, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> None:
        """Restore the state that `tensors` returned."""
        ...


def _in_range(process: GaussianPath, u: Float64[Tensor, "..."]) -> Float64[Tensor, "..."]:
    """`u` in [0, 1] as times in [t_first, t_max]."""
    return process.t_first + u * (process.t_max - process.t_first)


def _unweighted(t: Float64[Tensor, " b"]) -> SampledTimes:
    return SampledTimes(t, torch.ones_like(t))


def _in_strata(noise: Noise) -> Float64[Tensor, " b"]:
    """Uniform numbers, the i-th of b in the i-th of b equal strata."""
    return (torch.arange(len(noise), dtype=torch.float64) + noise.uniform()) / len(noise)


def _from_table(
    nodes: Float64[Tensor, " n"], cumulative: Float64[Tensor, " n"], u: Float64[Tensor, " b"]
) -> SampledTimes:
    """Times at which a piecewise linear distribution function is u, and exact ratios."""
    cell = torch.searchsorted(cumulative, u, right=True).clamp(1, len(nodes) - 1)
    below, above = cumulative[cell - 1], cumulative[cell]
    left, right = nodes[cell - 1], nodes[cell]
    # inverse transform sampling: F is linear within a cell
    t = left + (u - below) / (above - below) * (right - left)
    # the cell's density is (above - below) / (right - left); that of uniform times 1 / range
    return SampledTimes(t, (right - left) / (above - below) / (nodes[-1] - nodes[0]))


def uniform() -> Times:
    """Uniform on [t_first, t_max]."""
    return lambda process, weighting, noise: _unweighted(_in_range(process, noise.uniform()))


def stratified(*, draws: Literal["each", "one"] = "each") -> Times:
    """Uniform on the whole, and spread evenly over a batch: less variance.

    Source: Kingma et al. 2021, arXiv:2107.00630, appendix I.1, which has one draw for the batch.

    Args:
        draws: each puts sample i of b anywhere in the i-th of b equal strata; one shifts equally
            spaced times by the first sample's draw, round the end of time.
    """

    def draw(process: GaussianPath, weighting: Weighting, noise: Noise) -> SampledTimes:
        if draws == "each":
            return _unweighted(_in_range(process, _in_strata(noise)))
        start = noise.uniform()[0]
        return _unweighted(
            _in_range(process, (start + torch.arange(len(noise)).double() / len(noise)) % 1)
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

    def draw(process: GaussianPath, weighting: Weighting, noise: Noise) -> SampledTimes:
        log_s = mean + std * noise.normal((), torch.float64)  # log(sigma / alpha)
        t = process.time_of_log_snr(-2 * log_s)
        return _unweighted(t.clamp(process.t_first, process.t_max))

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

    def draw(process: GaussianPath, weighting: Weighting, noise: Noise) -> SampledTimes:
        u = torch.sigmoid(mean + std * noise.normal((), torch.float64))
        return _unweighted(_in_range(process, u))

    return draw


@lru_cache(maxsize=8)
def _table(
    process: GaussianPath, weighting: Weighting
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
    """Nodes, evenly spaced in time and in log-SNR, and the weight's distribution function there."""
    even = torch.linspace(0, 1, 2049, dtype=torch.float64)
    times = _in_range(process, even)
    ends = process.log_snr(inside(process, times[[0, -1]]))
    of_log_snr = process.time_of_log_snr(ends[0] + even * (ends[1] - ends[0]))
    nodes = torch.cat([times, of_log_snr]).clamp(process.t_first, process.t_max).unique()
    weight = weighting(process, inside(process, nodes))
    # trapezoidal rule, up to the factor 1/2 that the normalisation cancels
    mass = ((weight[1:] + weight[:-1]) * nodes.diff()).cumsum(0)
    return nodes, torch.cat([mass.new_zeros(1), mass / mass[-1]])


def importance(*, stratified: bool = True) -> Times:
    """Density proportional to the objective's weight, with importance weights: the mean loss stays.

    For `core/likelihood` the times are uniform in log-SNR.  The variance is smallest where the
    unweighted error is about the same at every time.
    Source: Song et al. 2021, arXiv:2101.09258, section 5.1.

    Args:
        stratified: one draw in each of b strata of equal probability.
    """

    def draw(process: GaussianPath, weighting: Weighting, noise: Noise) -> SampledTimes:
        u = _in_strata(noise) if stratified else noise.uniform()
        return _from_table(*_table(process, weighting), u)

    return draw


class LossAware:
    """Density proportional to the root mean square of recent losses, bin by bin of time.

    Importance weights keep the mean loss.  Uniform until every bin has a full history.
    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, section 3.3, eq. 18.

    Args:
        bins: equal parts of the range of time.
        history: losses remembered in each.
        uniform: fraction of the draws that stays uniform, so that every bin is drawn from.

    Raises:
        InputError: bins or history below 1, or a fraction not in (0, 1].
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
        root = self._losses.square().mean(1).sqrt()  # sqrt(E[L_t^2]), eq. 18
        if bool((self._seen < history).any()) or float(root.sum()) == 0:
            return even
        return (1 - self._uniform) * root / root.sum() + self._uniform * even

    def __call__(self, process: GaussianPath, weighting: Weighting, noise: Noise) -> SampledTimes:
        """One time for each sample, importance weighted."""
        bins = len(self._losses)
        nodes = _in_range(process, torch.linspace(0, 1, bins + 1, dtype=torch.float64))
        total = self.probabilities().cumsum(0)
        cumulative = torch.cat([total.new_zeros(1), total / total[-1]])
        return _from_table(nodes, cumulative, noise.uniform())

    def update(
        self, process: GaussianPath, t: Float[Tensor, " b"], loss: Float[Tensor, " b"]
    ) -> None:
        """Record the losses; a bin's oldest is replaced first."""
        bins, history = self._losses.shape
        u = (t.detach().cpu().double() - process.t_first) / (process.t_max - process.t_first)
        bin_of = (u * bins).long().clamp(0, bins - 1)
        for i, value in zip(bin_of.tolist(), loss.detach().cpu().tolist(), strict=True):
            self._losses[i, int(self._seen[i]) % history] = value  # a ring buffer
            self._seen[i] += 1

    def tensors(self) -> dict[str, Shaped[Tensor, "..."]]:
        """The recorded losses, and the number that each bin has received."""
        return {"losses": self._losses.clone(), "seen": self._seen.clone()}

    def load(self, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> None:
        """Restore the state that `tensors` returned."""
        self._losses.copy_(tensors["losses"])
        self._seen.copy_(tensors["seen"])
