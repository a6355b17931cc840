"""Pixels of images for tests of files: of 8 and 16 bits, and of a photograph."""

import numpy as np
from PIL import ImageCms
from skimage import data as photographs

RNG = np.random.default_rng(0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RGB8 = RNG.integers(0, 256, (13, 17, 3), dtype=np.uint8)
RGB16 = RNG.integers(0, 65536, (13, 17, 3), dtype=np.uint16)
RGBA16 = RNG.integers(0, 65536, (13, 17, 4), dtype=np.uint16)


def pixels(height, width, at=50):
    return photographs.coffee()[at : at + height, at : at + width].copy()


def integers(picture):
    """Back to the file's integers, in float64 so that nothing of the reader's rounding is used."""
    top = 2**picture.depth - 1
    planes = [(picture.pixels.double().numpy() + 1) / 2]
    if picture.alpha is not None:
        planes.append(picture.alpha.double().numpy())
    return np.rint(np.moveaxis(np.concatenate(planes), 0, -1) * top).astype(int)
