"""Text of others on a terminal: no escape codes, no lines without end."""

import io
import os
import sys

import pytest

from core.errors import InputError, cut_lines, printable
from core.progress import listener
from core.request import Note
from pipelines.run.display import Display
from pipelines.run.names import without_names

HOSTILE = "\x1b[31mred \x1b]0;title\x07 \u202egnp.exe \x9b2J\r"
SHOWN = r"\x1b[31mred \x1b]0;title\x07 \u202egnp.exe \x9b2J\r"


def test_what_steers_a_terminal_is_written_out_and_words_stay():
    assert printable(HOSTILE) == SHOWN
    assert printable(os.fsdecode(b"\xff")) == r"\udcff"
    for harmless in ("plain", "two\nlines\tand a tab", "Grüße, 中文, é, 🙂, a\xa0b"):
        assert printable(harmless) == harmless
    assert printable(printable(HOSTILE)) == SHOWN


def test_messages_of_errors_are_printable_and_their_lines_end():
    assert str(InputError(f"key {HOSTILE}: unknown")) == f"key {SHOWN}: unknown"
    assert len(cut_lines("x" * 90_000_000)) < 4100
    assert cut_lines("x" * 5000 + "\nshort").endswith("\nshort")


@pytest.mark.parametrize("way", ["listener", "display"])
def test_notes_and_outcomes_are_shown_safely(way, monkeypatch):
    stream = io.StringIO()
    if way == "listener":
        monkeypatch.setattr(sys, "stderr", stream)
        with listener("train") as emit:
            emit(Note(text=HOSTILE + "x" * 9000))
    else:
        with Display(["train"], stream=stream) as display:
            display.say(HOSTILE + "x" * 9000, step="train")
            display.ended("train", "failed", HOSTILE)
    assert "\x1b" not in stream.getvalue()
    assert SHOWN in stream.getvalue()
    assert len(stream.getvalue()) < 5000


def test_warnings_of_a_command_are_lines_without_escape_codes():
    from core.commands import format_warning

    shown = format_warning(UserWarning(HOSTILE), UserWarning, "/home/me/x.py", 3)
    assert shown == f"warning: {SHOWN}\n"


def test_a_name_that_is_written_out_is_still_taken_out_of_what_is_kept(tmp_path):
    """Else a patient's name with a mark without width would stay in a log."""
    place = tmp_path / "Doe\u200b\x07Jane.dcm"
    place.touch()
    kept = without_names(str(InputError(f"{place}: damaged")), {"folder": tmp_path})
    assert kept == "file 1 of folder: damaged"
