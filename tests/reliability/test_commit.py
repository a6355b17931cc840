"""A checkpoint's commit, cut short anywhere: the reader finds the old one or the new, whole.

By the death of the writer (every point before, in and after every operation) and by a power cut
(every prefix of the operations, without what no fsync had followed).
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from battery import FULL, count
from disk import Operation, after_power_cut, plant, tree, watched

from core.storage import files, tensor_file
from core.storage.checkpoint import is_started, load, save


def put(folder: Path, step: int, value: float, **options: Any) -> Path:
    """A checkpoint whose tensors all hold one value."""
    tensors = {group: {"a": torch.full((4,), value)} for group in ("ema", "model")}
    return save(folder / "checkpoints", step, tensors, {"value": value}, **options)


def cut(step: Path) -> None:
    (step / "model.safetensors").write_bytes((step / "model.safetensors").read_bytes()[:-1])


def leftovers(folder: Path) -> None:
    """As a writer leaves them that died while it wrote, and one that died while it removed."""
    shutil.copytree(folder / "checkpoints/step-00000002", folder / "checkpoints/.writing-1-ab")
    (folder / "checkpoints/.writing-1-ab/MANIFEST.json").unlink()
    (folder / "checkpoints/.writing-1-ab/.tmp123456").write_bytes(b"half of a fi")
    shutil.copytree(folder / "checkpoints/step-00000002", folder / "checkpoints/.del-step-1-cd")
    (folder / "checkpoints/.del-step-1-cd/state.json").unlink()


class Case(NamedTuple):
    """`prepare`, then a commit of `step` with `value`; `old` are (step, value) that may be found.

    `safe` are steps that must be whole at every moment, `damaged` whether one was not before.
    """

    prepare: Callable[[Path], object]
    step: int
    value: float
    old: tuple[tuple[int, float], ...]
    options: Mapping[str, Any] = MappingProxyType({})
    safe: tuple[int, ...] = ()
    damaged: bool = False


def steps(*pairs: tuple[int, float]) -> Callable[[Path], object]:
    return lambda folder: [put(folder, step, value, keep=9) for step, value in pairs]


def with_leftovers(folder: Path) -> None:
    steps((1, 1.0), (2, 2.0))(folder)
    leftovers(folder)


def with_a_damaged_one(folder: Path) -> None:
    steps((1, 1.0), (2, 2.0))(folder)
    cut(folder / "checkpoints/step-00000002")


def with_a_replacement_cut_short(folder: Path) -> None:
    steps((1, 1.0), (2, 2.0))(folder)
    done = folder / "checkpoints/step-00000002"
    shutil.copytree(done, folder / "checkpoints/step-00000002.old")
    cut(done)


CASES = {
    "the first": Case(lambda folder: None, 1, 1.0, ()),
    "one is kept": Case(steps((1, 1.0)), 2, 2.0, ((1, 1.0),), {"keep": 1}),
    "two are kept, beside leftovers": Case(
        with_leftovers, 3, 3.0, ((2, 2.0),), {"documents": {"README.md": "card"}}, safe=(2,)
    ),
    "the best is kept": Case(
        steps((1, 1.0), (2, 2.0), (3, 3.0)), 4, 4.0, ((3, 3.0),), {"keep": 1, "also": (1,)}, (1,)
    ),
    "the same step again": Case(steps((1, 1.0), (2, 2.0)), 2, 2.5, ((2, 2.0),), safe=(1,)),
    "a damaged step again": Case(with_a_damaged_one, 2, 2.5, ((1, 1.0),), safe=(1,), damaged=True),
    "after a replacement cut short": Case(
        with_a_replacement_cut_short, 3, 3.0, ((2, 2.0),), safe=(2,), damaged=True
    ),
    "below a damaged later one": Case(
        with_a_damaged_one, 1, 1.5, ((1, 1.0),), {"keep": 1}, safe=(1,), damaged=True
    ),
}


@pytest.fixture(params=list(CASES))
def case(request):
    return CASES[request.param]


@pytest.fixture
def start(case, tmp_path):
    """What the disk holds before the commit."""
    folder = tmp_path / "start"
    folder.mkdir()
    case.prepare(folder)
    return tree(folder)


def commit(case: Case, folder: Path) -> None:
    put(folder, case.step, case.value, **case.options)


def assert_readable(case: Case, folder: Path) -> None:
    """The reader finds the old checkpoint or the new one, every tensor of it, and no ruin."""
    new = (case.step, case.value)
    if not case.old and not is_started(folder):
        return
    found = load(folder)
    value = found.state["value"]
    assert (found.step, value) in (*case.old, new)
    for named in found.tensors.values():
        assert torch.equal(named["a"], torch.full((4,), value))
    seen = {int(p.name[5:13]) for p in (folder / "checkpoints").glob("step-*")}
    for step in case.safe if case.damaged else {*seen, *case.safe}:
        assert load(folder, step=step).step == step


def assert_going_on_works(case: Case, folder: Path) -> None:
    """The next commit sweeps up and is found."""
    put(folder, 9, 9.0, keep=2)
    assert load(folder).step == 9
    names = os.listdir(folder / "checkpoints")
    assert all(name.startswith("step-") and len(name) == 13 for name in names), names
    assert len(names) <= 2


# --- death of the writer (R2) -----------------------------------------------------------------


def dies(act: Callable[[], object], at: int) -> bool:
    """Whether a child process that does `act` reaches its `at`-th point, and dies there."""
    child = os.fork()
    if child == 0:
        points = 0

        def heard(operation: Operation, moment: str) -> None:
            nonlocal points
            points += 1
            if points == at:
                os._exit(9)

        try:
            with watched(heard):
                act()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.slow
def test_death_at_every_point_leaves_the_old_or_the_new(case, start, tmp_path, note):
    at, folder = 0, tmp_path / "run"
    while True:
        at += 1
        plant(start, folder)
        dead = dies(lambda: commit(case, folder), at)
        assert_readable(case, folder)
        if not dead:
            assert load(folder).state["value"] == case.value
            break
        if at % count(4, 1) == 0:
            assert_going_on_works(case, folder)
        shutil.rmtree(folder)
    assert at > 50, "too few points were tried"
    note(f"{at - 1} points")


@pytest.mark.torture
@pytest.mark.parametrize("name", ["one is kept", "the same step again"])
def test_death_at_every_point_and_again_at_every_point_of_the_next_commit(name, tmp_path, note):
    case, at, pairs, folder = CASES[name], 0, 0, tmp_path / "run"
    folder.mkdir()
    case.prepare(folder)
    start = tree(folder)
    shutil.rmtree(folder)
    dead = True
    while dead:
        at += 1
        plant(start, folder)
        dead = dies(lambda: commit(case, folder), at)
        between, again, dead_again = tree(folder), 0, True
        shutil.rmtree(folder)
        while dead_again:
            again += 1
            plant(between, folder)
            dead_again = dies(lambda: commit(case, folder), again)
            assert_readable(case, folder)
            shutil.rmtree(folder)
        pairs += again - 1
    note(f"{pairs} pairs of points")


# --- power cuts (R3) --------------------------------------------------------------------------


def recorded(act: Callable[[], object]) -> list[Operation]:
    told: list[Operation] = []
    with watched(lambda operation, moment: told.append(operation) if moment == "after" else None):
        act()
    return told


@pytest.mark.slow
def test_a_power_cut_at_any_moment_leaves_the_old_or_the_new(case, start, tmp_path, note):
    folder, found_at = tmp_path / "run", tmp_path / "found"
    plant(start, folder)
    operations = recorded(lambda: commit(case, folder))
    states = 0
    for done, found in after_power_cut(start, operations, folder, draws=count(8, 400)):
        plant(found, found_at)
        assert_readable(case, found_at)
        if done == len(operations):  # `save` has returned: what it wrote is there for good
            assert load(found_at).state["value"] == case.value
        if FULL:
            assert_going_on_works(case, found_at)
        shutil.rmtree(found_at)
        states += 1
    assert states > 40, "too few states were tried"
    note(f"{states} states after {len(operations)} operations")


def test_the_model_of_the_disk_is_told_everything(case, start, tmp_path):
    """All that was told, done on the model, gives the folder that is really there."""
    folder = tmp_path / "run"
    plant(start, folder)
    operations = recorded(lambda: commit(case, folder))
    *_, (_, last) = [
        state
        for state in after_power_cut(start, [*operations, *syncs(folder)], folder, draws=0)
        if state[0] == len(operations) + len(syncs(folder))
    ]
    assert last == tree(folder)


def syncs(folder: Path) -> list[Operation]:
    return [Operation("sync", path) for path in (folder, *folder.rglob("*"))]


def test_the_model_loses_what_no_fsync_followed(tmp_path):
    """By hand: a file made and written, its folder synced or its bytes, both or none."""
    file = tmp_path / "a"
    made, written = Operation("create", file), Operation("write", file, b"xy")
    of_file, of_folder = Operation("sync", file), Operation("sync", tmp_path)

    def finally_(*operations: Operation) -> list[dict[str, bytes | None]]:
        states = list(after_power_cut({}, list(operations), tmp_path, draws=0))
        return [found for done, found in states if done == len(operations)]

    loose = [{}, {"a": b""}, {"a": b"xy"}, {"a": b"\0\0"}]
    assert all(state in finally_(made, written) for state in loose)
    assert {"a": b""} not in finally_(made, written, of_file)
    assert {} in finally_(made, written, of_file)
    assert {} not in finally_(made, written, of_folder)
    assert finally_(made, written, of_file, of_folder) == [{"a": b"xy"}]
    moved = Operation("rename", file, to=tmp_path / "b")
    both = finally_(made, written, of_file, of_folder, moved)
    assert both == [{"a": b"xy"}, {"b": b"xy"}]


# --- a file that stands alone -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("old", [True, False])
def test_a_snapshot_cut_short_anywhere_is_the_old_or_the_new_or_absent(old, tmp_path):
    def put_alone(folder: Path, value: float) -> None:
        tensor_file.save(folder / "averages/1.safetensors", {"a": torch.full((4,), value)})

    def values(folder: Path) -> list[float]:
        found = sorted(folder.glob("averages/[0-9]*"))
        return [float(tensor_file.load(file)["a"][0]) for file in found]

    folder, start = tmp_path / "run", {}
    folder.mkdir()
    if old:
        put_alone(folder, 1.0)
        (folder / "averages/.writing-1-ab").write_bytes(b"half of a fi")
        start = tree(folder)
    shutil.rmtree(folder)
    allowed = ([1.0] if old else [], [2.0])
    at, dead = 0, True
    while dead:
        at += 1
        plant(start, folder)
        dead = dies(lambda: put_alone(folder, 2.0), at)
        assert values(folder) in allowed
        put_alone(folder, 3.0)
        assert os.listdir(folder / "averages") == ["1.safetensors"]
        assert values(folder) == [3.0]
        shutil.rmtree(folder)
    assert at > 15
    plant(start, folder)
    operations = recorded(lambda: put_alone(folder, 2.0))
    for done, found in after_power_cut(start, operations, folder, draws=count(8, 400)):
        plant(found, tmp_path / "found")
        assert values(tmp_path / "found") in (allowed[done == len(operations) :])
        shutil.rmtree(tmp_path / "found")


# --- others who write -------------------------------------------------------------------------


def test_what_a_living_process_is_writing_is_not_swept_up(tmp_path, monkeypatch):
    """A second writer waits for the first; neither loses anything."""
    put(tmp_path, 1, 1.0)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:

            def slowly(operation: Operation, moment: str) -> None:
                if operation.kind == "sync" and moment == "before":
                    os.write(writing, b"x")
                    time.sleep(0.1)

            with watched(slowly):
                put(tmp_path, 2, 2.0)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.read(reading, 1) == b"x"  # the first is in mid-commit
    put(tmp_path, 3, 3.0, keep=3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [load(tmp_path, step=step).step for step in (1, 2, 3)] == [1, 2, 3]
    with monkeypatch.context() as patch:
        patch.setattr(files, "PATIENCE", 0.1)
        handle = os.open(tmp_path / "checkpoints", os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another process has been writing there for 0 seconds"):
            put(tmp_path, 4, 4.0)
        os.close(handle)
