"""A folder through a predictor: which files, what becomes of them, and what a stop costs."""

import hashlib
import io
import json
import os
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from skimage.data import coffee
from toy_predictor import Shout, toys

from core.errors import InputError, StorageError
from core.parts.registry import Spec
from core.request import Machine, Note, Progress
from core.testing.contract import check_part
from core.training.stopping import Stopped
from pipelines.apply import batch, listing
from pipelines.apply.batch import Incomplete, apply, apply_together
from pipelines.apply.listing import prepared
from pipelines.apply.request import ApplyRequest
from pipelines.job.file import read
from pipelines.job.plan import plan
from pipelines.run.display import Display
from pipelines.run.execute import locally, on_ray
from pipelines.store import results

sys.path.insert(0, str(Path(__file__).parent))
from made_folders import LOUD, TEXTS, begun, listed, put, written

JOBS = Path(batch.__file__).parents[1] / "jobs"


def request(place, **options):
    spec = Spec("toy/shout", {"log": str(place / "log"), **options})
    return ApplyRequest(predictor=spec, checkpoint=place / "word", folder=place / "texts")


def run(place, *, version="1", retry=False, share=batch.here, out="out", **options):
    """The result, what was told, and the names of the files that were begun."""
    told = []
    (place / "log").write_text("")
    with prepared(
        request(place, **options), place / out, machine=Machine(threads=1), emit=told.append,
        retry=retry, registry=toys(version),
    ) as work:  # fmt: skip
        result = batch.finish(work, share, told.append)
    return result, told, begun(place)


def notes(told):
    return [event.text for event in told if isinstance(event, Note)]


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


# --- bad files ---------------------------------------------------------------------------------


def test_bad_files_are_named_and_not_tried_again(place):
    put(place, "zero.txt", "")
    put(place, "bad.txt", "bad")
    result, told, _ = run(place)
    assert (result.done, result.bad, result.failed) == (4, 2, 0)
    assert written(place) == LOUD
    assert notes(told) == ["bad: bad.txt: holds 3 letters", "bad: zero.txt: holds 0 letters"]
    assert str(place) not in (place / "out/files.jsonl").read_text()
    again, told, names = run(place)
    assert (names, again.bad) == ([], 2)
    assert len(notes(told)) == 2
    _, _, names = run(place, retry=True)
    assert sorted(names) == ["bad.txt", "zero.txt"]
    put(place, "bad.txt", "better")
    result, _, names = run(place)
    assert (names, result.bad) == (["bad.txt"], 1)


def test_a_file_that_became_bad_has_no_result(place):
    run(place)
    put(place, "a.txt", "bad")
    run(place)
    assert "a.loud" not in written(place)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("raise", "RuntimeError: it broke at x.txt"),
        ("nothing", "RuntimeError: the predictor wrote no result"),
        ("memory", "needs more"),  # that is free now
        ("cannot", "cannot be read"),  # of the system, so it says nothing of the file
    ],
)
def test_what_may_work_next_time_is_tried_again(place, text, cause):
    put(place, "x.txt", text)
    result, told, _ = run(place)
    assert (result.done, result.failed) == (4, 1)
    assert notes(told) == [f"failed: x.txt: {cause}"]
    assert written(place) == LOUD
    _, _, names = run(place)
    assert names == ["x.txt"]


def test_a_full_disk_stops_all_and_costs_nothing(place):
    put(place, "aa.txt", "full")
    with pytest.raises(StorageError, match="make room and run the same command again"):
        run(place)
    put(place, "aa.txt", "room")
    result, _, names = run(place)
    assert (result.done, names[0]) == (5, "aa.txt")
    assert "a.txt" not in names


def test_what_is_no_file_is_never_opened(place):
    os.mkfifo(place / "texts/pipe.txt")  # to open it would wait for ever
    (place / "texts/folder.txt").mkdir()
    put(place, "folder.txt/e.txt", "five")
    result, told, _ = run(place)
    assert notes(told) == ["bad: pipe.txt: not a file that holds anything"]
    assert (result.done, result.bad) == (5, 1)
    assert written(place)["folder.txt/e.loud"] == "well FIVE!"


def test_links_out_of_the_folder_are_not_followed(place):
    secret = place / "secret"
    secret.mkdir()
    (secret / "s.txt").write_text("secret")
    (place / "texts/out.txt").symlink_to(secret / "s.txt")
    (place / "texts/folder").symlink_to(secret)
    (place / "texts/broken.txt").symlink_to(place / "texts/nowhere.txt")
    (place / "texts/inside.txt").symlink_to("a.txt")
    result, told, _ = run(place)
    said = notes(told)
    assert [line.split(": ")[:2] for line in said] == [
        ["failed", "broken.txt"], ["bad", "folder"], ["bad", "out.txt"],
    ]  # fmt: skip
    assert "leads out of the folder" in said[2]
    assert (result.done, result.bad, result.failed) == (5, 2, 1)
    assert not any("SECRET" in text for text in written(place).values())


def test_results_do_not_leave_by_a_link_among_them(place):
    (place / "elsewhere").mkdir()
    (place / "out/results").mkdir(parents=True)
    (place / "out/results/in").symlink_to(place / "elsewhere")
    result, _, _ = run(place)
    assert (result.done, result.bad) == (2, 2)
    assert list((place / "elsewhere").iterdir()) == []


def test_names_that_are_no_text_are_refused_and_shown_safely(place):
    with open(os.fsencode(place / "texts") + b"/caf\xe9.txt", "w") as file:
        file.write("five")
    put(place, "red\x1b[31m.txt", "six")
    put(place, "n\u00fcr \u7bc4.txt", "seven")
    result, told, _ = run(place)
    assert (result.done, result.bad) == (5, 2)
    assert written(place)["n\u00fcr \u7bc4.loud"] == "well SEVEN!"
    said = "\n".join(notes(told))
    assert "\\udce9" in said
    assert "\\x1b" in said
    assert "\x1b" not in said
    said.encode()


def test_names_say_why_they_are_refused_and_files_of_other_kinds_are_told(place):
    put(place, "two\nlines.txt", "five")
    with open(os.fsencode(place / "texts") + b"/caf\xe9.txt", "w") as file:
        file.write("six")
    for name in ("a.pdf", "b.PDF", "no suffix"):
        put(place, name, "seven")
    result, told, _ = run(place)
    said = "\n".join(notes(told))
    assert "its name holds a line break; rename it" in said
    assert "its name is not UTF-8; rename it" in said
    assert "files are not read by toy/shout" in said
    assert ".pdf (2)" in said
    assert "no suffix (1)" in said
    assert result.bad == 2


def test_files_that_a_predictor_names_as_not_read_are_bad(place, monkeypatch):
    monkeypatch.setattr(Shout, "unread", {".gif": "a moving image"}, raising=False)
    put(place, "a.GIF", "five")
    result, told, _ = run(place)
    assert (result.done, result.bad) == (4, 1)
    assert "bad: a.GIF: a moving image" in "\n".join(notes(told))


def test_what_may_not_be_read_is_tried_again(place, humbly):
    put(place, "locked/x.txt", "five")
    (place / "texts/a.txt").chmod(0)
    (place / "texts/locked").chmod(0)

    def said():
        result, told, _ = run(place)
        return json.dumps([result.done, result.failed, *notes(told)[:2]])

    try:
        found = humbly(said)
    finally:
        (place / "texts/locked").chmod(0o700)
        (place / "texts/a.txt").chmod(0o600)
    assert json.loads(found) == [
        3, 2,
        "failed: a.txt: cannot be read: Permission denied",
        "failed: locked: a folder: Permission denied",
    ]  # fmt: skip
    result, _, names = run(place)
    assert (result.done, sorted(names)) == (5, ["a.txt", "x.txt"])


def test_many_bad_files_are_counted(place):
    for number in range(30):
        put(place, f"{number:02d}.txt", "bad")
    said = notes(run(place)[1])
    assert len(said) == batch.SHOWN + 1
    assert said[-1] == "and 10 more; files.jsonl names them all"


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


# --- several workers ---------------------------------------------------------------------------


def together(place, out="both", **options):
    told = []
    result = apply_together(
        request(place, **options), place / out, workers=2, gpus=0, machine=Machine(threads=1),
        emit=told.append, registry=toys(),
    )  # fmt: skip
    return result, told


@pytest.mark.slow
def test_two_workers_give_what_one_loop_gives(ray_here, place):
    for number in range(20):
        put(place, f"{number}.txt", f"text {number}")
    put(place, "bad.txt", "bad")
    run(place)
    result, told = together(place)
    assert (result.done, result.bad, result.failed) == (24, 1, 0)
    assert written(place, "both") == written(place)
    assert notes(told) == ["bad: file 23 of request.folder: holds 3 letters"]  # it is a step's
    ours, theirs = listed(place), listed(place, "both")
    for record in (*ours.values(), *theirs.values()):
        record.pop("seconds")
    assert ours == theirs
    assert sorted(p.name for p in (place / "both").iterdir()) == [
        "files.jsonl", results.LOG, "results",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_file_that_kills_its_workers_is_left_alone(ray_here, place):
    put(place, "poison.txt", "die")
    with pytest.raises(Incomplete, match=r"poison\.txt: 2 processes died doing it"):
        together(place)
    times = Counter(begun(place))
    assert times.pop("poison.txt") == 2
    assert times == dict.fromkeys(["a.txt", "b.md", "c.TXT", "d.txt"], 1)
    assert written(place, "both") == LOUD
    with pytest.raises(Incomplete):
        together(place)
    assert Counter(begun(place))["poison.txt"] == 2
    put(place, "poison.txt", "harmless")
    assert together(place)[0].done == 5


@pytest.mark.torture
def test_why_a_model_cannot_be_had_is_said(ray_here, place):
    (place / "word").write_text("of another task")
    with pytest.raises(InputError, match="checkpoint: of another task"):
        together(place)
    (place / "word").write_text("is broken")
    with pytest.raises(RuntimeError, match="could not load the model: ValueError: a broken word"):
        together(place)


@pytest.mark.parametrize(
    ("target", "lack"), [("not_there:Shout", "not_there"), ("toy_predictor:Shout", "lack")]
)
def test_what_a_worker_lacks_is_named(place, target, lack):
    """The predictor's own module, or one that it imports late."""
    (place / "word").write_text("lacks")
    with prepared(request(place), place / "out", machine=Machine(), registry=toys()) as work:
        bare = replace(work.order, build=None)
    with pytest.raises(InputError) as refused:
        batch._worker(bare, target)
    assert str(refused.value) == (
        f"predictor: {target} cannot be imported on {os.uname().nodename}: No module named "
        f"'{lack}'; install what it lacks there, for {sys.executable}"
    )


@pytest.mark.torture
def test_a_model_that_kills_every_worker_ends(ray_here, place):
    (place / "word").write_text("dies")
    with pytest.raises(RuntimeError, match=r"could not load the model: every attempt ended"):
        together(place)
    assert not (place / "log").exists()
    (place / "word").write_text("well")
    assert together(place)[0].done == 4


@pytest.mark.slow
def test_a_job_trains_and_applies(ray_here, tmp_path):
    """The example: in this process, and shared by two workers of Ray."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        Image.fromarray(coffee()[40 * number :][:16, :20]).save(photos / f"{number}.png")
    (photos / "bad.png").write_text("no picture")
    settings = [
        "steps.train.request.steps=3", "steps.train.request.batch=2",
        "steps.train.request.dataset.size=32", "steps.train.request.network.width=8",
        f"steps.enlarge.request.folder={photos}", "steps.enlarge.request.predictor.steps=2",
    ]  # fmt: skip

    def steps(root, *more):
        return plan(read(JOBS / "apply.yaml", [*settings, *more]), root)

    def done(way, planned):
        shown = io.StringIO()
        with Display([p.step.name for p in planned], stream=shown) as display:
            return [o.state for o in way(planned, display).values()], shown.getvalue()

    alone, shared = steps(tmp_path / "a"), steps(tmp_path / "b", "steps.enlarge.workers=2")
    states, said = done(locally, alone)
    assert states == ["done", "done", "done"], said
    assert "bad: file 4 of request.folder: not an image" in said
    shutil.copytree(alone[0].folder, shared[0].folder)
    states, said = done(on_ray, steps(tmp_path / "b", "steps.enlarge.workers=2"))
    assert states == ["hit", "done", "done"], said
    assert "bad: file 4 of request.folder: not an image" in said
    told = results.read_json(shared[1].folder / results.RESULT)
    assert told == {
        "results": "results", "files": "files.jsonl", "done": 3, "bad": 1, "failed": 0,
    }  # fmt: skip
    for number in range(3):
        one, two = (p[1].folder / f"results/{number}.png" for p in (alone, shared))
        assert one.read_bytes() == two.read_bytes()
        with Image.open(one) as result:
            assert result.size == (40, 32)
    facts = json.loads((shared[2].folder / "report.json").read_text())
    (shown,) = (step["panels"] for step in facts["steps"] if step["label"] == "enlarge")
    assert [panel["title"] for panel in shown] == ["0.png", "1.png", "2.png"]
    assert [view["label"] for view in shown[0]["whole"]] == ["input, enlarged", "result"]
    (photos / "bad.png").unlink()
    again = steps(tmp_path / "b", "steps.enlarge.workers=2")
    assert [p.state for p in again] == ["hit", "run", "run"]
    assert again[1].why == f"file {photos} changed"
