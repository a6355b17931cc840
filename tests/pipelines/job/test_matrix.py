"""One step that stands for several: named, matched, planned and joined as if written out."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from toy_jobs import done, job, planned, problems
from toy_verbs import TOYS, toys

from core.parts.config import ConfigError
from core.parts.registry import Plugin, Registry, Verb
from pipelines.job import matrix
from pipelines.job.file import Source, parse
from pipelines.job.plan import plan
from pipelines.job.verbs import VERBS, find, known
from pipelines.run.execute import run_step
from pipelines.store import results


def steps_of(steps, **more):
    return {step.name: step for step in job(steps, **more).steps}


def key_of(steps, name, root=Path("nowhere")):
    return next(p.key for p in planned(root, steps) if p.step.name == name)


SWEEP = {
    "train": {
        "run": "make",
        "matrix": {"number": [3, 4], "scale": [1, 0.5]},
        "request": {"seconds": 0.01},
        "cpus": 2,
    },
    "add": {"run": "add", "inputs": {"left": "train.made"}},
    "page": {"run": "report", "inputs": {"Sum": "add", "One": "train-number_3-scale_1"}},
}
SUFFIXES = ["number_3-scale_1", "number_3-scale_0_5", "number_4-scale_1", "number_4-scale_0_5"]


# --- matrix ----------------------------------------------------------------------------------


def test_a_matrix_is_every_choice_and_what_takes_it_has_it_too():
    found = steps_of(SWEEP)
    expected = {f"{name}-{suffix}" for name in ("train", "add") for suffix in SUFFIXES} | {"page"}
    assert set(found) == expected
    asked = {
        name.removeprefix("train-"): (step.request["number"], step.request["scale"])
        for name, step in found.items()
        if name.startswith("train")
    }
    assert asked == dict(zip(SUFFIXES, [(3, 1), (3, 0.5), (4, 1), (4, 0.5)], strict=True))
    for suffix in SUFFIXES:
        assert found[f"add-{suffix}"].inputs == {"left": Source(f"train-{suffix}", "made")}
        assert (found[f"train-{suffix}"].cpus, found[f"train-{suffix}"].request["seconds"]) == (
            2, 0.01,
        )  # fmt: skip
    assert found["page"].inputs == {
        **{f"Sum-{suffix}": Source(f"add-{suffix}") for suffix in SUFFIXES},
        "One": Source("train-number_3-scale_1"),
    }


def test_a_variant_is_the_step_written_out(tmp_path):
    written = {"other": {"run": "make", "request": {"number": 4, "scale": 0.5, "seconds": 0.01}}}
    assert key_of(SWEEP, "train-number_4-scale_0_5") == key_of(written, "other")
    outcomes, _ = done(tmp_path, SWEEP)
    assert {o.state for o in outcomes.values()} == {"done"}
    page = next(p for p in planned(tmp_path, SWEEP) if p.step.name == "page")
    assert (page.folder / "report.html").read_text().splitlines()[1:] == [
        "Sum-number_3-scale_1 4", "Sum-number_3-scale_0_5 2.5", "Sum-number_4-scale_1 5",
        "Sum-number_4-scale_0_5 3", "One 3",
    ]  # fmt: skip


def test_one_more_value_runs_only_what_is_new(tmp_path):
    done(tmp_path, SWEEP)
    wider = ["steps.train.matrix.number=[5, 3, 4]"]
    run = {p.step.name for p in planned(tmp_path, SWEEP, wider) if p.state == "run"}
    new = {f"{name}-number_5-{scale}" for name in ("train", "add") for scale in
           ("scale_1", "scale_0_5")}  # fmt: skip
    assert run == {*new, "page"}


def test_inputs_of_one_matrix_are_matched_and_of_two_are_combined():
    found = steps_of({
        "a": {"run": "make", "matrix": {"number": [1, 2]}},
        "b": {"run": "make", "matrix": {"number": [5, 6, 7]}},
        "c": {"run": "add", "inputs": {"left": "a.made", "right": "b.made"}},
        "d": {"run": "add", "inputs": {"left": "c.made", "right": "a.made"},
              "matrix": {"plus": [0, 1]}},
    })  # fmt: skip
    assert sum(name.startswith("c-") for name in found) == 6
    assert sum(name.startswith("d-") for name in found) == 12
    for name, step in found.items():
        if name.startswith("d-"):
            first = name.split("-")[1]
            assert step.inputs["right"] == Source(f"a-{first}", "made")
            assert step.inputs["left"].step.startswith(f"c-{first}-")


def test_options_of_parts_and_odd_values_get_names():
    values = ["toy/net", {"name": "toy/net", "width": 3}, {"name": "toy/net", "width": 4}]
    found = steps_of({"a": {"run": "learn", "matrix": {"network": values}}})
    assert "a-network_toy_net" in found
    assert len({step.request["network"].options["width"] for step in found.values()}) == 3
    inner = {"run": "learn", "request": {"network": "toy/net"},
             "matrix": {"network.width": [1, 2]}}  # fmt: skip
    found = steps_of({"a": inner})
    assert {n: s.request["network"].options["width"] for n, s in found.items()} == {
        "a-width_1": 1, "a-width_2": 2,
    }  # fmt: skip
    odd = ["", "a b", "a/b", "ä", "A", "a", "x" * 60, None, "null"]
    found = steps_of({"a": {"run": "make", "matrix": {"fail": odd[:-2]}}})
    assert {step.request["fail"] for step in found.values()} == set(odd[:-2])
    long = "a" * 60
    found = steps_of({long: {"run": "make", "matrix": {"number": [1000000, 2000000]}}})
    assert len(found) == 2
    assert all(name.startswith("a" * 40) for name in found)


MATRIX_PROBLEMS = [
    ({"run": "make", "matrix": {"number": []}},
     "steps.a.matrix.number: no values; name at least one"),
    ({"run": "make", "matrix": {"number": [1, 1]}},
     "steps.a.matrix.number: a value is given twice"),
    ({"run": "make", "matrix": {"number": 3}}, "steps.a.matrix.number: expected a list, got 3"),
    ({"run": "make", "matrix": [1]}, "steps.a.matrix: expected a mapping, got [1]"),
    ({"run": "make", "matrix": {"numbr": [1]}},
     "steps.a-numbr_1.request.numbr: unknown option; did you mean 'number'?"),
    ({"run": "make", "matrix": {"number": [1, "x"]}},
     "steps.a-number_x.request.number: expected int, got 'x'"),
    ({"run": "make", "matrix": {"number": [1]}, "request": {"number": 2}},
     "steps.a.matrix.number: given in request too; keep one of them"),
    ({"run": "make", "matrix": {"number.=": [1]}},
     "steps.a.matrix.number.=: expected the dotted name of an option of the request"),
    ({"run": "make", "matrix": {"number": list(range(1001))}},
     "steps.a: its matrix makes 1001 steps; at most 1000"),
    ({"run": "make", "matirx": {"number": [1]}},
     "steps.a.matirx: unknown option; did you mean 'matrix'?"),
    ({"run": "make", "shards": 0}, "steps.a.shards: expected at least 1, got 0"),
    ({"run": "make", "shards": 2},
     "steps.a.shards: make cannot be split into shards; verbs that can: deal"),
    ({"run": "deal", "shards": 1001}, "steps.a.shards: at most 1000, got 1001"),
    ({"run": "deal", "shards": 2, "request": {"part": 1}},
     "steps.a.request: shards sets part and parts; leave them out"),
]  # fmt: skip


@pytest.mark.parametrize(("step", "problem"), MATRIX_PROBLEMS)
def test_a_problem_is_named_with_its_place(step, problem):
    assert problems({"a": step}) == [problem]


def test_problems_of_several_steps_come_at_once():
    wrong = {"a": MATRIX_PROBLEMS[0][0], "b": {"run": "mkae"}, "c": MATRIX_PROBLEMS[6][0]}
    said = problems(wrong)
    assert [text.split(":")[0] for text in said] == [
        "steps.a.matrix.number", "steps.c.matrix.number", "steps.b.run",
    ]  # fmt: skip


def test_two_steps_never_have_one_name():
    steps = {"a": {"run": "make", "matrix": {"number": [1, 2]}}, "a-number_1": {"run": "make"}}
    assert any("one of its variants is named 'a-number_1'" in said for said in problems(steps))
    with pytest.raises(ConfigError, match="a-number_2"):  # a setting names no variant
        parse({"name": "x", "steps": {"a": steps["a"]}},
              ["steps.a-number_2.request.seconds=1"], verbs=TOYS, registry=toys())  # fmt: skip


def test_a_circle_with_a_matrix_is_still_a_circle():
    steps = {"a": {"run": "add", "matrix": {"plus": [1, 2]}, "inputs": {"left": "b.made"}},
             "b": {"run": "add", "inputs": {"left": "a.made"}}}  # fmt: skip
    assert any("steps: circular inputs" in said for said in problems(steps))


# --- shards ----------------------------------------------------------------------------------


def test_shards_join_under_the_name_of_the_step(tmp_path):
    shared = {"run": "deal", "shards": 3, "inputs": {"source": "first.made"}, "cpus": 2}
    steps = {"first": {"run": "make"}, "d": shared, "sum": {"run": "report", "inputs": {"D": "d"}}}
    found = steps_of(steps)
    assert set(found) == {"first", "d-1of3", "d-2of3", "d-3of3", "d", "sum"}
    assert [found[f"d-{i}of3"].request["part"] for i in (1, 2, 3)] == [1, 2, 3]
    assert found["d-2of3"].cpus == 2
    assert found["d-2of3"].inputs == {"source": Source("first", "made")}
    assert found["d"].run == "gather"
    assert found["sum"].inputs == {"D": Source("d")}
    outcomes, _ = done(tmp_path, steps)
    assert {o.state for o in outcomes.values()} == {"done"}
    whole = next(p.folder for p in planned(tmp_path, steps) if p.step.name == "d")
    assert (whole / "made.txt").read_text().split() == [str(i) for i in range(10)]
    one = steps_of({"d": {"run": "deal", "shards": 1}})
    assert [step.run for step in one.values()] == ["deal"]


def test_a_matrix_of_shards_is_both(tmp_path):
    steps = {
        "m": {"run": "make", "matrix": {"number": [1, 2]}},
        "d": {"run": "deal", "shards": 2, "inputs": {"source": "m.made"}},
        "add": {"run": "report", "inputs": {"D": "d"}},
    }
    found = steps_of(steps)
    for number in (1, 2):
        assert found[f"d-number_{number}"].needs == (
            f"d-number_{number}-1of2", f"d-number_{number}-2of2",
        )  # fmt: skip
        assert found[f"d-number_{number}-2of2"].needs == (f"m-number_{number}",)
    assert found["add"].needs == ("d-number_1", "d-number_2")


def test_a_shared_sampling_is_the_one_of_a_single_run_bit_for_bit(tmp_path):
    """The real verbs: a network of a few steps, ten draws in batches of three, three shards."""
    data = {"name": "core/blank", "shape": [3, 8, 8], "count": 5}
    network = {"name": "core/unet", "width": 8, "multipliers": [1], "blocks": 1,
               "attention": [], "middle_attention": False}  # fmt: skip
    train = {"task": "core/generate", "dataset": data, "network": network, "steps": 2, "batch": 2}
    draw = {"samples": 2, "batch": 3, "sampler": "core/ancestral",
            "grid": {"name": "core/uniform_log_snr", "steps": 2}}  # fmt: skip
    sample = {"run": "sample", "inputs": {"checkpoint": "train.checkpoint"}, "request": draw}
    what = parse({"name": "x", "steps": {
        "train": {"run": "train", "request": train},
        "one": sample,
        "many": {**sample, "shards": 3},
        "score": {"run": "evaluate", "inputs": {"samples": "many.samples"}},
    }})  # fmt: skip
    steps = {p.step.name: p for p in plan(what, tmp_path)}
    folders = {name: p.folder for name, p in steps.items()}
    for p in steps.values():
        outcome = run_step(p, folders, VERBS[p.step.run])
        assert outcome.state == "done", outcome.cause
    one, many = (results.result_path(folders[name], "samples") for name in ("one", "many"))
    names = ["samples.safetensors", "samples.json", "sheet.png"]
    for name in names:
        assert (many / name).read_bytes() == (one / name).read_bytes()
    assert json.loads((folders["score"] / "metrics.json").read_text())["n"] == 5


# --- verbs of plug-ins -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CountRequest:
    """Count the letters of a file.

    Args:
        text: which.
        times: how often they count.
    """

    text: Path
    times: int = 1


@dataclass(frozen=True, kw_only=True)
class CountResult:
    counted: Path


def count(request, out, *, machine, emit):
    number = len(request.text.read_text()) * request.times
    (out / "count.txt").write_text(str(number))
    return CountResult(counted=out / "count.txt")


def strangers(request=f"{__name__}:CountRequest", version="1", **more):
    verb = Verb(name="count", request=request, result=f"{__name__}:CountResult",
                target=f"{__name__}:count", summary="Letters", version=version)  # fmt: skip
    return Registry([Plugin("letters", "Of files", (), verbs=(verb,), **more)])


def test_a_verb_of_a_plugin_runs_like_ours(tmp_path, monkeypatch):
    for module in ("plan", "verbs"):
        monkeypatch.setattr(f"pipelines.job.{module}.installed", strangers)
    steps = {
        "m": {"run": "make", "request": {"number": 12345}},
        "c": {"run": "letters/count", "inputs": {"text": "m.made"}, "request": {"times": 2}},
        "d": {"run": "letters/count", "inputs": {"text": "c.counted"}},
    }
    found = plan(parse({"name": "x", "steps": steps}, verbs=TOYS), tmp_path, verbs=TOYS)
    folders = {p.step.name: p.folder for p in found}
    for p in found:
        outcome = run_step(p, folders, find(p.step.run, TOYS))
        assert outcome.state == "done", outcome.cause
    assert [(folders[name] / "count.txt").read_text() for name in "cd"] == ["10", "2"]
    for module in ("plan", "verbs"):
        monkeypatch.setattr(f"pipelines.job.{module}.installed", lambda: strangers(version="2"))
    again = plan(parse({"name": "x", "steps": steps}, verbs=TOYS), tmp_path, verbs=TOYS)
    why = {p.step.name: p.why for p in again}
    assert why == {"m": "", "c": "part letters/count version 1 -> 2", "d": why["d"]}
    assert "input c changed" in why["d"]


def test_a_verb_of_a_plugin_is_checked_like_ours():
    def said(step, registry):
        with pytest.raises(ConfigError) as caught:
            parse({"name": "x", "steps": {"a": step}}, verbs=TOYS, registry=registry)
        return caught.value.problems

    assert said({"run": "letters/count", "request": {"text": "x", "tiems": 2}}, strangers()) == [
        "steps.a.request.tiems: unknown option; did you mean 'times'?"
    ]
    assert said({"run": "letters/cuont"}, strangers()) == [
        "steps.a.run: no verb 'letters/cuont'; did you mean 'letters/count'?; "
        "known: make, learn, add, report, deal, gather, letters/count"
    ]
    broken = Registry([], {"letters": "ImportError: no such thing"})
    assert "could not be read: ImportError: no such thing" in said({"run": "letters/x"}, broken)[0]
    assert said({"run": "letters/count"}, strangers(request=f"{__name__}:count")) == [
        f"steps.a.run: verb 'letters/count': {__name__}:count is not a dataclass"
    ]


def test_listing_verbs_imports_none():
    name = "a_module_that_is_not_there"
    assert known(TOYS, strangers(request=f"{name}:X")) == [*TOYS, "letters/count"]
    assert name not in sys.modules


@pytest.mark.parametrize("change", [{"target": "no_colon"}, {"request": "x"}, {"result": "y"}])
def test_a_table_with_a_wrong_verb_is_broken_and_says_why(change):
    options: dict[str, Any] = {
        "name": "v",
        "request": "a:b",
        "result": "a:b",
        "target": "a:b",
        "summary": "x",
    }
    registry = Registry([Plugin("p", "x", (), verbs=(Verb(**{**options, **change}),))])
    assert "is not 'package.module:attribute'" in registry.broken["p"]
    twice = Registry([Plugin("p", "x", (), verbs=(Verb(**options), Verb(**options)))])
    assert twice.broken["p"] == "two verbs are 'v'"


def test_a_job_has_a_bounded_number_of_steps_and_inputs():
    wide = {"run": "make", "matrix": {"number": list(range(1000))}}
    steps = {f"a{i}": wide for i in range(11)}
    assert problems(steps) == [
        "steps: 11000 with those of matrices and shards, at most 10000 in a job"
    ]
    shared = {"run": "deal", "shards": 1000}
    assert problems({f"a{i}": shared for i in range(10)}) == [
        "steps: 10010 with those of matrices and shards, at most 10000 in a job"
    ]
    page = {"run": "report", "matrix": {"title": [f"{i}" for i in range(101)]}}
    assert problems({"a": wide, "page": {**page, "inputs": {"A": "a"}}}) == [
        "steps: reports have 101000 inputs, at most 100000 in a job"
    ]


def test_variants_look_at_the_choices_that_agree_with_theirs_alone(monkeypatch):
    """As many choices as variants and inputs: not one for each pair of variants."""
    seen = []
    product = matrix.product

    def counted(*ranges):
        for places in product(*ranges):
            seen.append(places)
            yield places

    monkeypatch.setattr(matrix, "product", counted)
    count = 100
    chain = {"a0": {"run": "make", "matrix": {"number": list(range(count))}}}
    chain |= {f"a{i}": {"run": "add", "inputs": {"left": f"a{i - 1}.made"}} for i in (1, 2)}
    assert len(job(chain).steps) == 3 * count
    assert len(seen) == 5 * count
