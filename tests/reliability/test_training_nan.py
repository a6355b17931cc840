"""A loss that is no number: at step k, by each of the three policies."""

import json

import pytest
import torch
from small_runs import After, losses, request, rows, sums, trained

from core.network.ema import ExponentialAverage
from core.process.noise import Noise, derive
from core.storage import checkpoint
from core.training import run
from core.training.loop import NotFinite
from core.training.stopping import Stopped

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def spoil(monkeypatch):
    """Make the examples of some draws no numbers; a draw is known by its seed and step."""
    whole, bad = run.drop_conditions, {}

    def spoiled(example, noise, share, part):
        value = bad.get(noise.seeds[0], 1.0)
        return whole(type(example)(example.x0 * value, example.condition), noise, share, part)

    monkeypatch.setattr(run, "drop_conditions", spoiled)

    def at(step, value=torch.nan, rollbacks=0):
        seed = derive(0, "rollback", rollbacks) if rollbacks else 0
        bad[Noise.of(seed, "train", step, each=[0]).seeds[0]] = value

    return at


def all_saved_is_finite(out):
    for step in (out / "checkpoints").glob("step-*"):
        for named in checkpoint.load(step).tensors.values():
            assert all(bool(value.isfinite().all()) for value in named.values())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_stop_ends_within_the_step_and_says_where(spoil, tmp_path, value):
    spoil(7, value)
    message = r"toy/points on toy/cloud, step 8: loss (nan|inf), gradient nan, lr 0\.0.*; lower"
    with pytest.raises(NotFinite, match=message):
        trained(request(), tmp_path, save_seconds=1e-6)
    assert checkpoint.load(tmp_path).step == 7
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 8))
    all_saved_is_finite(tmp_path)


@pytest.mark.parametrize("on_nan", ["stop", "skip", "rollback"])
def test_weights_that_are_no_numbers_are_not_saved(tmp_path, monkeypatch, on_nan):
    """Loss and gradient are finite; what is averaged is not, once, as after an overflow."""
    update, times = ExponentialAverage.update, []

    def spoiled(average, network, updates):
        update(average, network, updates)
        if updates == 4 and not times:
            times.append(updates)
            average.weights["out.bias"][0] = torch.inf

    monkeypatch.setattr(ExponentialAverage, "update", spoiled)
    if on_nan == "rollback":
        notes = trained(request(on_nan=on_nan), tmp_path, save_seconds=1e-6)
        assert any("step 5: weights are not finite" in n and "back to step 4" in n for n in notes)
        assert checkpoint.load(tmp_path).step == 12
    else:
        with pytest.raises(NotFinite, match="step 5: weights are not finite; lower"):
            trained(request(on_nan=on_nan), tmp_path, save_seconds=1e-6)
        assert checkpoint.load(tmp_path).step == 4
    all_saved_is_finite(tmp_path)


def test_skip_leaves_the_step_out_and_counts_it(spoil, tmp_path):
    trained(request(on_nan="skip", steps=7), tmp_path / "before")
    spoil(7)
    spoil(9)
    trained(request(on_nan="skip"), tmp_path / "all", save_seconds=1e-6)
    found = rows(tmp_path / "all")
    assert [row["step"] for row in found if row["skipped"]] == [8, 10]
    assert [row["loss"] for row in found if row["skipped"]] == [None, None]
    assert checkpoint.load(tmp_path / "all").state["skipped"] == 2
    # The optimizer has taken ten steps, not twelve.
    saved = checkpoint.load(tmp_path / "all").tensors["optimizer"]
    assert {float(v) for name, v in saved.items() if name.endswith(".step")} == {10.0}
    # And a stop in between changes nothing.
    with pytest.raises(Stopped):
        trained(request(on_nan="skip"), tmp_path / "stopped", stop=After(8))
    trained(request(on_nan="skip"), tmp_path / "stopped")
    assert sums(tmp_path / "stopped") == sums(tmp_path / "all")
    assert checkpoint.load(tmp_path / "stopped").state["skipped"] == 2


def test_skip_gives_up_where_no_step_counts(tmp_path, monkeypatch):
    from core.training import loop

    monkeypatch.setattr(loop, "SKIPPED_IN_A_ROW", 3)
    poisoned = request(on_nan="skip", dataset={"count": 4, "poison": 0}, batch=4)
    with pytest.raises(NotFinite, match="step 4"):
        trained(poisoned, tmp_path)


def test_rollback_goes_back_and_on_with_other_draws(spoil, tmp_path):
    wanted = request(on_nan="rollback", steps=30)
    trained(wanted, tmp_path / "clean")
    spoil(13)
    notes = trained(wanted, tmp_path / "spoiled", save_seconds=1000.0)
    (note,) = (n for n in notes if "back to step 0, with other draws from there (1 of 3)" in n)
    assert note.startswith("step 14: loss nan")
    assert checkpoint.load(tmp_path / "spoiled").state["rollbacks"] == 1
    assert [row["step"] for row in rows(tmp_path / "spoiled")] == list(range(1, 31))
    pairs = list(zip(losses(tmp_path / "clean"), losses(tmp_path / "spoiled"), strict=True))
    assert all(clean != other for clean, other in pairs)
    all_saved_is_finite(tmp_path / "spoiled")


def test_a_run_that_went_back_resumes_to_the_same_bits(spoil, tmp_path):
    """The rollback is from step 0; the stop comes after it, the end is as without it."""
    spoil(4)
    wanted = request(on_nan="rollback")
    trained(wanted, tmp_path / "whole", save_seconds=1000.0)
    with pytest.raises(Stopped):  # 5 steps, one of them spoiled, then 6 more
        trained(wanted, tmp_path / "stopped", save_seconds=1000.0, stop=After(11))
    assert checkpoint.load(tmp_path / "stopped").step == 6
    notes = trained(wanted, tmp_path / "stopped", save_seconds=1000.0)
    assert not any("back to" in note for note in notes)
    assert sums(tmp_path / "stopped") == sums(tmp_path / "whole")


def test_a_fourth_rollback_is_a_stop(spoil, tmp_path):
    for rollbacks in range(4):
        spoil(5 + rollbacks, rollbacks=rollbacks)
    message = "step 9: loss nan.*; already rolled back 3 times"
    with pytest.raises(NotFinite, match=message):
        trained(request(on_nan="rollback"), tmp_path, save_seconds=1000.0)
    assert checkpoint.load(tmp_path).step == 0


def test_every_line_of_the_metrics_is_json(spoil, tmp_path):
    spoil(3)
    trained(request(on_nan="skip"), tmp_path)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
