"""CIFAR-10's files as its page describes them, written here byte by byte."""

import hashlib
import os

import numpy as np
import pytest

from core.errors import InputError
from plugins.image2image.data.cifar import CIFAR10


@pytest.fixture
def root(tmp_path):
    random = np.random.default_rng(0)
    for number in range(1, 6):
        _write(tmp_path / f"data_batch_{number}.bin", random, 3)
    _write(tmp_path / "test_batch.bin", random, 2)
    return tmp_path


def _write(path, random, count):
    with path.open("wb") as file:
        for k in range(count):
            file.write(bytes([(k + 3) % 10]))
            file.write(random.integers(0, 256, 3072, dtype=np.uint8).tobytes())


def test_items_are_what_the_bytes_say(root):
    train, test = CIFAR10("train", root=root), CIFAR10("test", root=root)
    assert (len(train), len(test)) == (15, 2)
    record = (root / "data_batch_2.bin").read_bytes()[3073 : 2 * 3073]
    item = train[4]  # the second of the second file
    assert int(item["class"]) == record[0] == 4
    assert item["image"].shape == (3, 32, 32)
    for channel, row, column in ((0, 0, 0), (1, 5, 31), (2, 31, 7)):
        level = record[1 + channel * 1024 + row * 32 + column]
        assert float(item["image"][channel, row, column]) == pytest.approx(level / 127.5 - 1)
    assert train.name(4) == "train 4, a deer"
    assert test.digest() == hashlib.sha256((root / "test_batch.bin").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "test_batch.bin").unlink(), "cifar-10-batches-bin"),
        (lambda root: (root / "test_batch.bin").write_bytes(b""), "0 bytes are not a multiple"),
        (lambda root: (root / "test_batch.bin").write_bytes(b"x" * 3000), "3000 bytes"),
        (lambda root: (root / "test_batch.bin").write_bytes(b"\xff" * 3073), "class 255"),
    ],
)
def test_what_is_no_such_file_is_said(root, spoil, said):
    spoil(root)
    with pytest.raises(InputError, match=said):
        CIFAR10("test", root=root)
    with pytest.raises(InputError, match="expected train or test"):
        CIFAR10("all", root=root)


def test_a_pipe_is_not_waited_for(root):
    (root / "test_batch.bin").unlink()
    os.mkfifo(root / "test_batch.bin")
    with pytest.raises(InputError, match=r"test_batch\.bin: not a regular file"):
        CIFAR10("test", root=root)
