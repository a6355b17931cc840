"""Asked to stop: a checkpoint of the current step within seconds, and nothing is lost."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
from small_runs import After, request, rows, sums, trained

from core.storage import checkpoint
from core.training.stopping import Stopped, catch_signals

pytestmark = pytest.mark.usefixtures("toys")

STEPS = 200
COMMAND = [
    sys.executable, "-m", "core", "train", "--threads", "1", "--device", "cpu",
    "--save-seconds", "1000", "--set", "task=toy/points", "--set", "dataset=toy/cloud",
    "--set", "network=toy/layers", "--set", f"steps={STEPS}", "--set", "batch=8",
    "--set", "lr=0.01", "--set", "warmup=2",
]  # fmt: skip
WAYS = {"SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129, "file": 143, "group": 143, "hangup": 129}


@pytest.fixture(scope="module")
def ends():
    """What an undisturbed run ends with."""
    return {}


def undisturbed(ends, folder, pause):
    if pause not in ends:
        trained(wanted(pause), folder, save_seconds=1000.0)
        ends[pause] = sums(folder)
    return ends[pause]


def wanted(pause):
    return request(steps=STEPS, network={"pause": pause})


def reaches(out, step, process):
    """Wait until a run has taken so many steps."""
    deadline = time.monotonic() + 60
    while not (out / "metrics.jsonl").exists() or len(rows(out)) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def hangups_are_heard():
    """As in a terminal, where these tests are run under nohup too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_stop_saves_the_step_it_is_at_and_the_rerun_ends_with_the_same_bits(way, ends, tmp_path):
    """Signals to the process or to its whole group with its workers, and the file named STOP."""
    out = tmp_path / "stopped"
    command = [*COMMAND, "--set", "network.pause=0.01", "-o", str(out)]
    if way in ("group", "hangup"):
        command += ["--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    reaches(out, 40, process)
    asked = time.monotonic()
    if way == "file":
        (out / "STOP").touch()
    elif way == "group":
        os.killpg(process.pid, signal.SIGTERM)
    elif way == "hangup":
        os.killpg(process.pid, signal.SIGHUP)
    else:
        process.send_signal(getattr(signal, way))
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - asked < 5
    assert process.returncode == WAYS[way]
    assert said.endswith("stopped; run the same command again to resume\n")
    assert "Traceback" not in said
    saved = checkpoint.load(out)
    assert 40 <= saved.step < STEPS
    assert [row["step"] for row in rows(out)] == list(range(1, saved.step + 1))
    assert not (out / "STOP").exists()
    assert f"resuming from step {saved.step} " in trained(wanted(0.01), out)[0]
    assert sums(out) == undisturbed(ends, tmp_path / "whole", 0.01)


def in_a_terminal(command, ready):
    """The process of a command whose terminal is closed once `ready()`."""
    process, terminal = pty.fork()
    if process == 0:
        os.execv(command[0], command)
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline
        with suppress(BlockingIOError):
            os.set_blocking(terminal, False)
            os.read(terminal, 65536)
        time.sleep(0.01)
    os.close(terminal)
    return process


@pytest.mark.slow
def test_a_closed_terminal_is_a_stop_though_nothing_can_be_printed(tmp_path):
    out = tmp_path / "run"
    command = [*COMMAND, "--set", "network.pause=0.01", "-o", str(out)]
    journal = out / "metrics.jsonl"
    process = in_a_terminal(command, lambda: journal.exists() and len(rows(out)) > 40)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 129
    assert 40 <= checkpoint.load(out).step == len(rows(out)) < STEPS


@pytest.mark.slow
def test_under_nohup_a_hangup_is_none(tmp_path):
    out = tmp_path / "run"
    command = [*COMMAND, "--set", "network.pause=0.01", "-o", str(out)]
    process = subprocess.Popen(
        ["nohup", *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    reaches(out, 20, process)
    process.send_signal(signal.SIGHUP)
    reaches(out, 60, process)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143


def test_a_stop_amid_a_step_leaves_that_step_out(tmp_path):
    """Eight samples one at a time: asked before the 3rd of step 4, three steps are taken."""
    with pytest.raises(Stopped) as stopped:
        trained(request(), tmp_path, micro_batch=1, stop=After(3 * 8 + 2))
    assert (stopped.value.step, stopped.value.status) == (3, 143)
    assert checkpoint.load(tmp_path).step == 3
    trained(request(), tmp_path, micro_batch=1)
    trained(request(), tmp_path / "whole", micro_batch=1)
    assert sums(tmp_path) == sums(tmp_path / "whole")


def test_a_stop_is_no_failure_that_could_be_tried_again(tmp_path):
    assert not issubclass(Stopped, Exception)
    with pytest.raises(Stopped, match="stopped at step 0"):
        trained(request(), tmp_path, stop=After(0))
    assert not checkpoint.is_started(tmp_path)  # nothing had been done that could be lost


def test_off_the_main_thread_the_caller_can_stop_and_handlers_are_left_alone(tmp_path):
    before, caught = signal.getsignal(signal.SIGTERM), []

    def run():
        try:
            trained(request(), tmp_path, stop=After(5))
        except Stopped as stopped:
            caught.append((stopped.step, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert caught == [(5, before)]
    assert checkpoint.load(tmp_path).step == 5


def test_the_callers_handler_hears_of_the_signal_once_all_is_saved(tmp_path):
    """What it raises comes out, as it would without training; handlers are back by then."""
    heard = []

    def handler(number, frame):
        heard.append((number, checkpoint.load(tmp_path).step))

    before = signal.signal(signal.SIGTERM, handler)
    calls = After(5)

    def kill():
        if calls():
            os.kill(os.getpid(), signal.SIGTERM)
        return False

    try:
        with pytest.raises(Stopped) as stopped:
            trained(request(), tmp_path, stop=kill)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [(signal.SIGTERM, 6)]
    assert stopped.value.status == 143


def test_a_second_signal_acts_at_once_and_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with catch_signals() as asked:
        assert asked() == 0
        signal.raise_signal(signal.SIGTERM)
        assert asked() == signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    def twice():
        with catch_signals():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second signal was held back")

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
