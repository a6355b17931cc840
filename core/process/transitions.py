"""Transition laws q(x_t | x_u) of categorical chains: of rank one, and from tables of matrices.

Source: Austin et al. 2021 (D3PM), arXiv:2107.03006, section 3.1 and appendix A.2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float64, Int64
from torch import Tensor


@runtime_checkable
class Transitions(Protocol):
    """q(x_t | x_u) for 0 <= u <= t <= T; u and t are long and broadcast over the elements of x."""

    def row(
        self,
        x: Int64[Tensor, " b *shape"],
        u: Int64[Tensor, "..."],
        t: Int64[Tensor, "..."],
    ) -> Float64[Tensor, " b *shape k"]:
        """q(x_t = . | x_u = x), (b, *shape, k)."""
        ...

    def column(
        self,
        x: Int64[Tensor, " b *shape"],
        u: Int64[Tensor, "..."],
        t: Int64[Tensor, "..."],
    ) -> Float64[Tensor, " b *shape k"]:
        """q(x_t = x | x_u = .), (b, *shape, k)."""
        ...

    def ahead(
        self,
        law: Float64[Tensor, " b *shape k"],
        u: Int64[Tensor, "..."],
        t: Int64[Tensor, "..."],
    ) -> Float64[Tensor, " b *shape k"]:
        """sum_i law_i q(x_t = . | x_u = i), (b, *shape, k)."""
        ...


@dataclass(frozen=True)
class RankOne:
    """q(x_t | x_u) = kept 1[x_t = x_u] + (1 - kept) limit(x_t), kept = kept_t / kept_u.

    Args:
        log_kept: log of the probability never to jump, after steps 0 to T, from 0.
        limit: the law that a jump draws from.
    """

    log_kept: Float64[Tensor, " steps"]
    limit: Float64[Tensor, " k"]

    def _kept_and_lost(self, u: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        table = self.log_kept.to(t.device)
        of_step = torch.where(t == u, 0.0, table[t] - table[u])  # the last may be -inf
        return of_step.exp()[..., None], -torch.expm1(of_step)[..., None]

    def row(
        self,
        x: Int64[Tensor, " b *shape"],
        u: Int64[Tensor, "..."],
        t: Int64[Tensor, "..."],
    ) -> Float64[Tensor, " b *shape k"]:
        """See `Transitions`."""
        kept, lost = self._kept_and_lost(u, t)
        # kept 1[x_t = x] + lost limit(x_t), over x_t
        jumped = (lost * self.limit.to(x.device)).expand(*x.shape, len(self.limit))
        return jumped.scatter_add(-1, x[..., None], kept.expand(*x.shape, 1))

    def column(
        self,
        x: Int64[Tensor, " b *shape"],
        u: Int64[Tensor, "..."],
        t: Int64[Tensor, "..."],
    ) -> Float64[Tensor, " b *shape k"]:
        """See `Transitions`."""
        kept, lost = self._kept_and_lost(u, t)
        # kept 1[x = x_u] + lost limit(x), over x_u
        jumped = (lost * self.limit.to(x.device)[x][..., None]).expand(*x.shape, len(self.limit))
        return jumped.scatter_add(-1, x[..., None], kept.expand(*x.shape, 1))

    def ahead(
        self,
        law: Float64[Tensor, " b *shape k"],
        u: Int64[Tensor, "..."],
        t: Int64[Tensor, "..."],
    ) -> Float64[Tensor, " b *shape k"]:
        """See `Transitions`."""
        kept, lost = self._kept_and_lost(u, t)
        return kept * law + lost * self.limit.to(law.device) * law.sum(-1, keepdim=True)


# t -> Q_t, (k, k)
OneStep = Callable[[int], Tensor]


@dataclass(frozen=True)
class Table:
    """Transitions without structure: Q_1 ... Q_t stored for every t, longer steps multiplied.

    Args:
        one_step: Q_t for a t from 1 to T.
        reached: the products from step 0 to 0, 1, ..., T.
    """

    one_step: OneStep
    reached: Float64[Tensor, " steps k k"]

    def between(self, u: int, t: int) -> Float64[Tensor, " k k"]:
        """The matrix of q(x_t | x_u); t - u products of matrices where u > 0."""
        if u in (0, t):
            return self.reached[t - u]
        matrix = self.one_step(u + 1)
        for step in range(u + 2, t + 1):
            matrix = matrix @ self.one_step(step)
        return matrix

    def _matrices(self, u: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The matrices of all pairs that occur (m, k, k), and the index of each element's."""
        pairs, index = (
            torch.stack(torch.broadcast_tensors(u, t), -1)
            .reshape(-1, 2)
            .unique(dim=0, return_inverse=True)
        )
        matrices = torch.stack([self.between(*pair) for pair in pairs.tolist()]).to(t.device)
        return matrices, index.reshape(torch.broadcast_shapes(u.shape, t.shape))

    def row(
        self,
        x: Int64[Tensor, " b *shape"],
        u: Int64[Tensor, "..."],
        t: Int64[Tensor, "..."],
    ) -> Float64[Tensor, " b *shape k"]:
        """See `Transitions`."""
        matrices, index = self._matrices(u, t)
        return matrices[index, x]

    def column(
        self,
        x: Int64[Tensor, " b *shape"],
        u: Int64[Tensor, "..."],
        t: Int64[Tensor, "..."],
    ) -> Float64[Tensor, " b *shape k"]:
        """See `Transitions`."""
        matrices, index = self._matrices(u, t)
        return matrices.mT[index, x]

    def ahead(
        self,
        law: Float64[Tensor, " b *shape k"],
        u: Int64[Tensor, "..."],
        t: Int64[Tensor, "..."],
    ) -> Float64[Tensor, " b *shape k"]:
        """See `Transitions`."""
        matrices, index = self._matrices(u, t)
        carried = []
        for each, mine in zip(law, index, strict=True):  # a product over a batch rounds by its size
            first, *others = mine.unique().tolist()
            one = each @ matrices[first]
            for other in others:
                one = torch.where((mine == other)[..., None], each @ matrices[other], one)
            carried.append(one)
        return torch.stack(carried)
