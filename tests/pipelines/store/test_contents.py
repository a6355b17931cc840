"""What counts of a folder, what is refused by name, and when a file is read again."""

import os
import sys

import pytest

from core.errors import InputError
from pipelines.store import contents
from pipelines.store.contents import content_of

LARGE = bytes(range(256)) * 5000  # worth keeping its digest


@pytest.fixture
def data(tmp_path):
    """A folder of two files."""
    root = tmp_path / "data"
    (root / "deep").mkdir(parents=True)
    (root / "a.png").write_bytes(LARGE)
    (root / "deep" / "b.png").write_bytes(b"b")
    return root


def digest(path, **more):
    return content_of(path, **more).digest


def test_names_below_and_bytes_count_and_nothing_else(data, tmp_path):
    first = content_of(data)
    os.utime(data / "a.png", (1, 1))
    assert digest(data) == first.digest
    assert content_of(data).written != first.written
    moved = data.rename(tmp_path / "elsewhere")
    assert digest(moved) == first.digest
    (moved / "deep" / "b.png").write_bytes(b"c")
    changed = digest(moved)
    (moved / "deep" / "b.png").rename(moved / "b.png")
    assert len({first.digest, changed, digest(moved)}) == 3


def test_hidden_files_do_not_count(data):
    first = digest(data)
    (data / ".DS_Store").write_bytes(b"x")
    (data / ".#a.png").symlink_to("nobody@nowhere")
    (data / ".git" / "deep").mkdir(parents=True)
    (data / ".git" / "deep" / "c.png").write_bytes(b"c")
    assert digest(data) == first


def test_what_lies_behind_links_counts(data, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "c.png").write_bytes(b"c")
    (data / "link.png").symlink_to(outside / "c.png")
    (data / "folder").symlink_to(outside)
    (data / "circle").symlink_to(data)
    (outside / "back").symlink_to(data)
    first = digest(data)
    (outside / "c.png").write_bytes(b"d")
    assert digest(data) != first


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "a named pipe, expected a regular file"),
        (lambda at: at.symlink_to("/dev/zero"), "a link to a device, expected a regular file"),
        (lambda at: at.symlink_to("nowhere"), "a link to nowhere, which does not exist"),
    ],
)
def test_what_is_no_regular_file_is_named_and_not_read(data, tmp_path, make, said):
    make(data / "deep" / "x.png")
    with pytest.raises(InputError) as caught:
        content_of(data)
    assert str(caught.value).startswith(f"{data}/deep/x.png: {said}")
    with pytest.raises(InputError, match=said):
        content_of(data / "deep" / "x.png")


def test_a_folder_that_cannot_be_listed_is_named(data, monkeypatch):
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match=r"data/deep: cannot be read: Permission denied"):
        content_of(data)


def test_a_missing_file_is_said_in_the_systems_words(tmp_path):
    with pytest.raises(InputError, match="none: No such file or directory"):
        content_of(tmp_path / "none")


# --- kept digests ----------------------------------------------------------------------------


@pytest.fixture
def opened(data):
    """Names of files below `data` that were opened since it was last cleared."""
    names, on = [], [True]

    def note(event, arguments):
        if on and event == "open" and str(arguments[0]).startswith(f"{data}/"):
            names.append(os.path.relpath(arguments[0], data))

    sys.addaudithook(note)
    yield names
    on.clear()


@pytest.fixture
def settled(monkeypatch):
    """Every file is old enough: times of inodes cannot be set."""
    monkeypatch.setattr(contents, "SETTLED", -(10**18))


@pytest.mark.usefixtures("settled")
def test_a_settled_file_is_read_once(data, tmp_path, opened):
    store = tmp_path / "store"
    store.mkdir()
    first = content_of(data, store=store)
    assert sorted(opened) == ["a.png", "deep/b.png"]
    opened.clear()
    assert content_of(data, store=store) == first
    assert opened == []
    (data / "deep" / "b.png").write_bytes(b"c")
    assert content_of(data, store=store) != first
    assert opened[-1] == "deep/b.png"  # the first was opened to be written
    names = [path.read_text() for path in (store / contents.FOLDER).iterdir()]
    assert not any(word in text for text in names for word in ("png", "deep", "data"))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("hides", ["time", "size"])
def test_a_change_of_one_size_or_at_one_time_is_seen(data, tmp_path, hides):
    """Also where the time of writing is set back: that of the inode is the system's alone."""
    store, file = tmp_path / "store", data / "a.png"
    store.mkdir()
    first, status = digest(data, store=store), file.stat()
    with file.open("r+b") as opened:
        opened.write(b"!!!")
    if hides == "time":
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest(data, store=store) != first


def test_a_file_just_written_is_read_again(data, tmp_path, opened):
    """A second writing within the granularity of its times would not show."""
    store = tmp_path / "store"
    store.mkdir()
    content_of(data, store=store)
    content_of(data, store=store)
    assert sorted(opened) == 2 * ["a.png"] + 2 * ["deep/b.png"]
    assert not (store / contents.FOLDER).exists()


@pytest.mark.usefixtures("settled")
def test_kept_digests_are_bounded_and_may_be_anything(data, tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "MOST_FOLDERS", 3)
    store = tmp_path / "store"
    first = digest(data, store=store)  # no store: none is made
    assert not store.exists()
    store.mkdir()
    for number in range(5):
        other = tmp_path / f"{number}.bin"
        other.write_bytes(LARGE)
        content_of(other, store=store)
    kept = store / contents.FOLDER
    assert len(list(kept.iterdir())) == 3
    content_of(data, store=store)
    for text in ("[" * 100_000, "{}", '{"format": 1, "files": 3}', '{"format": 1, "files": {}}'):
        for path in kept.iterdir():
            path.write_text(text)
        assert digest(data, store=store) == first


@pytest.mark.usefixtures("settled")
def test_a_store_that_cannot_be_written_is_done_without(data, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    (store / contents.FOLDER).write_text("")
    assert digest(data, store=store) == digest(data)
