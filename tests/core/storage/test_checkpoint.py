"""Checkpoints: what is saved is loaded, what is kept, what is said.  Crashes: tests/reliability."""

import collections
import hashlib
import json
import os
import shutil

import pytest
import torch

from core.errors import StorageError
from core.storage import checkpoint
from core.storage.checkpoint import CheckpointError, load, save

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
    assert names(tmp_path) == ["step-00000003", "step-00000004"]


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_steps_named_besides_are_kept_as_long_as_they_are_named(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, TENSORS, {}, keep=1, also=(2, 77))
    assert names(tmp_path) == ["step-00000002", "step-00000004"]
    save(tmp_path, 5, TENSORS, {}, keep=1)
    assert names(tmp_path) == ["step-00000005"]


def test_whole_later_steps_are_left_alone_and_damaged_ones_go(tmp_path):
    """Else the step that training went on from would be removed right after it was written."""
    for step in (10, 20, 30, 40):
        save(tmp_path, step, TENSORS, {}, keep=9)
    for step in (20, 30):
        (tmp_path / f"step-000000{step}/state.json").unlink()
    save(tmp_path, 15, TENSORS, {}, keep=1)
    assert names(tmp_path) == ["step-00000015", "step-00000040"]
    assert load(tmp_path, step=15).step == 15


def test_what_cannot_be_read_now_is_not_taken_for_damaged(tmp_path, monkeypatch):
    """A network file system that is ill for a moment costs no checkpoint."""
    for step in (1, 2):
        save(tmp_path, step, TENSORS, {})

    def ill(path):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_manifest", ill)
        with pytest.raises(CheckpointError, match="step-00000002: cannot be read: Stale file"):
            load(tmp_path)
        save(tmp_path, 1, TENSORS, {}, keep=1)
    assert load(tmp_path).step == 2


def test_steps_are_ordered_as_numbers_however_long(tmp_path):
    for step in (99_999_999, 100_000_000, 100_000_001):
        save(tmp_path, step, TENSORS, {}, keep=2)
    assert names(tmp_path) == ["step-100000000", "step-100000001"]
    assert load(tmp_path).step == 100_000_001


def test_documents_lie_beside_the_tensors_and_are_vouched_for(tmp_path):
    card = "# Modèle\n"
    folder = save(tmp_path, 1, TENSORS, {}, documents={"README.md": card})
    assert (folder / "README.md").read_bytes() == card.encode("utf-8")
    listed = json.loads((folder / "MANIFEST.json").read_text())["files"]
    expected = hashlib.sha256(card.encode()).hexdigest()
    assert listed["README.md"] == [len(card.encode()), expected]
    assert load(tmp_path).tensors.keys() == TENSORS.keys()


@pytest.mark.parametrize(
    "name", ["state.json", "MANIFEST.json", "model.safetensors", "../x", "a/b", "..", ""]
)
def test_a_document_cannot_take_anothers_place(tmp_path, name):
    with pytest.raises(ValueError, match="not a checkpoint"):
        save(tmp_path, 1, TENSORS, {}, documents={name: "x"})
    assert not names(tmp_path)


def test_a_step_is_found_by_its_number_and_no_other_instead(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path / "checkpoints", step, TENSORS, {"at": step}, keep=3)
    assert load(tmp_path, step=2).state["at"] == 2
    assert load(tmp_path / "checkpoints", step=1).state["at"] == 1
    with pytest.raises(CheckpointError, match="no checkpoint of step 7 in this folder"):
        load(tmp_path, step=7)
    (tmp_path / "checkpoints/step-00000002/model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"step-00000002: model.safetensors has 0 bytes"):
        load(tmp_path, step=2)


def test_groups_that_are_not_there_are_named(tmp_path):
    save(tmp_path, 1, TENSORS, {})
    with pytest.raises(CheckpointError, match="step-00000001: holds ema, model, not optimizer"):
        load(tmp_path, groups=("ema", "optimizer"))


def test_memory_formats_and_shared_memory_do_not_matter(tmp_path):
    """What numpy writes out in C order is what is stored, whatever the strides were."""
    plain = torch.arange(2.0 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    tensors = {
        "plain": plain,
        "channels_last": plain.to(memory_format=torch.channels_last),
        "transposed": plain.transpose(0, 3),
        "tied": plain,
        "part": plain[:1],
        "kernel": torch.ones(4, 3, 1, 1).to(memory_format=torch.channels_last),
        "bf16": plain.bfloat16(),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(plain),
    }
    file = save(tmp_path, 1, {"model": tensors}, {}) / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, values = json.loads(data[8 : 8 + length]), data[8 + length :]
    found = load(tmp_path).tensors["model"]
    for name, value in tensors.items():
        assert torch.equal(found[name], value)
        assert found[name].is_contiguous()
        if name != "bf16":
            start, end = header[name]["data_offsets"]
            assert values[start:end] == value.detach().numpy().tobytes(order="C")


def test_files_have_the_modes_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        folder = save(tmp_path, 1, TENSORS, {}, documents={"README.md": "x"})
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o640}
    assert folder.stat().st_mode & 0o777 == 0o750


def test_a_manifest_of_the_first_format_is_read(tmp_path):
    """It had no seal."""
    folder = save(tmp_path, 1, TENSORS, {"note": "x"})
    said = json.loads((folder / "MANIFEST.json").read_text())
    (folder / "MANIFEST.json").write_text(
        json.dumps({"format": 1, "step": 1, "files": said["files"]})
    )
    assert load(tmp_path).state["note"] == "x"


def test_a_run_that_replaces_its_checkpoints_is_read_meanwhile(tmp_path, monkeypatch):
    """All that the reader had seen are gone when it opens them."""
    save(tmp_path, 1, TENSORS, {}, keep=1)
    read, calls = checkpoint._read, []

    def slowly(path, groups):
        calls.append(path.name)
        if len(calls) == 1:
            save(tmp_path, 2, TENSORS, {}, keep=1)
        return read(path, groups)

    monkeypatch.setattr(checkpoint, "_read", slowly)
    assert load(tmp_path).step == 2
    assert calls == ["step-00000001", "step-00000002"]


def test_too_little_space_is_said_before_training(tmp_path, monkeypatch):
    """2.2 times 56 bytes are 123."""
    disk = collections.namedtuple("Disk", "total used free")
    for free, warned in ((123, False), (122, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda place, free=free: disk(9, 9, free))
        said = checkpoint.require_space(tmp_path / "not" / "yet", TENSORS)
        assert bool(said) == warned
    assert said.startswith(
        f"{tmp_path}/not/yet: 122 bytes are free and checkpoints need 123, 2.2 times what is saved"
    )
    assert not (tmp_path / "not").exists()


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
    with pytest.raises(
        CheckpointError,
        match="has format 99; this version of polymode reads up to 2: update polymode",
    ):
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
    assert f"{tmp_path}/step-00000002: cannot be written: No space left on device" in said
    assert "it needs about 16,384 bytes" in said  # four files of less than a block each
    assert "step-00000001 is whole" in said
    assert "\n" not in said
    assert os.listdir(tmp_path) == ["step-00000001"]


def test_a_copy_holds_the_same_and_what_was_added(tmp_path):
    tensors = {"ema": {"w": torch.arange(6.0).view(2, 3)}, "model": {"w": torch.ones(2).half()}}
    save(tmp_path / "a", 5, tensors, {"request": {"x": 1}}, documents={"README.md": "of a\n"})
    step = checkpoint.copy(tmp_path / "a", tmp_path / "b", {"sampling": {"steps": 4}})
    found = load(tmp_path / "b")
    assert (found.path, found.step) == (step, 5)
    assert found.state["request"] == {"x": 1}
    assert found.state["sampling"] == {"steps": 4}
    assert "sampling" not in load(tmp_path / "a").state
    assert torch.equal(found.tensors["ema"]["w"], tensors["ema"]["w"])
    assert found.tensors["model"]["w"].dtype == torch.float16
    assert (step / "README.md").read_text() == "of a\n"


def test_a_checkpoint_of_an_earlier_format_is_not_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.formats, "CHECKPOINT_STATE", 2)
    save(tmp_path / "a", 5, {"ema": {"w": torch.ones(1)}}, {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="of an earlier format"):
        checkpoint.copy(tmp_path / "a", tmp_path / "b", {})
