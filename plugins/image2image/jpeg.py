"""JPEG files as measurements: what their bytes say of each coefficient, and the nearest picture.

A baseline file says of every 8x8 block's cosine coefficients which multiple of the quantisation
step is nearest, so the picture it was made of lies in a box that is known exactly.
Source: ITU-T T.81 (1992), annexes A and F; colours after JFIF 1.02.
"""

import math
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor
from torch.nn import functional as F

BLOCK = 8
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
    """What a baseline JPEG file with 4:2:0 colours holds.

    Args:
        decoded: the picture as Pillow decodes it (3, h, w), in [-1, 1].
        tables: quantisation steps of luma and of chroma (2, 8, 8).
        luma: multiples of the steps, whole numbers (1, h, w).
        chroma: those of Cb and Cr, at half the size (2, h / 2, w / 2).
    """

    decoded: Float[Tensor, " 3 h w"]
    tables: Float[Tensor, " 2 8 8"]
    luma: Float[Tensor, " 1 h w"]
    chroma: Float[Tensor, " 2 y x"]


def encode(image: Float[Tensor, " 3 h w"], quality: int) -> File:
    """The file that Pillow writes of a picture in [-1, 1] whose sides are multiples of 16.

    Coefficients are read from decoded components, before colours are turned and enlarged: the
    luma at full size, the chroma at half, where the decoder gives it as it is stored.  Rounding to
    whole levels moves a coefficient by far less than half a step.
    """
    levels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    buffer = BytesIO()
    Image.fromarray(levels).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    height, width = levels.shape[:2]

    def opened() -> JpegImageFile:
        return JpegImageFile(BytesIO(buffer.getvalue()))

    file = opened()
    steps = [file.quantization[0], file.quantization[1]]
    tables = torch.tensor(steps, dtype=torch.float32).reshape(2, BLOCK, BLOCK)
    decoded = torch.from_numpy(np.array(file)).permute(2, 0, 1).float() / 127.5 - 1
    whole, half = (_components(opened(), width // n, height // n) for n in (1, 2))
    luma = (dct(whole[:1] - 128) / tiled(tables[:1], height, width)).round()
    chroma = (dct(half[1:] - 128) / tiled(tables[1:], height // 2, width // 2)).round()
    return File(decoded, tables, luma, chroma)


def _components(file: JpegImageFile, width: int, height: int) -> Tensor:
    """Y, Cb and Cr as the decoder gives them at a size, in levels (3, height, width)."""
    file.draft("YCbCr", (width, height))
    return torch.from_numpy(np.array(file)).permute(2, 0, 1).float()


def tiled(table: Float[Tensor, "*b 8 8"], height: int, width: int) -> Float[Tensor, "*b h w"]:
    """A table of steps laid under every block of a picture."""
    return table.repeat(*[1] * (table.ndim - 2), height // BLOCK, width // BLOCK)


def project(
    image: Float[Tensor, " b 3 h w"],
    tables: Float[Tensor, " b 2 8 8"],
    luma: Float[Tensor, " b 1 h w"],
    chroma: Float[Tensor, " b 2 y x"],
) -> Float[Tensor, " b 3 h w"]:
    """The nearest picture whose coefficients a file with these would hold.

    Luma is projected exactly; chroma so that its means over 2x2 pixels are, each of which moves
    its four pixels alike.  The result may leave [-1, 1].
    """
    turn = TO_YCC.to(image)
    levels = (image + 1) * 127.5
    y, colours = torch.einsum("ij,bjhw->bihw", turn, levels).split([1, 2], dim=1)
    height, width = image.shape[-2:]
    y = _into_box(y - 128, luma, tiled(tables[:, :1], height, width)) + 128
    low = F.avg_pool2d(colours, 2)
    moved = _into_box(low, chroma, tiled(tables[:, 1:], height // 2, width // 2)) - low
    colours = colours + moved.repeat_interleave(2, -1).repeat_interleave(2, -2)
    back = torch.linalg.inv(TO_YCC).to(image)
    return torch.einsum("ij,bjhw->bihw", back, torch.cat([y, colours], dim=1)) / 127.5 - 1


def _into_box(x: Tensor, multiples: Tensor, steps: Tensor) -> Tensor:
    low, high = (multiples - 0.5) * steps, (multiples + 0.5) * steps
    return inverse_dct(dct(x).clamp(low, high))
