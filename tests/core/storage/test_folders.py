"""Folders walked: what is found, passed over and refused, on a tree made for it."""

import os

import pytest

from core.errors import InputError
from core.storage.folders import files_in


def made(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_files_are_sorted_and_hidden_names_and_links_left_out(tmp_path):
    root, secret = tmp_path / "root", tmp_path / "secret"
    made(root, "b.txt", "a/z.txt", "a/c.dat", ".hidden.txt", ".cache/d.txt", "a/.e.txt")
    made(secret, "f.txt")
    (root / "out.txt").symlink_to(secret / "f.txt")
    (root / "inner.txt").symlink_to("b.txt")
    (root / "folder").symlink_to(secret)
    (root / "circle").symlink_to(root)
    (root / "dead.dat").symlink_to("nowhere")
    found = files_in(root, contents="notes", wanted=lambda path: path.suffix == ".txt")
    assert [path.relative_to(root).as_posix() for path in found.files] == ["a/z.txt", "b.txt"]
    assert {path.name: why for path, why in found.refused} == {
        "circle": "a link to a folder, not followed",
        "folder": "a link to a folder, not followed",
        "inner.txt": "a link, not followed",
        "out.txt": "a link, not followed",
    }
    linked = tmp_path / "linked"
    linked.symlink_to(root)
    assert [path.name for path in files_in(linked, contents="notes").files] == [
        "c.dat",
        "z.txt",
        "b.txt",
    ]


def test_what_is_no_regular_file_is_refused_by_name(tmp_path):
    made(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "b.txt")
    found = files_in(tmp_path, contents="notes")
    assert [path.name for path in found.files] == ["a.txt"]
    assert found.refused == [(tmp_path / "b.txt", "a pipe, a socket or a device, not read")]


def test_a_root_that_is_no_folder_is_refused(tmp_path):
    made(tmp_path, "file")
    with pytest.raises(
        InputError, match="file: is a file; expected root to be the folder of your scans"
    ):
        files_in(tmp_path / "file", contents="scans")
    with pytest.raises(InputError, match="none: does not exist"):
        files_in(tmp_path / "none", contents="scans")


def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    made(tmp_path, "inner/file")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("inner"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match="inner: cannot be read: Permission denied"):
        files_in(tmp_path, contents="scans")
