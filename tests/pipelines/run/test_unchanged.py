"""A result is kept under its key only if what it was made from stayed what the key says."""

import os

import pytest
import toy_verbs
from toy_jobs import done, planned, toy

from core.errors import InputError
from pipelines.run.unchanged import Changed, unchanged
from pipelines.store import results

WAY = {"before": "after the step was planned", "while": "while the step ran"}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text("one")
    return path


def steps(file):
    return {"a": {"run": "make"}, "b": {"run": "make", "request": {"source": str(file)}}}


def during(monkeypatch, step, change):
    """Have `change` happen while that step runs."""
    make = toy_verbs.make

    def making(request, out, **more):
        if out.name.startswith(f"{step}-"):
            change()
        return make(request, out, **more)

    monkeypatch.setattr(toy_verbs, "make", making)


@pytest.mark.parametrize(("when", "step"), [("before", "a"), ("while", "b")])
def test_no_result_is_kept_of_data_that_changed(tmp_path, file, monkeypatch, when, step):
    during(monkeypatch, step, lambda: file.write_text("two"))
    outcomes, _ = done(tmp_path / "store", steps(file))
    assert (outcomes["a"].state, outcomes["b"].state) == ("done", "failed")
    assert outcomes["b"].message.startswith(f"request.source: {file} changed {WAY[when]}")
    assert "data.txt" not in outcomes["b"].cause
    assert outcomes["b"].final
    assert not outcomes["b"].refused
    file.write_text("one")
    (_, b) = planned(tmp_path / "store", steps(file))
    assert b.state == "run"
    assert not b.folder.exists()  # an attempt would resume from what was made of other data


def test_data_put_back_meanwhile_counts_as_changed(tmp_path, file, monkeypatch):
    def change():
        file.write_text("two")
        file.write_text("one")
        os.utime(file, ns=(5, 5))

    during(monkeypatch, "b", change)
    outcomes, _ = done(tmp_path / "store", steps(file))
    assert "changed while the step ran" in outcomes["b"].message


def test_what_a_failed_attempt_made_of_other_data_is_set_aside(tmp_path, file):
    (_, b) = planned(tmp_path / "store", steps(file))

    def stopped_after(change):
        with unchanged(b.reads, b.folder):
            change()
            raise KeyboardInterrupt

    for change, kept in ((lambda: None, True), (lambda: file.write_text("two"), False)):
        b.folder.mkdir(parents=True, exist_ok=True)
        with pytest.raises(KeyboardInterrupt):
            stopped_after(change)
        assert b.folder.exists() is kept


def test_a_step_reads_what_its_inputs_read(tmp_path, file, monkeypatch):
    """A checkpoint names its dataset, from which samples take their conditions."""
    chain = {
        "a": {"run": "make", "request": {"source": str(file)}},
        "b": {"run": "add", "inputs": {"left": "a.made"}},
        "c": {"run": "add", "inputs": {"left": "b.made"}},
    }
    add = toy_verbs.add

    def adding(request, out, **more):
        if out.name.startswith("c-"):
            file.write_text("two")
        return add(request, out, **more)

    monkeypatch.setattr(toy_verbs, "add", adding)
    outcomes, _ = done(tmp_path / "store", chain)
    assert [outcome.state for outcome in outcomes.values()] == ["done", "done", "failed"]
    assert outcomes["c"].message.startswith(f"request.source of step a: {file} changed while")


def test_a_hit_is_read_where_its_data_lay(tmp_path, file):
    """What comes after a hit of moved data may not read other data in their place."""
    chain = {"a": {"run": "make", "request": {"source": str(file)}}}
    done(tmp_path / "store", chain)
    moved = file.rename(tmp_path / "moved.txt")
    chain["a"]["request"]["source"] = str(moved)
    chain["b"] = {"run": "add", "inputs": {"left": "a.made"}}
    a, b = planned(tmp_path / "store", chain)
    assert a.state == "hit"
    assert [read.path for read in b.reads] == [file]
    file.write_text("other")
    outcomes, _ = done(tmp_path / "store", chain)
    assert "request.source of step a" in outcomes["b"].message
    file.unlink()  # who needs it says that it is not there
    outcomes, _ = done(tmp_path / "store", chain)
    assert (outcomes["a"].state, outcomes["b"].state) == ("hit", "done")


def test_unreadable_files_are_no_change_of_their_own(tmp_path, file):
    (_, b) = planned(tmp_path / "store", steps(file))
    file.unlink()
    with pytest.raises(Changed), unchanged(b.reads, b.folder):
        raise AssertionError("entered")
    with pytest.raises(InputError, match="No such file"):
        planned(tmp_path / "store", steps(file))


def test_the_command_says_so_in_one_sentence_and_ends_with_1(tmp_path, monkeypatch):
    (tmp_path / "data.txt").write_text("one")
    during(monkeypatch, "b", lambda: (tmp_path / "data.txt").write_text("two"))
    ended = toy(tmp_path, "run", "--local", steps=steps("data.txt"))
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(
        "error: step b: request.source: data.txt changed while the step ran, so its result is set "
        "aside as damaged-b-"
    )
    assert results.by_step(tmp_path / "runs" / "store").keys() == {"a"}
    outcome = (tmp_path / "runs" / "toys" / "outcome.json").read_text()
    assert "data.txt" not in outcome
