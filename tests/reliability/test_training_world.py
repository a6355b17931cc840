"""Processes that share each batch: the same run whatever their number, and no one waits in vain."""

import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import After, losses, request, rows, sums, trained

from core.errors import InputError
from core.storage import checkpoint
from core.training.stopping import Stopped

pytestmark = pytest.mark.usefixtures("toys")
SCRIPT = str(Path(__file__).with_name("train_together.py"))
LONG = {"steps": 50, "batch": 5, "lr": 1e-3, "unconditional": 0.3,
        "times": {"name": "core/loss_aware", "bins": 2, "history": 3}}  # fmt: skip


def free_port():
    """Below those that systems hand out, so that no other program takes it before it is used."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 20):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port")


def together(folder, runs, size, *, group=False, limit=120, **environment):
    """What each rank said of each run."""
    listed = folder / f"runs-{time.monotonic_ns()}.json"
    listed.write_text(json.dumps(runs))
    port = free_port()
    whole = {
        **os.environ, **environment, "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), **({"GROUP": "1"} if group else {}),
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(folder), str(listed)],
            env={**whole, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip
    said = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=limit)
            assert process.returncode == 0, (out, err)
            said.append(dict(json.loads(line) for line in out.splitlines()))
    finally:
        for process in processes:
            process.kill()
    return said


def read(log, size, batch, *, before=("0",)):
    """The indices of each step, joined from the ranks' logs; `before` was read before training."""
    logs = [Path(f"{log}.{rank}").read_text().split() for rank in range(size)]
    assert [tuple(one[: len(before)]) for one in logs] == [before] * size
    lines = [one[len(before) :] for one in logs]
    ends = [rank * batch // size for rank in range(size + 1)]
    widths = [ends[rank + 1] - ends[rank] for rank in range(size)]
    steps = min(len(one) // width for one, width in zip(lines, widths, strict=True))
    return [
        [i for one, w in zip(lines, widths, strict=True) for i in one[step * w : (step + 1) * w]]
        for step in range(steps)
    ]


@pytest.mark.slow
def test_one_two_one_processes_train_as_one_does(tmp_path, monkeypatch):
    """Batches of five do not divide by two; times learn from losses; conditions are dropped."""
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "whole"))
    trained(request(**LONG), tmp_path / "alone")
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "first"))
    with pytest.raises(Stopped):
        trained(request(**LONG), tmp_path / "changing", stop=After(15))
    once = {"TOY_LOG": str(tmp_path / "second")}
    said = together(tmp_path, [["changing", LONG, {}, 20]], 2, **once)
    assert [one["changing"] for one in said] == ["stopped at 35"] * 2
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "third"))
    trained(request(**LONG), tmp_path / "changing")

    rehearsed = ("0", "1", "0")
    whole = read(tmp_path / "whole", 1, 5, before=rehearsed)
    assert read(tmp_path / "first", 1, 5, before=rehearsed)[:15] == whole[:15]
    assert read(tmp_path / "second", 2, 5)[:20] == whole[15:35]
    assert read(tmp_path / "third", 1, 5) == whole[35:]
    assert [row["step"] for row in rows(tmp_path / "changing")] == list(range(1, 51))
    pairs = list(zip(losses(tmp_path / "changing"), losses(tmp_path / "alone"), strict=True))
    assert len(pairs) == 50
    assert max(abs(a - b) for a, b in pairs) < 1e-5
    # The first part is one process alone: to the bit.
    assert losses(tmp_path / "changing")[:15] == losses(tmp_path / "alone")[:15]

    # Alone, stopped and gone on with: to the bit.
    with pytest.raises(Stopped):
        trained(request(**LONG), tmp_path / "again", stop=After(15))
    trained(request(**LONG), tmp_path / "again")
    assert sums(tmp_path / "again") == sums(tmp_path / "alone")


@pytest.mark.slow
def test_all_decide_alike_and_leave_together(tmp_path):
    """In one group: memory short in one process, validation, a step left out, a broken item."""
    plain, poisoned = {"steps": 8}, {"steps": 8, "on_nan": "skip", "dataset": {"poison": 3}}
    judged = {"steps": 8, "validate_every": 4, "validation_items": 5}
    broken = {"steps": 40, "dataset": {"broken": 3}}
    runs = [
        ["short", {**plain, "network": {"fits": 1, "only": 1}}, {}, None],
        ["roomy", plain, {}, None],
        ["poisoned", poisoned, {}, None],
        ["judged", judged, {"save_seconds": 1e-6}, None],
        ["few", {"steps": 2, "batch": 1}, {}, None],
        ["broken", broken, {}, None],
    ]
    first, second = together(tmp_path, runs[:5], 2, group=True)
    assert {row["micro_batch"] for row in rows(tmp_path / "short")} == {1}
    pairs = zip(losses(tmp_path / "short"), losses(tmp_path / "roomy"), strict=True)
    assert all(abs(a - b) < 1e-6 for a, b in pairs)
    assert "out of memory with 4 samples at once" in first["short"][0]
    assert second["short"] == []  # the first one speaks
    assert sum(row["skipped"] for row in rows(tmp_path / "poisoned")) >= 1
    trained(request(**judged), tmp_path / "alone")
    (mine, alone) = (
        [row["val/loss"] for row in rows(tmp_path / name) if "val/loss" in row]
        for name in ("judged", "alone")
    )
    assert mine == pytest.approx(alone, rel=1e-5)
    assert len(alone) == 2
    for one in (first, second):
        assert "batch: 1 samples for 2 processes" in one["few"]
    started = time.monotonic()
    first, second = together(tmp_path, runs[5:], 2, group=True)
    assert time.monotonic() - started < 60
    ends = sorted([first["broken"], second["broken"]])
    assert ends == [
        "PeerError: another process of this run failed; its own message says why",
        "RuntimeError: point 3 cannot be read",
    ]


@pytest.mark.slow
def test_the_first_process_writes_and_a_folder_that_the_others_do_not_see_is_named(tmp_path):
    """The first process resumes from step 3; the second finds nothing in its own folder."""
    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    with pytest.raises(Stopped):
        trained(request(), tmp_path / "0" / "run", stop=After(3))
    listed = tmp_path / "runs.json"
    listed.write_text(json.dumps([["run", {}, {}, None]]))
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(tmp_path / str(rank)), str(listed)],
            env={**os.environ, "WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": port},
            stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [json.loads(p.communicate(timeout=120)[0])[1] for p in processes]
    assert said[0].startswith("PeerError")
    assert said[1].endswith("Every process of a run must see the same output folder")
    assert checkpoint.load(tmp_path / "0" / "run").step == 3


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: expected a number, got 'two'; unset it"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "expected a rank from 0 to 1; start by torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "the other processes cannot be reached"),
    ],
)
def test_variables_that_make_no_sense_are_one_sentence(variables, words, tmp_path, monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=words):
        trained(request(), tmp_path)
