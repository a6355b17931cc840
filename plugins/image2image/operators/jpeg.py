"""JPEG files as measurements: what their bytes say of each coefficient, and the nearest image.

A file says of every 8x8 block's cosine coefficients which multiple of the quantisation
step is nearest, so the image it was made of lies in a box that is known exactly.
Source: ITU-T T.81 (1992), annexes A and F; colours after JFIF 1.02.
"""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from core.network.layers import pad_to_multiple
from plugins.image2image.operators import coefficients
from plugins.image2image.operators.coefficients import BLOCK, Stored

QUALITIES = (5, 30)  # of training files, after Palette
TO_YCC = torch.tensor(
    [
        [0.299, 0.587, 0.114],
        [-0.168735892, -0.331264108, 0.5],
        [0.5, -0.418687589, -0.081312411],
    ],
    dtype=torch.float64,
)


def quality(seed: float) -> int:
    """A quality of 5 to 30 with P(q) ~ exp(-q / 10), from a uniform number in [0, 1).

    Source: Saharia et al. 2022 (Palette), arXiv:2111.05826, appendix B.
    """
    least, most = QUALITIES
    falls = [math.exp(-q / 10) for q in range(least, most + 1)]
    return least + int(np.searchsorted(np.cumsum(falls) / sum(falls), seed, side="right"))


def dct(x: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b h w"]:
    """Orthonormal cosine coefficients of each 8x8 block, in its place; sides multiples of 8."""
    return _blockwise(x, _basis(x))


def inverse_dct(c: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b h w"]:
    """The blocks with these coefficients."""
    return _blockwise(c, _basis(c).T)


def _basis(x: Tensor) -> Tensor:
    k, n = torch.meshgrid(torch.arange(BLOCK), torch.arange(BLOCK), indexing="ij")
    rows = torch.cos(math.pi * k.double() * (2 * n + 1) / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    rows[0] /= math.sqrt(2)
    return rows.to(x)


def _blockwise(x: Tensor, rows: Tensor) -> Tensor:
    *_, height, width = x.shape
    blocks = x.unflatten(-1, (width // BLOCK, BLOCK)).unflatten(-3, (height // BLOCK, BLOCK))
    turned = torch.einsum("ki,...yixj,lj->...ykxl", rows, blocks, rows)
    return turned.flatten(-2).flatten(-3, -2)


@dataclass(frozen=True)
class File:
    """What a JPEG file says of the image it was made of.

    Sides are multiples of 16, or of 32 where chroma is stored at a quarter.  What is not known is
    not a number: blocks beyond the image's edge, and components that are not used.

    Args:
        decoded: the image as Pillow decodes it (3, h, w), in [-1, 1].
        tables: quantisation steps of luma, Cb and Cr (3, 8, 8).
        luma: multiples of the steps, whole numbers (1, h, w).
        chroma: those of Cb and Cr (2, h / n, w / m), n and m the subsampling of each axis.
        notes: what of the file is not used, one sentence each, for the user.
    """

    decoded: Float[Tensor, " 3 h w"]
    tables: Float[Tensor, " 3 8 8"]
    luma: Float[Tensor, " 1 h w"]
    chroma: Float[Tensor, " 2 y x"]
    notes: tuple[str, ...] = ()


def encode(image: Float[Tensor, " 3 h w"], quality: int) -> File:
    """The file that Pillow writes of an image in [-1, 1], with 4:2:0 colours."""
    levels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        file.flush()
        stored = coefficients.decode(Path(file.name))
        shown = np.array(Image.open(file, formats=["JPEG"]))
    return _laid_out(torch.from_numpy(shown).permute(2, 0, 1).float() / 127.5 - 1, stored)


def understood(data: bytes, decoded: Float[Tensor, " 3 h w"]) -> File:
    """What a whole file says, beside what it was decoded to, as it lies in the file."""
    try:
        stored = coefficients.read(data, decoded[0].numel())
        return _laid_out(decoded, stored)
    except (ValueError, LookupError, TypeError, OSError):  # of a hostile file, or of none that fits
        said = "the file's coefficients cannot be used; the result is not held to them"
        padded = pad_to_multiple(decoded[None], (2 * BLOCK, 2 * BLOCK))[0]
        luma = torch.full_like(padded[:1], torch.nan)
        tables = torch.ones(3, BLOCK, BLOCK)
        return File(padded, tables, luma, luma[:, ::2, ::2].repeat(2, 1, 1), (said,))


def _laid_out(decoded: Float[Tensor, " 3 h w"], stored: Stored) -> File:
    """Coefficients in the places of their blocks, with sides that every component divides.

    Raises:
        ValueError: components of other sizes than the image's.
    """
    sides = decoded.shape[-2:]
    most = tuple(map(max, zip(*stored.factors, strict=True)))
    for part, factors in zip(stored.components, stored.factors, strict=True):
        counts = zip(sides, factors, most, strict=True)
        shape = tuple(-(-side * n // (BLOCK * m)) * BLOCK for side, n, m in counts)
        if part.shape != shape or stored.factors[0] != most:
            raise ValueError("its header contradicts itself")  # or luma is not the largest
    ratio, notes = _subsampling(stored)
    padded = pad_to_multiple(decoded[None], tuple(BLOCK * max(2, n) for n in ratio))[0]
    high, wide = padded.shape[-2:]
    tables = torch.ones(3, BLOCK, BLOCK)
    tables[: len(stored.tables)] = torch.from_numpy(stored.tables)
    luma = _padded(stored.components[:1], 1, high, wide)
    colours = () if notes else stored.components[1:]
    chroma = _padded(colours, 2, high // ratio[0], wide // ratio[1])
    return File(padded, tables, luma, chroma, notes)


def _subsampling(stored: Stored) -> tuple[tuple[int, int], tuple[str, ...]]:
    """How many rows and columns of the image one of chroma has, and a note where it is not used."""
    (down, across), *rest = stored.factors
    if not rest:
        return (2, 2), ()
    y, x = rest[0]
    if rest[0] == rest[1] and down % y == 0 and across % x == 0:
        return (down // y, across // x), ()
    said = "the file's colours are stored at an uneven ratio; the result is held to its luma alone"
    return (2, 2), (said,)


def _padded(
    components: Sequence[np.ndarray], count: int, high: int, wide: int
) -> Float[Tensor, " n h w"]:
    """Components with what lies beyond their blocks, and components that there are not, unknown."""
    result = torch.full((count, high, wide), torch.nan)
    for place, part in zip(result, components, strict=False):
        place[: part.shape[0], : part.shape[1]] = torch.from_numpy(part)
    return result


def tiled(table: Float[Tensor, "*b 8 8"], height: int, width: int) -> Float[Tensor, "*b h w"]:
    """A table of steps laid under every block of an image."""
    return table.repeat(*[1] * (table.ndim - 2), height // BLOCK, width // BLOCK)


def project(
    image: Float[Tensor, " b 3 h w"],
    tables: Float[Tensor, " b 3 8 8"],
    luma: Float[Tensor, " b 1 h w"],
    chroma: Float[Tensor, " b 2 y x"],
) -> Float[Tensor, " b 3 h w"]:
    """The nearest image whose coefficients a file with these would hold, as far as it says.

    Luma is projected exactly; chroma, where it is subsampled, so that the means of the pixels that
    share a sample are, each of which moves its pixels alike.  The result may leave [-1, 1].
    """
    turn = TO_YCC.to(image)
    down, across = (image.shape[axis] // chroma.shape[axis] for axis in (-2, -1))
    levels = (image + 1) * 127.5
    y, colours = torch.einsum("ij,bjhw->bihw", turn, levels).split([1, 2], dim=1)
    y = _into_box(y - 128, luma, tables[:, :1]) + 128
    low = F.avg_pool2d(colours, (down, across))
    moved = _into_box(low, chroma, tables[:, 1:]) - low
    colours = colours + moved.repeat_interleave(across, -1).repeat_interleave(down, -2)
    back = torch.linalg.inv(TO_YCC).to(image)
    return torch.einsum("ij,bjhw->bihw", back, torch.cat([y, colours], dim=1)) / 127.5 - 1


def _into_box(x: Tensor, multiples: Tensor, tables: Tensor) -> Tensor:
    steps, found = tiled(tables, *x.shape[-2:]), dct(x)
    held = found.clamp((multiples - 0.5) * steps, (multiples + 0.5) * steps)
    return inverse_dct(torch.where(multiples.isnan(), found, held))
