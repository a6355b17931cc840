"""A job of five domains and sixteen steps survives whatever is killed: same results, no orphans.

A few kills by default; all of them by `make torture`.
"""

import io
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from processes import GONE_WITHIN, check_gone, command_of, started_by
from toy_jobs import POLYMODE, done, planned
from toy_verbs import TOYS

import pipelines
from core.parts.registry import installed
from core.parts.yaml_file import read_yaml
from pipelines.cluster import guard
from pipelines.cluster.private import PREFIX
from pipelines.run.display import Display
from pipelines.run.execute import on_ray
from pipelines.store import results

FULL = os.environ.get("POLYMODE_TORTURE", "") not in ("", "0")
JOBS = Path(pipelines.__file__).with_name("jobs")
DOMAINS = ("image2image", "medical", "video", "pointcloud", "segmentation")


def sixteen(seconds: float = 0.0, retries: int = 0) -> dict[str, dict]:
    """The graph of the job of all plug-ins, with stand-ins for verbs and for missing plug-ins."""
    real = read_yaml(JOBS / "all.yaml")["steps"]
    present = {name.partition("-")[0] for name in real} - {"report"}
    assert present <= set(DOMAINS)
    assert present == {name for name in installed().plugins if name in DOMAINS}
    steps: dict[str, dict] = {}
    for number, domain in enumerate(DOMAINS, start=1):
        like = domain if domain in present else min(present)
        for stage in ("train", "sample", "evaluate"):
            step = {"run": "make", "request": {"number": number, "seconds": seconds}}
            if sources := real[f"{like}-{stage}"].get("inputs", {}).values():
                names = [source.partition(".")[0].replace(like, domain) for source in sources]
                inputs = {
                    key: f"{name}.made" for key, name in zip(("left", "right"), names, strict=False)
                }
                step = {"run": "add", "inputs": inputs}
            steps[f"{domain}-{stage}"] = {**step, "retries": retries}
    inputs = {
        label.replace(like, domain): source.replace(like, domain)
        for like in present
        for label, source in real["report"]["inputs"].items()
        for domain in DOMAINS
    }
    return {**steps, "report": {"run": "report", "inputs": inputs, "retries": retries}}


REPORT = {  # what each step of a domain is, by its stand-in
    f"{domain}{label} {number + more}"
    for number, domain in enumerate(DOMAINS, start=1)
    for label, more in ((" train", 0), (" sample", 1), ("", 2))
}


class Place:
    """A job's file, its store and the processes that run it."""

    def __init__(self, folder: Path, steps: dict[str, dict]) -> None:
        self.folder, self.store = folder, folder / "runs" / "store"
        self.steps = steps
        (folder / "job.yaml").write_text(json.dumps({"name": "five", "steps": steps}))

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [*POLYMODE, "run", "job.yaml", *words]
        with (self.folder / "said.txt").open("a") as said:
            return subprocess.Popen(command, cwd=self.folder, stdout=said, stderr=said, text=True)

    def finish(self, *words: str) -> None:
        process = self.start(*words)
        assert process.wait(timeout=180) == 0, (self.folder / "said.txt").read_text()[-2000:]

    def tries(self) -> list[Path]:
        return list(self.store.glob("*/tries.txt"))

    def committed(self) -> dict[str, int]:
        """Results, and when each was committed."""
        return {p.parent.name: p.stat().st_mtime_ns for p in self.store.glob("*/MANIFEST.json")}

    def check_whole(self) -> None:
        """Every step is a hit, bit for bit what it has to be."""
        found = planned(self.store, self.steps)
        assert [p.state for p in found] == ["hit"] * 16
        assert len(self.committed()) == 16
        for p in found:
            assert results.inspect(p.folder, p.key, verify=True).state == "whole"
        assert {*(found[-1].folder / "report.html").read_text().splitlines()[1:]} == REPORT
        assert not list(self.store.glob("damaged-*"))


def wait_until(true: Callable[[], object], process: subprocess.Popen[str]) -> bool:
    """Whether it came true before the process ended."""
    while not true():
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def temporary(monkeypatch):
    """A folder for temporary files whose path is short enough for Ray's sockets; empty at the end.

    Waits, because a driver that was killed is cleaned up after by another process.
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield
        deadline = time.monotonic() + GONE_WITHIN
        while (left := list(Path(folder).glob(f"{PREFIX}*"))) and (time.monotonic() < deadline):
            time.sleep(0.1)
        assert left == []


def test_a_changed_option_runs_what_depends_on_it_and_nothing_else(tmp_path):
    done(tmp_path, sixteen())
    outcomes, _ = done(tmp_path, sixteen(), ["steps.video-train.request.number=9"])
    again = {name for name, outcome in outcomes.items() if outcome.state == "done"}
    assert again == {"video-train", "video-sample", "video-evaluate", "report"}


@pytest.mark.parametrize("first", [("--local",), pytest.param((), marks=pytest.mark.torture)])
def test_two_drivers_at_once_do_each_step_once(tmp_path, first):
    place = Place(tmp_path, sixteen(seconds=0.4))
    two = [place.start(*first), place.start("--local")]
    assert [process.wait(timeout=180) for process in two] == [0, 0]
    place.check_whole()
    assert [path.read_text() for path in place.tries()] == ["try\n"] * 5
    events = [path.read_text() for path in place.store.glob("*/events.jsonl")]
    assert [text.count('"began"') for text in events] == [1] * 16


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [("--local",), pytest.param(("--cpus", "2"), marks=pytest.mark.torture)],
    ids=["local", "ray"],
)
def test_a_driver_killed_anywhere_goes_on_and_leaves_no_process(tmp_path, temporary, words):
    """Killed a little after each commit of a whole run, by turns sooner and later."""
    killed, wanted = 0, (32 if FULL else 6 if words == ("--local",) else 1)
    while killed < wanted:  # a run that came to its end is followed by another from the beginning
        (folder := tmp_path / str(killed)).mkdir()
        killed = _killed_to_its_end(Place(folder, sixteen(seconds=0.2)), words, killed, wanted)
    assert killed == wanted


def _killed_to_its_end(place: Place, words: tuple[str, ...], killed: int, wanted: int) -> int:
    """Kill drivers of one job until it is done or there were enough; how many there were."""
    before: dict[str, int] = {}
    while killed < wanted and len(before) < 16:
        process = place.start(*words)
        more = len(before) + (killed % 2 if words == ("--local",) else 1)  # Ray is up by then
        if not wait_until(lambda more=more: len(place.committed()) >= more, process):
            break
        time.sleep(0.07 * (killed % 7))
        family = started_by(process.pid)
        killed += process.poll() is None
        process.kill()
        process.wait()
        check_gone(family)
        after = place.committed()
        assert before.items() <= after.items()  # what was committed was not done again
        before = after
    place.finish("--local")
    place.check_whole()
    assert before.items() <= place.committed().items()
    return killed


def test_killed_workers_are_tried_again_and_change_nothing(ray_here, tmp_path):
    place = Place(tmp_path, sixteen(seconds=1.0, retries=5))
    kills, victims = (5 if FULL else 3), set[int]()

    def kill() -> None:
        deadline = time.monotonic() + 60
        while len(victims) < kills and time.monotonic() < deadline:
            for child in started_by(os.getpid()):
                with suppress(psutil.NoSuchProcess):
                    step = child.name().removeprefix("ray::")
                    at_work = list(place.store.glob(f"{step}-*/tries.txt"))
                    if step.endswith("-train") and at_work and child.pid not in victims:
                        child.kill()
                        victims.add(child.pid)
                        break
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    shown = io.StringIO()
    steps = planned(place.store, place.steps)
    with Display([p.step.name for p in steps], stream=shown) as display:
        outcomes = on_ray(steps, display, verbs=TOYS)
    killer.join()
    assert {o.state for o in outcomes.values()} == {"done"}, shown.getvalue()
    place.check_whole()
    assert len(victims) == kills
    assert 1 <= shown.getvalue().count("its worker process died") <= kills
    assert sum(len(path.read_text().split()) for path in place.tries()) > 5  # some died at work


@pytest.mark.torture
def test_a_killed_cluster_fails_the_call_and_the_next_goes_on(tmp_path, temporary):
    place = Place(tmp_path, sixteen(seconds=0.5))
    kept: dict[str, int] = {}
    for _ in range(5 if FULL else 1):
        process = place.start("--cpus", "2")
        more = len(kept) + 1
        assert wait_until(lambda more=more: len(place.committed()) >= more, process)
        kept = place.committed()
        family = started_by(process.pid)
        for victim in family:
            with suppress(psutil.NoSuchProcess):
                if guard.__file__ not in command_of(victim):  # ours, and no part of the cluster
                    victim.kill()
        assert process.wait(timeout=120) == 1
        check_gone(family)
    place.finish("--local")
    place.check_whole()
    assert kept.items() <= place.committed().items()
