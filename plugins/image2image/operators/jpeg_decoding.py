"""JPEG files decoded to the smoothest image that they may have been made of.

A decoder takes the middle of every quantisation cell, which shows as ringing and block edges; a
model that learned from clean images takes these for detail and sharpens them.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from plugins.image2image.operators import jpeg

STEPS = 20
STEP, SHRINKS = 0.01, 0.98  # of the first step, in units of [-1, 1]; each is shorter
EDGE = 0.02  # gradients well below this are smoothed evenly, those above keep their edge
BAND, MARGIN = 1024, 64  # rows at a time, and those around that they see


def smoothest(file: jpeg.File) -> Float[Tensor, " 3 h w"]:
    """The image of least total variation with the file's quantised coefficients, nearly.

    Some steps of projected gradient descent from the decoded image, with the colours' gradients
    taken together.  Fine quantisation leaves no room, so that a file of high quality hardly
    changes.  The decoded image where not all of its coefficients are known.
    Source: Alter, Durand and Froment 2005, Adapted total variation for artifact free decompression
    of JPEG images, doi:10.1007/s10851-005-6467-9; the sum over channels after Blomgren and Chan
    1998, doi:10.1109/83.661180.
    """
    if file.notes:
        return file.decoded
    image = file.decoded.clone()
    height = image.shape[1]
    for start in range(0, height, BAND):
        end = min(height, start + BAND)
        top, bottom = max(0, start - MARGIN), min(height, end + MARGIN)
        found = _smoothed(file, top, bottom)
        image[:, start:end] = found[:, start - top : end - top]
    return image


def _smoothed(file: jpeg.File, top: int, bottom: int) -> Float[Tensor, " 3 h w"]:
    """Rows of the smoothest image; the first and the last begin and end blocks."""
    down = file.decoded.shape[1] // file.chroma.shape[1]
    luma = file.luma[None, :, top:bottom]
    chroma = file.chroma[None, :, top // down : bottom // down]
    x, step = file.decoded[None, :, top:bottom], STEP
    for _ in range(STEPS):
        x = jpeg.project(x + step * _curvature(x), file.tables[None], luma, chroma)
        step *= SHRINKS
    return x[0]


def _curvature(x: Float[Tensor, " b c h w"]) -> Float[Tensor, " b c h w"]:
    """div(grad x / |grad x|), the direction in which total variation falls fastest."""
    across = F.pad(x.diff(dim=-1), (0, 1))
    down = F.pad(x.diff(dim=-2), (0, 0, 0, 1))
    length = (across.square() + down.square()).sum(1, keepdim=True).add(EDGE**2).sqrt()
    across, down = across / length, down / length
    before = F.pad(across[..., :-1], (1, 0)) + F.pad(down[..., :-1, :], (0, 0, 1, 0))
    return across + down - before
