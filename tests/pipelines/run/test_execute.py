"""Steps done in this process: what fails, what goes on, what is kept and what is said."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import typer
from commands import call
from toy_jobs import POLYMODE, STEPS, done, planned, toy
from toy_verbs import TOYS, MakeResult, polymode

from core.errors import InputError
from core.request import Note, Progress
from pipelines.commands import invocation
from pipelines.commands.invocation import carry_out
from pipelines.job.file import parse
from pipelines.job.verbs import VERBS
from pipelines.run.display import Display
from pipelines.run.execute import failure, locally
from pipelines.run.step import run_step
from pipelines.store import results


def folder(root, name) -> Path:
    return next(p.folder for p in planned(root) if p.step.name == name)


def test_inputs_flow_and_everything_becomes_a_hit(tmp_path):
    outcomes, _ = done(tmp_path)
    assert {o.state for o in outcomes.values()} == {"done"}
    assert (folder(tmp_path, "sum") / "made.txt").read_text() == "6"  # 3 + 4 * 0.5 + 1
    assert (folder(tmp_path, "page") / "report.html").read_text() == "hi\nA 3\nSum 6"
    assert (folder(tmp_path, "a") / "machine.txt").read_text() == "cpu 2 2"
    again, _ = done(tmp_path)
    assert {o.state for o in again.values()} == {"hit"}


def test_what_is_kept_beside_a_result(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "swordfish")
    done(tmp_path)
    at = folder(tmp_path, "a")
    assert (at / "log.txt").read_text().splitlines() == [
        "a line on standard output",
        "a line from below python",
        "a line on standard error",
    ]
    events = [json.loads(line) for line in (at / "events.jsonl").read_text().splitlines()]
    assert [events[0]["began"], events[1]["text"], events[-1]["done"]] == [True, "try 1", 10]
    assert json.loads((at / "result.json").read_text()) == {"made": "made.txt", "value": 3}
    environment = json.loads((at / "env.json").read_text())
    assert {"python", "torch", "ray", "polymode", "platform", "start", "end", "seconds"} <= set(
        environment
    )
    assert (environment["threads"], environment["device"]) == (2, "cpu")
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"swordfish" not in kept
    assert str(tmp_path).encode() not in kept  # so that a store can be moved


def test_a_verb_of_whole_steps_gets_its_machine_and_shows_its_progress(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.run.step.BETWEEN", 0)
    done(tmp_path, settings=["steps.page.cpus=2"])
    at = folder(tmp_path, "page")
    assert (at / "machine.txt").read_text() == "cpu 2"
    events = [json.loads(line) for line in (at / "events.jsonl").read_text().splitlines()]
    counted = [(e["done"], e["total"], e["unit"]) for e in events if "done" in e]
    assert counted == [(1, 2, "page"), (2, 2, "page")]


def test_a_verb_of_whole_steps_with_the_earlier_signature_is_refused(tmp_path, monkeypatch):
    def earlier(title, inputs, out): ...

    monkeypatch.setattr("toy_verbs.show", earlier)
    outcomes, _ = done(tmp_path)
    assert outcomes["page"].refused
    assert outcomes["page"].cause.startswith(
        "verb 'report': expected the signature (request, inputs, out, *, machine, emit), got "
        "(title, inputs, out); change "
    )


def test_output_of_the_caller_is_back_after_a_step(tmp_path, capfd):
    done(tmp_path)
    os.write(1, b"mine\n")
    print("mine too")
    out, err = capfd.readouterr()
    assert out == "mine\nmine too\n"
    assert err == ""


def test_a_failed_branch_stops_only_what_needs_it(tmp_path):
    outcomes, shown = done(tmp_path, settings=["steps.b.request.fail=always"])
    assert {name: o.state for name, o in outcomes.items()} == {
        "a": "done", "b": "failed", "sum": "not run", "page": "not run", "other": "done",
    }  # fmt: skip
    assert outcomes["b"].cause == "RuntimeError: it broke"
    assert outcomes["page"].cause == "needs sum"
    assert "b      failed" in shown
    p = next(p for p in planned(tmp_path, settings=["steps.b.request.fail=always"])
             if p.step.name == "b")  # fmt: skip
    said = failure(p, outcomes["b"]).splitlines()
    assert said[0] == "step b: RuntimeError: it broke"
    assert said[1] == f"  log: {p.folder / 'log.txt'}"
    assert said[-2:] == ["  | RuntimeError: it broke", "  | in two lines"]
    assert len(said) <= 2 + 15
    assert p.why == "unfinished: resumes where it stopped"


@pytest.mark.parametrize("how", ["refused", "missing", "name", "folder"])
def test_a_failure_names_no_file_of_the_user_in_what_is_kept(tmp_path, monkeypatch, how, capsys):
    """A canary, a patient's name, is in the message on the terminal and in no file of the run."""
    folder, name = tmp_path / "scans" / "CANARY^JANE", "CANARY^JANE 01.dcm"
    folder.mkdir(parents=True)
    (folder / name).write_text("x")
    (tmp_path / "scans" / "A.dcm").write_text("x")
    gone = folder / "CANARY^GONE.dcm"

    def fail(request, out, **_):
        if how == "refused":
            raise InputError(f"{folder / name}: is truncated")
        if how == "missing":
            gone.read_text()
        raise ValueError(f"{folder.name if how == 'folder' else name}: is truncated")

    monkeypatch.setattr("toy_verbs.make", fail)
    steps = {"a": {"run": "make", "request": {"source": str(tmp_path / "scans")}}}
    found, root = planned(tmp_path / "runs", steps), tmp_path / "runs"
    root.mkdir(exist_ok=True)
    with Display(["a"], stream=io.StringIO()) as display:
        outcomes = locally(found, display, verbs=TOYS)
    with pytest.raises(typer.Exit):
        invocation._finish(found, outcomes, root, lambda *_: None)
    assert "CANARY" in capsys.readouterr().err
    kept = {path.name: path.read_text() for path in root.rglob("*") if path.is_file()}
    assert not [name for name, text in kept.items() if "CANARY" in text]
    cause = {
        "refused": "file 2 of request.source: is truncated",
        "missing": "FileNotFoundError: [Errno 2] No such file or directory: 'a file'",
        "name": "ValueError: file 2 of request.source: is truncated",
        "folder": "ValueError: folder of file 2 of request.source: is truncated",
    }[how]
    assert json.loads(kept["outcome.json"])["a"]["cause"] == cause
    assert cause.removeprefix("ValueError: ") in kept["log.txt"]
    assert "in fail" in kept["log.txt"]  # the frames of the traceback stay


def test_notes_and_warnings_name_no_file_of_the_user_in_what_is_kept(tmp_path, monkeypatch):
    """Such as what a dataset leaves out: in the step's events, and in its log."""
    (tmp_path / "scans").mkdir()
    for name in ("A.dcm", "CANARY^JANE.dcm"):
        (tmp_path / "scans" / name).write_text("x")

    def skip(request, out, *, emit, **_):
        emit(Note(text="left out, a localizer: 1 (CANARY^JANE.dcm)"))
        warnings.warn(f"{request.source / 'CANARY^JANE.dcm'}: skipped", stacklevel=1)
        emit(Note(text=f"{request.source}: 2 files in the folder scans"))
        (out / "made.txt").write_text("1")
        return MakeResult(made=out / "made.txt", value=1)

    monkeypatch.setattr("toy_verbs.make", skip)
    steps = {"a": {"run": "make", "request": {"source": str(tmp_path / "scans")}}}
    before = warnings.showwarning
    outcomes, _ = done(tmp_path / "runs", steps)
    assert outcomes["a"].state == "done", outcomes["a"].message
    assert warnings.showwarning is before
    kept = {p.name: p.read_text() for p in (tmp_path / "runs").rglob("*") if p.is_file()}
    assert not [name for name, text in kept.items() if "CANARY" in text]
    assert "left out, a localizer: 1 (file 2 of request.source)" in kept["events.jsonl"]
    assert "file 2 of request.source: skipped" in kept["log.txt"]
    assert "request.source: 2 files in the folder scans" in kept["events.jsonl"]
    assert str(tmp_path) not in kept["events.jsonl"]


@pytest.mark.parametrize(("failures", "retries", "state"), [(1, 1, "done"), (2, 1, "failed")])
def test_retries_are_counted_and_enter_the_same_folder(tmp_path, failures, retries, state):
    over = [f'steps.b.request.fail="{failures}"', f"steps.b.retries={retries}"]
    outcomes, shown = done(tmp_path, settings=over)
    assert (outcomes["b"].state, outcomes["b"].attempts) == (state, 2)
    assert "attempt 1 failed: RuntimeError: it broke; 1 left" in shown
    at = next(p.folder for p in planned(tmp_path, settings=over) if p.step.name == "b")
    assert (at / "tries.txt").read_text() == "try\ntry\n"
    events = [json.loads(line) for line in (at / "events.jsonl").read_text().splitlines()]
    assert [e["attempt"] for e in events if "began" in e] == [1, 2]


def test_a_wrong_request_is_not_tried_again(tmp_path):
    over = ["steps.b.request.fail=refuse", "steps.b.retries=3"]
    outcomes, _ = done(tmp_path, settings=over)
    b = outcomes["b"]
    assert (b.state, b.attempts, b.refused, b.cause) == (
        "failed", 1, True, "number: 13 is unlucky",
    )  # fmt: skip


def test_a_damaged_result_is_set_aside_and_made_again(tmp_path):
    done(tmp_path)
    at = folder(tmp_path, "a")
    (at / "made.txt").write_text("33")
    outcomes, _ = done(tmp_path)
    assert {name for name, o in outcomes.items() if o.state == "done"} == {"a"}
    assert (at / "made.txt").read_text() == "3"
    (aside,) = tmp_path.glob("damaged-a-*")
    assert (aside / "made.txt").read_text() == "33"


@pytest.mark.slow
def test_two_at_once_do_a_step_once(tmp_path):
    code = (
        "import sys; from pathlib import Path; from toy_jobs import done\n"
        "over = ['steps.a.request.seconds=1.5']\n"
        "found, shown = done(Path(sys.argv[1]), settings=over)\n"
        "print(sum(o.state == 'done' for o in found.values()), 'waiting for it' in shown)"
    )
    path = os.pathsep.join([*map(str, Path(__file__).parents[1:3]), os.environ["PYTHONPATH"]])
    two = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE,
                         text=True, env={**os.environ, "PYTHONPATH": path})
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=60)[0].split() for process in two]
    assert sum(int(count) for count, _ in said) == len(STEPS)
    assert "True" in [waited for _, waited in said]
    tries = [path.read_text() for path in tmp_path.glob("[ab]-*/tries.txt")]
    assert tries == ["try\n", "try\n"]


def test_a_result_outside_its_folder_fails_the_step(tmp_path, monkeypatch):
    import toy_verbs

    stray = toy_verbs.MakeResult(made=Path("/etc/hostname"), value=1)
    monkeypatch.setattr(toy_verbs, "make", lambda *_, **__: stray)
    (p,) = planned(tmp_path, {"a": {"run": "make"}})
    outcome = run_step(p, {}, TOYS["make"])
    assert outcome.state == "failed"
    assert results.inspect(p.folder, p.key).state == "unfinished"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_ends_with_its_status_and_the_next_run_goes_on(tmp_path, number, status):
    job = tmp_path / "job.yaml"
    steps = {**STEPS, "a": {"run": "make", "request": {"seconds": 20}}}
    job.write_text(json.dumps({"name": "toys", "steps": steps}))
    where = [str(job), "--out", str(tmp_path / "runs")]
    command = [*POLYMODE, "run", *where, "--local"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("runs/store/a-*/events.jsonl")):
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == status
    assert "Traceback" not in said
    (at,) = tmp_path.glob("runs/store/a-*")
    assert not (at / "MANIFEST.json").exists()
    after = call(polymode, "plan", *where)
    assert "unfinished: resumes where it stopped" in after.stdout


def test_the_command_prints_the_report_and_a_second_call_has_nothing_to_do(tmp_path):
    first = toy(tmp_path, "run", "--local")
    assert (first.returncode, first.stdout.count("\n")) == (0, 1)
    assert (tmp_path / first.stdout.strip()).read_text().startswith("hi")
    second = toy(tmp_path, "run")  # would start Ray if anything had to be done
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert second.stderr == "nothing to do: all 5 steps are hits\n"
    record = tmp_path / "runs" / "toys"
    assert {"job.json", "plan.json", "log.txt", "outcome.json"} == {
        p.name for p in record.iterdir()
    }
    assert "a      done" in (record / "log.txt").read_text()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--set", "steps.b.request.fail=always"], 1, "error: step b: RuntimeError: it broke"),
        (["--set", "steps.b.request.fail=refuse"], 2, "error: step b: number: 13 is unlucky"),
        (["--set", "steps.b.request.numbr=1"], 2, "error: steps.b.request.numbr: unknown option"),
        (["--cpus", "1"], 2, "error: steps.a: requires 2 CPUs, this run has 1"),
        (["--out", "job.yaml"], 2, "cannot be written"),
    ],
)
def test_the_command_ends_with_a_status_and_a_sentence(tmp_path, words, status, said):
    result = toy(tmp_path, "run", "--local", *words)
    assert result.returncode == status
    assert said in result.stderr
    assert ("Traceback" in result.stderr) == (status == 1)  # only as lines of a step's log
    assert result.stdout == ""


def test_a_job_that_is_not_there(tmp_path):
    result = call(polymode, "run", "none.yaml", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (
        2, "error: none.yaml: cannot be read: No such file or directory\n",
    )  # fmt: skip
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "means", "said"),
    [
        ({"source": "none.txt"}, {}, "steps.a.request.source: none.txt: No such file"),
        ({}, {"cpus": 1}, "steps.a: requires 2 CPUs, this run has 1"),
        ({}, {"address": "127.0.0.1:1"}, "address: nothing listens at 127.0.0.1:1"),
    ],
)
def test_what_is_refused_leaves_nothing(tmp_path, monkeypatch, options, means, said):
    monkeypatch.setitem(VERBS, "make", TOYS["make"])
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    steps = {"a": {"run": "make", "request": options, "cpus": 2}}
    job = parse({"name": "toys", "steps": steps}, verbs=TOYS)
    with pytest.raises(InputError, match=re.escape(said)):
        carry_out(job, tmp_path / "made" / "runs", **means)
    assert list(tmp_path.iterdir()) == []


def test_plain_lines_come_at_most_every_ten_seconds(monkeypatch):
    now, shown = [0.0], io.StringIO()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Display(["train", "b"], stream=shown) as display:
        display.started("train", 1)
        for second in range(1, 60):
            now[0] = float(second)
            figures = {"loss": 0.0312}
            display.news("train", Progress(done=second, total=4000, unit="step", rate=14.2,
                                           figures=figures))  # fmt: skip
        display.news("train", Note(text="a note"))
        display.ended("train", "done", "59s")
    lines = shown.getvalue().splitlines()
    assert lines[0] == "train  started"
    assert lines[1] == "train  step 10/4000  loss 0.0312  14.2 step/s  4m 41s left"
    assert len(lines) == 1 + 5 + 2
    assert lines[-2:] == ["train  a note", "train  done  59s"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_table_and_no_colour_is_heeded(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = {}
    for no_colour in ("", "1"):
        monkeypatch.setenv("NO_COLOR", no_colour)
        stream, record = Terminal(), io.StringIO()
        with Display(["train"], stream=stream, record=record) as display:
            display.started("train", 1)
            progress = Progress(done=5, total=10, unit="step", rate=2.0, figures={"loss": 0.5})
            display.news("train", progress)
            display.say("[bold]not markup[/bold]", step="train")
            time.sleep(0.4)
            display.ended("train", "done", "3s")
        shown[no_colour] = stream.getvalue()
        assert "[bold]not markup[/bold]" in shown[no_colour]
        assert "step 5/10" in shown[no_colour]
        assert record.getvalue().splitlines()[0] == "train  started"
    assert "\x1b[1;36m" in shown[""] or "\x1b[36m" in shown[""]
    assert "\x1b[36m" not in shown["1"]


def test_numbers_that_are_no_longer_finite_are_not_tried_again(tmp_path, monkeypatch):
    import toy_verbs

    from core.training.loop import NotFinite

    tries: list[int] = []

    def diverge(*_, **__):
        tries.append(1)
        raise NotFinite("step 7: the loss is nan")

    monkeypatch.setattr(toy_verbs, "make", diverge)
    outcomes, _ = done(tmp_path, {"a": {"run": "make", "retries": 3}})
    assert (outcomes["a"].state, outcomes["a"].attempts, len(tries)) == ("failed", 1, 1)
    assert not outcomes["a"].refused  # ends with status 1, not 2
    assert outcomes["a"].cause == "NotFinite: step 7: the loss is nan"


@pytest.mark.parametrize(("gpus", "parts"), [(0, []), (0.25, [0.25]), (1, [])])
def test_a_part_of_a_gpu_is_a_part_of_its_memory(tmp_path, monkeypatch, gpus, parts):
    import torch

    asked: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    done(tmp_path, {"a": {"run": "make", "gpus": gpus}})
    assert asked == parts
