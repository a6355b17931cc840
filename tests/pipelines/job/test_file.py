"""A job is read whole or refused with every problem and where it is."""

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_jobs import job, problems
from toy_verbs import TOYS, toys

from core.errors import InputError
from core.parts.config import ConfigError
from core.parts.registry import Spec
from pipelines.job.file import Job, Source, parse, read
from pipelines.job.verbs import VERBS

CHAIN = {
    "page": {"run": "report", "inputs": {"Sum": "sum.made", "A": "a"}},
    "sum": {"run": "add", "inputs": {"left": "a.made", "right": "b.made"}, "cpus": 2},
    "a": {"run": "make", "request": {"number": 3}, "gpus": 0.5, "retries": 2},
    "b": {"run": "make"},
}


def test_a_job_is_resolved_and_in_an_order_that_can_be_run():
    found = job(CHAIN, description="what")
    names = [step.name for step in found.steps]
    assert set(names) == set(CHAIN)
    for step in found.steps:
        assert all(names.index(need) < names.index(step.name) for need in step.needs)
    steps = {step.name: step for step in found.steps}
    assert steps["a"].request == {
        "number": 3, "scale": 1, "source": None, "fail": "", "seconds": 0.0
    }  # fmt: skip
    assert (steps["a"].gpus, steps["a"].retries, steps["sum"].cpus) == (0.5, 2, 2)
    assert steps["sum"].inputs == {"left": Source("a", "made"), "right": Source("b", "made")}
    assert steps["sum"].request == {"plus": 1}  # what inputs supply is left out
    assert steps["page"].inputs["A"] == Source("a")


@pytest.mark.parametrize(
    ("said", "size"),
    [("8GiB", 8 << 30), ("1.5 MiB", 3 << 19), ("500MB", 500_000_000), (7, 7), ("2kB", 2000)],
)
def test_memory_is_given_in_the_units_people_use(said, size):
    assert job({"a": {"run": "make", "memory": said}}).steps[0].memory == size


def test_parts_are_resolved_to_their_defaults():
    found = job({"x": {"run": "learn", "request": {"network": {"name": "toy/net", "width": 3}}}})
    expected = Spec("toy/net", {"width": 3, "weights": None, "inner": None})
    assert found.steps[0].request["network"] == expected


ONE_PROBLEM = [
    ({}, "steps: none given; a job has at least one step"),
    ({"a": {"run": "make", "rnu": "make"}}, "steps.a.rnu: unknown option; did you mean 'run'?"),
    ({"a": {"run": "mkae"}},
     "steps.a.run: no verb 'mkae'; did you mean 'make'?; known: make, learn, add, report, deal, "
     "gather"),
    ({"a": {"run": "learn", "request": {"network": {"name": "toy/net", "widht": 3}}}},
     "steps.a.request.network.widht: unknown option; did you mean 'width' or 'weights'?"),
    ({"a": {"run": "learn", "request": {"network": "toy/nets"}}},
     "steps.a.request.network: no network named 'toy/nets'; did you mean 'toy/net'?"
     "\n  known: toy/net, toy/other"),
    ({"a": {"run": "make", "request": {"number": "x"}}},
     "steps.a.request.number: expected int, got 'x'"),
    ({"a": {"run": "add"}}, "steps.a.request.left: required, but not given"),
    ({"a": {"run": "add", "inputs": {"left": "b.made"}, "request": {"left": "x"}},
      "b": {"run": "make"}},
     "steps.a.inputs.left: given in request too; keep one of them"),
    ({"a": {"run": "add", "inputs": {"left": "bb.made"}}, "b": {"run": "make"}},
     "steps.a.inputs.left: no step named 'bb'; did you mean 'b'?"),
    ({"a": {"run": "add", "inputs": {"left": "b.maed"}}, "b": {"run": "make"}},
     "steps.a.inputs.left: make gives no file or folder 'maed'; did you mean 'made'?; known: made"),
    ({"a": {"run": "add", "inputs": {"left": "b.value"}}, "b": {"run": "make"}},
     "steps.a.inputs.left: make gives no file or folder 'value'; known: made"),
    ({"a": {"run": "add", "inputs": {"left": "b"}}, "b": {"run": "make"}},
     "steps.a.inputs.left: expected one of b.made"),
    ({"a": {"run": "add", "inputs": {"left": "b.made", "rihgt": "b.made"}}, "b": {"run": "make"}},
     "steps.a.inputs.rihgt: unknown option; did you mean 'right'?"),
    ({"a": {"run": "add", "inputs": {"left": "b.made", "plus": "b.made"}}, "b": {"run": "make"}},
     "steps.a.inputs.plus: takes no file or folder; options that do: left, right"),
    ({"a": {"run": "make", "cpus": 0}}, "steps.a.cpus: expected at least 1, got 0"),
    ({"a": {"run": "make", "gpus": -1}}, "steps.a.gpus: expected at least 0.0, got -1"),
    ({"a": {"run": "make", "retries": 1.5}}, "steps.a.retries: expected int, got 1.5"),
    ({"a": {"run": "make", "memory": "lots"}},
     "steps.a.memory: expected a size such as 8GiB or 500MB, got 'lots'"),
    ({"a": {"run": "make", "memory": -1}},
     "steps.a.memory: expected a size such as 8GiB or 500MB, got -1"),
    ({"a": {"run": "report", "inputs": {"x": "nowhere"}}},
     "steps.a.inputs.x: no step named 'nowhere'"),
    ({"a": {"run": "add", "inputs": {"left": "a.made"}}}, "steps: circular inputs a -> a"),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "problem"), ONE_PROBLEM)
def test_a_problem_is_named_with_its_place(steps, problem):
    assert problems(steps) == [problem]


def test_a_circle_is_shown_in_the_direction_of_the_data():
    def takes(step):
        return {"run": "add", "inputs": {"left": f"{step}.made"}}

    circle = {"b": takes("a"), "c": takes("b"), "a": takes("c"), "free": {"run": "make"}}
    assert problems(circle) == ["steps: circular inputs a -> b -> c -> a"]


@pytest.mark.parametrize(
    "name", ["", "A", "a b", "../a", "a.b", "-a", "_a", "ä", "a" * 65, "a\n", "a/b"]
)
def test_names_that_folders_should_not_have_are_refused(name):
    assert any("is not a name" in said for said in problems({name: {"run": "make"}}))
    assert any("is not a name" in said for said in problems({"a": {"run": "make"}}, name=name))


def test_the_store_is_no_name_for_a_job():
    assert "where results are kept" in problems({"a": {"run": "make"}}, name="store")[0]


def test_all_problems_come_at_once():
    steps, wanted = {}, []
    for index, (one, problem) in enumerate(ONE_PROBLEM[1:-1]):
        for name, step in one.items():
            inputs = step.get("inputs", {})
            own = {k: v.replace("b.", f"b{index}.", 1) if v.startswith("b.") else v
                   for k, v in inputs.items()}  # fmt: skip
            steps[f"{name}{index}"] = {**step, **({"inputs": own} if inputs else {})}
        wanted.append(problem.split(":")[0].replace("steps.a", f"steps.a{index}", 1))
    said = {problem.split(":")[0] for problem in problems(steps)}
    assert said == set(wanted)


def test_settings_lie_over_the_file(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("name: x\nsteps:\n  a: {run: learn, request: {network: toy/net}}\n")
    over = ["steps.a.request.network.width=3", "steps.a.cpus=2", "steps.b.run=make"]
    found = {step.name: step for step in read(file, over, verbs=TOYS, registry=toys()).steps}
    assert found["a"].request["network"].options["width"] == 3
    assert found["a"].cpus == 2
    assert found["b"].request["number"] == 1
    with pytest.raises(ConfigError, match=r"expected NAME\.OPTION=VALUE"):
        read(file, ["steps"], verbs=TOYS)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "none.yaml", verbs=TOYS)


def test_results_named_in_the_table_are_those_of_the_verbs():
    assert {verb: VERBS[verb].paths for verb in VERBS} == {
        "train": ("checkpoint", "best"), "sample": ("samples",), "join": ("samples",),
        "sweep": ("checkpoint", "best", "request", "table"),
        "evaluate": ("metrics",), "encode": ("latents",), "interpolate": ("samples",),
        "likelihood": ("metrics",), "apply": ("results", "files"),
        "report": ("report", "data"),
    }  # fmt: skip


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=6)
    | st.sampled_from(["make", "add", "report", "a.made", "toy/net", "a", "b"])
    | st.dates() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.text(max_size=4) | st.sampled_from(
            ["name", "steps", "a", "b", "run", "request", "inputs", "left", "network", "cpus"]
        ), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
SHAPED = st.fixed_dictionaries(
    {"name": st.just("x"), "steps": st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        PLAIN | st.fixed_dictionaries(
            {"run": st.sampled_from(["make", "add", "learn", "report"])},
            optional={"request": PLAIN, "inputs": st.dictionaries(
                st.sampled_from(["left", "right", "x", "source"]),
                st.sampled_from(["a.made", "b.made", "a", "c.x", "."]) | PLAIN, max_size=3)}),
        max_size=3)}
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(PLAIN | SHAPED)
def test_any_value_gives_a_job_or_says_what_is_wrong(value):
    try:
        found = parse(value, verbs=TOYS, registry=toys())
    except ConfigError as error:
        found = error.problems
    assert isinstance(found, Job) or (found and all(map(str.strip, found)))


def test_reading_and_planning_import_neither_torch_nor_ray(tmp_path):
    (tmp_path / "job.yaml").write_text("name: x\nsteps:\n  a: {run: make}\n")
    code = f"""
import sys
from pathlib import Path
from toy_verbs import TOYS
from pipelines import cli
from pipelines.job import file as job
from pipelines.job import plan
found = job.read(Path({str(tmp_path / "job.yaml")!r}), verbs=TOYS)
assert plan.plan(found, Path({str(tmp_path)!r}), verbs=TOYS)
print(sorted({{"torch", "ray", "rich", "numpy", "jinja2"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
