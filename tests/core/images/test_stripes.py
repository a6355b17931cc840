"""PNG and TIFF in stripes: the pixels and metadata that the whole file would have."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from PIL import Image

from core.errors import InputError
from core.images.pictures import Picture
from core.images.reading import read_picture
from core.images.stripes import write_stripes
from core.images.writing import write_picture


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("clear", [False, True])
def test_a_file_of_stripes_is_read_as_the_whole_one(tmp_path, suffix, depth, channels, clear):
    draw = torch.Generator().manual_seed(0)
    pixels = 2 * torch.rand((channels, 137, 29), generator=draw) - 1
    alpha = torch.rand((1, 137, 29), generator=draw) if clear else None
    whole = Picture(
        pixels, alpha=alpha, depth=depth, text=(("Author", "someone"),), dpi=(72.0, 72.0)
    )
    write_picture(tmp_path / f"whole.{suffix}", whole)
    ends = [0, 1, 70, 137]
    stripes = [
        replace(whole, pixels=pixels[:, a:b], alpha=None if alpha is None else alpha[:, a:b])
        for a, b in pairwise(ends)
    ]
    first = replace(whole, pixels=pixels[:, :3], alpha=None if alpha is None else alpha[:, :3])
    write_stripes(tmp_path / f"stripes.{suffix}", first, (137, 29), iter(stripes))
    one, other = (read_picture(tmp_path / f"{name}.{suffix}") for name in ("whole", "stripes"))
    assert torch.equal(one.pixels, other.pixels)
    assert (one.alpha is not None) == (other.alpha is not None) == clear
    if one.alpha is not None and other.alpha is not None:
        assert torch.equal(one.alpha, other.alpha)
    assert (one.depth, one.text, one.dpi) == (other.depth, other.text, other.dpi)
    with Image.open(tmp_path / f"stripes.{suffix}") as image:  # by another decoder, checksums too
        image.verify()


def test_a_file_that_fails_half_way_is_not_there(tmp_path):
    def broken():
        yield Picture(torch.zeros(3, 4, 5))
        raise InputError("no more")

    like = Picture(torch.zeros(3, 8, 5))
    with pytest.raises(InputError, match="no more"):
        write_stripes(tmp_path / "out.png", like, (8, 5), broken())
    with pytest.raises(InputError, match="only PNG and TIFF are written in stripes"):
        write_stripes(tmp_path / "out.jpg", like, (8, 5), broken())
    assert list(tmp_path.iterdir()) == []
