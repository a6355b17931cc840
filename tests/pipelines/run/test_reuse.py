"""Small steps share a process of Ray; what leaves something behind ends with its process."""

import os

import psutil
import pytest
from processes import check_gone
from toy_verbs import LeaveRequest, MakeResult

from pipelines.job.file import parse
from pipelines.job.plan import plan
from pipelines.job.verbs import Runnable
from pipelines.run.display import Display
from pipelines.run.execute import on_ray

VERBS = {"leave": Runnable(request=LeaveRequest, result=MakeResult, target="toy_verbs:leave")}


def ran(root, steps):
    """Process, threads and folder of each step, and its log."""
    what = plan(parse({"name": "t", "steps": steps}, verbs=VERBS), root, verbs=VERBS)
    with open(os.devnull, "w") as nowhere, Display([*steps], stream=nowhere) as shown:
        outcomes = on_ray(what, shown, verbs=VERBS)
    assert {outcome.state for outcome in outcomes.values()} == {"done"}
    for p in what:
        assert (p.folder / "log.txt").read_text() == f"{p.folder.name}\n"
    return [(p.folder / "made.txt").read_text().splitlines() for p in what]


def chain(count, leaves="", cpus=lambda number: 2):
    """Steps that each need the one before."""
    steps = {}
    for number in range(count):
        inputs = {"after": f"s{number - 1}.made"} if number else {}
        step = {"run": "leave", "request": {"leaves": leaves}, "cpus": cpus(number)}
        steps[f"s{number}"] = {**step, "inputs": inputs}
    return steps


def test_small_steps_share_processes_and_each_has_its_own_log(ray_here, tmp_path):
    found = ran(tmp_path, {f"s{number}": {"run": "leave"} for number in range(12)})
    # At most two at a time, and two more that did steps of other tests and had to end.
    assert len({process for process, _, _ in found}) <= 4
    assert {folder for _, _, folder in found} == {os.getcwd()}


@pytest.mark.parametrize("leaves", ["memory", "thread", "child"])
def test_a_step_that_leaves_something_behind_ends_its_process(ray_here, tmp_path, leaves):
    processes = [int(process) for process, _, _ in ran(tmp_path, chain(3, leaves))]
    assert len(set(processes)) == 3
    ended = [psutil.Process(pid) for pid in processes if psutil.pid_exists(pid)]
    check_gone(ended)


def test_steps_of_other_numbers_of_threads_have_other_processes(ray_here, tmp_path):
    found = ran(tmp_path, chain(4, cpus=lambda number: 1 + number % 2))
    assert [threads for _, threads, _ in found] == ["1", "2", "1", "2"]
    threads = {process: threads for process, threads, _ in found}
    assert all(threads[process] == number for process, number, _ in found)


def test_each_step_begins_in_the_folder_of_the_command(ray_here, tmp_path):
    found = ran(tmp_path, chain(3, "folder"))
    assert {folder for _, _, folder in found} == {os.getcwd()}
