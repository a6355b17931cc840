"""What a run of training decides: validation, early ends, weights to start with, cards, formats."""

import importlib.util
import json
import platform
import sys
import types
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "reliability"))

from small_runs import After, losses, request, rows, sums, trained

from core.errors import InputError
from core.model import load_model
from core.parts.config import plain
from core.parts.registry import Spec
from core.parts.yaml_file import parse_yaml
from core.process.noise import derive
from core.request import Machine, TrainRequest
from core.runs import train
from core.storage import checkpoint
from core.training import precision
from core.training.loop import NotFinite
from core.training.state import TrainingState
from core.training.stopping import Stopped


@pytest.fixture(autouse=True)
def _toys(tmp_path, monkeypatch):
    """The plug-in of points is installed."""
    from toy_training import on_path

    from core.parts.registry import installed

    (tmp_path / "installed").mkdir()
    monkeypatch.setattr(sys, "path", [*on_path(tmp_path / "installed"), *sys.path])
    installed.cache_clear()
    yield
    installed.cache_clear()


STILL = {"lr": 1e-30, "network": {"blank": True}, "parameterization": Spec("core/eps")}


def validations(out):
    return [row for row in rows(out) if "val/loss" in row]


# --- validation ---------------------------------------------------------------------------------


def test_the_validation_loss_is_that_of_the_averaged_weights_on_fixed_draws(tmp_path):
    """Weights of zero say eps = 0, so the loss of an item is the mean square of its noise.

    The noise is drawn here by torch alone: from the item's seed, after one draw for its time.
    """
    trained(request(**STILL, validate_every=4, validation_items=5), tmp_path)
    squares = []
    for item in (0, 2, 4, 6, 8):  # five of ten, spread evenly
        stream = torch.Generator().manual_seed(derive(0, "validate", item))
        torch.rand((), generator=stream, dtype=torch.float64)
        squares.append(float(torch.randn(8, generator=stream).square().mean()))
    found = validations(tmp_path)
    assert [row["step"] for row in found] == [4, 8, 12]
    for row in found:
        assert row["val/loss"] == pytest.approx(sum(squares) / 5, rel=1e-6)
        assert row["val/low"] < row["val/loss"] < row["val/high"]
        assert row["val/n"] == 5


def test_training_ends_without_improvement_and_the_best_step_is_kept(tmp_path):
    wanted = request(**{**STILL, "steps": 30}, validate_every=3, patience=4)
    notes: list[object] = []
    machine = Machine(threads=1, device="cpu", save_seconds=1e-6)
    result = train(wanted, tmp_path / "run", machine=machine, emit=notes.append)
    assert result.steps == 15  # the first at 3, then four that are no better
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert kept == ["step-00000003", "step-00000014", "step-00000015"]
    assert result.best == tmp_path / "run" / "checkpoints" / "step-00000003"
    assert any("ending at step 15: 4 validations without" in getattr(n, "text", "") for n in notes)
    again = train(wanted, tmp_path / "run", machine=machine)
    assert (again.steps, again.best, again.loss) == (15, result.best, result.loss)
    assert load_model(result.best).checkpoint == result.best


def test_a_stop_between_validations_changes_nothing(tmp_path):
    wanted = request(steps=20, validate_every=3, patience=2, lr=0.05)
    trained(wanted, tmp_path / "whole")
    with pytest.raises(Stopped):
        trained(wanted, tmp_path / "stopped", stop=After(5))
    trained(wanted, tmp_path / "stopped")
    assert sums(tmp_path / "stopped") == sums(tmp_path / "whole")
    assert validations(tmp_path / "stopped") == validations(tmp_path / "whole")
    states = [checkpoint.load(tmp_path / name).state for name in ("stopped", "whole")]
    assert states[0] == states[1]


def test_the_best_step_is_the_one_with_the_lowest_loss(tmp_path):
    """A rate that is far too high in the end: the best step is an early one, saved then."""
    wanted = request(steps=20, validate_every=2, lr=3.0, warmup=20, ema=0.0)
    result = train(wanted, tmp_path, machine=Machine(threads=1, device="cpu"))
    lowest = min(validations(tmp_path), key=lambda row: row["val/loss"])
    assert lowest["step"] < 18
    assert result.best.name == f"step-{lowest['step']:08d}"
    assert checkpoint.load(result.best).step == lowest["step"]


def test_validation_is_of_the_averaged_weights(tmp_path):
    """Another decay changes no step of training, and what is measured."""
    trained(request(steps=8, validate_every=8, ema=0.0), tmp_path / "last")
    trained(request(steps=8, validate_every=8, ema=0.9), tmp_path / "averaged")
    assert losses(tmp_path / "last") == losses(tmp_path / "averaged")
    last, averaged = (validations(tmp_path / name)[0] for name in ("last", "averaged"))
    assert last["val/loss"] != averaged["val/loss"]


def test_validation_looks_at_another_dataset_where_one_is_named(tmp_path):
    other = Spec("toy/cloud", {"count": 100})
    trained(request(**STILL, validate_every=12, validation=other), tmp_path)
    assert validations(tmp_path)[0]["val/n"] == 25
    with pytest.raises(
        InputError, match="patience: 2 requires validations, but validate_every is 0"
    ):
        trained(request(patience=2), tmp_path / "none")
    empty = Spec("toy/cloud", {"count": 3})
    with pytest.raises(InputError, match="the test split of toy/cloud is empty; name another"):
        trained(request(validate_every=2, validation=empty), tmp_path / "empty")


# --- weights to start with ----------------------------------------------------------------------


def test_a_run_begins_with_the_averaged_weights_it_is_given(tmp_path):
    trained(request(seed=1), tmp_path / "first")
    given = checkpoint.load(tmp_path / "first").tensors["ema"]
    tuned = request(lr=1e-30, steps=3, start=tmp_path / "first")
    trained(tuned, tmp_path / "tuned")
    found = checkpoint.load(tmp_path / "tuned").tensors
    for group in ("model", "ema"):
        assert all(torch.equal(found[group][name], value) for name, value in given.items())


def test_another_start_is_refused_and_a_lost_one_is_not_needed_any_more(tmp_path):
    import shutil

    trained(request(seed=1), tmp_path / "first")
    tuned = request(start=tmp_path / "first")
    trained(tuned, tmp_path / "whole")
    with pytest.raises(Stopped):
        trained(tuned, tmp_path / "tuned", stop=After(5))
    shutil.move(tmp_path / "first", tmp_path / "kept")
    with pytest.raises(InputError, match=r"^start: .*first: "):
        trained(tuned, tmp_path / "new")
    trained(request(seed=2), tmp_path / "first")
    with pytest.raises(InputError, match="differs in the initial weights; choose another"):
        trained(tuned, tmp_path / "tuned")
    shutil.rmtree(tmp_path / "first")
    assert (
        "resuming without it, since this run has checkpoints"
        in trained(tuned, tmp_path / "tuned")[0]
    )
    assert sums(tmp_path / "tuned") == sums(tmp_path / "whole")
    moved = request(start=tmp_path / "kept")  # the same weights elsewhere
    trained(moved, tmp_path / "tuned")


def test_weights_that_do_not_fit_are_listed_at_once(tmp_path):
    trained(request(), tmp_path / "first")
    wider = request(network={"width": 20}, start=tmp_path / "first")
    with pytest.raises(InputError) as refused:
        trained(wider, tmp_path / "wider")
    said = str(refused.value)
    assert "into.weight has shape (16, 10), expected (20, 10)" in said
    assert "into.bias has shape (16,), expected (20,)" in said
    assert "out.weight has shape (8, 16), expected (8, 20)" in said
    assert not (tmp_path / "wider").exists()


# --- the card -----------------------------------------------------------------------------------


def test_every_field_of_the_card_is_the_runs(tmp_path):
    trained(request(seed=1), tmp_path / "first")
    data = Spec("image2image/photos", {"size": 32, "patches": 64})
    wanted = request(validate_every=4, start=tmp_path / "first", on_nan="skip")
    trained(wanted, tmp_path / "run")
    saved = checkpoint.load(tmp_path / "run")
    text = (saved.path / "README.md").read_text()
    head = parse_yaml(text.removeprefix("---\n").split("\n---\n")[0], "card")
    about = head["polymode"]
    assert about["request"] == saved.state["request"]
    assert about["request"] == json.loads(json.dumps(plain(about["request"])))
    assert (about["seed"], about["processes"], about["start"]) == (0, 1, saved.state["start"])
    assert about["parameters"] == sum(v.numel() for v in saved.tensors["model"].values())
    assert about["training"] == {
        "step": 12, "steps": 12, "loss": pytest.approx(sum(losses(tmp_path / "run")) / 12),
        "skipped": 0, "rollbacks": 0,
    }  # fmt: skip
    last = validations(tmp_path / "run")[-1]
    best = min(validations(tmp_path / "run"), key=lambda row: row["val/loss"])
    assert about["validation"] == {
        "step": 12, "dataset": "toy/cloud", "split": "test", "mean": last["val/loss"],
        "low": last["val/low"], "high": last["val/high"], "n": last["val/n"],
        "confidence": 0.95, "best_step": best["step"], "best": best["val/loss"],
    }  # fmt: skip
    assert about["data"] == [
        {"name": "toy/cloud", "split": "train", "digest": "train-40", "card": None},
        {"name": "toy/cloud", "split": "test", "digest": "test-10", "card": None},
    ]
    assert about["software"] == {
        "python": platform.python_version(),
        **{name: version(name) for name in ("polymode", "torch", "numpy", "safetensors")},
    }
    (result,) = head["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == last["val/loss"]
    for title in ("Intended use", "Training data", "Evaluation", "Limits", "Reproducing this run"):
        assert f"\n## {title}\n" in text
    assert "its card is not part of this installation" in text

    # A dataset of this checkout has a card, whose version is taken over.
    from core.training.card import _of_card

    card = (Path(__file__).parents[3] / "data_cards/image2image-photos.md").read_text()
    assert f"\nversion: {_of_card(data.name)['version']}\n" in card


# --- formats, curves, checks before the start ---------------------------------------------------


def test_what_a_processor_lacks_is_refused_before_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: False)
    with pytest.raises(InputError, match="'bf16' requires a CPU with AVX512-BF16 or AMX"):
        trained(request(precision="bf16"), tmp_path / "run")
    with pytest.raises(InputError, match="'fp16' requires a CUDA GPU, the device is cpu"):
        trained(request(precision="fp16"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bf16_computes_in_eight_bits_and_keeps_weights_in_twenty_four(tmp_path, monkeypatch):
    """The loss of a step differs by less than a few roundings of 2^-9, and is not the same."""
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: True)
    trained(request(precision="bf16"), tmp_path / "half")
    trained(request(), tmp_path / "full")
    saved = checkpoint.load(tmp_path / "half").tensors
    kinds = {v.dtype for named in saved.values() for v in named.values() if v.is_floating_point()}
    assert kinds == {torch.float32}
    pairs = list(zip(losses(tmp_path / "half"), losses(tmp_path / "full"), strict=True))
    assert all(0 < abs(a - b) < 8 * 2**-9 * b for a, b in pairs)


def test_fp16_halves_its_scale_on_overflow_and_saves_it(tmp_path, monkeypatch):
    """On the CPU, which can, if slowly: the scaler is the same.  The first scale is 2^16."""
    from core.training import preparation

    monkeypatch.setattr(preparation, "check_precision", lambda wanted, device: None)

    def weighed(data_std):  # losses grow as its square falls; scaled, gradients pass 65504
        heavy = Spec("core/edm", {"data_std": data_std})
        return request(precision="fp16", weighting=heavy, steps=20, clip=1e3)

    wanted = weighed(0.03)
    trained(wanted, tmp_path / "whole")
    skipped = [row["step"] for row in rows(tmp_path / "whole") if row["skipped"]]
    assert 1 in skipped
    scale = float(checkpoint.load(tmp_path / "whole").tensors["scaler"]["scale"])
    assert scale == 2.0 ** (16 - len(skipped))
    with pytest.raises(Stopped):
        trained(wanted, tmp_path / "stopped", stop=After(10))
    trained(wanted, tmp_path / "stopped")
    assert sums(tmp_path / "stopped") == sums(tmp_path / "whole")
    with pytest.raises(NotFinite, match=r"step 17: loss .* gradient inf"):  # at a scale of 1
        trained(weighed(0.001), tmp_path / "hopeless")


def test_curves_for_tensorboard_have_the_figures_of_the_metrics(tmp_path, monkeypatch):
    """The writer is torch's, which needs the package; one that takes notes stands in for it."""
    told: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder, purge_step):
            assert (folder, purge_step) == (str(tmp_path / "run" / "tensorboard"), 1)

        def add_scalar(self, name, value, step):
            told.append((name, value, step))

        def close(self):
            pass

    stand_in = types.ModuleType("torch.utils.tensorboard.writer")
    stand_in.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", stand_in)
    find = importlib.util.find_spec

    def installed_is(there):
        answer = find("json") if there else None
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *more: answer if name == "tensorboard" else find(name, *more),
        )

    installed_is(False)
    with pytest.raises(InputError, match=r"pip install 'polymode\[tensorboard\]'"):
        trained(request(), tmp_path / "run", tensorboard=True)
    installed_is(True)
    trained(request(validate_every=6), tmp_path / "run", tensorboard=True)
    for name, key in (("train/loss", "loss"), ("train/lr", "lr"), ("val/loss", "val/loss")):
        lines = [(row[key], row["step"]) for row in rows(tmp_path / "run") if key in row]
        assert [(value, step) for other, value, step in told if other == name] == lines


def test_a_disk_without_room_is_told_of_before_the_start(tmp_path, monkeypatch):
    from core.storage import files

    monkeypatch.setattr(files, "free_bytes", lambda folder: 10_000)
    notes = trained(request(steps=1), tmp_path)
    numbers = 10 * 16 + 16 + 16 * 8 + 8  # model, average and two moments, four bytes each
    assert f"10,000 bytes are free and checkpoints need {int(2.2 * 16 * numbers):,}" in notes[0]


def test_a_stopped_run_forgets_lines_after_its_checkpoint(tmp_path):
    with pytest.raises(Stopped):
        trained(request(), tmp_path, stop=After(5))
    log = tmp_path / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 6, "loss": 1}\n{"step": 7, "lo')
    trained(request(), tmp_path)
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 13))
    assert rows(tmp_path)[5]["loss"] != 1
    keys = ["step", "loss", "gradient", "lr", "rate", "seconds", "skipped", "micro_batch"]
    assert all(list(row) == keys for row in rows(tmp_path))


def test_a_place_survives_its_plain_form(tmp_path):
    trained(request(validate_every=5), tmp_path)
    saved = checkpoint.load(tmp_path)
    place = TrainingState.of(saved)
    assert place.validation.step == 10
    assert TrainingState.of(replace(saved, state={**saved.state, **place.document()})) == place


@pytest.mark.slow
def test_a_compiled_network_keeps_its_names_and_its_numbers(tmp_path):
    """Fused arithmetic rounds otherwise: twelve steps of Adam stay within 1e-5."""
    trained(request(steps=4), tmp_path / "compiled", compile=True)
    trained(request(steps=4), tmp_path / "plain")
    found = [checkpoint.load(tmp_path / name).tensors for name in ("compiled", "plain")]
    assert found[0]["model"].keys() == found[1]["model"].keys()
    pairs = zip(losses(tmp_path / "compiled"), losses(tmp_path / "plain"), strict=True)
    assert all(abs(a - b) < 1e-5 * b for a, b in pairs)
    network = load_model(tmp_path / "compiled", machine=Machine(compile=True, device="cpu"))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert network.parameters == sum(v.numel() for v in found[0]["model"].values())


# --- the level that the network embeds -----------------------------------------------------------


@pytest.mark.parametrize("level", ["noise_level", "time", "index"])
def test_fourier_features_are_refused_a_level_that_they_are_not_made_for(level, tmp_path):
    """Their frequencies are of c_noise = log-SNR / 8 (Song et al. 2021, Karras et al. 2022)."""
    options = {"width": 8, "multipliers": [1], "blocks": 1, "attention": [],
               "middle_attention": False, "level_features": "fourier"}  # fmt: skip
    wanted = TrainRequest(
        task=Spec("core/generate", {"channels": 1}),
        dataset=Spec("core/blank", {"shape": [1, 8, 8]}),
        network=Spec("core/unet", options),
        parameterization=Spec("core/v", {"level": level}),
        steps=1,
        batch=2,
    )
    with pytest.raises(InputError, match=rf"requires 'log_snr', got '{level}'"):
        train(wanted, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train(replace(wanted, parameterization=Spec("core/v")), tmp_path / "run")
    train(replace(wanted, parameterization=Spec("core/edm")), tmp_path / "edm")
    plain_features = Spec("core/unet", {**options, "level_features": "sinusoidal"})
    train(replace(wanted, network=plain_features), tmp_path / "plain")
