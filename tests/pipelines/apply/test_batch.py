"""A folder through a predictor: which files, what they become, what is refused, and a stop."""

import hashlib
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from toy_predictor import toys

from core.errors import InputError
from core.parts.registry import Spec
from core.request import Progress
from core.testing.contract import check_part
from core.training.stopping import Stopped
from pipelines.apply import listing
from pipelines.apply.batch import Incomplete, apply
from pipelines.apply.request import ApplyRequest

sys.path.insert(0, str(Path(__file__).parent))
from made_folders import LOUD, TEXTS, begun, listed, notes, put, request, run, written


def test_the_toy_keeps_the_contract_of_predictors():
    check_part(toys(), "predictor", "toy/shout")


# --- what comes out ----------------------------------------------------------------------------


def test_each_file_gives_one_in_the_same_folder(place):
    put(place, "picture.png", "not read by it")
    put(place, ".hidden.txt", "passed over")
    put(place, ".git/e.txt", "passed over")
    result, told, _ = run(place)
    assert written(place) == LOUD
    assert (result.done, result.bad, result.failed) == (4, 0, 0)
    files = listed(place)
    assert list(files) == sorted(TEXTS)
    for name, text in TEXTS.items():
        record = files[name]
        made = (place / "out/results" / record["result"]).read_bytes()
        assert record["state"] == "done"
        assert record["facts"] == {"letters": len(text)}
        assert record["source"] == hashlib.sha256(text.encode()).hexdigest()
        assert record["size"] == len(made)
        assert record["digest"] == hashlib.sha256(made).hexdigest()
    steps = [event for event in told if isinstance(event, Progress)]
    assert [(s.done, s.total, s.unit) for s in steps] == [(n, 4, "file") for n in (1, 2, 3, 4)]
    assert sorted(p.name for p in (place / "out").iterdir()) == ["files.jsonl", "results"]


def test_nothing_is_done_twice(place):
    run(place)
    before = {p: p.stat().st_mtime_ns for p in (place / "out/results").rglob("*.loud")}
    files = listed(place)
    result, _, names = run(place)
    assert names == []
    assert result.done == 4
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert listed(place) == files


def test_what_has_changed_is_done_again_and_nothing_else(place):
    run(place)
    put(place, "a.txt", "uno")
    put(place, "new.txt", "five")
    (place / "out/results/b.loud").write_text("well TWO?")  # a letter, the size kept
    (place / "out/results/in/c.loud").unlink()
    os.utime(place / "texts/in/deep er/d.txt", (1, 1))
    result, _, names = run(place)
    assert sorted(names) == ["a.txt", "b.md", "c.TXT", "new.txt"]
    assert written(place) == {**LOUD, "a.loud": "well UNO!", "new.loud": "well FIVE!"}
    assert result.done == 5


@pytest.mark.parametrize("what", ["option", "version", "checkpoint"])
def test_all_is_done_again_where_that_decides(place, what):
    run(place)
    if what == "checkpoint":
        (place / "word").write_text("oh")
    changed = {"option": {"mark": "?"}, "version": {"version": "2"}}.get(what, {})
    _, _, names = run(place, **changed)
    assert len(names) == 4
    first = {"option": "well ONE?", "version": "well ONE!", "checkpoint": "oh ONE!"}[what]
    assert written(place)["a.loud"] == first


def test_results_of_files_that_are_gone_are_left_and_said(place):
    run(place)
    (place / "texts/a.txt").unlink()
    _, told, names = run(place)
    assert names == []
    assert notes(told) == ["results of 1 files that are gone now are left where they are"]
    assert "a.loud" in written(place)
    assert "a.txt" not in listed(place)


# --- refused before anything -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda p: put(p, "a.md", "x"), r"a\.md and a\.txt would both give a\.loud"),
        (lambda p: (p / "word").unlink(), "checkpoint: .*word: No such file"),
        (lambda p: (p / "texts").rename(p / "other"), "folder: .*texts: no such folder"),
        (lambda p: (p / "out").write_text(""), "out: .*: a file"),
        (lambda p: (p / "out").symlink_to(p / "texts"), "out: .* lies in .*texts"),
    ],
)
def test_what_cannot_be_is_refused_at_once(place, prepare, words):
    prepare(place)
    with pytest.raises(InputError, match=words):
        run(place)
    assert begun(place) == []


def test_folders_without_files_for_it_are_refused(place):
    empty = place / "empty"
    empty.mkdir()
    asked = ApplyRequest(predictor=Spec("toy/shout"), checkpoint=place / "word", folder=empty)
    for name in ("", "a.png"):
        if name:
            (empty / name).write_text("x")
        with pytest.raises(InputError, match=r"no file that toy/shout reads \(\.txt, \.md\)"):
            apply(asked, place / "out", registry=toys())


def test_results_never_replace_what_is_read(place):
    asked = request(place)
    for out in (place / "texts", place / "texts/in/new"):
        with pytest.raises(InputError, match="lies in"):
            apply(asked, out, registry=toys())
    (place / "results").mkdir()
    (place / "texts").rename(place / "results/texts")
    moved = ApplyRequest(
        predictor=Spec("toy/shout"), checkpoint=place / "word", folder=place / "results/texts"
    )
    with pytest.raises(InputError, match="lies among the results"):
        apply(moved, place, registry=toys())


def test_options_are_checked(place):
    with pytest.raises(InputError, match=r"predictor\.mrk: unknown option; did you mean 'mark'"):
        run(place, mrk="?")


def test_a_checkpoint_that_changes_meanwhile_is_noticed(place, monkeypatch):
    real = listing._order

    def late(*given):
        found = real(*given)
        (place / "word").write_text("other")
        return found

    monkeypatch.setattr(listing, "_order", late)
    with pytest.raises(InputError, match="has changed meanwhile"):
        run(place)


# --- as a step ---------------------------------------------------------------------------------


def test_a_step_fails_where_files_failed_or_none_could_be_used(place):
    put(place, "x.txt", "raise")
    with pytest.raises(Incomplete, match=r"1 of 5 files failed; the first: x\.txt: RuntimeError"):
        apply(request(place), place / "out", registry=toys())
    put(place, "x.txt", "bad")
    assert apply(request(place), place / "out", registry=toys()).bad == 1
    for name in TEXTS:
        put(place, name, "bad")
    with pytest.raises(InputError, match=r"none of 5 files could be used; the first: a\.txt"):
        apply(request(place), place / "out", registry=toys())


def test_a_stop_is_heeded_between_files_and_gone_on_with(place):
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        apply(request(place), place / "out", stop=lambda: next(asked), registry=toys())
    assert len(begun(place)) == 2
    apply(request(place), place / "out", registry=toys())
    assert Counter(begun(place)) == dict.fromkeys(["a.txt", "b.md", "c.TXT", "d.txt"], 1)
