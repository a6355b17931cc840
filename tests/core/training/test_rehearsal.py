"""A mistake between a dataset, a task and a network is one sentence before the first step."""

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from commands import call

from core.cli import main
from core.data import open_dataset
from core.errors import InputError
from core.parts.config import ConfigError, bind
from core.parts.registry import Part, Plugin, Registry, RegistryError, Spec
from core.parts.signature import part_options
from core.process.schedules import vp_cosine
from core.request import Note, TrainRequest
from core.results.panels import check_panels
from core.runs import train
from core.storage import checkpoint
from core.task import Example, Figure, Panel
from core.training.rehearsal import Trained, _check_task, check_example, check_scores, rehearse


class Waves:
    """Signals of one channel and 16 values."""

    def __init__(self, split="train", *, scale: float = 1.0):
        self.scale, self.read = scale, []

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.read.append(index)
        t = torch.arange(16) / 16
        return {"signal": self.scale * torch.sin(2 * math.pi * (t + index / 4))[None]}

    def source(self, index):
        return str(index)

    def name(self, index):
        return f"wave {index}"

    def digest(self):
        return "waves"


def error(x, truth):
    return (x - truth).square().flatten(1).mean(1)


class Continue:
    """The signal, given its first half."""

    channels = 1
    conditions: ClassVar = {"image": 1}
    figures: ClassVar = {"mse": Figure("MSE", "", "lower")}
    reference = "zeros"
    reads: ClassVar = {"signal": "1 n"}

    def prepare(self, batch):
        x0 = batch["signal"]
        known = x0.clone()
        known[..., 8:] = 0
        return Example(x0, {"image": known})

    def finish(self, x0, batch):
        return x0

    def score(self, results, batch):
        truth = batch["signal"]
        return {
            "zeros": {"mse": error(0 * truth, truth)},
            "samples": {"mse": error(results[:, 0], truth)},
        }

    def show(self, results, batch, titles):
        return [Panel(title, {"a": np.zeros((2, 2), np.uint8)}) for title in titles]


class Convolution(torch.nn.Module):
    """One convolution of the sample and its condition."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(2, 1, 3, padding=1)
        self.drop = torch.nn.Dropout(0.5).eval()
        self.calls = []

    def forward(self, x, level, condition=None):
        self.calls.append((self.training, torch.is_grad_enabled(), tuple(x.shape)))
        return self.drop(self.conv(torch.cat([x, condition["image"]], 1)))


def trained(network):
    from core.denoiser.parameterization import v

    return Trained(network, vp_cosine(), v())


def refused(task, words, *, dataset=None, network=None):
    """The error of a rehearsal, which is an `InputError` with these words."""
    with pytest.raises(InputError) as caught:
        rehearse(task, dataset or Waves(), trained(network or Convolution()))
    for word in words:
        assert word in str(caught.value)
    return caught.value


def task_with(**changed):
    """A task of another class with members replaced; what is None is absent."""
    members = {name: value for name, value in vars(Continue).items() if name[:2] != "__"}
    members = {name: value for name, value in (members | changed).items() if value is not None}
    return type("Continue", (), members)()


def test_what_is_right_passes_and_leaves_everything_as_it_was():
    network, dataset = Convolution(), Waves()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    before = torch.get_rng_state()
    example = rehearse(Continue(), dataset, trained(network))
    assert tuple(example.x0.shape) == (1, 1, 16)
    assert network.calls == [(False, False, (1, 1, 16))]  # one call of one item, no gradients
    assert set(dataset.read) == {0, 1}
    assert network.training
    assert not network.drop.training  # each module's own mode
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name])


# --- what a dataset gives -------------------------------------------------------------------------


def command(tmp_path, *settings):
    """The exit code and the words of a training that is refused."""
    done = call(main, "train", *(x for s in settings for x in ("--set", s)), "-o", tmp_path)
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("task=core/points", "dataset=image2image/digits"),
         "task core/points reads 'point', which is not there; an item of dataset "
         "image2image/digits has image (1 8 8), class (); choose another dataset"),
        (("task=core/generate", "dataset=core/points"),
         "task core/generate reads 'image', which is not there; an item of dataset core/points "
         "has point (2), class ()"),
        (("task=core/generate", "dataset=image2image/digits"),
         "task core/generate reads 'image' of shape (3 *space); an item of dataset "
         "image2image/digits has image (1 8 8)"),
    ],
)  # fmt: skip
def test_a_dataset_that_a_task_cannot_read_is_one_sentence(settings, words, tmp_path):
    code, said = command(tmp_path / "run", *settings, "steps=1")
    assert code == 2
    assert words in said
    assert "Traceback" not in said


def registry(**parts):
    """A registry of parts in this module by kind and name."""
    made = tuple(Part(kind, "x", f"{__name__}:{target}", "x") for kind, target in parts.items())
    return Registry([Plugin("toy", "x", made)])


class Pair(Continue):
    """Reads two tensors of one size."""

    reads: ClassVar = {"a": "3 h w", "b": "h w"}


def opened(dataset, task, monkeypatch):
    monkeypatch.setattr("core.data.configure", lambda kind, spec: lambda split: dataset)
    return open_dataset(Spec("toy/x"), "train", task)


class Items(Waves):
    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_an_axis_with_one_name_has_one_size(monkeypatch):
    a = torch.zeros(3, 4, 5)
    assert len(opened(Items({"a": a, "b": torch.zeros(4, 5)}), Pair(), monkeypatch)) == 1
    with pytest.raises(InputError, match=r"'b' of shape \(h w\).*a \(3 4 5\), b \(5 4\)"):
        opened(Items({"a": a, "b": torch.zeros(5, 4)}), Pair(), monkeypatch)


def test_a_task_that_states_no_reads_is_not_checked(monkeypatch):
    assert len(opened(Items({"any": torch.zeros(1)}), task_with(reads=None), monkeypatch)) == 1


def test_a_dataset_without_a_digest_is_one_sentence(monkeypatch):
    class Half:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {}

        def source(self, index):
            return ""

        def name(self, index):
            return ""

    with pytest.raises(InputError, match="dataset toy/x has no digest; a dataset has __len__"):
        opened(Half(), Continue(), monkeypatch)


def test_items_of_two_shapes_are_refused():
    dataset = Items({"signal": torch.zeros(1, 16)}, {"signal": torch.zeros(1, 12)})
    refused(
        Continue(),
        ("wave 1: expected tensors of the shapes of wave 0, signal (1, 16)", "got signal (1, 12)"),
        dataset=dataset,
    )


@pytest.mark.parametrize(("scale", "outcome"), [(1.4, "none"), (6.0, "note"), (50.0, "error")])
def test_values_far_from_unit_range_are_noted_or_refused(scale, outcome):
    """A sine of amplitude a has the root mean square a / sqrt(2)."""
    notes = []
    words = f"root mean square {scale / math.sqrt(2):.3g}; schedules and losses expect about 1"
    if outcome == "error":
        refused(Continue(), (words, "scale the data to [-1, 1]"), dataset=Waves(scale=scale))
        return
    rehearse(Continue(), Waves(scale=scale), trained(Convolution()), emit=notes.append)
    assert [type(note) for note in notes] == [Note] * (outcome == "note")
    assert all(words in note.text for note in notes)


def test_values_where_no_error_counts_may_be_anything():
    def prepare(self, batch):
        x0 = batch["signal"].clone()
        x0[..., :8] = 1e3
        mask = torch.ones_like(x0)
        mask[..., :8] = 0
        return Example(x0, {"image": batch["signal"]}, mask)

    rehearse(task_with(prepare=prepare), Waves(), trained(Convolution()))


def test_values_that_are_not_finite_are_refused():
    refused(Continue(), ("not finite",), dataset=Waves(scale=math.inf))


# --- what a task gives ----------------------------------------------------------------------------


def raising(*_):
    raise KeyError("rmse")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prepare": lambda self, batch: Example(batch["sound"])},
         ("prepare(batch) failed on the first item: KeyError: 'sound'",)),
        ({"channels": 3}, ("x0: expected the 3 channels that the task declares", "(1, 1, 16)")),
        ({"conditions": {"image": 1, "vector": 8}},
         ("condition 'vector': declared, but prepare gives none",)),
        ({"conditions": {"image": 2}}, ("condition 'image': expected 2 channels",)),
        ({"finish": lambda self, x0: x0},
         ("finish(x0, batch) failed on the first item: TypeError", "2 positional arguments")),
        ({"finish": lambda self, x0, batch: x0.mean()},
         ("finish(x0, batch): expected a result for each of the batch's 1 items",)),
        ({"score": raising}, ("score(results, batch) failed on the first item: KeyError: 'rmse'",)),
        ({"figures": {"rmse": Figure("RMSE", "", "lower")}},
         ("score gives 'mse', which `figures` does not describe; it describes 'rmse'",)),
        ({"reference": "quiet"}, ("score gives no method 'quiet'", "its methods are 'zeros'")),
        ({"score": lambda self, results, batch: {"zeros": {"mse": torch.zeros(())}}},
         ("score gives 'mse' of 'zeros' the shape (); expected (1,)",)),
        ({"show": lambda self, results, batch: []},
         ("show(results, batch, titles) failed on the first item: TypeError",)),
        ({"show": lambda self, results, batch, titles: None},
         ("expected a list of core.task.Panel",)),
        ({"show": lambda self, results, batch, titles: [Panel("a", {"b": np.zeros((2, 2))})]},
         ("show failed on the first item: ValueError: a picture: expected uint8",)),
    ],
)  # fmt: skip
def test_a_mistake_of_a_task_is_one_sentence(changed, words):
    caught = refused(task_with(**changed), ("task Continue", *words))
    assert "\n" not in str(caught)


def test_a_task_that_is_not_scored_may_be_trained():
    unscored = task_with(figures={}, reference="", score=lambda self, results, batch: {})
    rehearse(unscored, Waves(), trained(Convolution()))
    with pytest.raises(InputError, match="score gives no method ''"):
        check_scores(unscored, {}, 1)


def test_a_task_without_a_member_is_one_sentence():
    with pytest.raises(InputError, match="task x has no figures, show; a task has channels"):
        _check_task("task x", task_with(figures=None, show=None))


def test_a_network_that_does_not_fit_is_named_with_what_it_was_given():
    network = Convolution()
    network.conv = torch.nn.Conv1d(5, 1, 3)
    words = ("network Convolution, given x (1, 1, 16), image (1, 1, 16)",
             "expected input[1, 2, 16] to have 5 channels")  # fmt: skip
    refused(Continue(), words, network=network)


def test_the_cause_is_kept_for_a_traceback():
    assert isinstance(refused(task_with(score=raising), ()).__cause__, KeyError)


def test_memory_that_runs_out_is_left_to_the_first_step():
    def full(*_):
        raise MemoryError

    network = Convolution()
    network.forward = full
    rehearse(Continue(), Waves(), trained(network))
    rehearse(task_with(score=full), Waves(), trained(Convolution()))


def test_masks_have_the_shape_of_x0():
    example = Example(torch.zeros(2, 1, 8), {"image": torch.zeros(2, 1, 8)})
    object.__setattr__(example, "mask", torch.zeros(2, 1, 4))  # which tests check when it is made
    with pytest.raises(InputError, match="mask: expected the shape of x0"):
        check_example("t", Continue(), example)


def test_views_of_every_kind_are_checked():
    from core.task import Clip, Cloud, Volume

    good, bad = np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 4))
    for kind, view in (("clips", Clip), ("volumes", Volume)):
        check_panels([Panel("a", **{kind: {"b": view(good)}})])
        with pytest.raises(ValueError, match="expected uint8"):
            check_panels([Panel("a", **{kind: {"b": view(bad)}})])
    check_panels([Panel("a", clouds={"b": Cloud(np.zeros((4, 3)))})])
    with pytest.raises(ValueError, match="expected points"):
        check_panels([Panel("a", clouds={"b": Cloud(np.zeros((4, 2)))})])


# --- runs -----------------------------------------------------------------------------------------

REQUEST = TrainRequest(
    task=Spec("core/generate", {"channels": 1}),
    dataset=Spec("image2image/digits"),
    network=Spec("core/mlp", {"width": 8, "depth": 1}),
    steps=3,
    batch=4,
)
UNET = Spec("core/unet", {"width": 8, "multipliers": [1], "blocks": 1, "attention": [],
                          "dropout": 0.5})  # fmt: skip


@pytest.mark.slow
def test_training_is_the_same_with_a_rehearsal_and_without(tmp_path, monkeypatch):
    request = replace(REQUEST, network=UNET)
    train(request, tmp_path / "with")
    from core.training import preparation
    from core.training.rehearsal import first_example

    monkeypatch.setattr(
        preparation, "rehearse", lambda task, dataset, *_, **__: first_example(task, dataset)
    )
    train(request, tmp_path / "without")
    one, other = (checkpoint.load(tmp_path / name).tensors for name in ("with", "without"))
    for group, named in one.items():
        for name, value in named.items():
            assert torch.equal(value, other[group][name])


def test_a_wrong_task_is_refused_before_the_first_step(tmp_path, monkeypatch):
    from core.generate import Generate

    monkeypatch.setattr(Generate, "finish", lambda self, x0: x0)
    with pytest.raises(InputError, match=r"core/generate: finish\(x0, batch\) failed"):
        train(replace(REQUEST, network=UNET), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_evaluation_refuses_figures_that_are_not_described(tmp_path, monkeypatch):
    from core.generate import Generate
    from core.request import EvaluateRequest, SampleRequest
    from core.runs import evaluate, sample

    train(replace(REQUEST, network=UNET), tmp_path / "run")
    grid = Spec("core/uniform_log_snr", {"steps": 2})
    sample(SampleRequest(checkpoint=tmp_path / "run", count=2, grid=grid, guidance=()),
           tmp_path / "samples")  # fmt: skip
    monkeypatch.setattr(Generate, "figures", {"other": Figure("x", "", "lower")})
    with pytest.raises(InputError, match="score gives 'values', 'outside'"):
        evaluate(EvaluateRequest(samples=tmp_path / "samples"), tmp_path / "metrics")
    assert not (tmp_path / "metrics").exists()
    monkeypatch.setattr(Generate, "finish", lambda self, x0: x0)
    with pytest.raises(InputError, match=r"finish\(x0, batch\) failed"):
        sample(SampleRequest(checkpoint=tmp_path / "run", count=2, grid=grid, guidance=()),
               tmp_path / "refused")  # fmt: skip


def test_scores_of_several_items_have_one_number_each():
    check_scores(Continue(), {"zeros": {"mse": torch.zeros(3)}}, 3)
    with pytest.raises(InputError, match=r"expected \(3,\)"):
        check_scores(Continue(), {"zeros": {"mse": torch.zeros(2)}}, 3)


# --- options --------------------------------------------------------------------------------------


class Bare:
    """A part with an option that has no annotation.

    Args:
        width: of it.
    """

    def __init__(self, *, width=3):
        self.width = width


def test_an_option_without_an_annotation_is_refused():
    with pytest.raises(
        RegistryError, match=r"'toy/x': option 'width' has no annotation.*width: int"
    ):
        part_options("network", "toy/x", registry(network="Bare"))


def test_a_dotted_option_in_a_file_is_told_how_to_be_written():
    with pytest.raises(ConfigError, match=r"dotted names are for --set and matrix: write network:"):
        bind(TrainRequest, {"task": "core/generate", "dataset": "core/blank", "network.width": 4})
