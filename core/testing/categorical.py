"""Categorical data small enough to enumerate: denoiser, chain and bound, exactly.

Where data have one position the chain's step is exact too, and its law must equal the data's to
rounding.  With more positions a chain draws each by itself given x_t, as every factorised model
does, and its law is the data's only in the limit of many steps.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from core.denoiser.parameterization import Condition, Prediction
from core.process.categorical import CategoricalProcess
from core.sampler.categorical import LogitsDenoiser


@dataclass(frozen=True)
class Joint:
    """Data (n, d) from any joint law over d positions of K states.

    Args:
        law: the probability of every combination, one axis of K for each position.
    """

    law: Float64[Tensor, " *states"]

    def states(self) -> Int64[Tensor, " n d"]:
        """Every combination, in the order of `law.flatten()`."""
        axes = [torch.arange(k) for k in self.law.shape]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, self.law.ndim)

    def draw(self, n: int, generator: torch.Generator) -> Int64[Tensor, " n d"]:
        """`n` clean samples."""
        chosen = torch.multinomial(self.law.flatten(), n, replacement=True, generator=generator)
        return self.states()[chosen]

    def denoiser(self, process: CategoricalProcess) -> LogitsDenoiser:
        """p(x0_d | x_t) of every position d as logits, by summing over all clean combinations."""

        def denoise(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
            whole = t.long()[:, None]
            seen = process.transitions.column(x, torch.zeros_like(whole), whole)  # b d k
            joint = self.law.expand(len(x), *self.law.shape)
            for d in range(self.law.ndim):
                ones = [1] * self.law.ndim
                ones[d] = -1
                joint = joint * seen[:, d].reshape(len(x), *ones)
            total = joint.flatten(1).sum(1).reshape(-1, *[1] * self.law.ndim)
            # The estimate at an x_t that never occurs is arbitrary.
            joint = torch.where(total > 0, joint / total, self.law)
            axes = range(1, self.law.ndim + 1)
            marginals = [joint.sum([a for a in axes if a != d]) if len(axes) > 1 else joint
                         for d in axes]  # fmt: skip
            p0 = torch.stack(marginals, 1)
            return Prediction(p0.argmax(-1), logits=p0.log())

        return denoise

    def law_at(self, process: CategoricalProcess, t: int) -> Float64[Tensor, " *states"]:
        """The law of x_t, by carrying `law` ahead along each position."""
        when, start = torch.tensor([[t]]), torch.tensor([[0]])
        law = self.law
        for d in range(law.ndim):
            rows = law.movedim(d, -1)
            carried = process.transitions.ahead(rows.reshape(1, -1, rows.shape[-1]), start, when)
            law = carried.reshape(rows.shape).movedim(-1, d)
        return law

    def step_matrix(self, process: CategoricalProcess, t: int, u: int) -> Float64[Tensor, " n m"]:
        """p(x_u | x_t) of the chain with the exact denoiser, over all combinations."""
        x = self.states()
        when, then = (torch.full((len(x),), step, dtype=torch.float64) for step in (t, u))
        logits = self.denoiser(process)(x, when, None).logits
        assert logits is not None
        step = process.posterior(x, logits.softmax(-1), when, then)  # n d k
        return torch.stack([step[:, d, x[:, d]] for d in range(x.shape[1])]).prod(0)

    def chain_law(
        self, process: CategoricalProcess, grid: list[int], start: Float64[Tensor, " *states"]
    ) -> Float64[Tensor, " *states"]:
        """The exact law of the reverse chain's result, begun with the law `start` at grid[0]."""
        law = start.flatten()
        for t, u in pairwise(grid):
            law = law @ self.step_matrix(process, t, u)
        return law.reshape(self.law.shape)

    def bound(self, process: CategoricalProcess) -> Float64[Tensor, " n"]:
        """L_T + sum_t KL + L_0 of every clean combination, in nats, by enumeration of every x_t."""
        x0 = self.states()
        n = len(x0)
        clean, noisy = x0.repeat_interleave(n, 0), x0.repeat(n, 1)
        total = process.prior_divergence(x0)
        for t in range(1, process.steps + 1):
            when = torch.full((n * n,), t, dtype=torch.float64)
            logits = self.denoiser(process)(noisy, when, None).logits
            assert logits is not None
            term = process.step_divergence(clean, noisy, logits.softmax(-1), when, when - 1)
            q = process.marginal(clean, when).gather(-1, noisy[..., None]).squeeze(-1).prod(1)
            # A term of an x_t that cannot follow from x0 has weight 0, infinite or not.
            total = total + torch.where(q > 0, q * term, 0.0).reshape(n, n).sum(1)
        return total
