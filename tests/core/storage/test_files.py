"""A file that is replaced: whole on the disk before it has its name, and the old one until then."""

import os

import pytest

from core.storage import files


def test_the_new_file_is_on_the_disk_before_it_replaces_the_old(tmp_path, monkeypatch):
    """The order that POSIX asks for: the file's fsync, the rename, the folder's fsync."""
    path, done = tmp_path / "scan.nii.gz", []
    sync, replace = files.sync, os.replace
    monkeypatch.setattr(files, "sync", lambda p: (done.append(("fsync", p)), sync(p)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(("rename", a)), replace(a, b)))
    path.write_text("old")
    with files.replaced(path, suffix=".nii.gz") as waiting:
        assert waiting.parent == tmp_path
        assert waiting.name.endswith(".nii.gz")
        waiting.write_text("new")
        assert path.read_text() == "old"
    assert done == [("fsync", waiting), ("rename", waiting), ("fsync", tmp_path)]
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "k.npy"
    path.write_text("old")

    def write():
        with files.replaced(path) as waiting:
            waiting.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]
