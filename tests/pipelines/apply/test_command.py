"""`polymode apply`: what it prints, and what a stop or a kill costs."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from made_folders import LOUD, begun, listed, put, written

FULL = os.environ.get("POLYMODE_TORTURE", "") not in ("", "0")


POLYMODE = str(Path(sys.executable).with_name("polymode"))


@pytest.fixture
def command(place, monkeypatch):
    """The command in a process of its own, which finds the toy as a stranger's plug-in."""
    about = place / "plugins" / "toy-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[polymode.plugins]\ntoy = toy_predictor:PLUGIN\n")
    found = [str(place / "plugins"), os.environ["PYTHONPATH"]]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(found))

    def start(*words, seconds=0.0):
        said = open(place / "said.txt", "a")  # noqa: SIM115  (the process has it)
        settings = ["checkpoint=word", f"predictor.log={place / 'log'}"]
        settings += [f"predictor.seconds={seconds}"]
        return subprocess.Popen(
            [POLYMODE, "apply", "toy/shout", "texts", "-o", "out", *words,
             *(word for setting in settings for word in ("--set", setting))],
            cwd=place, stdout=subprocess.PIPE, stderr=said, text=True,
        )  # fmt: skip

    return start


def ended(process, place, status):
    out, _ = process.communicate(timeout=120)
    said = (place / "said.txt").read_text()
    assert process.returncode == status, said
    assert "Traceback" not in said
    return out, said


@pytest.mark.slow
def test_the_command_says_what_it_did(command, place):
    put(place, "bad.txt", "bad")
    out, said = ended(command(), place, 1)
    assert out == "out/results\n"
    assert "bad: bad.txt: holds 3 letters" in said
    assert "4 done, 1 bad" in said
    assert written(place) == LOUD
    (place / "texts/bad.txt").unlink()
    ended(command(), place, 0)
    _, said = ended(command("--set", "predictor.mrk=1"), place, 2)
    assert "did you mean 'mark'" in said
    _, said = ended(command("--workers", "2000"), place, 2)
    assert "this machine has room for" in said


def killed_again_and_again(command, place, *words, kills, seconds=0.1):
    """Kill the command `kills` times at work, then let it end."""
    for number in range(kills):
        before = len(begun(place))
        process = command(*words, seconds=seconds)
        deadline = time.monotonic() + 240  # Ray takes long to start where others compute
        while len(begun(place)) < before + 2 + number % 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        whole = [text for text in written(place).values() if not text.startswith("well ")]
        assert whole == []
    ended(command(*words, seconds=seconds), place, 0)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.torture)])
def test_a_kill_costs_the_file_in_work(command, place, kills):
    for number in range(5 * kills):
        put(place, f"{number}.txt", f"text {number}")
    killed_again_and_again(command, place, kills=kills)
    assert len(written(place)) == 4 + 5 * kills
    times = Counter(begun(place))
    assert len(times) == 4 + 5 * kills
    assert sum(times.values()) <= len(times) + kills
    assert {r["state"] for r in listed(place).values()} == {"done"}
    assert not (place / "out/.apply").exists()


@pytest.mark.torture
def test_a_kill_of_the_command_with_workers_costs_the_files_in_work(command, place):
    kills = 5 if FULL else 1
    for number in range(40):
        put(place, f"{number}.txt", f"text {number}")
    killed_again_and_again(command, place, "--workers", "2", kills=kills, seconds=0.3)
    times = Counter(begun(place))
    assert len(times) == 44
    assert sum(times.values()) <= 44 + 2 * kills


@pytest.mark.torture
def test_killed_workers_cost_the_files_in_work(command, place):
    for number in range(40):
        put(place, f"{number}.txt", f"text {number}")
    process, victims = command("--workers", "2", seconds=0.3), []
    while process.poll() is None and len(victims) < (8 if FULL else 2):
        names = begun(place)
        if len(names) > 4 * len(victims) and names.count(names[-1]) == 1:
            worker = int((place / "log").read_text().splitlines()[len(names) - 1].split()[0])
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
                victims.append(names[-1])
        time.sleep(0.05)
    ended(process, place, 0)
    assert victims
    times = Counter(begun(place))
    assert (len(times), len(written(place))) == (44, 44)
    assert sum(times.values()) <= 44 + len(victims)


@pytest.mark.slow
def test_a_file_that_kills_the_command_is_left_alone(command, place):
    put(place, "aa.txt", "die")
    for _ in range(2):
        process = command()
        process.wait(timeout=60)
        assert process.returncode == -signal.SIGKILL
    _, said = ended(command(), place, 1)
    assert "failed: aa.txt: 2 processes died doing it" in said
    assert written(place) == LOUD
    # Tried again last, so that it keeps no other file waiting.
    assert begun(place) == ["a.txt", "aa.txt", "b.md", "c.TXT", "d.txt", "aa.txt"]
    ended(command(), place, 1)
    assert begun(place).count("aa.txt") == 2


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), pytest.param(("--workers", "2"), marks=pytest.mark.torture)])
def test_an_interrupted_command_goes_on(command, place, words):
    process = command(*words, seconds=0.5)
    while len(begun(place)) < 2:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = ended(process, place, 130)
    assert "run the same command again" in said
    assert list((place / "out/.apply/begun").iterdir()) == []  # it was no file's doing
    ended(command(), place, 0)
    assert written(place) == LOUD
