"""kill -9 of training at random times: nothing unreadable, the end the same bit for bit (R1)."""

import json
import os
import random
import shutil
import signal
import time

import pytest
from battery import count
from small_command import STEPS, command, digests

from core.storage import checkpoint


def wait_for_another(folder, seconds):
    """Wait until a checkpoint is there that was not there before; no longer than some seconds."""
    before, end = names_in(folder), time.monotonic() + seconds
    while names_in(folder) <= before and time.monotonic() < end:
        time.sleep(0.005)


def names_in(folder):
    return {p.name for p in folder.glob("step-*")}


@pytest.mark.parametrize("every", [False, True], ids=["save now and then", "save at every step"])
def test_killed_at_random_times_training_ends_as_undisturbed(every, launcher, tmp_path, note):
    """Whenever a run has come to its end, it is compared, and the next one is killed."""
    wanted, said = tmp_path / "wanted", tmp_path / "said"
    assert launcher.run(command(wanted), said).code == 0
    expected = digests(wanted)
    assert {name.split("/")[0] for name in expected} == {"model", "ema", "optimizer"}

    draw, killed = random.Random(every), tmp_path / "killed"
    kills = writing = runs = taken = 0
    while kills < count(4, 100) or killed.exists():
        child = launcher.start(command(killed), said, every=every)
        if kills < count(4, 100):
            if draw.random() < 0.8:  # else at its start
                wait_for_another(killed / "checkpoints", seconds=5.0)
            time.sleep(draw.uniform(0, 0.5))
            os.kill(child, signal.SIGKILL)  # not yet waited for: no other process has its number
        done = launcher.wait(child, said)
        assert done.code in (0, -signal.SIGKILL), done.err
        kills += done.code != 0
        if checkpoint.is_started(killed):
            found = checkpoint.load(killed)
            assert not found.passed_over
            assert found.step >= taken
            taken = found.step
            writing += any((killed / "checkpoints").glob(".[dw]*"))
        if done.code == 0:
            assert digests(killed) == expected
            lines = [json.loads(line)["step"] for line in (killed / "metrics.jsonl").open()]
            assert lines == list(range(1, STEPS + 1))
            names = os.listdir(killed / "checkpoints")
            assert all(name.startswith("step-") for name in names), names
            shutil.rmtree(killed)
            runs, taken = runs + 1, 0
    note(f"{kills} kills, {writing} of them while a checkpoint was written; {runs} runs came to "
         "their end, every tensor as undisturbed")  # fmt: skip
