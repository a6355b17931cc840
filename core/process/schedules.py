"""Schedules: alpha(t) and sigma(t) from clean data to noise, as small values that pickle.

Each process is a function, whose keyword-only parameters are its options, and the formulas of its
schedule, a frozen dataclass above it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.errors import InputError
from core.parts.config import configure
from core.parts.registry import Spec
from core.process.gaussian import GaussianPath

AlphaSigma = tuple[Float64[Tensor, " *shape"], Float64[Tensor, " *shape"]]


@dataclass(frozen=True)
class VPLinear:
    """log alpha = -t beta_min / 2 - t^2 (beta_max - beta_min) / 4, alpha^2 + sigma^2 = 1."""

    beta_min: float
    beta_max: float

    def alpha_sigma(self, t: Float64[Tensor, " *shape"]) -> AlphaSigma:
        """alpha(t) and sigma(t)."""
        exponent = -(t * self.beta_min + t**2 * self._span / 2)  # log alpha^2
        return (exponent / 2).exp(), (-torch.expm1(exponent)).sqrt()

    def inverse(self, log_snr: Float64[Tensor, " *shape"]) -> Float64[Tensor, " *shape"]:
        """The t with this log-SNR."""
        # log alpha^2 = -softplus(-log_snr); solve the quadratic without cancellation.
        lost = torch.nn.functional.softplus(-log_snr)
        root = (self.beta_min**2 + 2 * self._span * lost).sqrt()
        return 2 * lost / (self.beta_min + root)

    @property
    def _span(self) -> float:
        return self.beta_max - self.beta_min


def vp_linear(*, beta_min: float = 0.1, beta_max: float = 20.0) -> GaussianPath:
    """Variance-preserving, beta linear: log alpha = -t beta_min/2 - t^2 (beta_max - beta_min)/4.

    Source: Song et al. 2021, arXiv:2011.13456, eq. 29 and appendix C; DDPM's betas in the limit.

    Args:
        beta_min: noise rate at t = 0, per unit of time.
        beta_max: noise rate at t = 1; must exceed beta_min.

    Raises:
        InputError: rates out of order.
    """
    if not 0 <= beta_min < beta_max:
        raise InputError(
            f"vp_linear: expected 0 <= beta_min < beta_max, got {beta_min} and {beta_max}"
        )
    return GaussianPath(VPLinear(beta_min, beta_max), t_min=0.0, t_max=1.0, t_first=1e-5)


@dataclass(frozen=True)
class VPCosine:
    """alpha = cos(rate t + shift) / cos(shift), alpha^2 + sigma^2 = 1."""

    offset: float

    def alpha_sigma(self, t: Float64[Tensor, " *shape"]) -> AlphaSigma:
        """alpha(t) and sigma(t)."""
        rate, shift = self.rate, self.shift
        alpha = (rate * t + shift).cos() / math.cos(shift)
        # 1 - alpha^2 = sin(rate t) sin(rate t + 2 shift) / cos(shift)^2, free of cancellation.
        square = (rate * t).sin() * (rate * t + 2 * shift).sin() / math.cos(shift) ** 2
        return alpha, square.sqrt()

    def inverse(self, log_snr: Float64[Tensor, " *shape"]) -> Float64[Tensor, " *shape"]:
        """The t with this log-SNR."""
        alpha = torch.nn.functional.softplus(-log_snr).mul(-0.5).exp()
        return ((alpha * math.cos(self.shift)).clamp(-1, 1).acos() - self.shift) / self.rate

    @property
    def rate(self) -> float:
        """Angle per unit of time."""
        return math.pi / 2 / (1 + self.offset)

    @property
    def shift(self) -> float:
        """Angle at t = 0."""
        return math.pi / 2 * self.offset / (1 + self.offset)


def vp_cosine(*, offset: float = 0.008, beta_max: float = 0.999) -> GaussianPath:
    """Variance-preserving cosine process: alpha = cos(a t + b) / cos(b), ending short of zero SNR.

    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17; their clip of the last of 1000
    betas at `beta_max` becomes an end of time, where the same beta is reached.

    Args:
        offset: keeps early noise from vanishing; their s.
        beta_max: largest noise added by a thousandth of the time; below 1.

    Raises:
        InputError: offset not positive, or beta_max not in (0, 1).
    """
    if offset <= 0 or not 0 < beta_max < 1:
        raise InputError(
            f"vp_cosine: expected offset > 0 and 0 < beta_max < 1, got offset={offset}, "
            f"beta_max={beta_max}"
        )
    schedule = VPCosine(offset)
    # alpha^2 falls by the factor 1 - beta_max over the last thousandth kept.
    t_max = _last_time(lambda t: math.cos(schedule.rate * t + schedule.shift) ** 2, 1 - beta_max)
    return GaussianPath(schedule, t_min=0.0, t_max=t_max, t_first=1e-5)


def _last_time(alpha_square: Callable[[float], float], left: float) -> float:
    low, high = 0.5, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        keeps = alpha_square(middle) / alpha_square(middle - 1e-3)
        low, high = (middle, high) if keeps > left else (low, middle)
    return low


@dataclass(frozen=True, eq=False)
class BetaTable:
    """alpha^2 and sigma^2 linear in t between the nodes t = n / steps of a chain.

    Args:
        kept: alpha^2 at the nodes, 1 at the first.
        lost: sigma^2 at the nodes, exact near zero.
    """

    kept: Float64[Tensor, " nodes"]
    lost: Float64[Tensor, " nodes"]

    def __repr__(self) -> str:
        return f"BetaTable({self.steps} steps, alpha^2 from 1 to {float(self.kept[-1]):.3g})"

    @property
    def steps(self) -> int:
        """Length of the chain."""
        return len(self.kept) - 1

    def alpha_sigma(self, t: Float64[Tensor, " *shape"]) -> AlphaSigma:
        """alpha(t) and sigma(t)."""
        at = (t * self.steps).clamp(0, self.steps)
        node = at.detach().floor().long().clamp(max=self.steps - 1)
        part = at - node
        kept, lost = self.kept.to(t.device), self.lost.to(t.device)
        square = kept[node] + part * (kept[node + 1] - kept[node])
        rest = lost[node] + part * (lost[node + 1] - lost[node])
        return square.sqrt(), rest.sqrt()

    def inverse(self, log_snr: Float64[Tensor, " *shape"]) -> Float64[Tensor, " *shape"]:
        """The t with this log-SNR."""
        # Of alpha^2 and sigma^2 the smaller is the exact one.
        square, rest = log_snr.sigmoid(), (-log_snr).sigmoid()
        kept, lost = self.kept.to(log_snr.device), self.lost.to(log_snr.device)
        noisy = square < 0.5
        node = torch.where(
            noisy, torch.searchsorted(-kept, -square), torch.searchsorted(lost, rest)
        )
        node = (node - 1).clamp(0, self.steps - 1)
        by_kept = (square - kept[node]) / (kept[node + 1] - kept[node])
        by_lost = (rest - lost[node]) / (lost[node + 1] - lost[node])
        return (node + torch.where(noisy, by_kept, by_lost)) / self.steps


def beta_table(
    *,
    steps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    shape: Literal["linear", "sqrt_linear", "sigmoid"] = "linear",
    zero_terminal_snr: bool = False,
) -> GaussianPath:
    """A discrete DDPM: alpha^2(n / steps) = prod over i <= n of (1 - beta_i), linear in between.

    With alpha^2 linear between the nodes, a uniform t has the piecewise-uniform density of
    alpha^2 that SR3 trains on (Saharia et al. 2021, arXiv:2104.07636, section 2.4).
    Source: Ho et al. 2020, arXiv:2006.11239, section 2; sigmoid: Xu et al. 2022 (GeoDiff),
    arXiv:2203.02923, its code.

    Args:
        steps: length of the chain.
        beta_start: variance of the first step; where the sigmoid starts.
        beta_end: variance of the last step; where the sigmoid ends.
        shape: the quantity that is linear between the two: beta, or its square root (latent
            diffusion's choice); or a sigmoid from -6 to 6.
        zero_terminal_snr: shift and scale the table's alphas so that the last is zero and the
            first stays (Lin et al. 2023, arXiv:2305.08891, algorithm 1).

    Raises:
        InputError: betas not in (0, 1), or fewer than two steps.
    """
    if steps < 2 or not (0 < beta_start < 1 and 0 < beta_end < 1):
        raise InputError(
            f"beta_table: expected steps >= 2 and betas in (0, 1), got steps={steps}, "
            f"beta_start={beta_start}, beta_end={beta_end}"
        )
    if shape == "sigmoid":
        part = torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid()
        betas = beta_start + part * (beta_end - beta_start)
    else:
        power = 1.0 if shape == "linear" else 0.5
        ends = torch.tensor([beta_start, beta_end], dtype=torch.float64) ** power
        even = torch.linspace(float(ends[0]), float(ends[1]), steps, dtype=torch.float64)
        betas = even ** (1 / power)
    return from_betas(_ending_in_noise(betas) if zero_terminal_snr else betas)


def cosine_table(
    *,
    steps: int = 1000,
    offset: float = 0.008,
    beta_max: float = 0.999,
    zero_terminal_snr: bool = False,
) -> GaussianPath:
    """The cosine schedule as published networks know it: a table of betas, cut at `beta_max`.

    beta_n = min(1 - f(n / steps) / f((n - 1) / steps), beta_max), f = cos^2 of `vp_cosine`; every
    node counts, the last one too, where `vp_cosine` ends before it.
    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17.

    Args:
        steps: length of the chain.
        offset: keeps early noise from vanishing; their s.
        beta_max: largest beta, below 1.
        zero_terminal_snr: as of `beta_table`.

    Raises:
        InputError: fewer than two steps, offset not positive, or beta_max not in (0, 1).
    """
    if steps < 2 or offset <= 0 or not 0 < beta_max < 1:
        raise InputError(
            f"cosine_table: expected steps >= 2, offset > 0 and 0 < beta_max < 1, got "
            f"steps={steps}, offset={offset}, beta_max={beta_max}"
        )
    nodes = torch.arange(steps + 1, dtype=torch.float64) / steps
    kept = ((nodes + offset) / (1 + offset) * math.pi / 2).cos() ** 2
    betas = (1 - kept[1:] / kept[:-1]).clamp(max=beta_max)
    return from_betas(_ending_in_noise(betas) if zero_terminal_snr else betas)


def custom_table(
    *,
    betas: tuple[float, ...] = (0.001, 0.004, 0.015, 0.05, 0.15, 0.35, 0.6, 0.8, 0.9, 0.9),
    zero_terminal_snr: bool = False,
) -> GaussianPath:
    """A discrete DDPM with exactly the given betas; see `beta_table`.

    Args:
        betas: variance of each step, from the clean end to the noisy one.
        zero_terminal_snr: as of `beta_table`.

    Raises:
        InputError: betas not in (0, 1), or fewer than two.
    """
    if len(betas) < 2 or not all(0 < beta < 1 for beta in betas):
        outside = [beta for beta in betas if not 0 < beta < 1][:3]
        raise InputError(
            f"custom_table: expected at least two betas in (0, 1), got {len(betas)}"
            + (f", among them {outside}" if outside else "")
        )
    given = torch.tensor(betas, dtype=torch.float64)
    return from_betas(_ending_in_noise(given) if zero_terminal_snr else given)


def _ending_in_noise(betas: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The table whose alphas are shifted and scaled: the last is zero, the first stays."""
    alphas = torch.log1p(-betas).cumsum(0).div(2).exp()
    alphas = (alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])
    return 1 - (alphas / torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])) ** 2


def from_betas(betas: Float[Tensor, " n"]) -> GaussianPath:
    """The process of any table of betas; node n lies at t = n / len(betas).  See `beta_table`."""
    steps = len(betas)
    log_kept = torch.log1p(-betas.double()).cumsum(0)
    zero = torch.zeros(1, dtype=torch.float64)
    kept = torch.cat([zero + 1, log_kept.exp()])
    lost = torch.cat([zero, -torch.expm1(log_kept)])
    return GaussianPath(BetaTable(kept, lost), t_min=0.0, t_max=1.0, t_first=0.01 / steps)


@dataclass(frozen=True)
class EDM:
    """alpha = 1, sigma = t."""

    def alpha_sigma(self, t: Float64[Tensor, " *shape"]) -> AlphaSigma:
        """alpha(t) and sigma(t)."""
        return torch.ones_like(t), t

    def inverse(self, log_snr: Float64[Tensor, " *shape"]) -> Float64[Tensor, " *shape"]:
        """The t with this log-SNR."""
        return (-log_snr / 2).exp()


def edm(*, sigma_min: float = 0.002, sigma_max: float = 80.0) -> GaussianPath:
    """Variance-exploding process with sigma(t) = t.

    Source: Karras et al. 2022, arXiv:2206.00364, table 1.

    Args:
        sigma_min: smallest level a network is called with, in units of the data.
        sigma_max: largest level; must exceed sigma_min.

    Raises:
        InputError: levels out of order.
    """
    if not 0 < sigma_min < sigma_max:
        raise InputError(
            f"edm: expected 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}"
        )
    return GaussianPath(EDM(), t_min=0.0, t_max=sigma_max, t_first=sigma_min)


@dataclass(frozen=True)
class SubVP:
    """alpha of a `VPLinear`, sigma = 1 - alpha^2."""

    vp: VPLinear

    def alpha_sigma(self, t: Float64[Tensor, " *shape"]) -> AlphaSigma:
        """alpha(t) and sigma(t)."""
        alpha, sigma = self.vp.alpha_sigma(t)
        return alpha, sigma**2

    def inverse(self, log_snr: Float64[Tensor, " *shape"]) -> Float64[Tensor, " *shape"]:
        """The t with this log-SNR."""
        # r = alpha / (1 - alpha^2) is a quadratic in alpha; its VP log-SNR is log(alpha r).
        r = (log_snr / 2).exp()
        alpha = 2 * r / (1 + (1 + 4 * r**2).sqrt())
        return self.vp.inverse(alpha.log() + log_snr / 2)


def sub_vp(*, beta_min: float = 0.1, beta_max: float = 20.0) -> GaussianPath:
    """Sub-VP: alpha of `vp_linear`, sigma = 1 - alpha^2, never more than the VP process's.

    Source: Song et al. 2021, arXiv:2011.13456, eq. 29 and appendix C.

    Args:
        beta_min: noise rate at t = 0, per unit of time.
        beta_max: noise rate at t = 1; must exceed beta_min.

    Raises:
        InputError: rates out of order.
    """
    if not 0 <= beta_min < beta_max:
        raise InputError(
            f"sub_vp: expected 0 <= beta_min < beta_max, got {beta_min} and {beta_max}"
        )
    schedule = SubVP(VPLinear(beta_min, beta_max))
    return GaussianPath(schedule, t_min=0.0, t_max=1.0, t_first=1e-5)


@dataclass(frozen=True)
class VE:
    """alpha = 1, sigma = sigma_min sqrt((sigma_max / sigma_min)^(2t) - 1)."""

    sigma_min: float
    sigma_max: float

    def alpha_sigma(self, t: Float64[Tensor, " *shape"]) -> AlphaSigma:
        """alpha(t) and sigma(t)."""
        return torch.ones_like(t), self.sigma_min * torch.expm1(self._rate * t).sqrt()

    def inverse(self, log_snr: Float64[Tensor, " *shape"]) -> Float64[Tensor, " *shape"]:
        """The t with this log-SNR."""
        return torch.log1p((-log_snr).exp() / self.sigma_min**2) / self._rate

    @property
    def _rate(self) -> float:
        return 2 * math.log(self.sigma_max / self.sigma_min)


def ve(*, sigma_min: float = 0.01, sigma_max: float = 50.0) -> GaussianPath:
    """Variance-exploding, geometric: sigma^2 = sigma_min^2 ((sigma_max / sigma_min)^(2t) - 1).

    The exact solution of the SDE, with sigma(0) = 0.
    Source: Song et al. 2021, arXiv:2011.13456, eq. 30.

    Args:
        sigma_min: the scale below which sigma falls to zero, in units of the data.
        sigma_max: about the largest level, in the same units; must exceed sigma_min.

    Raises:
        InputError: levels out of order.
    """
    if not 0 < sigma_min < sigma_max:
        raise InputError(f"ve: expected 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    return GaussianPath(VE(sigma_min, sigma_max), t_min=0.0, t_max=1.0, t_first=1e-5)


@dataclass(frozen=True)
class Flow:
    """alpha = 1 - t', sigma = t', t' = shift t / (1 + (shift - 1) t)."""

    shift: float

    def alpha_sigma(self, t: Float64[Tensor, " *shape"]) -> AlphaSigma:
        """alpha(t) and sigma(t)."""
        whole = 1 + (self.shift - 1) * t
        return (1 - t) / whole, self.shift * t / whole

    def inverse(self, log_snr: Float64[Tensor, " *shape"]) -> Float64[Tensor, " *shape"]:
        """The t with this log-SNR."""
        return torch.sigmoid(-log_snr / 2 - math.log(self.shift))


def flow(*, shift: float = 1.0) -> GaussianPath:
    """Rectified flow: alpha = 1 - t', sigma = t', t' = shift t / (1 + (shift - 1) t).

    Ends in pure noise: log-SNR is minus infinity at t = 1.
    Source: Liu et al. 2022, arXiv:2209.03003, eq. 1; the shift of time for larger images of
    Esser et al. 2024, arXiv:2403.03206, eq. 23.

    Args:
        shift: factor on sigma / alpha at every time; above 1 for larger images (3 for a
            megapixel in the source).

    Raises:
        InputError: not positive.
    """
    if shift <= 0:
        raise InputError(f"flow: expected shift > 0, got {shift}")

    return GaussianPath(Flow(shift), t_min=0.0, t_max=1.0, t_first=1e-5)


# --- schedules made from schedules -------------------------------------------------------------


@dataclass(frozen=True)
class ZeroTerminalSNR:
    """alpha' = (alpha - a) / (1 - a), a = alpha(t_max) of a variance-preserving `path`."""

    path: GaussianPath
    a: float

    def alpha_sigma(self, t: Float64[Tensor, " *shape"]) -> AlphaSigma:
        """alpha(t) and sigma(t)."""
        alpha, sigma = self.path.alpha_sigma(t)
        corrected = (alpha - self.a) / (1 - self.a)
        # 1 - alpha'^2 with 1 - alpha = sigma^2 / (1 + alpha), free of cancellation.
        square = sigma**2 / (1 + alpha) / (1 - self.a) * (1 + corrected)
        return corrected, square.sqrt()

    def inverse(self, log_snr: Float64[Tensor, " *shape"]) -> Float64[Tensor, " *shape"]:
        """The t with this log-SNR."""
        corrected = log_snr.sigmoid().sqrt()
        short = (-log_snr).sigmoid() / (1 + corrected) * (1 - self.a)  # 1 - alpha
        alpha = 1 - short
        return self.path.time_of_log_snr(2 * alpha.log() - (short * (1 + alpha)).log())


def zero_terminal_snr(
    *, process: Annotated[Spec, "process"] = Spec("core/vp_linear")
) -> GaussianPath:
    """A variance-preserving process made to end in pure noise: alpha' = (alpha - a) / (1 - a).

    a is alpha at the noisy end.  Source: Lin et al. 2023, arXiv:2305.08891, algorithm 1, in
    continuous time, where the first alpha is 1.

    Args:
        process: the process to correct.

    Raises:
        InputError: it does not preserve variance.
    """
    path = configure("process", process)()
    ends = torch.tensor([path.t_min, path.t_first, path.t_max], dtype=torch.float64)
    alphas, sigmas = path.alpha_sigma(ends)
    if bool((alphas**2 + sigmas**2 - 1).abs().max() > 1e-9):
        raise InputError(
            "zero_terminal_snr: expected a process with alpha^2 + sigma^2 = 1, such as "
            "core/vp_linear, core/vp_cosine or core/beta_table"
        )
    schedule = ZeroTerminalSNR(path, float(alphas[-1]))
    return GaussianPath(schedule, path.t_min, path.t_max, path.t_first)


@dataclass(frozen=True)
class Shifted:
    """sigma / alpha of `path` times `factor`, alpha^2 + sigma^2 unchanged."""

    path: GaussianPath
    factor: float

    def alpha_sigma(self, t: Float64[Tensor, " *shape"]) -> AlphaSigma:
        """alpha(t) and sigma(t)."""
        alpha, sigma = self.path.alpha_sigma(t)
        scale = ((alpha**2 + sigma**2) / (alpha**2 + (self.factor * sigma) ** 2)).sqrt()
        return alpha * scale, self.factor * sigma * scale

    def inverse(self, log_snr: Float64[Tensor, " *shape"]) -> Float64[Tensor, " *shape"]:
        """The t with this log-SNR."""
        return self.path.time_of_log_snr(log_snr + 2 * math.log(self.factor))


def shifted(
    *, process: Annotated[Spec, "process"] = Spec("core/vp_cosine"), factor: float = 2.0
) -> GaussianPath:
    """A process with sigma / alpha multiplied at every time; alpha^2 + sigma^2 stays.

    Neighbouring pixels of a large image average noise away, so that the same log-SNR corrupts it
    less.  Source: Hoogeboom et al. 2023, arXiv:2301.11093, section 3.1.

    Args:
        process: the process to shift.
        factor: on sigma / alpha; side of the images over the side the process was made for.

    Raises:
        InputError: factor not positive.
    """
    if factor <= 0:
        raise InputError(f"shifted: expected factor > 0, got {factor}")
    path = configure("process", process)()
    return GaussianPath(Shifted(path, factor), path.t_min, path.t_max, path.t_first)
