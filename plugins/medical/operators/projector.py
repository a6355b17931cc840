"""Lines through an image and the weights of its pixels along them.

Pixel (i, j) of an image of h x w has its centre at x = (j - (w - 1) / 2) pixel to the right and
y = ((h - 1) / 2 - i) pixel up, in millimetres from the middle.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

VIEWS = 16  # whose weights are computed at once


def joseph(
    origin: Float[Tensor, " n 2"],
    way: Float[Tensor, " n 2"],
    shape: tuple[int, int],
    pixel: float,
) -> tuple[Int64[Tensor, " n steps 2"], Float[Tensor, " n steps 2"]]:
    """For each line the pixels that it passes and their weights, in millimetres.

    A line is followed row by row, or column by column where it is flatter; at each it is shared
    linearly between the two nearest pixels.  Where there is no pixel the weight is 0.
    Source: Joseph 1982, IEEE Trans. Med. Imaging 1, 192.

    Args:
        origin: a point of each line, in millimetres.
        way: its direction, of unit length.
        shape: height and width of the picture.
        pixel: side of a pixel in millimetres.
    """
    height, width = shape
    (ox, oy), (dx, dy) = origin.double().T, way.double().T
    steep = (dy.abs() >= dx.abs())[:, None]
    step = torch.arange(max(shape), dtype=torch.float64, device=origin.device)
    safe_x, safe_y = (torch.where(d == 0, 1.0, d)[:, None] for d in (dx, dy))
    ox, oy, dx, dy = ox[:, None], oy[:, None], dx[:, None], dy[:, None]
    row_y, column_x = ((height - 1) / 2 - step) * pixel, (step - (width - 1) / 2) * pixel
    at_column = (ox + (row_y - oy) * dx / safe_y) / pixel + (width - 1) / 2
    at_row = (height - 1) / 2 - (oy + (column_x - ox) * dy / safe_x) / pixel
    across = torch.where(steep, at_column, at_row)
    steps, limit = torch.where(steep, height, width), torch.where(steep, width, height)
    lower = across.floor()
    share = across - lower
    length = pixel / torch.where(steep, dy.abs(), dx.abs())
    index = torch.stack([lower, lower + 1], -1)
    weight = torch.stack([1 - share, share], -1) * length[..., None]
    there = (index >= 0) & (index < limit[..., None]) & (step[:, None] < steps[..., None])
    index = torch.where(there, index, 0).long()
    at = torch.where(there, step[:, None], 0).long()
    pixels = torch.where(steep[..., None], at * width + index, index * width + at)
    return pixels, torch.where(there, weight, 0.0)


@dataclass(frozen=True, eq=False)
class Lines:
    """The lines of a scan.

    Args:
        origin: a point of each, by view and detector (v, d, 2), in millimetres.
        way: directions, of unit length.
        shape: height and width of the picture that they go through.
        pixel: side of its pixels in millimetres.
    """

    origin: Float[Tensor, " v d 2"]
    way: Float[Tensor, " v d 2"]
    shape: tuple[int, int]
    pixel: float

    @property
    def stored_bytes(self) -> int:
        """Upper bound of the bytes of `Stored`: two pixels a step, each a weight and an index."""
        views, detectors = self.origin.shape[:2]
        return views * detectors * 2 * max(self.shape) * (4 + 4) * 2

    def chunks(self, device: torch.device) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Chunks of views: their slice, their pixels (k d steps 2) and the pixels' weights."""
        for first in range(0, len(self.origin), VIEWS):
            views = slice(first, min(first + VIEWS, len(self.origin)))
            origin, way = (x[views].to(device).flatten(0, 1) for x in (self.origin, self.way))
            yield views, *joseph(origin, way, self.shape, self.pixel)


@dataclass(frozen=True, eq=False)
class Gathered:
    """Sums along lines with weights recomputed at each call: little memory, meant for a GPU.

    Args:
        lines: of the scan.
    """

    lines: Lines

    def forward(self, x: Float[Tensor, " n pixels"]) -> Float[Tensor, " n rays"]:
        """Sums along each line."""
        views, bins = self.lines.origin.shape[:2]
        y = x.new_empty(len(x), views, bins)
        for which, pixels, weights in self.lines.chunks(x.device):
            weights = weights.to(x)
            for row, out in zip(x, y, strict=True):
                out[which] = (row[pixels] * weights).sum((-1, -2)).unflatten(0, (-1, bins))
        return y.flatten(1)

    def adjoint(self, y: Float[Tensor, " n rays"]) -> Float[Tensor, " n pixels"]:
        """Every line's value added to its pixels by their weights."""
        views, bins = self.lines.origin.shape[:2]
        x, y = y.new_zeros(len(y), math.prod(self.lines.shape)), y.unflatten(1, (views, bins))
        for which, pixels, weights in self.lines.chunks(y.device):
            weights, flat = weights.to(y), pixels.flatten()
            for row, out in zip(y, x, strict=True):
                spread = row[which].flatten()[:, None, None] * weights
                out.index_add_(0, flat, spread.flatten())
        return x


@dataclass(frozen=True, eq=False)
class Stored:
    """Sums along lines by a sparse matrix and its transpose, made once: fastest on a CPU.

    Args:
        lines: of the scan.
    """

    lines: Lines
    _made: dict[torch.dtype, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def forward(self, x: Float[Tensor, " n pixels"]) -> Float[Tensor, " n rays"]:
        """Sums along each line."""
        return (self._matrices(x)[0] @ x.T).T

    def adjoint(self, y: Float[Tensor, " n rays"]) -> Float[Tensor, " n pixels"]:
        """Every line's value added to its pixels by their weights."""
        return (self._matrices(y)[1] @ y.T).T

    def _matrices(self, like: Tensor) -> tuple[Tensor, Tensor]:
        found = self._made.get(like.dtype)
        if found is None:
            found = self._made[like.dtype] = self._build(like.dtype)
        return found[0].to(like.device), found[1].to(like.device)

    def _build(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        from scipy import sparse

        bins, kind = (
            self.lines.origin.shape[1],
            np.float64 if dtype == torch.float64 else np.float32,
        )
        parts = []
        for which, pixels, weights in self.lines.chunks(torch.device("cpu")):
            rays = (which.stop - which.start) * bins
            row = torch.arange(rays)[:, None, None].expand_as(pixels)
            some = weights > 0
            entries = (
                weights[some].numpy().astype(kind),
                (row[some].numpy(), pixels[some].numpy()),
            )
            parts.append(sparse.csr_array(entries, shape=(rays, math.prod(self.lines.shape))))
        whole = sparse.vstack(parts, format="csr")
        return _tensor(whole), _tensor(whole.T.tocsr())


def _tensor(matrix: Any) -> Tensor:
    # 32-bit indices: less to read, and the only ones that torch gives to MKL without a copy.
    width = np.int32 if matrix.nnz < 2**31 else np.int64
    parts = [matrix.indptr.astype(width), matrix.indices.astype(width), matrix.data]
    rows, columns, values = map(torch.from_numpy, parts)
    with warnings.catch_warnings():  # torch says that its sparse tensors are new
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(
            rows, columns, values, size=matrix.shape, check_invariants=False
        )


class Through(torch.autograd.Function):
    """A linear map whose gradient is its adjoint, differentiable any number of times."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, ahead: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """`ahead` of x."""
        ctx.ahead, ctx.back = ahead, back
        return ahead(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """`back` of the gradient."""
        return Through.apply(grads[0], ctx.back, ctx.ahead), None, None  # pyright: ignore
