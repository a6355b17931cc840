"""Clips of moving digits: positions as stated, digits of one split, files of MNIST."""

import gzip
import struct

import numpy as np
import pytest
import torch

from core.errors import InputError
from plugins.video.data.balls import BouncingBalls
from plugins.video.data.digits import MovingDigits, read_idx
from plugins.video.tasks.figures import centroids


def idx(path, images):
    content = struct.pack(">I3I", 0x803, *images.shape) + images.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_the_centre_of_a_ball_is_where_the_item_says():
    item = BouncingBalls("test", count=3, size=24, frames=20)[2]
    stated = (item["centre"][0].double() + 1) * 12
    assert (centroids(item["clip"][None])[0] - stated).abs().max() < 0.05  # edges are about areas


@pytest.mark.slow
def test_a_digits_centre_of_mass_moves_as_the_item_says():
    item = MovingDigits("train", count=3)[1]
    moved = centroids(item["clip"][None])[0].diff(dim=0)
    assert (moved - 16 * item["centre"][0].double().diff(dim=0)).abs().max() < 1e-4
    assert (
        len({float(m) for m in (item["clip"].double() + 1).sum((0, 2, 3)).round(decimals=2)}) == 1
    )


def test_the_files_of_mnist_divide_into_splits(tmp_path):
    draw = np.random.default_rng(0)
    one, two = (draw.integers(0, 256, (n, 28, 28), dtype=np.uint8) for n in (10, 6))
    idx(tmp_path / "t10k-images-idx3-ubyte.gz", one)
    np.testing.assert_array_equal(
        read_idx(tmp_path / "t10k-images-idx3-ubyte.gz"), one.astype(np.float32) / 255
    )
    train, test = (
        MovingDigits(s, root=tmp_path, side=28, count=9)._digits for s in ("train", "test")
    )
    np.testing.assert_array_equal(np.concatenate([train, test]) * 255, one)
    assert len(train) == 8
    idx(tmp_path / "train-images.idx3-ubyte", two)
    assert len(MovingDigits("train", root=tmp_path, count=9)._digits) == 6
    assert len(MovingDigits("test", root=tmp_path, count=9)._digits) == 10


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x00\x00\x08\x01" + bytes(20), "expected an IDX file of images"),
        (struct.pack(">4I", 0x803, 9, 28, 28) + bytes(40), "expected 9 images of 28x28 pixels"),
        (struct.pack(">4I", 0x803, 1, 1, 1) + bytes(1), "expected 1 images of 1x1"),
    ],
)
def test_other_files_are_refused(tmp_path, content, says):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(InputError, match=says):
        MovingDigits("train", root=tmp_path)


def test_a_folder_without_digits_is_refused(tmp_path):
    with pytest.raises(InputError, match="the files of MNIST"):
        MovingDigits("train", root=tmp_path / "none")
    with pytest.raises(InputError, match="side: expected 4 to 15, got 16"):
        MovingDigits("train", size=16, side=16)


def test_stochastic_clips_begin_as_elastic_ones():
    """Until its first bounce a clip's motion does not depend on how it bounces."""
    same = [MovingDigits("test", count=4, bounces=b)[3]["clip"] for b in ("elastic", "random")]
    assert torch.equal(same[0][:, :2], same[1][:, :2])
    assert not torch.equal(same[0], same[1])
