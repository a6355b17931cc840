"""A result is a hit only if it is whole, whatever happened while it was made."""

import errno
import io
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from made_results import IDENTITY, KEY, made

from core.errors import InputError
from core.storage import files
from pipelines.store import results

LISTED = ["deep/values.bin", "empty.txt", "result.json", "env.json", "request.json"]


def test_a_result_is_whole_and_found_by_its_fields(tmp_path):
    folder = made(tmp_path)
    assert folder.name == "a-" + "ab" * 8
    assert results.inspect(folder, KEY, verify=True) == results.Found("whole")
    assert results.result_path(folder, "made") == folder / "deep"
    with pytest.raises(InputError, match="has no file or folder 'other'"):
        results.result_path(folder, "other")


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("size", [0, 1, -1, "more", "gone"])
def test_a_changed_size_is_seen(tmp_path, name, size):
    folder = made(tmp_path)
    data = (folder / name).read_bytes()
    if size == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data + b"x" if size == "more" else data[:size])
    same = size != "gone" and (folder / name).read_bytes() == data
    found = results.inspect(folder, KEY)
    assert found.state == ("whole" if same else "damaged")
    assert same or name in found.what


@pytest.mark.parametrize("name", LISTED)
def test_every_turned_bit_is_seen_when_asked(tmp_path, name):
    folder = made(tmp_path)
    data = (folder / name).read_bytes()
    for place in range(0, 8 * len(data), 37):
        turned = bytearray(data)
        turned[place // 8] ^= 1 << place % 8
        (folder / name).write_bytes(turned)
        assert results.inspect(folder, KEY, verify=True).what == f"{name} has changed"


def test_a_manifest_cut_anywhere_is_no_hit(tmp_path):
    folder = made(tmp_path)
    text = (folder / "MANIFEST.json").read_bytes()
    for length in range(0, len(text) - 2, 5):  # the last two bytes are the brace and the line's end
        (folder / "MANIFEST.json").write_bytes(text[:length])
        assert results.inspect(folder, KEY).state == "damaged"


@pytest.mark.parametrize(
    "change",
    [
        {"format": 0}, {"format": "1"}, {"format": None}, {"key": "cd" * 32}, {"files": []},
        {"files": {}}, {"files": {"../../etc/hostname": [1, "x"]}},
        {"files": {"/etc/passwd": [1, "x"]}},
        {"files": {"result.json": 3}}, {"files": {"deep": [4096, "x"]}},
    ],
)  # fmt: skip
def test_a_strange_manifest_is_no_hit(tmp_path, change):
    folder = made(tmp_path)
    manifest = results.read_json(folder / "MANIFEST.json")
    files.write_json(folder / "MANIFEST.json", {**manifest, **change})
    assert results.inspect(folder, KEY).state == "damaged"


@pytest.mark.parametrize("name", ["MANIFEST.json", "env.json"])
def test_deep_json_is_damage(tmp_path, name):
    folder = made(tmp_path)
    (folder / name).write_text("[" * 100_000)
    found = results.inspect(folder, KEY)
    assert found.state == "damaged"
    assert name in found.what
    assert results.read_json(folder / name) is None


def _failing(call, name, number):
    """`call`, which ends with that error of the system for paths with that name."""

    def fails(path, *arguments, **named):
        if Path(str(path)).name == name:
            raise OSError(number, os.strerror(number), str(path))
        return call(path, *arguments, **named)

    return fails


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["open", "stat"])
@pytest.mark.parametrize("name", ["MANIFEST.json", "values.bin", "a-" + "ab" * 8])
def test_what_cannot_be_read_now_is_not_damaged(tmp_path, monkeypatch, name, call, number):
    folder = made(tmp_path)
    monkeypatch.setattr(os, call, _failing(getattr(os, call), name, number))
    opened = _failing(io.open, name, number)  # `Path.open` calls it, not `os.open`
    monkeypatch.setattr(io, "open", opened)
    found = results.inspect(folder, KEY, verify=True)
    if call == "open" and name.startswith("a-"):
        assert found.state == "whole"  # a folder is listed, not opened
    else:
        assert found.state == "unreadable"
        assert os.strerror(number) in found.what


def test_files_that_the_manifest_does_not_list_are_named(tmp_path):
    folder = made(tmp_path)
    for hidden in (".DS_Store", ".nfs01", "STOP"):
        (folder / hidden).write_text("")
    assert results.inspect(folder, KEY, verify=True) == results.Found("whole")
    (folder / "deep" / "step-99999999").mkdir()
    (folder / "deep" / "step-99999999" / "state.json").write_text("{}")
    (folder / "link").symlink_to(tmp_path)
    found = results.inspect(folder, KEY)
    assert found.state == "whole"
    assert found.unlisted == ("deep/step-99999999/state.json", "link")


def test_a_later_format_is_refused_not_remade(tmp_path):
    folder = made(tmp_path)
    files.write_json(folder / "MANIFEST.json", {"format": 2, "how": "unknown"})
    with pytest.raises(InputError, match="store format 2, this one knows 1"):
        results.inspect(folder, KEY)


def test_states_before_a_manifest(tmp_path):
    folder = results.folder_of(tmp_path, "a", KEY)
    assert results.inspect(folder, KEY).state == "absent"
    folder.mkdir()
    assert results.inspect(folder, KEY).state == "unfinished"
    results.begin(folder, KEY, IDENTITY, "a")
    assert results.inspect(folder, KEY).state == "unfinished"
    assert results.inspect(folder, "cd" * 32).state == "damaged"


def test_beginning_again_keeps_what_was_made(tmp_path):
    folder = results.folder_of(tmp_path, "a", KEY)
    results.begin(folder, KEY, IDENTITY, "a")
    (folder / "checkpoint").write_text("half-way")
    (folder / ".request.json.99.tmp").write_text("half a fi")
    results.begin(folder, KEY, IDENTITY, "a")
    assert results.files_below(folder) == ["checkpoint", "request.json"]


def test_a_damaged_folder_is_kept_under_another_name(tmp_path):
    folder = made(tmp_path)
    aside = results.set_aside(folder)
    assert not folder.exists()
    assert (aside / "deep" / "values.bin").exists()
    assert results.by_step(tmp_path) == {}  # and is nobody's earlier result


def test_events_may_still_grow_after_the_commit(tmp_path):
    folder = made(tmp_path)
    with (folder / "events.jsonl").open("a") as file:
        file.write("{}\n")
    assert results.inspect(folder, KEY, verify=True).state == "whole"


def _make_and_die(root: Path, left: int) -> int:
    """Make a result in a child process that dies before call `left`; its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def dying(call):
        def run(*arguments, **named):
            nonlocal left
            left -= 1
            return call(*arguments, **named) if left >= 0 else os._exit(9)

        return run

    for name in ("replace", "fsync", "open", "close"):
        setattr(os, name, dying(getattr(os, name)))
    try:
        made(root)
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.slow
def test_a_death_before_any_write_is_on_disk_never_gives_a_hit(tmp_path):
    """Dies before the n-th of every os.open, fsync, replace and close, for every n."""
    status, deaths = 9, 0
    while status:
        root = tmp_path / str(deaths)
        root.mkdir()
        status = _make_and_die(root, deaths)
        assert status in (0, 9)
        folder = results.folder_of(root, "a", KEY)
        found = results.inspect(folder, KEY, verify=True)
        if found.state == "whole":  # the manifest was renamed: nothing may be missing
            assert results.result_path(folder, "made").joinpath("values.bin").stat().st_size == 64
        else:
            assert found.state in ("absent", "unfinished")
            assert status == 9
        made(root)  # and it can always be gone on with
        assert results.inspect(folder, KEY, verify=True).state == "whole"
        deaths += 1
    assert deaths > 20


def test_everything_listed_is_synced_before_the_manifest_appears(tmp_path, monkeypatch):
    """Power loss drops what was not synced: no file may be renamed or listed unsynced."""
    synced: set[str] = set()
    renamed: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_sync(handle):
        synced.add(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def note_rename(source, target):
        assert str(source) in synced
        if Path(target).name == "MANIFEST.json":
            folder = Path(target).parent
            for name in results.files_below(folder):
                if name not in ("events.jsonl", Path(source).name):
                    assert str(folder / name) in synced
            assert {str(folder), str(folder / "deep")} <= synced
        replace(source, target)
        renamed.append(Path(target).name)
        synced.discard(str(Path(target).parent))

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_rename)
    folder = made(tmp_path)
    assert renamed[-1] == "MANIFEST.json"  # it appears whole, by one rename
    assert str(folder) in synced  # the rename itself
    assert str(tmp_path) in synced  # and the folder's own name


def _hold(folder: Path, log: Path, seconds: float) -> None:
    with results.locked(folder, lambda: _append(log, "waits")):
        _append(log, "in")
        time.sleep(seconds)
        _append(log, "out")


def _append(log: Path, word: str) -> None:
    with log.open("a") as file:
        file.write(word + "\n")


def test_one_process_at_a_time_and_death_frees_the_lock(tmp_path):
    folder, log = tmp_path / "a-0", tmp_path / "log"
    context = multiprocessing.get_context("fork")
    holders = [context.Process(target=_hold, args=(folder, log, 0.2)) for _ in range(3)]
    for holder in holders:
        holder.start()
    for holder in holders:
        holder.join(30)
    words = log.read_text().split()
    assert [word for word in words if word != "waits"] == ["in", "out"] * 3
    assert words.count("waits") >= 2
    dead = context.Process(target=_hold, args=(folder, log, 60))
    dead.start()
    while log.read_text().split()[-1] != "in":
        time.sleep(0.02)
    dead.kill()
    dead.join()
    began = time.monotonic()
    _hold(folder, log, 0)
    assert time.monotonic() - began < 5
