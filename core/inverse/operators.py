"""Linear operators of the core: masks, matrices, block averages, weighted measurements."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Inexact, Shaped
from torch import Tensor

from core.errors import InputError
from core.inverse.measurement import LinearOperator


@dataclass(frozen=True)
class Weighted:
    """`w A`: measurements of unequal noise scaled to noise of one standard deviation.

    Args:
        operator: A.
        weights: w, inverse to the standard deviation of each measurement, of a shape that
            broadcasts over them.
    """

    operator: LinearOperator
    weights: Float[Tensor, "..."]

    def forward(self, x: Float[Tensor, " b *shape"]) -> Inexact[Tensor, " b *measured"]:
        """`w A x`."""
        y = self.operator.forward(x)
        return self.weights.to(y) * y

    def adjoint(self, y: Inexact[Tensor, " b *measured"]) -> Float[Tensor, " b *shape"]:
        """`A* w y`."""
        return self.operator.adjoint(self.weights.to(y) * y)


@dataclass(frozen=True)
class Mask:
    """`y = m x` in the shape of x: known elements kept, the others zero; its own pseudo-inverse.

    Args:
        mask: m, ones and zeros, of a shape that broadcasts over x.

    Raises:
        InputError: an element that is neither one nor zero.
    """

    mask: Shaped[Tensor, "..."]

    def __post_init__(self) -> None:
        if not bool(((self.mask == 0) | (self.mask == 1)).all()):
            raise InputError("mask: expected ones (known) and zeros only")

    def forward(self, x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        """The known elements of x."""
        return self.mask.to(x) * x

    def adjoint(self, y: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        """The known elements of y, zeros elsewhere."""
        return self.mask.to(y) * y

    def pseudo_inverse(self, y: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        """The known elements of y, zeros elsewhere."""
        return self.mask.to(y) * y


@dataclass(frozen=True)
class Matrix:
    """A dense matrix on flattened real samples; for small problems and for tests.

    A complex matrix gives complex measurements; over real samples its adjoint is Re(A^H y).

    Args:
        matrix: m rows, one column for each element of a sample.
        shape: of a sample.

    Raises:
        InputError: the matrix has not as many columns as a sample has elements.
    """

    matrix: Inexact[Tensor, " m n"]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if torch.Size(self.shape).numel() != self.matrix.shape[1]:
            raise InputError(
                f"shape: expected {self.matrix.shape[1]} elements, as the matrix has columns, got "
                f"{self.shape}"
            )

    @cached_property
    def _rows(self) -> Tensor:
        """The matrix over the reals: real rows, then imaginary ones."""
        return torch.cat([self.matrix.real, self.matrix.imag]) if self._complex else self.matrix

    @cached_property
    def _inverse(self) -> Tensor:
        return torch.linalg.pinv(self._rows)

    @property
    def _complex(self) -> bool:
        return self.matrix.is_complex()

    def forward(self, x: Float[Tensor, " b *shape"]) -> Inexact[Tensor, " b m"]:
        """A x."""
        # One product a row: a product with a batch may round otherwise.
        y = torch.stack([self._rows.to(x) @ row for row in x.flatten(1)])
        return torch.complex(*y.chunk(2, dim=1)) if self._complex else y

    def adjoint(self, y: Inexact[Tensor, " b m"]) -> Float[Tensor, " b *shape"]:
        """A* y, real."""
        return self._back(self._rows.T, y)

    def pseudo_inverse(self, y: Inexact[Tensor, " b m"]) -> Float[Tensor, " b *shape"]:
        """The real x of least norm among those nearest to y."""
        return self._back(self._inverse, y)

    def _back(self, matrix: Tensor, y: Tensor) -> Tensor:
        parts = torch.cat([y.real, y.imag], dim=1) if self._complex else y
        rows = [matrix.to(row) @ row for row in parts]
        return torch.stack(rows).reshape(len(y), *self.shape)


@dataclass(frozen=True, kw_only=True)
class Average:
    """Means of square blocks over the last two axes; the low pass of ILVR.

    Args:
        factor: side of a block; both axes are multiples of it.

    Raises:
        InputError: a factor below 1.
    """

    factor: int = 4

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise InputError(f"factor: expected at least 1, got {self.factor}")

    def forward(self, x: Float[Tensor, " b *axes h w"]) -> Float[Tensor, " b *axes y x"]:
        """The mean of every block.

        Raises:
            InputError: a side is not a multiple of the factor.
        """
        height, width = x.shape[-2:]
        if height % self.factor or width % self.factor:
            raise InputError(
                f"{height}x{width} has no blocks of side {self.factor}; crop its sides to "
                "multiples of it"
            )
        return x.unflatten(-1, (-1, self.factor)).unflatten(-3, (-1, self.factor)).mean((-3, -1))

    def adjoint(self, y: Float[Tensor, " b *axes y x"]) -> Float[Tensor, " b *axes h w"]:
        """Every mean spread over its block."""
        return self.pseudo_inverse(y) / self.factor**2

    def pseudo_inverse(self, y: Float[Tensor, " b *axes y x"]) -> Float[Tensor, " b *axes h w"]:
        """Every mean repeated over its block."""
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)
