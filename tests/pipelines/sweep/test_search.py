"""A search: what is drawn, what is refused, who is cut, what goes on, and what is shown of it."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from processes import check_gone, command_of, started_by

from core.errors import InputError
from core.parts.config import bind
from core.parts.yaml_file import read_yaml
from core.request import TrainRequest, TrainResult, silent
from core.storage import files
from core.training.loop import NotFinite
from core.training.stopping import NO_SIGNAL, Stopped
from pipelines.job.file import parse
from pipelines.job.plan import plan
from pipelines.report import render
from pipelines.report.request import ReportRequest
from pipelines.run.display import Display
from pipelines.run.execute import on_ray
from pipelines.store import results
from pipelines.sweep.request import SweepRequest
from pipelines.sweep.search import sweep
from pipelines.sweep.space import draw

sys.path.insert(0, str(Path(__file__).parent))
from made_jobs import TRAINING, job

GOOD, HOPELESS = 3e-3, 1e-9


# --- who is cut, and what goes on -----------------------------------------------------------------


class Trainings:
    """Stands for `core.runs.train`: figures as told, one a step; it goes on from what it wrote.

    Args:
        values: learning rate to its figure, or one for each step; or to what is raised, by a
            request that is wrong at the first step, by others at the second one.
    """

    def __init__(self, values):
        self.values, self.taken = values, []

    def __call__(self, request, out, *, machine, emit, stop):
        log, value = out / "metrics.jsonl", self.values[request.lr]
        done = len(log.read_text().splitlines()) if log.exists() else 0
        (out / "checkpoints" / "step-00000001").mkdir(parents=True, exist_ok=True)
        for step in range(done + 1, request.steps + 1):
            if stop():
                raise Stopped(step - 1, NO_SIGNAL)
            if isinstance(value, Exception) and (step > 1 or isinstance(value, InputError)):
                raise value
            self.taken.append((request.lr, step))
            figure = 1.2 if isinstance(value, Exception) else value
            figure = figure[step - 1] if isinstance(figure, tuple) else figure
            with log.open("a") as file:
                file.write(json.dumps({"step": step, "val/loss": figure, "val/high": -figure}))
                file.write("\n")
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        step = min(rows, key=lambda row: row["val/loss"])["step"]
        best = out / "checkpoints" / f"step-{step:08d}"
        return TrainResult(checkpoint=best.parent, best=best, steps=request.steps, loss=1.0,
                           parameters=1, seconds=0.0)  # fmt: skip


@pytest.fixture
def trainings(monkeypatch):
    """Trainings whose figures come in the order in which their learning rates are drawn."""

    def of(*figures):
        rates = [choice["lr"] for choice in draw({"lr": RATES[: len(figures)]}, 9, 0)]
        made = Trainings(dict(zip(rates, figures, strict=True)))
        monkeypatch.setattr("core.runs.train", made)
        return made

    return of


RATES = [0.1, 0.2, 0.3, 0.4, 0.5]


def searched(count, out, stop=None, **changes):
    options = {"steps": 4, "validate_every": 1, "reduction": 2, **changes}
    request = bind(SweepRequest, {**TRAINING, "space": {"lr": RATES[:count]}, **options})
    out.mkdir(exist_ok=True)
    result = sweep(request, out, emit=silent, stop=stop)
    return result, json.loads((out / "trials.json").read_text())


def states(table):
    return [(row["state"], row["steps"]) for row in table["trials"]]


def test_who_is_worse_than_the_middle_at_a_rung_is_cut(trainings, tmp_path):
    """By hand, for halving at steps 1 and 2: 5 is above the median of 4 and 3, so it is cut at 1;
    3.2 is below the median of 4, 3 and 5 at 1, but not below that of 4 and 3 at 2."""
    trainings(4.0, 3.0, 5.0, 3.6, 1.0)
    result, table = searched(5, tmp_path / "a")
    assert states(table) == [
        ("finished", 4), ("finished", 4), ("cut", 1), ("cut", 2), ("finished", 4),
    ]  # fmt: skip
    assert (result.trial, result.value, table["best"]) == ("005", 1.0, "005")
    assert (result.finished, result.cut, result.failed) == (3, 2, 0)


def test_grace_and_reduction_say_when_and_how_many(trainings, tmp_path):
    trainings(1.0, 2.0, 3.0)
    _, table = searched(3, tmp_path / "grace", grace=3)
    assert states(table) == [("finished", 4), ("cut", 3), ("cut", 3)]
    trainings(1.0, 3.0, 2.0)
    _, table = searched(3, tmp_path / "none", grace=4)  # nobody is cut at the last step
    assert states(table) == [("finished", 4)] * 3
    trainings(1.0, 3.0, 2.0)
    # 2 is the median of 1 and 3: among the better half, not among the best third.
    _, table = searched(3, tmp_path / "half", grace=2, reduction=2)
    assert [state for state, _ in states(table)] == ["finished", "cut", "finished"]
    trainings(1.0, 3.0, 2.0)
    _, table = searched(3, tmp_path / "third", grace=2, reduction=3)
    assert [state for state, _ in states(table)] == ["finished", "cut", "cut"]


def test_the_best_is_one_that_was_trained_to_the_end_if_any_was(trainings, tmp_path):
    trainings((3.0, 1.0, 1.0, 1.0), (0.5, 2.0, 2.0, 2.0))
    result, table = searched(2, tmp_path / "a")
    assert states(table) == [("finished", 4), ("cut", 2)]
    assert table["trials"][1]["value"] == 0.5
    assert (result.trial, result.value) == ("001", 1.0)
    trainings(NotFinite("step 2: loss nan"), 5.0)
    result, table = searched(2, tmp_path / "b")
    assert states(table) == [("failed", 1), ("cut", 1)]
    assert (result.trial, result.value) == ("002", 5.0)


def test_the_metric_is_the_one_that_was_asked_for(trainings, tmp_path):
    trainings(1.0, 3.0, 2.0)
    assert searched(3, tmp_path / "loss", grace=4)[0].trial == "001"
    trainings(1.0, 3.0, 2.0)  # whose upper ends are -1, -3, -2
    result, _ = searched(3, tmp_path / "high", grace=4, metric="val/high")
    assert (result.trial, result.value) == ("002", -3.0)


def test_of_equals_the_first_is_kept_and_of_the_others_only_the_record(trainings, tmp_path):
    trainings(2.0, 1.0, 1.0)
    result, _ = searched(3, tmp_path / "a")
    assert result.trial == "002"
    kept = sorted(path.parent.name for path in tmp_path.glob("a/trials/*/checkpoints"))
    assert kept == ["002"]
    assert len(list(tmp_path.glob("a/trials/*/metrics.jsonl"))) == 3
    assert not list(tmp_path.glob("a/trials/*/.del-*"))


def test_a_failed_trial_is_named_and_the_others_go_on(trainings, tmp_path):
    trainings(2.0, NotFinite("step 2: loss nan"), 1.0)
    result, table = searched(3, tmp_path / "a")
    assert states(table) == [("finished", 4), ("failed", 1), ("finished", 4)]
    assert table["trials"][1]["cause"] == "NotFinite: step 2: loss nan"
    assert (result.trial, result.failed) == ("003", 1)


def test_when_every_trial_fails_so_does_the_search(trainings, tmp_path):
    trainings(NotFinite("step 2: loss nan"), InputError("too wide"))
    with pytest.raises(RuntimeError, match="all 2 trials failed, the first one: NotFinite: step 2"):
        searched(2, tmp_path / "a")
    trainings(InputError("no such photographs"), InputError("too wide"))
    with pytest.raises(InputError, match="all 2 trials failed, the first one: no such photographs"):
        searched(2, tmp_path / "b")
    made = trainings(2.0, 1.0)  # what was the machine's fault may be mended: both are tried again
    assert searched(2, tmp_path / "b")[0].trial == "002"
    assert len(made.taken) == 2 * 4


def test_a_full_disk_ends_the_search_and_the_next_one_goes_on(trainings, tmp_path):
    made = trainings(2.0, OSError(28, "No space left on device"), 1.0)
    with pytest.raises(RuntimeError, match=r"trial 002: OSError: .*No space left"):
        searched(3, tmp_path / "a")
    second = trainings(2.0, 1.5, 1.0)
    result, table = searched(3, tmp_path / "a")
    assert result.trial == "003"
    assert states(table) == [("finished", 4)] * 3
    steps = Counter([*made.taken, *second.taken])
    assert set(steps.values()) == {1}  # nothing was trained twice


def test_a_stopped_search_ends_as_one_that_was_not(trainings, tmp_path):
    figures = (4.0, 3.0, 5.0, 3.6, 1.0)
    trainings(*figures)
    _, whole = searched(5, tmp_path / "whole")
    made, looks = trainings(*figures), 0

    def stop():
        nonlocal looks
        looks += 1
        return looks % 5 == 0

    for _ in range(10):
        try:
            _, table = searched(5, tmp_path / "stopped", stop=stop)
            break
        except Stopped:
            waiting = json.loads((tmp_path / "stopped" / "trials.json").read_text())
            assert [row["options"] for row in waiting["trials"]] == [
                row["options"] for row in whole["trials"]
            ]
    assert looks > 10
    assert table == whole
    assert set(Counter(made.taken).values()) == {1}


def test_a_file_named_stop_ends_a_search_and_is_removed(trainings, tmp_path):
    trainings(2.0, 1.0)
    out = tmp_path / "a"
    out.mkdir()
    (out / "STOP").touch()
    with pytest.raises(Stopped):
        searched(2, out)
    assert not (out / "STOP").exists()
    assert searched(2, out)[0].trial == "002"


# --- for real -------------------------------------------------------------------------------------


COMMAND = [sys.executable, "-c", "from pipelines.cli import main; main()"]


def command(out, *more, **options):
    request = out.parent / "request.yaml"
    request.write_text(json.dumps(TRAINING))
    words = ["sweep", str(request), "-o", str(out), "--threads", "1", *more]
    return subprocess.run(
        [*COMMAND, *words],
        capture_output=True, text=True, check=False, timeout=240, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A search by the command, in one process: its folder and what was printed."""
    out = tmp_path_factory.mktemp("sweep") / "runs"
    done = command(out, "--vary", f"lr={HOPELESS},{GOOD}", "--local", cwd=out.parent)
    assert done.returncode == 0, done.stderr
    (folder,) = out.glob("store/sweep-*")
    return folder, done


def test_the_command_prints_the_best_and_a_table_of_all(real):
    folder, done = real
    assert done.stdout.splitlines() == [
        f"runs/store/{folder.name}/best.yaml",
        f"runs/store/{folder.name}/trials/001/checkpoints",
    ]
    table = [line.split() for line in done.stderr.splitlines()[-3:]]
    assert table[0] == ["trial", "lr", "steps", "val/loss", "at", "step", "state"]
    assert [(row[0], float(row[1]), row[-1]) for row in table[1:]] == [
        ("001", GOOD, "best"), ("002", HOPELESS, "cut"),
    ]  # fmt: skip
    again = command(folder.parents[1], "--vary", f"lr={HOPELESS},{GOOD}", cwd=folder.parents[2])
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert again.stderr.splitlines()[0] == "nothing to do: its one step is a hit"


@pytest.mark.slow
def test_the_best_request_trains_the_same_network_again(real, tmp_path):
    from core.request import Machine
    from core.runs import train

    folder, _ = real
    request = bind(TrainRequest, read_yaml(folder / "best.yaml"))
    assert (request.lr, request.steps) == (GOOD, 24)
    result = train(request, tmp_path, machine=Machine(device="cpu", threads=1))
    found = json.loads((folder / "trials.json").read_text())["trials"][0]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["val/loss"] for row in rows if "val/loss" in row}
    assert found["value"] == min(losses.values()) == losses[found["step"]]
    assert result.best.name == f"step-{found['step']:08d}"
    ours = files.digest(result.best / "ema.safetensors")
    best = results.result_path(folder, "best")
    assert files.digest(best / "ema.safetensors") == ours


def test_a_report_draws_every_trial_and_marks_the_best(real, tmp_path):
    folder, _ = real
    made = render.report(ReportRequest(), {"search": folder}, tmp_path)
    page, facts = made.report.read_text(), json.loads(made.data.read_text())
    trials = facts["steps"][0]["search"]["trials"]
    rows = [json.loads(line) for line in
            (folder / "trials" / "001" / "metrics.jsonl").read_text().splitlines()]  # fmt: skip
    losses = [(row["step"], row["val/loss"]) for row in rows if "val/loss" in row]
    assert [(at["step"], at["loss"]) for at in trials[0]["points"]] == losses
    assert len(trials[1]["points"]) == 1  # it was cut at its first validation
    lines = re.findall(r'<g class="(\w+)"><title>trial (\d+), (\w+)</title>\s*<polyline points="'
                       r'([^"]*)"', page)  # fmt: skip
    assert [line[:3] for line in lines] == [
        ("trial", "002", "cut"), ("chosen", "001", "finished"),
    ]  # fmt: skip
    places = [tuple(map(float, point.split(","))) for point in lines[1][3].split()]
    assert len(places) == 3
    assert places[-1][0] == 706.0  # the right edge: width 720 less 14
    assert places[0][1] < places[-1][1]  # the loss falls: lower on the page
    assert page.count('<span class="tag best">best</span>') == 1
    assert str(tmp_path) not in page


def test_causes_and_values_in_a_report_are_text_and_name_no_folder(real, tmp_path):
    folder, _ = real
    copy = tmp_path / folder.name
    copy.mkdir()
    for name in ("request.json", "env.json", "result.json"):
        (copy / name).write_text((folder / name).read_text())
    table = json.loads((folder / "trials.json").read_text())
    hostile = "<script>alert(1)</script>"
    table["trials"][1] |= {"state": "failed", "cause": f"/home/me/x/photo.png: {hostile}"}
    table["trials"][1]["options"] = {"lr": "/home/me/y", hostile: hostile}
    files.write_json(copy / "trials.json", table)
    page = render.report(ReportRequest(), {"s": copy}, tmp_path).report.read_text()
    assert "/home/me" not in page
    assert "…/photo.png" in page
    assert page.count("<script>") == 1


def searches():
    return [p for p in started_by(os.getpid()) if "ImplicitFunc" in " ".join(command_of(p))]


@pytest.mark.slow
def test_two_at_once_on_ray_cut_the_hopeless_and_agree_with_one_process(real, ray_here, tmp_path):
    space = {"lr": [HOPELESS, GOOD, 1e-8, 1e30]}  # with the last one weights are soon infinite
    steps, shown = plan(parse(job(space, workers=2)), tmp_path), io.StringIO()
    with Display(["search"], stream=shown) as display:
        outcome = on_ray(steps, display)["search"]
    assert outcome.state == "done", shown.getvalue()
    folder = steps[0].folder
    rows = json.loads((folder / "trials.json").read_text())["trials"]
    by_rate = {row["options"]["lr"]: row for row in rows}
    assert by_rate[GOOD]["state"] == "finished"
    alone = json.loads((real[0] / "trials.json").read_text())["trials"][0]
    assert by_rate[GOOD]["value"] == alone["value"]
    assert "cut" in (by_rate[HOPELESS]["state"], by_rate[1e-8]["state"])
    assert by_rate[1e30]["state"] == "failed"
    assert by_rate[1e30]["cause"].startswith("NotFinite: ")
    assert results.read_json(folder / "result.json")["trial"] == by_rate[GOOD]["trial"]
    assert not list(folder.glob(".tune"))
    assert f"trial {by_rate[GOOD]['trial']} finished: " in shown.getvalue()
    deadline = time.monotonic() + 10
    while searches() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not searches()
    assert results.inspect(folder, steps[0].key, verify=True).state == "whole"


def events(folder):
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [text for line in lines if (text := json.loads(line).get("text"))]


@pytest.mark.torture
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_search_goes_on_after_its_command_is_ended(tmp_path, number, status):
    out, request = tmp_path / "runs", tmp_path / "request.yaml"
    request.write_text(json.dumps({**TRAINING, "steps": 200, "validate_every": 50}))
    words = [*COMMAND, "sweep", str(request), "-o", str(out), "--threads", "1", "--workers", "2",
             "--vary", "lr=1e-3,2e-3,3e-3,4e-3", "--set", "grace=200"]  # fmt: skip
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)

    def begun():
        """Trials that have ended, once another is at some step between two validations."""
        ended = {path.parent for path in out.glob("store/*/trials/*/outcome.json")}
        taken = {path.parent: path.read_text().count("\n")
                 for path in out.glob("store/*/trials/*/metrics.jsonl")}  # fmt: skip
        return ended and any(55 <= taken[at] < 85 for at in taken.keys() - ended) and ended

    deadline = time.monotonic() + 300
    while not (before := begun()) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    running = started_by(process.pid)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == status, said
    assert "Traceback" not in said
    check_gone(running)
    kept = {at: (at / "outcome.json").stat().st_mtime_ns for at in before}
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {at: (at / "outcome.json").stat().st_mtime_ns for at in before} == kept
    (folder,) = out.glob("store/sweep-*")
    rows = json.loads((folder / "trials.json").read_text())["trials"]
    assert [(row["state"], row["steps"]) for row in rows] == [("finished", 200)] * 4
    resumed = [at for at in folder.glob("trials/*") if any("resuming" in e for e in events(at))]
    assert resumed
    assert not set(resumed) & set(before)
    if number == signal.SIGTERM:  # the step it was at, which no validation and no clock chose
        notes = [e for at in resumed for e in events(at) if "resuming from step" in e]
        assert any(int(re.search(r"step (\d+)", note)[1]) % 50 for note in notes), notes
