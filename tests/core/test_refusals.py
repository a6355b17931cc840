"""What a verb refuses leaves no folder behind; a class that a task lacks is refused by its name."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from small_model import sample_request, sampled, train_request, trained

from core.data import check_classes
from core.errors import InputError
from core.generate import Generate
from core.parts.registry import Spec
from core.request import EvaluateRequest
from core.runs import evaluate, sample, train
from core.storage.files import output_folder
from core.task import Example


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("model") / "run")


REFUSED = {
    "guidance": {"guidance": Spec("core/autoguidance")},
    "count": {"count": 10**6},
    "sampler": {"sampler": Spec("core/ancestral", {"variance": "learned"})},
    "grid": {"grid": Spec("core/uniform_log_snr", {"steps": 0})},
    "task": {"task": Spec("core/generate", {"channels": 3})},
    "parts": {"part": 3, "parts": 2},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_refused_sample_leaves_no_folder(model, tmp_path, reason):
    with pytest.raises(InputError):
        sample(sample_request(model, **REFUSED[reason]), tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"classes": 2},  # blank items have none
        {"validate_every": 1, "validation": Spec("core/blank", {"shape": [2, 8, 8]})},
        {"patience": 1},
        {"data": {"shape": [2, 8, 8]}},
        {"batch": 0},
        {"start": Path("/nowhere")},
    ],
    ids=lambda change: "-".join(change),
)
def test_a_refused_training_leaves_no_folder(tmp_path, change):
    with pytest.raises(InputError):
        train(train_request(**change), tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_evaluation_leaves_no_folder(model, tmp_path):
    drawn = sampled(model, tmp_path / "drawn")
    with pytest.raises(InputError):
        evaluate(EvaluateRequest(samples=tmp_path / "none"), tmp_path / "a" / "b")
    (drawn / "samples.safetensors").write_bytes(b"")
    with pytest.raises(InputError):
        evaluate(EvaluateRequest(samples=drawn), tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == [drawn]


def fail_in(out: Path, *, write: bool) -> None:
    with output_folder(out):
        if write:
            (out / "result").touch()
        raise KeyError


@pytest.mark.parametrize("write", [False, True])
def test_an_output_folder_that_was_there_or_holds_something_stays(tmp_path, write):
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyError):
        fail_in(tmp_path / "there" / "made", write=write)
    assert (tmp_path / "there").exists()
    assert (tmp_path / "there" / "made").exists() == write


def test_a_class_that_the_task_lacks_is_one_sentence_before_and_in_training(tmp_path):
    first = train_request(classes=3, data_classes=10, data={"first": 7})
    with pytest.raises(InputError, match=r"blank 0, class 7: class: expected 0 to 2.*got 7"):
        train(first, tmp_path / "first")
    later = train_request(classes=3, data_classes=4, steps=4, batch=4)  # item 3 is of class 3
    with pytest.raises(InputError, match=r"blank 3, class 3: class: expected 0 to 2.*raise task"):
        train(later, tmp_path / "later")


def test_a_class_that_the_task_lacks_is_refused_in_validation_and_sampling(tmp_path):
    three = {"classes": 3, "data_classes": 3}
    held_out = Spec("core/blank", {"shape": [1, 8, 8], "count": 4, "classes": 4})
    first = Spec("core/blank", {"shape": [1, 8, 8], "classes": 4, "first": 3})
    with pytest.raises(InputError, match="blank 0, class 3: class: expected 0 to 2"):
        trained(tmp_path / "first", **three, validate_every=1, validation=first)
    with pytest.raises(InputError, match="blank 3, class 3: class: expected 0 to 2"):
        trained(tmp_path / "validated", **three, validate_every=1, validation=held_out)
    model = trained(tmp_path / "model", **three)
    with pytest.raises(InputError, match="blank 3, class 3: class: expected 0 to 2"):
        sampled(model, tmp_path / "drawn", dataset=held_out, count=4)


@pytest.mark.parametrize(("label", "refused"), [(-1, True), (0, False), (2, False), (3, True)])
def test_classes_run_from_zero_to_one_below_their_number(label, refused):
    example = Example(torch.zeros(2, 1, 4, 4), {"class": torch.tensor([0, label])})
    task = Generate(channels=1, classes=3)
    if not refused:
        return check_classes(example, task, str)
    with pytest.raises(InputError, match=f"^1: class: expected 0 to 2.*got {label}"):
        check_classes(example, task, str)
    with pytest.raises(InputError, match="expected integers"):
        check_classes(replace(example, condition={"class": torch.zeros(2)}), task, str)
