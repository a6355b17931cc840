"""Categorical forward processes: each element of x is one of K states and jumps at random.

Steps are integers, 0 (clean) to T.  `core.process.transitions` states q(x_t | x_u) by rows, by
columns and as a map of laws; uniform and absorbing chains are a multiple of the identity plus a
matrix of rank one and need no K x K table.  Marginals, draws, the posterior and the terms of the
variational bound are derived here, once, in float64.  Library only: no registered objective trains
such a chain, and `core.sampler.categorical` samples it::

    process = absorbing(28, mutual_information_betas(steps=256), mask=27)
    x = process.diffuse(x0, t, noise)
    loss = hybrid_loss(process, x0, x, logits, t).mean()

Source: Austin et al. 2021 (D3PM), arXiv:2107.03006.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64, Real
from torch import Tensor

from core.errors import InputError
from core.process.noise import Noise
from core.process.transitions import RankOne, Table, Transitions

# Below this a state is taken to be out of reach: dividing by it could overflow.
REACH = 1e-250


# --- schedules ---------------------------------------------------------------------------------


def cosine_betas(
    *, steps: int = 1000, offset: float = 0.008, beta_max: float = 0.999
) -> Float64[Tensor, " t"]:
    """Rates under which the probability never to jump falls as a cosine, for `uniform`.

    Source: Hoogeboom et al. 2021, arXiv:2102.05379, section 4, in the form of D3PM.

    Args:
        steps: T.
        offset: keeps early noise from vanishing.
        beta_max: largest rate of a step; the last ones would be 1.

    Raises:
        InputError: no step, or numbers out of range.
    """
    if steps < 1 or offset < 0 or not 0 < beta_max <= 1:
        raise InputError(
            "cosine_betas: expected steps >= 1, offset >= 0 and 0 < beta_max <= 1, got "
            f"{steps}, {offset} and {beta_max}"
        )
    at = torch.arange(steps + 1, dtype=torch.float64) / steps
    kept = ((at + offset) / (1 + offset) * math.pi / 2).cos()
    return (1 - kept[1:] / kept[:-1]).clamp(max=beta_max)


def mutual_information_betas(*, steps: int = 1000) -> Float64[Tensor, " t"]:
    """`beta_t = 1 / (T - t + 1)`, for `absorbing`: the unmasked fraction falls evenly, 1 - t / T.

    Each step then loses the same fraction of the information on x0.
    Source: D3PM, section 3.3.

    Args:
        steps: T.

    Raises:
        InputError: no step.
    """
    if steps < 1:
        raise InputError(f"mutual_information_betas: expected steps >= 1, got {steps}")
    return 1 / torch.arange(steps, 0, -1, dtype=torch.float64)


def linear_betas(
    *, steps: int = 1000, first: float = 1e-4, last: float = 0.02
) -> Float64[Tensor, " t"]:
    """Rates that rise evenly, for `discretised_gaussian`.

    Source: Ho et al. 2020, arXiv:2006.11239, section 4.

    Args:
        steps: T.
        first: beta_1, above 0.
        last: beta_T, at most 1.

    Raises:
        InputError: no step, or rates out of order.
    """
    if steps < 1 or not 0 < first <= last <= 1:
        raise InputError(
            "linear_betas: expected steps >= 1 and 0 < first <= last <= 1, got "
            f"{steps}, {first} and {last}"
        )
    return torch.linspace(first, last, steps, dtype=torch.float64)


# --- the process -------------------------------------------------------------------------------


def draw(
    law: Float[Tensor, " b *shape k"], at: Float64[Tensor, " b *shape"]
) -> Int64[Tensor, " b *shape"]:
    """Categories of the given laws, by inverting their distribution functions at `at`.

    A category of probability 0 is never drawn; laws need not sum to one exactly.

    Args:
        law: probabilities.
        at: uniform draws in [0, 1).
    """
    reached = law.double().cumsum(-1)
    return (reached <= (at.to(law.device) * reached[..., -1])[..., None]).sum(-1)


def divergence(q: Float64[Tensor, " *b k"], p: Float64[Tensor, " *b k"]) -> Float64[Tensor, " *b"]:
    """KL(q || p) = sum q log(q / p) over the last axis, in nats; 0 log 0 is 0."""
    here = q > 0
    return (q * (torch.where(here, q, 1.0).log() - torch.where(here, p, 1.0).log())).sum(-1)


@dataclass(frozen=True)
class CategoricalProcess:
    """A Markov chain over K states, the same for every element of x and independent in each.

    x is long, in 0 .. K - 1, of any shape (b, *shape).  Steps t are whole numbers in any dtype,
    per sample (b,) or per element.

    Args:
        transitions: q(x_t | x_u).
        steps: T.
        limit: p(x_T), the law that sampling starts from (k,).
    """

    transitions: Transitions
    steps: int
    limit: Float64[Tensor, " k"]

    @property
    def categories(self) -> int:
        """K, a mask state counted."""
        return len(self.limit)

    def _step(self, t: Tensor, x: Tensor) -> Tensor:
        if bool(((t < 0) | (t > self.steps) | (t != t.double().round())).any()):
            raise InputError(f"t: expected whole steps from 0 to {self.steps}, got {t.tolist()}")
        whole = t.to(x.device).long()
        return whole.reshape(*whole.shape, *[1] * (x.ndim - whole.ndim))

    def marginal(
        self, x0: Int64[Tensor, " b *shape"], t: Real[Tensor, "..."]
    ) -> Float64[Tensor, " b *shape k"]:
        """q(x_t | x0), rows of Q_1 ... Q_t.

        Source: D3PM, eq. 3.

        Raises:
            InputError: a t that is not a whole step of the process.
        """
        t = self._step(t, x0)
        return self.transitions.row(x0, torch.zeros_like(t), t)

    def diffuse(
        self, x0: Int64[Tensor, " b *shape"], t: Real[Tensor, "..."], noise: Noise
    ) -> Int64[Tensor, " b *shape"]:
        """A draw of x_t given x0.

        Raises:
            InputError: a t that is not a whole step of the process.
        """
        return draw(self.marginal(x0, t), noise.uniform_like(x0))

    def prior(self, like: Int64[Tensor, " b *shape"], noise: Noise) -> Int64[Tensor, " b *shape"]:
        """A start at step T: draws of `limit` in the shape of `like`."""
        law = self.limit.to(like.device).expand(*like.shape, self.categories)
        return draw(law, noise.uniform_like(like))

    def posterior(
        self,
        x: Int64[Tensor, " b *shape"],
        p0: Float[Tensor, " b *shape k"],
        t: Real[Tensor, "..."],
        u: Real[Tensor, "..."],
    ) -> Float[Tensor, " b *shape k"]:
        """p(x_u | x_t) = sum_x0 q(x_u | x_t, x0) p(x0 | x_t), u < t.

        With q(x_u | x_t, x0) = q(x_t | x_u) q(x_u | x0) / q(x_t | x0) the sum over x0 is one pass
        of p(x0 | x_t) / q(x_t | x0) through q(x_u | x0).  D3PM's eq. 4 sums q(x_u, x_t | x0) p
        instead, without that division: the same for absorbing chains; elsewhere only this one
        gives back the data's law when p(x0 | x_t) is the true one.

        Args:
            x: x_t; an element that no x0 leads to, as one that was never masked at the last step
                of an absorbing chain, is kept.
            p0: p(x0 | x_t), normalised; probability of an x0 that cannot lead to x_t is
                redistributed over those that can.
            t: step of x.
            u: step of the result; at 0 the result is p0.

        Raises:
            InputError: steps that are not whole, or u not below t.
        """
        t, u = self._step(t, x), self._step(u, x)
        if bool((u >= t).any()):
            raise InputError("posterior: expected u < t for every element")
        start = torch.zeros_like(t)
        # q(x_t | x0) over x0, and the x0 from which x_t can be reached
        likelihood = self.transitions.column(x, start, t)
        can = likelihood > REACH
        ways = can.sum(-1, keepdim=True)
        # p(x0 | x_t) over those x0 alone; evenly where p0 has no probability there
        possible = torch.where(can, p0.double(), 0.0)
        total = possible.sum(-1, keepdim=True)
        known = total > 0
        even = can / ways.clamp(min=1)
        possible = torch.where(known, possible / torch.where(known, total, 1.0), even)
        # q(x_t | x_u) sum_x0 q(x_u | x0) p(x0 | x_t) / q(x_t | x0)
        ratio = possible / torch.where(can, likelihood, 1.0)
        law = self.transitions.column(x, u, t) * self.transitions.ahead(ratio, start, u)
        kept = torch.nn.functional.one_hot(x, self.categories).to(law)
        return torch.where(ways > 0, law, kept).to(p0.dtype)

    def prior_divergence(self, x0: Int64[Tensor, " b *shape"]) -> Float64[Tensor, " b"]:
        """L_T = KL(q(x_T | x0) || p(x_T)) of each sample, in nats; no network in it.

        Infinite for an absorbing chain that ends short of absorbing all.
        Source: D3PM, eq. 1.
        """
        last = torch.full((len(x0),), self.steps, device=x0.device)
        law = self.marginal(x0, last)
        return divergence(law, self.limit.to(law).expand_as(law)).reshape(len(x0), -1).sum(1)

    def step_divergence(
        self,
        x0: Int64[Tensor, " b *shape"],
        x: Int64[Tensor, " b *shape"],
        p0: Float[Tensor, " b *shape k"],
        t: Real[Tensor, "..."],
        u: Real[Tensor, "..."],
    ) -> Float64[Tensor, " b"]:
        """KL(q(x_u | x_t, x0) || p(x_u | x_t)) of each sample, in nats; -log p(x0 | x_t) at u = 0.

        The terms L_{t-1} and L_0 of the bound, for any pair of steps.
        Source: D3PM, eq. 1.

        Args:
            x0: clean sample.
            x: x_t.
            p0: p(x0 | x_t) of the network.
            t: step of x.
            u: step of the term, below t.
        """
        true = torch.nn.functional.one_hot(x0, self.categories).double()
        q, p = self.posterior(x, true, t, u), self.posterior(x, p0.double(), t, u)
        return divergence(q, p).reshape(len(x0), -1).sum(1)


def hybrid_loss(
    process: CategoricalProcess,
    x0: Int64[Tensor, " b *shape"],
    x: Int64[Tensor, " b *shape"],
    logits: Float[Tensor, " b *shape k"],
    t: Real[Tensor, "..."],
    *,
    weight: float = 0.001,
) -> Float64[Tensor, " b"]:
    """The term of L_lambda at t: KL at t - 1 + weight (-log p(x0 | x_t)), in nats of each sample.

    The mean over t even in 1 .. T is the sum of the bound's terms over T, plus the cross-entropy.
    Source: D3PM, eq. 5.

    Args:
        process: the forward process.
        x0: clean samples.
        x: x_t.
        logits: of p(x0 | x_t); -inf for a mask that clean data never show.
        t: 1 to T.
        weight: of the cross-entropy; their lambda.
    """
    logits = logits.double()
    term = process.step_divergence(x0, x, logits.softmax(-1), t, t - 1)
    log_p0 = logits.log_softmax(-1).gather(-1, x0[..., None])
    return term - weight * log_p0.reshape(len(x0), -1).sum(1)


# --- the chains --------------------------------------------------------------------------------


def uniform(categories: int, betas: Float64[Tensor, " t"]) -> CategoricalProcess:
    """Q_t = (1 - beta_t) I + beta_t / K 1 1^T: with probability beta_t a jump to any state.

    Source: D3PM, appendix A.2.1.

    Args:
        categories: K.
        betas: of steps 1 to T, for example `cosine_betas()`.

    Raises:
        InputError: fewer than two states, or rates out of range.
    """
    _check(categories, betas)
    limit = torch.full((categories,), 1 / categories, dtype=torch.float64)
    return _rank_one(limit, betas)


def absorbing(
    categories: int, betas: Float64[Tensor, " t"], mask: int | None = None
) -> CategoricalProcess:
    """Q_t = (1 - beta_t) I + beta_t 1 e_mask^T: with probability beta_t turned into the mask.

    Source: D3PM, appendix A.2.2.

    Args:
        categories: K, the mask counted.
        betas: of steps 1 to T; `mutual_information_betas()` ends with every element masked.
        mask: the absorbing state; the last one where None.

    Raises:
        InputError: fewer than two states, rates out of range, or no such state.
    """
    _check(categories, betas)
    mask = categories - 1 if mask is None else mask
    if not 0 <= mask < categories:
        raise InputError(f"absorbing: expected a mask from 0 to {categories - 1}, got {mask}")
    limit = torch.zeros(categories, dtype=torch.float64)
    limit[mask] = 1
    return _rank_one(limit, betas)


@dataclass(frozen=True, eq=False)
class _GaussianStep:
    """Q_t of `discretised_gaussian`; D3PM, appendix A.2.3."""

    categories: int
    betas: Float64[Tensor, " t"]

    def __call__(self, t: int) -> Float64[Tensor, " k k"]:
        # exp(-4 d^2 / ((K - 1)^2 beta_t)) at distance d, normalised over d from 1 - K to K - 1
        distance = torch.arange(self.categories, dtype=torch.float64)
        weights = (-4 * distance**2 / ((self.categories - 1) ** 2 * self.betas[t - 1])).exp()
        weights = weights / (weights[0] + 2 * weights[1:].sum())
        weights[0] = 0
        matrix = weights[(distance[:, None] - distance).abs().long()]
        # The diagonal is the rest of 1.
        return matrix + torch.diag(1 - matrix.sum(1))


def discretised_gaussian(
    categories: int, betas: Float64[Tensor, " t"], *, memory_gib: float = 1.0
) -> CategoricalProcess:
    """Jumps between ordered states with Gaussian weights; the limit is uniform.

    Off the diagonal [Q_t]_ij = exp(-4 (i - j)^2 / ((K - 1)^2 beta_t)) / sum_n of the same over
    n = 1 - K .. K - 1; the diagonal is the rest of 1.  Keeps T + 1 matrices of K x K float64
    (0.49 GiB for 256 states and 1000 steps).
    Source: D3PM, appendix A.2.3.

    Args:
        categories: K.
        betas: of steps 1 to T, for example `linear_betas()`.
        memory_gib: largest table to allocate.

    Raises:
        InputError: fewer than two states, rates out of range, or a table that is too large.
    """
    _check(categories, betas)
    if float(betas.min()) <= 0:
        raise InputError("discretised_gaussian: expected betas > 0")
    needed = (len(betas) + 1) * categories**2 * 8 / 2**30
    if needed > memory_gib:
        raise InputError(
            f"discretised_gaussian: {len(betas)} steps over {categories} states need a table of "
            f"{needed:.2f} GiB, above memory_gib={memory_gib:g}; take fewer steps or states, or "
            "raise it"
        )
    one_step = _GaussianStep(categories, betas)
    reached = torch.empty(len(betas) + 1, categories, categories, dtype=torch.float64)
    reached[0] = torch.eye(categories, dtype=torch.float64)
    for t in range(1, len(betas) + 1):
        torch.matmul(reached[t - 1], one_step(t), out=reached[t])
    limit = torch.full((categories,), 1 / categories, dtype=torch.float64)
    return CategoricalProcess(Table(one_step, reached), len(betas), limit)


def _check(categories: int, betas: Tensor) -> None:
    if categories < 2:
        raise InputError(f"expected at least 2 categories, got {categories}")
    if len(betas) == 0 or bool(((betas < 0) | (betas > 1)).any()) or bool((betas[:-1] == 1).any()):
        raise InputError(
            "betas: expected at least one rate, all from 0 to 1, and 1 at the last step only"
        )


def _rank_one(limit: Tensor, betas: Tensor) -> CategoricalProcess:
    log_kept = torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-betas).cumsum(0)])
    return CategoricalProcess(RankOne(log_kept, limit), len(betas), limit)
