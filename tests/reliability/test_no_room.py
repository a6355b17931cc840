"""A full disk: one line, exit code 1, the last checkpoint whole; with room the end is the same.

R8 of the battery: by a limit on the size of files, at ten sizes, and by a small file system where
the tests may mount one.
"""

import os
import re
import resource
import shutil
import signal
import subprocess
import time

import pytest
import torch
from battery import count
from small_command import command, digests

from core.errors import StorageError
from core.storage import checkpoint
from core.storage.checkpoint import load, save

LINE = re.compile(
    r"error: (?P<path>\S+): cannot be written: (?P<why>File too large|No space left on device); "
    r"it needs about (?P<needed>[\d,]+) bytes, (?P<free>[\d,]+) are free; "
    r"(?P<whole>step-\d{8}) is whole; make room and run the same command again"
)
TENSORS = {"model": {"a": torch.ones(3000)}, "ema": {"a": torch.ones(3000)}}
SIZES = [0, 1, 100, 1000, 4096, 8000, 12_000, 12_063, 12_070, 12_071]


def number(text: str) -> int:
    return int(text.replace(",", ""))


def limited(act, limit):
    """The error of `act` in a child whose files have at most `limit` bytes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "no error"
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            act()
        except StorageError as error:
            said = str(error)
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb") as answer:
        return answer.read().decode()


@pytest.mark.parametrize("limit", SIZES)
def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(limit, tmp_path):
    """The largest file has 12,072 bytes: 72 of header, three thousand numbers."""
    folder = tmp_path / "checkpoints"
    size = (save(folder, 1, TENSORS, {}) / "model.safetensors").stat().st_size
    assert size == 12_072
    said = limited(lambda: save(folder, 2, TENSORS, {}, documents={"README.md": "x"}), limit)
    found = LINE.fullmatch(f"error: {said}")
    assert found, said
    assert found["path"] == str(folder / "step-00000002")
    assert found["whole"] == "step-00000001"
    used = sum(p.stat().st_size for p in (folder / "step-00000001").iterdir())
    assert used <= number(found["needed"]) < used + 5 * 4096 + 1000
    assert abs(number(found["free"]) - shutil.disk_usage(folder).free) < 2**30
    assert os.listdir(folder) == ["step-00000001"]
    assert load(folder).step == 1
    assert limited(lambda: save(folder, 2, TENSORS, {}), size) == "no error"
    assert load(folder).step == 2


def stopped_after_a_checkpoint(launcher, out, said):
    """A run that was interrupted once it had saved."""
    child = launcher.start(command(out), said)
    while not checkpoint.is_started(out):
        time.sleep(0.01)
    os.kill(child, signal.SIGTERM)
    assert launcher.wait(child, said).code == 143
    return load(out).step


def test_training_that_meets_a_limit_says_so_and_ends_as_undisturbed(launcher, tmp_path):
    """Sizes from one byte to one less than the largest file has."""
    wanted, out, said = tmp_path / "wanted", tmp_path / "out", tmp_path / "said"
    assert launcher.run(command(wanted), said).code == 0
    step = stopped_after_a_checkpoint(launcher, out, said)
    names = os.listdir(out / "checkpoints")
    largest = max(p.stat().st_size for p in wanted.rglob("*.safetensors"))
    log = (out / "metrics.jsonl").stat().st_size + 4096
    sizes = [*(log + (largest - log) * i // 9 for i in range(9)), largest - 1]
    for limit in sizes[:: count(3, 1)]:
        done = launcher.run(command(out), said, limit=limit)
        assert done.code == 1, done.err
        *_, last = done.err.splitlines()
        found = LINE.fullmatch(last)
        assert found, done.err
        assert found["whole"] == f"step-{step:08d}"
        assert "Traceback" not in done.err
        assert load(out).step == step
        assert os.listdir(out / "checkpoints") == names
    done = launcher.run(command(out), said, limit=largest)
    assert done.code == 0, done.err
    assert digests(out) == digests(wanted)


def test_a_log_that_does_not_fit_is_one_line_too(launcher, tmp_path):
    out, said = tmp_path / "out", tmp_path / "said"
    step = stopped_after_a_checkpoint(launcher, out, said)
    done = launcher.run(command(out), said, limit=10)
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("error: ")
    assert done.err.endswith(": File too large; make room and run the same command again\n")
    assert "Traceback" not in done.err
    assert load(out).step == step


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1.5 MB, where the tests may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "polymode", place],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("may not mount; a limit on the size of files stands in for it")
    yield place
    subprocess.run(["umount", place], check=True)


def test_training_that_fills_a_disk_says_so_and_ends_as_undisturbed(launcher, small_disk, tmp_path):
    """A checkpoint has 0.8 MB: there is room for one, none for the next beside it."""
    wanted, said = tmp_path / "wanted", tmp_path / "said"
    assert launcher.run(command(wanted), said).code == 0
    out = small_disk / "run"
    for _ in range(2):  # again without room: the same answer
        done = launcher.run(command(out), said)
        assert done.code == 1, done.err
        first, *_, last = done.err.splitlines()
        found = LINE.fullmatch(last)
        assert found, done.err
        assert found["path"].startswith(f"{out}/checkpoints/step-")
        assert number(found["needed"]) > number(found["free"])
        assert load(out).path.name == found["whole"]
        assert os.listdir(out / "checkpoints") == [found["whole"]]
        warning = r".*checkpoints: [\d,]+ bytes are free and checkpoints need [\d,]+, 2\.2 times.*"
        assert re.fullmatch(warning, first)
    subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
    done = launcher.run(command(out), said)
    assert done.code == 0, done.err
    assert digests(out) == digests(wanted)
