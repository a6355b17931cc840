"""What runs again and why: exactly what a change reaches, and nothing else."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from toy_verbs import TOYS, toys

from core.errors import InputError
from core.parts.registry import Plugin, Registry, network
from core.storage import files
from pipelines.job.file import parse
from pipelines.job.identity import key_of
from pipelines.job.plan import check_inputs, plan
from pipelines.job.resources import Resources, check_fits, memory_here
from pipelines.store import contents, results

STEPS = {
    "a": {"run": "make", "request": {"number": 3}},
    "b": {"run": "make", "request": {"number": 4}},
    "sum": {"run": "add", "inputs": {"left": "a.made", "right": "b.made"}},
    "more": {"run": "add", "inputs": {"left": "sum.made"}},
    "page": {"run": "report", "inputs": {"A": "a"}},
}


def planned(root, steps=STEPS, settings=(), registry=None, **more):
    registry = registry or toys()
    job = parse({"name": "toys", "steps": steps}, settings, verbs=TOYS, registry=registry)
    return {p.step.name: p for p in plan(job, root, verbs=TOYS, registry=registry, **more)}


def keys(root, *args, **more):
    return {name: p.key for name, p in planned(root, *args, **more).items()}


def pretend(p) -> None:
    """Commit a result for a planned step without doing it."""
    results.begin(p.folder, p.key, p.identity, p.step.name, p.code, p.named)
    (p.folder / "made.txt").write_text("1")
    files.write_json(p.folder / "result.json", {"made": "made.txt"})
    files.write_json(p.folder / "env.json", {})
    results.commit(p.folder, p.key)


@pytest.fixture
def root(tmp_path):
    """A store with every step's result."""
    for p in planned(tmp_path).values():
        pretend(p)
    return tmp_path


def test_an_empty_store_means_first_runs(tmp_path):
    assert {(p.state, p.why) for p in planned(tmp_path).values()} == {("run", "first run")}
    assert list(tmp_path.iterdir()) == []  # planning writes nothing


def test_committed_results_are_hits(root):
    assert {(p.state, p.why) for p in planned(root, verify=True).values()} == {("hit", "")}


def test_a_key_knows_the_meaning_and_not_the_spelling(tmp_path):
    turned = {
        name: {k: dict(reversed(v.items())) if isinstance(v, dict) else v
               for k, v in reversed(step.items())}
        for name, step in reversed(STEPS.items())
    }  # fmt: skip
    assert keys(tmp_path) == keys(tmp_path / "elsewhere", turned)
    stated = ["steps.b.request.scale=1", "steps.b.request.source=null", "steps.a.request.scale=1.0"]
    assert keys(tmp_path) == keys(tmp_path, settings=stated)
    assert key_of({"a": 1, "b": [2.0]}) == key_of({"b": (2,), "a": 1.0})
    assert key_of({"a": 1}) != key_of({"a": "1"}) != key_of({"a": True})
    assert key_of({"a": 1}) != key_of({"a": True})


def test_resources_and_retries_are_in_no_key(tmp_path):
    free = ["steps.a.cpus=7", "steps.a.gpus=0.5", "steps.sum.retries=4", "steps.page.cpus=2"]
    assert keys(tmp_path) == keys(tmp_path, settings=free)


def test_a_changed_option_runs_exactly_what_comes_after_it(root):
    new = planned(root, settings=["steps.b.request.number=5", "steps.b.request.scale=2"])
    assert {name: (p.state, p.why) for name, p in new.items()} == {
        "a": ("hit", ""),
        "b": ("run", "request.number 4 -> 5; request.scale 1 -> 2.0"),
        "sum": ("run", "input b changed"),
        "more": ("run", "input sum changed"),
        "page": ("hit", ""),
    }


def test_another_input_is_a_reason(root):
    steps = {**STEPS, "sum": {"run": "add", "inputs": {"left": "b.made", "right": "b.made"}}}
    assert planned(root, steps)["sum"].why == "input b changed"
    steps = {**STEPS, "sum": {"run": "add", "inputs": {"left": "a.made"}}}
    assert planned(root, steps)["sum"].why == "request.right null is new; input right gone"
    steps = {**STEPS, "a": {"run": "learn"}}
    assert planned(root, steps)["a"].why.startswith("run make -> learn; ")


def test_reasons_do_not_run_on(root):
    steps = {**STEPS, "a": {"run": "learn"}}
    assert "; and " in planned(root, steps)["a"].why


def test_long_values_of_an_earlier_request_are_cut_in_reasons(tmp_path):
    (p,) = planned(tmp_path, {"a": {"run": "make"}}).values()
    before = {**p.identity, "run": "x" * 10**6, "request": {"number": [7] * 10**6}}
    results.begin(p.folder.with_name("a-" + "0" * 16), "0" * 64, before, "a")
    (p,) = planned(tmp_path, {"a": {"run": "make"}}).values()
    assert len(p.why) < 1000
    assert "run xxx" in p.why
    assert "characters ..." in p.why


def test_a_part_anywhere_counts_with_its_version_and_its_defaults(tmp_path):
    steps = {"a": {"run": "learn", "request": {"network": {"name": "toy/net"}}}}
    for p in planned(tmp_path, steps).values():
        pretend(p)
    raised = planned(tmp_path, steps, registry=toys(version="2"))["a"]
    assert (raised.state, raised.why) == ("run", "part toy/net version 1 -> 2")
    wider = planned(tmp_path, steps, registry=toys(target="wider_net"))["a"]
    assert "request.network.width 8 -> 16" in wider.why
    inside = {"name": "toy/net", "inner": {"name": "toy/other"}}
    steps = {"a": {"run": "learn", "request": {"network": inside}}}
    found = planned(tmp_path, steps)["a"]
    assert found.identity["parts"] == {"network toy/net": "1", "network toy/other": "5"}
    assert "request.network.inner" in found.why


def test_contents_of_named_files_count_not_their_times(tmp_path):
    file, folder = tmp_path / "source.txt", tmp_path / "weights"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "w.bin").write_bytes(b"weights")
    file.write_text("one")
    network = {"name": "toy/net", "weights": str(folder)}
    steps = {
        "a": {"run": "make", "request": {"source": str(file)}},
        "b": {"run": "learn", "request": {"network": network}},
    }
    for p in planned(tmp_path / "store", steps).values():
        pretend(p)
    file.touch()
    assert {p.state for p in planned(tmp_path / "store", steps).values()} == {"hit"}
    file.write_text("two")
    (folder / "deep" / "w.bin").rename(folder / "deep" / "v.bin")
    new = planned(tmp_path / "store", steps)
    assert new["a"].why == f"file {file} changed"
    assert new["b"].why == f"file {folder} changed"


def test_keys_follow_contents_and_not_where_they_lie(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(b"a")
    network = {"name": "toy/net", "weights": str(photos)}
    steps = {
        "a": {"run": "make", "request": {"source": str(photos)}},
        "b": {"run": "learn", "request": {"network": network}},
    }
    for p in planned(tmp_path / "store", steps).values():
        pretend(p)
    (photos / ".DS_Store").write_bytes(b"x")
    assert {p.state for p in planned(tmp_path / "store", steps).values()} == {"hit"}
    moved = photos.rename(tmp_path / "moved")
    steps["a"]["request"]["source"] = network["weights"] = str(moved)
    assert {p.state for p in planned(tmp_path / "store", steps).values()} == {"hit"}
    (moved / "b.png").write_bytes(b"b")
    assert planned(tmp_path / "store", steps)["a"].why == f"file {moved} changed"


def test_keys_of_an_earlier_format_are_a_reason_of_their_own(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    steps = {"a": {"run": "make", "request": {"source": str(tmp_path / "a.txt"), "number": 2}}}
    (p,) = planned(tmp_path / "store", steps).values()
    request = {**p.identity["request"], "source": "a.txt", "number": 3}
    before = {**p.identity, "format": 1, "request": request, "files": {"request.source": "0"}}
    results.begin(p.folder.with_name("a-" + "0" * 16), "0" * 64, before, "a")
    (p,) = planned(tmp_path / "store", steps).values()
    assert p.why == "the format of step keys has changed in this version; request.number 3 -> 2"


@pytest.mark.parametrize("identity", [3, None, {}, {"request": 3, "inputs": [], "files": "x"}])
def test_a_strange_earlier_request_is_no_reason_to_end(tmp_path, identity):
    results.begin(tmp_path / ("sum-" + "0" * 16), "0" * 64, identity, "sum")
    assert planned(tmp_path)["sum"].state == "run"


def test_what_no_plan_can_read_is_named_with_step_and_option(tmp_path):
    (tmp_path / "photos").mkdir()
    os.mkfifo(tmp_path / "photos" / "p.png")
    steps = {"a": {"run": "make", "request": {"source": str(tmp_path / "photos")}}}
    with pytest.raises(InputError, match=r"^steps\.a\.request\.source: .*p\.png: a named pipe"):
        planned(tmp_path, steps)


def test_one_dataset_is_read_once_for_all_steps(tmp_path, monkeypatch):
    read = []
    content_of = contents.content_of
    monkeypatch.setattr(
        "pipelines.job.plan.content_of", lambda path, **more: read.append(path) or content_of(path)
    )
    (tmp_path / "a.txt").write_text("a")
    request = {"source": str(tmp_path / "a.txt")}
    planned(tmp_path, {f"t{i}": {"run": "make", "request": request} for i in range(20)})
    assert read == [tmp_path / "a.txt"]


def test_results_that_cannot_be_read_now_stop_the_plan(root, monkeypatch):
    unreadable = results.Found("unreadable", "MANIFEST.json cannot be read now: Input/output error")
    monkeypatch.setattr(results, "inspect", lambda *_, **__: unreadable)
    with pytest.raises(InputError) as caught:
        planned(root, {name: STEPS[name] for name in "ab"})
    assert len(str(caught.value).splitlines()) == 2
    assert "whether it is whole is not known" in str(caught.value)


def test_inputs_with_files_of_others_are_refused_where_a_step_runs(root):
    a = planned(root)["a"]
    (a.folder / "step-99999999").mkdir()
    (a.folder / "step-99999999" / "state.json").write_text("{}")
    found = planned(root)
    assert found["a"].note == "holds step-99999999/state.json, which the step did not make"
    check_inputs(found.values())  # nothing reads it now
    found = planned(root, settings=["steps.sum.request.plus=2"])
    with pytest.raises(InputError, match=r"holds step-99999999/state\.json"):
        check_inputs(found.values())


def test_changed_code_is_a_note_and_no_reason(tmp_path, monkeypatch):
    module = tmp_path / "their_verbs.py"
    module.write_text("def make(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    verbs = dict(TOYS)
    verbs["make"] = replace(TOYS["make"], target="their_verbs:make")
    steps = {"a": {"run": "make"}, "b": {"run": "learn"}}

    def now():
        what = parse({"name": "x", "steps": steps}, verbs=verbs, registry=toys())
        return {p.step.name: p for p in plan(what, tmp_path, verbs=verbs, registry=toys())}

    for p in now().values():
        assert p.code.keys() == {"their_verbs" if p.step.name == "a" else "toy_verbs"}
        pretend(p)
    assert {(p.state, p.note) for p in now().values()} == {("hit", "")}
    module.write_text("def make(): return 2\n")
    new = now()
    assert (new["a"].state, new["a"].note) == (
        "hit", "their_verbs changed since; raise the part's version if results do",
    )  # fmt: skip
    assert (new["b"].state, new["b"].note) == ("hit", "")
    assert new["a"].key == key_of(new["a"].identity)


def test_options_of_a_part_are_read_again_when_its_file_changes(tmp_path, monkeypatch):
    """Signatures are kept between the steps of a plan, not beyond a change of their file."""
    module = tmp_path / "their_parts.py"
    monkeypatch.syspath_prepend(tmp_path)
    their = Registry([Plugin("their", "T", (network("net", "their_parts:Net", "A network"),))])
    steps = {"a": {"run": "learn", "request": {"network": "their/net"}}}

    def key(signature):
        module.write_text(f"class Net:\n    def __init__(self, *, {signature}): ...\n")
        job = parse({"name": "x", "steps": steps}, verbs=TOYS, registry=their)
        (p,) = plan(job, tmp_path, verbs=TOYS, registry=their)
        return p.step.request["network"].options, p.key

    first, _ = key("width: int = 8")
    second, changed = key("width: int = 16")
    third, more = key("width: int = 16, depth: int = 2")
    assert (first, second) == ({"width": 8}, {"width": 16})
    assert third == {"width": 16, "depth": 2}
    assert changed != more


def test_missing_files_are_named_with_step_and_option(tmp_path):
    network = {"name": "toy/net", "weights": "nowhere/w"}
    steps = {
        "a": {"run": "make", "request": {"source": "nowhere.txt"}},
        "b": {"run": "learn", "request": {"network": network}},
    }
    with pytest.raises(InputError) as caught:
        planned(tmp_path, steps)
    assert str(caught.value).splitlines() == [
        "steps.a.request.source: nowhere.txt: No such file or directory",
        "steps.b.request.network.weights: nowhere/w: No such file or directory",
    ]


def test_damage_and_a_start_are_reasons(root):
    old = planned(root)
    (old["a"].folder / "made.txt").write_text("12")
    (old["b"].folder / "MANIFEST.json").unlink()
    new = planned(root)
    assert new["a"].why == "output damaged: made.txt has 2 bytes, not 1"
    assert new["b"].why == "unfinished: resumes where it stopped"
    assert new["sum"].state == "hit"  # it is content-addressed: its own result is whole


def test_the_reason_compares_with_the_newest_result_even_unfinished(root):
    changed = planned(root, settings=["steps.a.request.number=8"])["a"]
    results.begin(changed.folder, changed.key, changed.identity, "a")
    why = planned(root, settings=["steps.a.request.number=9"])["a"].why
    assert why == "request.number 8 -> 9"


def test_a_step_whose_name_begins_another_is_not_it(tmp_path):
    steps = {"a-b": {"run": "make"}}
    for p in planned(tmp_path, steps).values():
        pretend(p)
    assert planned(tmp_path, {"a": {"run": "make"}})["a"].why == "first run"


def test_a_store_of_a_later_version_is_refused(root):
    a = planned(root)["a"]
    manifest = results.read_json(a.folder / "MANIFEST.json")
    files.write_json(a.folder / "MANIFEST.json", {**manifest, "format": 2})
    with pytest.raises(InputError, match="written by a newer polymode"):
        planned(root)


def test_steps_that_cannot_fit_are_refused_at_once(root):
    wants = ["steps.a.gpus=1", "steps.b.gpus=2", "steps.b.cpus=9", "steps.b.request.number=0"]
    found = planned(root, settings=wants).values()
    with pytest.raises(InputError) as caught:
        check_fits(found, [Resources(cpus=2)])
    assert str(caught.value).splitlines() == [
        "steps.b: requires 2 GPUs, this machine has 0; "
        "set steps.b.gpus=0 or run on a machine with 2",
        "steps.b: requires 9 CPUs, this run has 2; "
        "set steps.b.cpus=2 or allow this run more with --cpus 9",
    ]  # `a` is a hit: what it requires does not matter
    check_fits(found, [Resources(cpus=9, gpus=2)])


@pytest.mark.parametrize(
    ("wanted", "there", "fits"), [(0.5, 1, True), (1, 0.5, False), (0, 0, True)]
)
def test_parts_of_gpus(root, wanted, there, fits):
    over = [f"steps.a.gpus={wanted}", "steps.a.request.number=77"]
    found = planned(root, settings=over).values()
    if fits:
        check_fits(found, [Resources(cpus=1, gpus=there)])
    else:
        with pytest.raises(InputError, match=r"requires 1 GPU, this machine has 0\.5"):
            check_fits(found, [Resources(cpus=1, gpus=there)])


def test_memory_counts_too(root):
    over = ["steps.a.memory=3GiB", "steps.a.request.number=77"]
    found = planned(root, settings=over).values()
    check_fits(found, [Resources(cpus=1, memory=3 << 30)])
    check_fits(found, [Resources(cpus=1, memory=None)])
    with pytest.raises(InputError) as caught:
        check_fits(found, [Resources(cpus=1, memory=(3 << 30) - (1 << 29))])
    assert str(caught.value) == (
        "steps.a: requires 3 GiB of memory, this machine has 2.5 GiB; "
        "set steps.a.memory lower or run on a machine with more"
    )
    assert memory_here() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_step_runs_on_one_machine_of_a_cluster(root):
    over = ["steps.a.gpus=1", "steps.a.cpus=8", "steps.a.request.number=77"]
    found = planned(root, settings=over).values()
    apart = [Resources(cpus=8), Resources(cpus=2, gpus=4)]
    with pytest.raises(InputError, match=r"steps\.a: no single machine of the cluster has all"):
        check_fits(found, apart, where="the cluster")
    with pytest.raises(InputError, match="requires 8 CPUs, a machine of the cluster has at most 4"):
        check_fits(found, [Resources(cpus=4, gpus=1)] * 3, where="the cluster")
    check_fits(found, [*apart, Resources(cpus=8, gpus=1)], where="the cluster")


def test_workers_share_machines(root):
    wants = {"workers": 3, "cpus": 2, "gpus": 0.5, "memory": 2 << 30}
    (p, *_) = planned(root, settings=["steps.a.request.number=77"]).values()
    assert p.step.name == "a"
    found = [replace(p, step=replace(p.step, **wants))]
    big = Resources(cpus=6, gpus=2, memory=8 << 30)
    check_fits(found, [big])
    check_fits(found, [Resources(cpus=2, gpus=1)] * 3, where="the cluster")
    for short in ({"cpus": 5}, {"gpus": 1.2}, {"memory": 5 << 30}):
        with pytest.raises(InputError) as caught:
            check_fits(found, [replace(big, **short)])
        assert str(caught.value) == (
            "steps.a: requires 3 workers with 2 CPUs and 0.5 GPU each, "
            "this machine has room for 2; "
            "set steps.a.workers=2 or give each less"
        )


def test_copied_stores_are_hits_too(root, tmp_path_factory):
    import shutil

    elsewhere = Path(shutil.copytree(root, tmp_path_factory.mktemp("copy") / "store"))
    assert {p.state for p in planned(elsewhere, verify=True).values()} == {"hit"}


PLANS = """
import cProfile, sys
from pathlib import Path
from pipelines.job.file import parse
from pipelines.job.plan import plan

request = {"task": "image2image/sr3", "dataset": "image2image/photos", "network": {"width": 32}}
for count in (1, 10, 100, 1000):  # the first imports modules and reads signatures
    steps = {f"t{i}": {"run": "train", "request": {**request, "seed": i}} for i in range(count)}
    with cProfile.Profile() as calls:
        planned = plan(parse({"name": "many", "steps": steps}), Path(sys.argv[1]))
    print(sum(entry.callcount for entry in calls.getstats()) / len({p.key for p in planned}))
"""


@pytest.mark.slow
def test_the_work_of_a_plan_is_small_and_linear_in_its_steps(tmp_path):
    """Calls of functions, which a busy machine does not change.

    In a process of its own, whose functions are not checked: signatures are read once.
    """
    done = subprocess.run(
        [sys.executable, "-c", PLANS, tmp_path], capture_output=True, text=True, check=True
    )
    _, ten, *more = map(float, done.stdout.split())
    assert len(more) == 2
    assert ten < 8000
    assert max(more) <= ten
