"""JPEG files as measurements: what their bytes say of each coefficient, and the nearest image.

A file says of every 8x8 block's cosine coefficients which multiple of the quantisation
step is nearest, so the image it was made of lies in a box that is known exactly.
Source: ITU-T T.81 (1992), annexes A and F; colours after JFIF 1.02.
"""

import math
from dataclasses import dataclass
from io import BytesIO
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor
from torch.nn import functional as F

from core.network.layers import pad_to_multiple

BLOCK = 8
QUALITIES = (5, 30)  # of training files, after Palette
CUT_ROUNDS = 20  # at most, to find what the decoder cut off
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
    """What a JPEG file says of the image it was made of; sides are multiples of 16.

    What is not known is not a number: blocks that the image's edge cuts, blocks in which the
    decoder cut values off and they cannot be told, and components that are not used.

    Args:
        decoded: the image as Pillow decodes it (3, h, w), in [-1, 1].
        tables: quantisation steps of luma, Cb and Cr (3, 8, 8).
        luma: multiples of the steps, whole numbers (1, h, w).
        chroma: those of Cb and Cr (2, h / n, w / n), n = 1 for 4:4:4 and else 2.
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
    buffer = BytesIO()
    Image.fromarray(levels).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    data = buffer.getvalue()
    decoded = torch.from_numpy(np.array(_opened(data))).permute(2, 0, 1).float() / 127.5 - 1
    return understood(data, decoded)


def understood(data: bytes, decoded: Float[Tensor, " 3 h w"]) -> File:
    """What a whole file says, beside what it was decoded to, as it lies in the file.

    Coefficients are read from decoded components, before colours are turned and enlarged: the
    luma at full size, chroma where the decoder gives it as it is stored, at full size for 4:4:4 and
    at half for 4:2:0.  Rounding to whole levels moves a coefficient by about 0.3, so that multiples
    are exact where steps are 3 or more, and at most 2 away otherwise.
    """
    high, wide = (-(-side // (2 * BLOCK)) * 2 * BLOCK for side in decoded.shape[-2:])
    parts = _parts(data, *decoded.shape[-2:])
    ratio = 1 if parts.chroma is not None and parts.chroma.shape == decoded[1:].shape else 2
    luma = torch.full((1, high, wide), torch.nan)
    chroma = torch.full((2, high // ratio, wide // ratio), torch.nan)
    return File(
        pad_to_multiple(decoded[None], (2 * BLOCK, 2 * BLOCK))[0],
        parts.tables,
        _multiples(parts.luma, parts.tables[:1], luma),
        _multiples(parts.chroma, parts.tables[1:], chroma),
        parts.notes,
    )


class _Parts(NamedTuple):
    """A file's steps, and the components that can be used, in levels as they are stored."""

    tables: Float[Tensor, " 3 8 8"]
    luma: Float[Tensor, " 1 h w"] | None = None
    chroma: Float[Tensor, " 2 y x"] | None = None
    notes: tuple[str, ...] = ()


def _parts(data: bytes, height: int, width: int) -> _Parts:
    tables = torch.ones(3, BLOCK, BLOCK)
    try:
        file = _opened(data)
        found = [file.quantization[table] for *_, table in file.layer][:3]
        tables[: len(found)] = torch.tensor(found).reshape(-1, BLOCK, BLOCK)
        whole = _components(data, width, height)
        if whole.shape[1:] != (height, width):
            raise ValueError("its header contradicts itself")
        if len(whole) == 1:
            return _Parts(tables, whole)
        (across, down), *rest = ((across, down) for _, across, down, _ in file.layer)
        if all(factors == (across, down) for factors in rest):
            return _Parts(tables, whole[:1], whole[1:])
        if all((across, down) == (2 * x, 2 * y) for x, y in rest):
            if min(high := height // 2, wide := width // 2) < BLOCK:
                return _Parts(tables, whole[:1])
            half = _components(data, wide, high)[1:, :high, :wide]  # without what the edge halves
            return _Parts(tables, whole[:1], half)
    except Exception:  # noqa: BLE001  (hostile headers meet Pillow with any exception there is)
        said = "the file's coefficients cannot be used; the result is not held to them"
        return _Parts(tables, notes=(said,))
    said = "the file's colours are neither 4:4:4 nor 4:2:0; the result is held to its luma alone"
    return _Parts(tables, whole[:1], notes=(said,))


def _opened(data: bytes) -> JpegImageFile:
    return JpegImageFile(BytesIO(data))


def _components(data: bytes, width: int, height: int) -> Float[Tensor, " n y x"]:
    """Y, Cb and Cr, or Y alone, as the decoder gives them at a size, in levels.

    Raises:
        ValueError: the file's components are others.
        OSError: the decoder does not give them.
    """
    file = _opened(data)
    if file.mode not in ("L", "RGB"):
        raise ValueError(f"components of {file.mode}")
    if file.mode == "RGB":
        file.draft("YCbCr", (width, height))
    values = torch.from_numpy(np.array(file)).float()
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


def _multiples(
    levels: Float[Tensor, " n y x"] | None, tables: Float[Tensor, " n 8 8"], unknown: Tensor
) -> Float[Tensor, " n h w"]:
    """Of which multiples of the steps a component was made, in the place of what was unknown.

    Where the decoder cut values off at 0 or 255, what they were is what the multiples say, found
    in a few rounds; blocks whose multiples do not give the levels back stay unknown.
    """
    if levels is None or min(levels.shape[-2:]) < BLOCK:
        return unknown
    high, wide = (side // BLOCK * BLOCK for side in levels.shape[-2:])
    seen = levels[:, :high, :wide] - 128
    steps = tiled(tables, high, wide)
    whole, (multiples, said) = seen, _nearest(seen, steps)
    for _ in range(CUT_ROUNDS):
        cut = ((seen == 127) & (said > 127)) | ((seen == -128) & (said < -128))
        ahead = torch.where(cut, said, seen)
        if ahead.equal(whole):
            break
        whole, (multiples, said) = ahead, _nearest(ahead, steps)
    apart = (said.clamp(-128, 127) - seen).abs()
    wrong = (~(apart <= 1)).float()  # the decoder rounds to whole levels; steps of 0 say nothing
    wrong = F.max_pool2d(wrong[None], BLOCK)[0] > 0
    wrong = wrong.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)
    result = unknown.clone()
    result[:, :high, :wide] = multiples.masked_fill(wrong, torch.nan)
    return result


def _nearest(x: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """The multiples of the steps nearest to a component's, and the component that they give."""
    multiples = (dct(x) / steps).round()
    return multiples, inverse_dct(multiples * steps)


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

    Luma is projected exactly; chroma, where it is stored at half the size, so that its means over
    2x2 pixels are, each of which moves its four pixels alike.  The result may leave [-1, 1].
    """
    turn, ratio = TO_YCC.to(image), image.shape[-1] // chroma.shape[-1]
    levels = (image + 1) * 127.5
    y, colours = torch.einsum("ij,bjhw->bihw", turn, levels).split([1, 2], dim=1)
    y = _into_box(y - 128, luma, tables[:, :1]) + 128
    low = F.avg_pool2d(colours, ratio)
    moved = _into_box(low, chroma, tables[:, 1:]) - low
    colours = colours + moved.repeat_interleave(ratio, -1).repeat_interleave(ratio, -2)
    back = torch.linalg.inv(TO_YCC).to(image)
    return torch.einsum("ij,bjhw->bihw", back, torch.cat([y, colours], dim=1)) / 127.5 - 1


def _into_box(x: Tensor, multiples: Tensor, tables: Tensor) -> Tensor:
    steps, found = tiled(tables, *x.shape[-2:]), dct(x)
    held = found.clamp((multiples - 0.5) * steps, (multiples + 0.5) * steps)
    return inverse_dct(torch.where(multiples.isnan(), found, held))
