"""Files of tensors that stand alone: sealed, whole or absent, swept up after."""

import os

import pytest
import torch

from core.errors import InputError, StorageError
from core.storage import tensor_file

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "none": torch.zeros(0),
    "yes": torch.tensor(True),
}


def same(found, wanted):
    return found.keys() == wanted.keys() and all(
        torch.equal(found[name], value) and found[name].dtype == value.dtype
        for name, value in wanted.items()
    )


def test_what_was_saved_is_loaded_and_replaced_whole(tmp_path):
    file = tmp_path / "new" / "x.safetensors"
    tensor_file.save(file, TENSORS)
    assert same(tensor_file.load(file), TENSORS)
    tensor_file.save(file, {"b": torch.ones(2)})
    assert same(tensor_file.load(file), {"b": torch.ones(2)})
    assert os.listdir(file.parent) == ["x.safetensors"]


def test_every_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    """All of them.  Padding and the seal's own field may change and the tensors stay."""
    file = tmp_path / "x.safetensors"
    tensor_file.save(file, TENSORS)
    data, noticed = file.read_bytes(), 0
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        try:
            assert same(tensor_file.load(file), TENSORS)
        except InputError as error:
            assert str(error).startswith(f"{file}: cannot be read")  # noqa: PT017
            noticed += 1
    assert noticed > 0.9 * 8 * len(data)


def test_a_file_without_a_seal_is_refused(tmp_path):
    tensor_file.write(tmp_path / "x.safetensors", TENSORS)
    with pytest.raises(InputError, match="not None; remove it to go without"):
        tensor_file.load(tmp_path / "x.safetensors")


def test_names_types_and_shapes_are_part_of_the_seal():
    """By hand: the same bytes under another name, of another type, in another shape."""
    zero = {"a": torch.zeros(2, 2)}
    others = [
        {"b": torch.zeros(2, 2)},
        {"a": torch.zeros(2, 2, dtype=torch.int32)},
        {"a": torch.zeros(4)},
        {"a": torch.zeros(2), "b": torch.zeros(2)},
    ]
    assert len({tensor_file.seal(tensors) for tensors in (zero, *others)}) == 5
    turned = torch.arange(4.0).reshape(2, 2).T.contiguous()
    assert tensor_file.seal({"a": turned}) != tensor_file.seal({"a": turned.T.contiguous()})


def test_a_save_that_fails_is_one_line_and_leaves_the_old_one(tmp_path, monkeypatch):
    file = tmp_path / "x.safetensors"
    tensor_file.save(file, TENSORS)

    def full(*_):
        raise tensor_file.SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(tensor_file, "save_file", full)
        with pytest.raises(StorageError) as failed:
            tensor_file.save(file, {"a": torch.ones(5)})
    said = str(failed.value)
    assert said.startswith(
        f"{file}: cannot be written: No space left on device; it needs about 4,096 bytes"
    )
    assert said.endswith("make room and run the same command again")
    assert "\n" not in said
    assert same(tensor_file.load(file), TENSORS)
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_leftovers_of_the_dead_are_swept_up_and_nothing_else(tmp_path):
    for name in (".writing-1-ab", ".tmpAb3dEf", ".template", "other"):
        (tmp_path / name).write_bytes(b"x")
    tensor_file.save(tmp_path / "x.safetensors", TENSORS)
    assert sorted(os.listdir(tmp_path)) == [".template", "other", "x.safetensors"]


# Bits of a NaN or infinity: of "fn" all ones, of "fnuz" the sign alone, of e5m2 its infinity.
@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        ("float8_e4m3fn", 0x7F), ("float8_e4m3fnuz", 0x80), ("float8_e5m2", 0x7C),
        ("float8_e5m2fnuz", 0x80), ("float4_e2m1fn_x2", None),
    ],
)  # fmt: skip
def test_formats_of_8_bits_and_less_are_looked_at(kind, bits):
    values = torch.tensor([0, 1], dtype=torch.uint8)
    assert tensor_file.not_finite({"a": values.view(getattr(torch, kind))}) == ""
    if bits is not None:
        values[1] = bits
        found = tensor_file.not_finite({"a": values.view(getattr(torch, kind))})
        assert found == "'a' has 1 of 2 values NaN or infinite"
