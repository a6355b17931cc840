"""A search: what is drawn, what is refused, who is cut, what goes on, and what is shown of it."""

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
from processes import check_gone, started_by

from core.errors import InputError
from core.parts.config import ConfigError, bind
from core.parts.registry import Registry, installed
from core.parts.yaml_file import read_yaml
from core.request import TrainRequest, TrainResult, silent
from core.storage import files
from core.training.loop import NotFinite
from core.training.stopping import NO_SIGNAL, Stopped
from pipelines.job.file import parse
from pipelines.job.plan import plan
from pipelines.report import render
from pipelines.report.request import ReportRequest
from pipelines.run.display import Display
from pipelines.run.execute import on_ray
from pipelines.store import results
from pipelines.sweep.request import SweepRequest
from pipelines.sweep.search import sweep
from pipelines.sweep.space import draw, vary

TRAINING = {
    "task": {"name": "image2image/sr3", "scale": 4},
    "dataset": {"name": "image2image/photos", "size": 32},
    "network": {
        "name": "core/unet", "width": 8, "multipliers": [1], "blocks": 1, "attention": [],
        "middle_attention": False,
    },
    "process": "core/vp_linear", "weighting": "core/v", "steps": 24, "batch": 4, "warmup": 0,
    "ema": 0.5, "validate_every": 8, "validation_items": 8,
}  # fmt: skip
GOOD, HOPELESS = 3e-3, 1e-9


def job(space, *, workers=1, **changes):
    request = {**TRAINING, "space": space, **changes}
    step = {"run": "sweep", "workers": workers, "request": request}
    return {"name": "search", "steps": {"search": step}}


# --- what is drawn ------------------------------------------------------------------------------

SPACE = {
    "lr": {"loguniform": [1e-5, 1e-1]}, "weight_decay": {"uniform": [-1, 3]},
    "batch": {"int": [2, 11, 3]}, "decay": ["constant", "cosine", "other"],
}  # fmt: skip


def test_choices_follow_from_space_and_seed_alone():
    first = draw(SPACE, 40, 7)
    assert draw(dict(reversed(SPACE.items())), 40, 7) == first  # whatever the order
    assert draw(SPACE, 25, 7) == first[:25]  # however many
    assert draw(SPACE, 40, 8) != first
    assert first[0] == {  # the numbers of Python's own Mersenne twister, which are fixed
        "batch": 2 + 3 * int(4 * U[0]), "decay": SPACE["decay"][int(3 * U[1])],
        "lr": pytest.approx(1e-5 * 1e4 ** U[2], rel=1e-5),
        "weight_decay": pytest.approx(-1 + 4 * U[3], rel=1e-5),
    }  # fmt: skip


U = (0.32383276483316237, 0.15084917392450192, 0.6509344730398537, 0.07243628666754276)


@pytest.mark.parametrize(
    ("option", "quantile"),
    [("lr", lambda q: 10 ** (-5 + 4 * q)), ("weight_decay", lambda q: -1 + 4 * q)],
)
def test_ranges_are_covered_as_their_distribution_says(option, quantile):
    """Kolmogorov's distance to the closed form: above 1.63 / sqrt(n) once in a hundred."""
    n = 4000
    values = sorted(choice[option] for choice in draw(SPACE, n, 0))
    for i in range(n + 1):
        # The value below which a share i / n is drawn lies within the band of the closed form's.
        low, high = (i / n + side * 1.63 / math.sqrt(n) for side in (-1, 1))
        if i - 1 >= 0 and high < 1:
            assert values[i - 1] <= quantile(high)
        if i < n and low > 0:
            assert values[i] >= quantile(low)
    assert quantile(0) <= values[0]
    assert values[-1] <= quantile(1)


def test_lists_and_whole_numbers_are_drawn_evenly_and_reach_both_ends():
    n = 4000
    choices = draw(SPACE, n, 1)
    for option, values in (("batch", [2, 5, 8, 11]), ("decay", SPACE["decay"])):
        counts = Counter(choice[option] for choice in choices)
        assert set(counts) == set(values)
        share = 1 / len(values)
        deviation = math.sqrt(n * share * (1 - share))
        assert all(abs(count - n * share) < 4 * deviation for count in counts.values())


def test_no_choice_comes_twice_and_a_small_space_is_tried_whole():
    space = {"batch": {"int": [1, 3]}, "decay": ["constant", "cosine"]}
    choices = draw(space, 16, 0)
    found = {(choice["batch"], choice["decay"]) for choice in choices}
    assert found == {(b, d) for b in (1, 2, 3) for d in ("constant", "cosine")}
    assert len(choices) == 6
    narrow = draw({"lr": {"uniform": [1, 1.00001]}}, 16, 0)  # two values of six digits
    assert sorted(choice["lr"] for choice in narrow) == [1, 1.00001]


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("lr=loguniform:1e-5:1e-2", {"lr": {"loguniform": [1e-5, 1e-2]}}),
        ("ema=uniform:0:0.1", {"ema": {"uniform": [0, 0.1]}}),
        ("batch=int:16:64:16", {"batch": {"int": [16, 64, 16]}}),
        ("network.width=16,32", {"network.width": [16, 32]}),
        ("network.multipliers=[1, 2],[1]", {"network.multipliers": [[1, 2], [1]]}),
        ("network=core/unet, core/transformer", {"network": ["core/unet", "core/transformer"]}),
        ("decay=cosine", {"decay": ["cosine"]}),
    ],
)
def test_spaces_as_they_are_written_on_the_command_line(said, means):
    assert vary([said]) == means


def test_what_is_no_space_on_the_command_line_is_said_at_once():
    with pytest.raises(ConfigError) as caught:
        vary(["lr", "batch=", "=3", "ema=0.9", "ema=0.99"])
    assert [said.split(":")[0] for said in caught.value.problems] == [
        "--vary lr", "--vary batch=", "--vary =3", "--vary ema=0.99",
    ]  # fmt: skip


# --- what is refused before anything is trained ---------------------------------------------------


@pytest.mark.parametrize(
    ("space", "changes", "said"),
    [
        ({"lr": [1e-3, 0]}, {}, "space.lr: expected more than 0.0, got 0"),
        ({"lr": {"loguniform": [0, 1]}}, {}, "space.lr: loguniform: expected two numbers above"),
        ({"lr": {"uniform": [1, 0.1]}}, {}, "space.lr: uniform: expected two numbers, the lower"),
        ({"lr": {"normal": [0, 1]}}, {}, "space.lr: expected a list of values, or one of uniform"),
        ({"lr": 1e-3}, {}, "space.lr: expected a list of values"),
        ({"lr": []}, {}, "space.lr: no values"),
        ({"lr": [1, 1]}, {}, "space.lr: a value is given twice"),
        ({"batch": {"int": [1, 4.5]}}, {}, "space.batch: int: expected whole numbers"),
        ({"batch": {"int": [1, 4, 0]}}, {}, "space.batch: int: expected whole numbers"),
        ({"batch": {"uniform": [1.5, 4]}}, {}, "space.batch: expected int, got 1.5"),
        ({"network.widht": [8]}, {}, "space.network.widht: unknown option; did you mean 'width'?"),
        ({"rl": [1]}, {}, "space.rl: unknown option"),
        ({"space": [1]}, {}, "space.space: unknown option"),
        ({"network": ["core/nope"]}, {}, "space.network: no network named 'core/nope'"),
        ({"weighting": ["core/v", "core/simple"]}, {}, "space.weighting: the loss on held-out"),
        ({"seed": [1, 2]}, {}, "space.seed: the loss on held-out items means another thing"),
        ({"dataset.size": [32, 64]}, {}, "space.dataset.size: each choice would be measured on"),
        ({}, {}, "space: no option to search"),
        ({"lr": [1]}, {"validate_every": 0}, "validate_every: 0 of 24 steps, but trials are"),
        ({"lr": [1]}, {"validate_every": 25}, "validate_every: 25 of 24 steps"),
        ({"lr": [1]}, {"grace": 25}, "grace: 25, but a trial has 24 steps"),
        ({"lr": [1]}, {"trials": 1001}, "trials: at most 1000, got 1001"),
        ({"lr": [1]}, {"metric": "loss"}, "metric: expected one of 'val/loss', 'val/high'"),
        ({"network": ["core/unet", "core/transformer"], "network.multipliers": [[1]]}, {},
         "space: network core/transformer, network.multipliers [1]: network.multipliers: unknown"),
    ],
)  # fmt: skip
def test_mistakes_are_found_where_a_job_is_read(space, changes, said):
    with pytest.raises(ConfigError) as caught:
        parse(job(space, **changes))
    assert f"steps.search.request.{said}" in str(caught.value)


def test_all_mistakes_of_a_space_are_found_at_once():
    with pytest.raises(ConfigError) as caught:
        parse(job({"lr": [0], "batch": [0], "ema": {"odd": 1}}))
    assert len(caught.value.problems) == 3


def test_a_part_that_only_the_space_names_is_in_the_key(tmp_path):
    def key(version):
        plugins = [
            replace(plugin, parts=tuple(
                replace(part, version=version) if part.name == "transformer" else part
                for part in plugin.parts
            ))
            for plugin in installed().plugins.values()
        ]  # fmt: skip
        registry, space = Registry(plugins), {"network": ["core/unet", "core/transformer"]}
        changes = {"network": "core/unet"}
        read = parse(job(space, **changes), registry=registry)
        return plan(read, tmp_path, registry=registry)[0].key

    assert key("1") == key("1")
    assert key("1") != key("2")


# --- who is cut, and what goes on -----------------------------------------------------------------


class Trainings:
    """Stands for `core.runs.train`: figures as told, one a step; it goes on from what it wrote.

    Args:
        values: learning rate to its figure, or one for each step; or to what is raised, by a
            request that is wrong at the first step, by others at the second one.
    """

    def __init__(self, values):
        self.values, self.taken = values, []

    def __call__(self, request, out, *, machine, emit, stop):
        log, value = out / "metrics.jsonl", self.values[request.lr]
        done = len(log.read_text().splitlines()) if log.exists() else 0
        (out / "checkpoints" / "step-00000001").mkdir(parents=True, exist_ok=True)
        for step in range(done + 1, request.steps + 1):
            if stop():
                raise Stopped(step - 1, NO_SIGNAL)
            if isinstance(value, Exception) and (step > 1 or isinstance(value, InputError)):
                raise value
            self.taken.append((request.lr, step))
            figure = 1.2 if isinstance(value, Exception) else value
            figure = figure[step - 1] if isinstance(figure, tuple) else figure
            with log.open("a") as file:
                file.write(json.dumps({"step": step, "val/loss": figure, "val/high": -figure}))
                file.write("\n")
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        step = min(rows, key=lambda row: row["val/loss"])["step"]
        best = out / "checkpoints" / f"step-{step:08d}"
        return TrainResult(checkpoint=best.parent, best=best, steps=request.steps, loss=1.0,
                           parameters=1, seconds=0.0)  # fmt: skip


@pytest.fixture
def trainings(monkeypatch):
    """Trainings whose figures come in the order in which their learning rates are drawn."""

    def of(*figures):
        rates = [choice["lr"] for choice in draw({"lr": RATES[: len(figures)]}, 9, 0)]
        made = Trainings(dict(zip(rates, figures, strict=True)))
        monkeypatch.setattr("core.runs.train", made)
        return made

    return of


RATES = [0.1, 0.2, 0.3, 0.4, 0.5]


def searched(count, out, stop=None, **changes):
    options = {"steps": 4, "validate_every": 1, "reduction": 2, **changes}
    request = bind(SweepRequest, {**TRAINING, "space": {"lr": RATES[:count]}, **options})
    out.mkdir(exist_ok=True)
    result = sweep(request, out, emit=silent, stop=stop)
    return result, json.loads((out / "trials.json").read_text())


def states(table):
    return [(row["state"], row["steps"]) for row in table["trials"]]


def test_who_is_worse_than_the_middle_at_a_rung_is_cut(trainings, tmp_path):
    """By hand, for halving at steps 1 and 2: 5 is above the median of 4 and 3, so it is cut at 1;
    3.2 is below the median of 4, 3 and 5 at 1, but not below that of 4 and 3 at 2."""
    trainings(4.0, 3.0, 5.0, 3.6, 1.0)
    result, table = searched(5, tmp_path / "a")
    assert states(table) == [
        ("finished", 4), ("finished", 4), ("cut", 1), ("cut", 2), ("finished", 4),
    ]  # fmt: skip
    assert (result.trial, result.value, table["best"]) == ("005", 1.0, "005")
    assert (result.finished, result.cut, result.failed) == (3, 2, 0)


def test_grace_and_reduction_say_when_and_how_many(trainings, tmp_path):
    trainings(1.0, 2.0, 3.0)
    _, table = searched(3, tmp_path / "grace", grace=3)
    assert states(table) == [("finished", 4), ("cut", 3), ("cut", 3)]
    trainings(1.0, 3.0, 2.0)
    _, table = searched(3, tmp_path / "none", grace=4)  # nobody is cut at the last step
    assert states(table) == [("finished", 4)] * 3
    trainings(1.0, 3.0, 2.0)
    # 2 is the median of 1 and 3: among the better half, not among the best third.
    _, table = searched(3, tmp_path / "half", grace=2, reduction=2)
    assert [state for state, _ in states(table)] == ["finished", "cut", "finished"]
    trainings(1.0, 3.0, 2.0)
    _, table = searched(3, tmp_path / "third", grace=2, reduction=3)
    assert [state for state, _ in states(table)] == ["finished", "cut", "cut"]


def test_the_best_is_one_that_was_trained_to_the_end_if_any_was(trainings, tmp_path):
    trainings((3.0, 1.0, 1.0, 1.0), (0.5, 2.0, 2.0, 2.0))
    result, table = searched(2, tmp_path / "a")
    assert states(table) == [("finished", 4), ("cut", 2)]
    assert table["trials"][1]["value"] == 0.5
    assert (result.trial, result.value) == ("001", 1.0)
    trainings(NotFinite("step 2: loss nan"), 5.0)
    result, table = searched(2, tmp_path / "b")
    assert states(table) == [("failed", 1), ("cut", 1)]
    assert (result.trial, result.value) == ("002", 5.0)


def test_the_metric_is_the_one_that_was_asked_for(trainings, tmp_path):
    trainings(1.0, 3.0, 2.0)
    assert searched(3, tmp_path / "loss", grace=4)[0].trial == "001"
    trainings(1.0, 3.0, 2.0)  # whose upper ends are -1, -3, -2
    result, _ = searched(3, tmp_path / "high", grace=4, metric="val/high")
    assert (result.trial, result.value) == ("002", -3.0)


def test_of_equals_the_first_is_kept_and_of_the_others_only_the_record(trainings, tmp_path):
    trainings(2.0, 1.0, 1.0)
    result, _ = searched(3, tmp_path / "a")
    assert result.trial == "002"
    kept = sorted(path.parent.name for path in tmp_path.glob("a/trials/*/checkpoints"))
    assert kept == ["002"]
    assert len(list(tmp_path.glob("a/trials/*/metrics.jsonl"))) == 3
    assert not list(tmp_path.glob("a/trials/*/.del-*"))


def test_a_failed_trial_is_named_and_the_others_go_on(trainings, tmp_path):
    trainings(2.0, NotFinite("step 2: loss nan"), 1.0)
    result, table = searched(3, tmp_path / "a")
    assert states(table) == [("finished", 4), ("failed", 1), ("finished", 4)]
    assert table["trials"][1]["cause"] == "NotFinite: step 2: loss nan"
    assert (result.trial, result.failed) == ("003", 1)


def test_when_every_trial_fails_so_does_the_search(trainings, tmp_path):
    trainings(NotFinite("step 2: loss nan"), InputError("too wide"))
    with pytest.raises(RuntimeError, match="all 2 trials failed, the first one: NotFinite: step 2"):
        searched(2, tmp_path / "a")
    trainings(InputError("no such photographs"), InputError("too wide"))
    with pytest.raises(InputError, match="all 2 trials failed, the first one: no such photographs"):
        searched(2, tmp_path / "b")
    made = trainings(2.0, 1.0)  # what was the machine's fault may be mended: both are tried again
    assert searched(2, tmp_path / "b")[0].trial == "002"
    assert len(made.taken) == 2 * 4


def test_a_full_disk_ends_the_search_and_the_next_one_goes_on(trainings, tmp_path):
    made = trainings(2.0, OSError(28, "No space left on device"), 1.0)
    with pytest.raises(RuntimeError, match=r"trial 002: OSError: .*No space left"):
        searched(3, tmp_path / "a")
    second = trainings(2.0, 1.5, 1.0)
    result, table = searched(3, tmp_path / "a")
    assert result.trial == "003"
    assert states(table) == [("finished", 4)] * 3
    steps = Counter([*made.taken, *second.taken])
    assert set(steps.values()) == {1}  # nothing was trained twice


def test_a_stopped_search_ends_as_one_that_was_not(trainings, tmp_path):
    figures = (4.0, 3.0, 5.0, 3.6, 1.0)
    trainings(*figures)
    _, whole = searched(5, tmp_path / "whole")
    made, looks = trainings(*figures), 0

    def stop():
        nonlocal looks
        looks += 1
        return looks % 5 == 0

    for _ in range(10):
        try:
            _, table = searched(5, tmp_path / "stopped", stop=stop)
            break
        except Stopped:
            waiting = json.loads((tmp_path / "stopped" / "trials.json").read_text())
            assert [row["options"] for row in waiting["trials"]] == [
                row["options"] for row in whole["trials"]
            ]
    assert looks > 10
    assert table == whole
    assert set(Counter(made.taken).values()) == {1}


def test_a_file_named_stop_ends_a_search_and_is_removed(trainings, tmp_path):
    trainings(2.0, 1.0)
    out = tmp_path / "a"
    out.mkdir()
    (out / "STOP").touch()
    with pytest.raises(Stopped):
        searched(2, out)
    assert not (out / "STOP").exists()
    assert searched(2, out)[0].trial == "002"


# --- for real -------------------------------------------------------------------------------------


COMMAND = [sys.executable, "-c", "from pipelines.cli import main; main()"]


def command(out, *more, **options):
    request = out.parent / "request.yaml"
    request.write_text(json.dumps(TRAINING))
    words = ["sweep", str(request), "-o", str(out), "--threads", "1", *more]
    return subprocess.run(
        [*COMMAND, *words],
        capture_output=True, text=True, check=False, timeout=240, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A search by the command, in one process: its folder and what was printed."""
    out = tmp_path_factory.mktemp("sweep") / "runs"
    done = command(out, "--vary", f"lr={HOPELESS},{GOOD}", "--local", cwd=out.parent)
    assert done.returncode == 0, done.stderr
    (folder,) = out.glob("store/sweep-*")
    return folder, done


def test_the_command_prints_the_best_and_a_table_of_all(real):
    folder, done = real
    assert done.stdout.splitlines() == [
        f"runs/store/{folder.name}/best.yaml",
        f"runs/store/{folder.name}/trials/001/checkpoints",
    ]
    table = [line.split() for line in done.stderr.splitlines()[-3:]]
    assert table[0] == ["trial", "lr", "steps", "val/loss", "at", "step", "state"]
    assert [(row[0], float(row[1]), row[-1]) for row in table[1:]] == [
        ("001", GOOD, "best"), ("002", HOPELESS, "cut"),
    ]  # fmt: skip
    again = command(folder.parents[1], "--vary", f"lr={HOPELESS},{GOOD}", cwd=folder.parents[2])
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert again.stderr.splitlines()[0] == "nothing to do: its one step is a hit"


@pytest.mark.slow
def test_the_best_request_trains_the_same_network_again(real, tmp_path):
    from core.request import Machine
    from core.runs import train

    folder, _ = real
    request = bind(TrainRequest, read_yaml(folder / "best.yaml"))
    assert (request.lr, request.steps) == (GOOD, 24)
    result = train(request, tmp_path, machine=Machine(device="cpu", threads=1))
    found = json.loads((folder / "trials.json").read_text())["trials"][0]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["val/loss"] for row in rows if "val/loss" in row}
    assert found["value"] == min(losses.values()) == losses[found["step"]]
    assert result.best.name == f"step-{found['step']:08d}"
    ours = files.digest(result.best / "ema.safetensors")
    best = results.result_path(folder, "best")
    assert files.digest(best / "ema.safetensors") == ours


def test_a_report_draws_every_trial_and_marks_the_best(real, tmp_path):
    folder, _ = real
    made = render.report(ReportRequest(), {"search": folder}, tmp_path)
    page, facts = made.report.read_text(), json.loads(made.data.read_text())
    trials = facts["steps"][0]["search"]["trials"]
    rows = [json.loads(line) for line in
            (folder / "trials" / "001" / "metrics.jsonl").read_text().splitlines()]  # fmt: skip
    losses = [(row["step"], row["val/loss"]) for row in rows if "val/loss" in row]
    assert [(at["step"], at["loss"]) for at in trials[0]["points"]] == losses
    assert len(trials[1]["points"]) == 1  # it was cut at its first validation
    lines = re.findall(r'<g class="(\w+)"><title>trial (\d+), (\w+)</title>\s*<polyline points="'
                       r'([^"]*)"', page)  # fmt: skip
    assert [line[:3] for line in lines] == [
        ("trial", "002", "cut"), ("chosen", "001", "finished"),
    ]  # fmt: skip
    places = [tuple(map(float, point.split(","))) for point in lines[1][3].split()]
    assert len(places) == 3
    assert places[-1][0] == 706.0  # the right edge: width 720 less 14
    assert places[0][1] < places[-1][1]  # the loss falls: lower on the page
    assert page.count('<span class="tag best">best</span>') == 1
    assert str(tmp_path) not in page


def test_causes_and_values_in_a_report_are_text_and_name_no_folder(real, tmp_path):
    folder, _ = real
    copy = tmp_path / folder.name
    copy.mkdir()
    for name in ("request.json", "env.json", "result.json"):
        (copy / name).write_text((folder / name).read_text())
    table = json.loads((folder / "trials.json").read_text())
    hostile = "<script>alert(1)</script>"
    table["trials"][1] |= {"state": "failed", "cause": f"/home/me/x/photo.png: {hostile}"}
    table["trials"][1]["options"] = {"lr": "/home/me/y", hostile: hostile}
    files.write_json(copy / "trials.json", table)
    page = render.report(ReportRequest(), {"s": copy}, tmp_path).report.read_text()
    assert "/home/me" not in page
    assert "…/photo.png" in page
    assert page.count("<script>") == 1


def searches():
    return [p for p in started_by(os.getpid()) if "ImplicitFunc" in " ".join(p.cmdline())]


def test_two_at_once_on_ray_cut_the_hopeless_and_agree_with_one_process(real, ray_here, tmp_path):
    space = {"lr": [HOPELESS, GOOD, 1e-8, 1e30]}  # with the last one weights are soon infinite
    steps, shown = plan(parse(job(space, workers=2)), tmp_path), io.StringIO()
    with Display(["search"], stream=shown) as display:
        outcome = on_ray(steps, display)["search"]
    assert outcome.state == "done", shown.getvalue()
    folder = steps[0].folder
    rows = json.loads((folder / "trials.json").read_text())["trials"]
    by_rate = {row["options"]["lr"]: row for row in rows}
    assert by_rate[GOOD]["state"] == "finished"
    alone = json.loads((real[0] / "trials.json").read_text())["trials"][0]
    assert by_rate[GOOD]["value"] == alone["value"]
    assert "cut" in (by_rate[HOPELESS]["state"], by_rate[1e-8]["state"])
    assert by_rate[1e30]["state"] == "failed"
    assert by_rate[1e30]["cause"].startswith("NotFinite: ")
    assert results.read_json(folder / "result.json")["trial"] == by_rate[GOOD]["trial"]
    assert not list(folder.glob(".tune"))
    assert f"trial {by_rate[GOOD]['trial']} finished: " in shown.getvalue()
    deadline = time.monotonic() + 10
    while searches() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not searches()
    assert results.inspect(folder, steps[0].key, verify=True).state == "whole"


def events(folder):
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [text for line in lines if (text := json.loads(line).get("text"))]


@pytest.mark.torture
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_search_goes_on_after_its_command_is_ended(tmp_path, number, status):
    out, request = tmp_path / "runs", tmp_path / "request.yaml"
    request.write_text(json.dumps({**TRAINING, "steps": 200, "validate_every": 100}))
    words = [*COMMAND, "sweep", str(request), "-o", str(out), "--threads", "1", "--workers", "2",
             "--vary", "lr=1e-3,2e-3,3e-3,4e-3", "--set", "grace=200"]  # fmt: skip
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)

    def begun():
        checkpoints = {path.parents[2] for path in out.glob("store/*/trials/*/checkpoints/step-*/")}
        ended = {path.parent for path in out.glob("store/*/trials/*/outcome.json")}
        return ended and checkpoints - ended and ended

    deadline = time.monotonic() + 300
    while not (before := begun()) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    running = started_by(process.pid)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == status, said
    assert "Traceback" not in said
    check_gone(running)
    kept = {at: (at / "outcome.json").stat().st_mtime_ns for at in before}
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {at: (at / "outcome.json").stat().st_mtime_ns for at in before} == kept
    (folder,) = out.glob("store/sweep-*")
    rows = json.loads((folder / "trials.json").read_text())["trials"]
    assert [(row["state"], row["steps"]) for row in rows] == [("finished", 200)] * 4
    resumed = [at for at in folder.glob("trials/*") if any("resuming" in e for e in events(at))]
    assert resumed
    assert not set(resumed) & set(before)
    if number == signal.SIGTERM:  # the step it was at, which no validation and no clock chose
        notes = [e for at in resumed for e in events(at) if "resuming from step" in e]
        assert any(int(re.search(r"step (\d+)", note)[1]) % 100 for note in notes), notes
