"""Output folders that cannot be used are refused before any training: exit code 2, one line (R11).

Where the tests run as root, whom no permission stops, commands run without that privilege.
"""

import os
from pathlib import Path

import pytest
from small_command import command

SECONDS = 1.0  # of the processor, without the import of torch


def read_only(ground):
    place = ground / "closed"
    place.mkdir(mode=0o555)
    return place, "Permission denied"


def below_read_only(ground):
    return read_only(ground)[0] / "run", "Permission denied"


def of_another_user(ground):
    if os.getuid() == 0:
        place = ground / "theirs"
        place.mkdir(mode=0o755)
        os.chown(place, 65534, 65534)
        return place, "Permission denied"
    return Path("/usr"), "Permission denied"


def unreachable(ground):
    place = ground / "private"
    place.mkdir(mode=0o000)
    return place / "run", "Permission denied"


def a_file(ground):
    place = ground / "file"
    place.write_text("x")
    return place, "Not a directory"


def below_a_file(ground):
    return a_file(ground)[0] / "a" / "b", "Not a directory"


def a_link_to_nothing(ground):
    place = ground / "link"
    place.symlink_to(ground / "nothing")
    return place, "File exists"


def too_long(ground):
    return ground / ("x" * 300), "File name too long"


def not_utf8(ground):
    return ground / os.fsdecode(b"run-\xff"), r"run-\xff: a name that is not UTF-8"


PLACES = [read_only, below_read_only, of_another_user, unreachable, a_file, below_a_file,
          a_link_to_nothing, too_long, not_utf8]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_that_cannot_be_used_is_refused_at_once(place, launcher, tmp_path):
    ground, said = tmp_path / "ground", tmp_path / "said"
    ground.mkdir()
    out, words = place(ground)
    before = sorted(os.listdir(ground))
    done = launcher.run(command(out), said, humble=True)
    assert done.code == 2, done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert words in done.err
    assert "choose another output folder" in done.err
    assert done.out == ""
    assert done.seconds < SECONDS
    assert sorted(os.listdir(ground)) == before


def test_folders_that_are_missing_are_made(launcher, tmp_path):
    """Also those above."""
    out, said = tmp_path / "a" / "b" / "run", tmp_path / "said"
    done = launcher.run(command(out, steps=1), said, humble=True)
    assert done.code == 0, done.err
    assert done.out == f"{out}/checkpoints\n"
    assert (out / "checkpoints" / "step-00000001" / "MANIFEST.json").is_file()
