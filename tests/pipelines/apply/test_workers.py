"""A folder shared by workers of Ray: the bytes of one loop, and workers that die."""

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
from toy_predictor import toys

from core.errors import InputError
from core.request import Machine
from pipelines.apply import batch
from pipelines.apply.batch import Incomplete, apply_together
from pipelines.apply.listing import prepared
from pipelines.job.file import read
from pipelines.job.plan import plan
from pipelines.run.display import Display
from pipelines.run.execute import locally, on_ray
from pipelines.store import results

sys.path.insert(0, str(Path(__file__).parent))
from made_folders import LOUD, begun, listed, notes, put, request, run, written

JOBS = Path(batch.__file__).parents[1] / "jobs"


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
