"""Checkpoints survive crashes at any point, damage of any byte, and name what they pass over."""

import json
import os
import subprocess
import sys

import pytest
import torch

from core import checkpoint
from core.checkpoint import CheckpointError, load, save

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


def test_a_missing_file_is_noticed_and_a_future_format_is_refused(tmp_path):
    folder = save(tmp_path, 1, TENSORS, {})
    (folder / "ema.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"ema\.safetensors is missing; train again"):
        load(tmp_path)
    folder = save(tmp_path, 1, TENSORS, {})
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    (folder / "MANIFEST.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99, this version reads 1"):
        load(tmp_path)


def test_a_manifest_cannot_name_files_elsewhere(tmp_path):
    folder = save(tmp_path, 1, TENSORS, {})
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"]["../../etc/hostname"] = [1, "x"]
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
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


CRASH = """
import os, sys, torch, core.checkpoint as c
calls, dies = 0, int(sys.argv[2])
def counted(true):
    def call(*a, **k):
        global calls
        calls += 1
        if calls == dies: os._exit(9)
        result = true(*a, **k)
        calls += 1
        if calls == dies: os._exit(9)
        return result
    return call
for name in ("fsync", "rename", "mkdir", "open"):
    setattr(os, name, counted(getattr(os, name)))
c.save_file, c.shutil.rmtree = counted(c.save_file), counted(c.shutil.rmtree)
tensors = {g: {"a": torch.full((3,), 2.0)} for g in ("model", "ema")}
from pathlib import Path
c.save(Path(sys.argv[1]), 2, tensors, {}, keep=1)
"""


@pytest.mark.slow
def test_a_crash_at_any_point_of_saving_leaves_a_whole_checkpoint(tmp_path):
    """Death before and after every file operation; the reader finds the old one or the new."""
    for dies in range(1, 200):
        folder = tmp_path / str(dies)
        save(folder, 1, {g: {"a": torch.full((3,), 1.0)} for g in ("model", "ema")}, {})
        done = subprocess.run([sys.executable, "-c", CRASH, folder, str(dies)], check=False)
        found = load(folder)
        assert found.step in (1, 2)
        assert torch.equal(found.tensors["ema"]["a"], torch.full((3,), float(found.step)))
        if done.returncode == 0:
            assert dies > 20, "too few crash points were tried"
            return
    pytest.fail("saving never ended")


def test_a_crash_before_the_rename_is_invisible_and_is_swept_up(tmp_path, monkeypatch):
    save(tmp_path, 1, TENSORS, {})

    def die(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Path, "rename", die)
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, 2, TENSORS, {})
    assert load(tmp_path).step == 1
    assert [p for p in os.listdir(tmp_path) if p.startswith(".writing")]
    save(tmp_path, 2, TENSORS, {})
    assert not [p for p in os.listdir(tmp_path) if p.startswith(".writing")]
