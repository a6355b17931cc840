"""Checkpoints survive crashes at any point, damage of any byte, and name what they pass over."""

import hashlib
import json
import os

import pytest
import torch

from core import checkpoint
from core.checkpoint import CheckpointError, load, save
from core.errors import StorageError

TENSORS = {
    "model": {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)},
    "ema": {"a": torch.ones(2, 3)},
}


def test_what_was_saved_is_loaded(tmp_path):
    save(tmp_path, 7, TENSORS, {"note": "x"})
    found = load(tmp_path)
    assert found.step == 7
    assert found.state["note"] == "x"
    for group, named in TENSORS.items():
        for name, value in named.items():
            assert torch.equal(found.tensors[group][name], value)
    assert load(tmp_path, groups=("ema",)).tensors.keys() == {"ema"}
    assert load(found.path).step == 7


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, TENSORS, {}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


FILES = ["model.safetensors", "ema.safetensors", "state.json", "MANIFEST.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("cut", [0, 1, 0.5, -1])
def test_a_truncated_file_falls_back_to_the_previous_whole_one_and_says_so(tmp_path, name, cut):
    save(tmp_path, 1, TENSORS, {})
    file = save(tmp_path, 2, TENSORS, {}) / name
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * cut) if isinstance(cut, float) else cut])
    found = load(tmp_path)
    assert found.step == 1
    assert "step-00000002" in found.passed_over[0]
    assert name in found.passed_over[0]


@pytest.mark.parametrize("name", FILES[:3])
def test_every_flipped_bit_is_noticed(tmp_path, name):
    file = save(tmp_path, 1, TENSORS, {}) / name
    data = bytearray(file.read_bytes())
    for place in range(0, len(data), max(1, len(data) // 64)):
        data[place] ^= 1
        file.write_bytes(data)
        with pytest.raises(CheckpointError, match=f"{name} is not what was written"):
            load(tmp_path)
        data[place] ^= 1


def change_manifest(folder, **changes):
    """Write a manifest as a program would that knows how: with the seal of its new contents."""
    said = {**json.loads((folder / "MANIFEST.json").read_text()), **changes}
    said.pop("sha256", None)
    seal = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    (folder / "MANIFEST.json").write_text(json.dumps({**said, "sha256": seal}))


def test_a_missing_file_is_noticed_and_a_future_format_is_refused(tmp_path):
    folder = save(tmp_path, 1, TENSORS, {})
    (folder / "ema.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"ema\.safetensors is missing; train again"):
        load(tmp_path)
    folder = save(tmp_path, 1, TENSORS, {})
    change_manifest(folder, format=99)
    with pytest.raises(CheckpointError, match="format 99, this version reads 2"):
        load(tmp_path)


def test_a_manifest_cannot_name_files_elsewhere(tmp_path):
    folder = save(tmp_path, 1, TENSORS, {})
    files = json.loads((folder / "MANIFEST.json").read_text())["files"]
    change_manifest(folder, files={**files, "../../etc/hostname": [1, "x"]})
    with pytest.raises(CheckpointError, match="outside the checkpoint"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "none", "does not exist"),
        (lambda p: (p / "file").write_text("x") and p / "file", "is a file"),
        (lambda p: p, "no checkpoint in this folder"),
    ],
)
def test_a_place_without_checkpoints_is_one_sentence(tmp_path, make, words):
    with pytest.raises(CheckpointError, match=words):
        load(make(tmp_path))


def test_a_save_that_fails_leaves_nothing_behind_and_says_what_is_whole(tmp_path, monkeypatch):
    save(tmp_path, 1, TENSORS, {})

    def die(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Path, "rename", die)
        with pytest.raises(StorageError) as failed:
            save(tmp_path, 2, TENSORS, {})
    said = str(failed.value)
    size = 2 * 24 + 8 + len('{\n "step": 2\n}')
    assert f"{tmp_path}/step-00000002: cannot be written: No space left on device" in said
    assert f"it needs {size} bytes" in said
    assert "step-00000001 is whole" in said
    assert "\n" not in said
    assert os.listdir(tmp_path) == ["step-00000001"]
