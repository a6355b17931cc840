"""Files of a folder that cannot be used: named with the cause, and tried again or not."""

import json
import os
import sys
from pathlib import Path

import pytest
from toy_predictor import Shout

from core.errors import StorageError
from pipelines.apply import batch

sys.path.insert(0, str(Path(__file__).parent))
from made_folders import LOUD, notes, put, run, written


def test_bad_files_are_named_and_not_tried_again(place):
    put(place, "zero.txt", "")
    put(place, "bad.txt", "bad")
    result, told, _ = run(place)
    assert (result.done, result.bad, result.failed) == (4, 2, 0)
    assert written(place) == LOUD
    assert notes(told) == ["bad: bad.txt: holds 3 letters", "bad: zero.txt: holds 0 letters"]
    assert str(place) not in (place / "out/files.jsonl").read_text()
    again, told, names = run(place)
    assert (names, again.bad) == ([], 2)
    assert len(notes(told)) == 2
    _, _, names = run(place, retry=True)
    assert sorted(names) == ["bad.txt", "zero.txt"]
    put(place, "bad.txt", "better")
    result, _, names = run(place)
    assert (names, result.bad) == (["bad.txt"], 1)


def test_a_file_that_became_bad_has_no_result(place):
    run(place)
    put(place, "a.txt", "bad")
    run(place)
    assert "a.loud" not in written(place)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("raise", "RuntimeError: it broke at x.txt"),
        ("nothing", "RuntimeError: the predictor wrote no result"),
        ("memory", "needs more"),  # that is free now
        ("cannot", "cannot be read"),  # of the system, so it says nothing of the file
    ],
)
def test_what_may_work_next_time_is_tried_again(place, text, cause):
    put(place, "x.txt", text)
    result, told, _ = run(place)
    assert (result.done, result.failed) == (4, 1)
    assert notes(told) == [f"failed: x.txt: {cause}"]
    assert written(place) == LOUD
    _, _, names = run(place)
    assert names == ["x.txt"]


def test_a_full_disk_stops_all_and_costs_nothing(place):
    put(place, "aa.txt", "full")
    with pytest.raises(StorageError, match="make room and run the same command again"):
        run(place)
    put(place, "aa.txt", "room")
    result, _, names = run(place)
    assert (result.done, names[0]) == (5, "aa.txt")
    assert "a.txt" not in names


def test_what_is_no_file_is_never_opened(place):
    os.mkfifo(place / "texts/pipe.txt")  # to open it would wait for ever
    (place / "texts/folder.txt").mkdir()
    put(place, "folder.txt/e.txt", "five")
    result, told, _ = run(place)
    assert notes(told) == ["bad: pipe.txt: not a file that holds anything"]
    assert (result.done, result.bad) == (5, 1)
    assert written(place)["folder.txt/e.loud"] == "well FIVE!"


def test_links_out_of_the_folder_are_not_followed(place):
    secret = place / "secret"
    secret.mkdir()
    (secret / "s.txt").write_text("secret")
    (place / "texts/out.txt").symlink_to(secret / "s.txt")
    (place / "texts/folder").symlink_to(secret)
    (place / "texts/broken.txt").symlink_to(place / "texts/nowhere.txt")
    (place / "texts/inside.txt").symlink_to("a.txt")
    result, told, _ = run(place)
    said = notes(told)
    assert [line.split(": ")[:2] for line in said] == [
        ["failed", "broken.txt"], ["bad", "folder"], ["bad", "out.txt"],
    ]  # fmt: skip
    assert "leads out of the folder" in said[2]
    assert (result.done, result.bad, result.failed) == (5, 2, 1)
    assert not any("SECRET" in text for text in written(place).values())


def test_results_do_not_leave_by_a_link_among_them(place):
    (place / "elsewhere").mkdir()
    (place / "out/results").mkdir(parents=True)
    (place / "out/results/in").symlink_to(place / "elsewhere")
    result, _, _ = run(place)
    assert (result.done, result.bad) == (2, 2)
    assert list((place / "elsewhere").iterdir()) == []


def test_names_that_are_no_text_are_refused_and_shown_safely(place):
    with open(os.fsencode(place / "texts") + b"/caf\xe9.txt", "w") as file:
        file.write("five")
    put(place, "red\x1b[31m.txt", "six")
    put(place, "n\u00fcr \u7bc4.txt", "seven")
    result, told, _ = run(place)
    assert (result.done, result.bad) == (5, 2)
    assert written(place)["n\u00fcr \u7bc4.loud"] == "well SEVEN!"
    said = "\n".join(notes(told))
    assert "\\udce9" in said
    assert "\\x1b" in said
    assert "\x1b" not in said
    said.encode()


def test_names_say_why_they_are_refused_and_files_of_other_kinds_are_told(place):
    put(place, "two\nlines.txt", "five")
    with open(os.fsencode(place / "texts") + b"/caf\xe9.txt", "w") as file:
        file.write("six")
    for name in ("a.pdf", "b.PDF", "no suffix"):
        put(place, name, "seven")
    result, told, _ = run(place)
    said = "\n".join(notes(told))
    assert "its name holds a line break; rename it" in said
    assert "its name is not UTF-8; rename it" in said
    assert "files are not read by toy/shout" in said
    assert ".pdf (2)" in said
    assert "no suffix (1)" in said
    assert result.bad == 2


def test_files_that_a_predictor_names_as_not_read_are_bad(place, monkeypatch):
    monkeypatch.setattr(Shout, "unread", {".gif": "a moving image"}, raising=False)
    put(place, "a.GIF", "five")
    result, told, _ = run(place)
    assert (result.done, result.bad) == (4, 1)
    assert "bad: a.GIF: a moving image" in "\n".join(notes(told))


def test_what_may_not_be_read_is_tried_again(place, humbly):
    put(place, "locked/x.txt", "five")
    (place / "texts/a.txt").chmod(0)
    (place / "texts/locked").chmod(0)

    def said():
        result, told, _ = run(place)
        return json.dumps([result.done, result.failed, *notes(told)[:2]])

    try:
        found = humbly(said)
    finally:
        (place / "texts/locked").chmod(0o700)
        (place / "texts/a.txt").chmod(0o600)
    assert json.loads(found) == [
        3, 2,
        "failed: a.txt: cannot be read: Permission denied",
        "failed: locked: a folder: Permission denied",
    ]  # fmt: skip
    result, _, names = run(place)
    assert (result.done, sorted(names)) == (5, ["a.txt", "x.txt"])


def test_many_bad_files_are_counted(place):
    for number in range(30):
        put(place, f"{number:02d}.txt", "bad")
    said = notes(run(place)[1])
    assert len(said) == batch.SHOWN + 1
    assert said[-1] == "and 10 more; files.jsonl names them all"
