"""Classifiers: trained here, read from a file, imported."""

import sys

import pytest
import torch
from torch import nn

from core.errors import InputError
from core.request import Machine
from plugins.image2image.data.digits import Digits
from plugins.image2image.evaluation import classifier
from plugins.image2image.request import ClassifierRequest

SMALL = ClassifierRequest(width=4, steps=40)


def test_a_classifier_is_the_same_again_and_learns(judge, tmp_path):
    """Bit for bit; ten classes by chance give 0.1, and this one's accuracy is counted here."""
    again = classifier.train(SMALL, tmp_path, machine=Machine(threads=1))
    assert again.classifier.read_bytes() == judge.classifier.read_bytes()
    network, test = classifier.load_classifier(judge.classifier, ""), Digits("test")
    right = [int(network(test[i]["image"][None]).argmax()) == int(test[i]["class"])
             for i in range(len(test))]  # fmt: skip
    assert judge.accuracy == sum(right) / len(right) > 0.3
    other = classifier.train(ClassifierRequest(width=4, steps=40, seed=1), tmp_path / "other")
    assert other.classifier.read_bytes() != judge.classifier.read_bytes()


def own_classifier():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.5))


def test_an_imported_classifier_is_fixed_and_in_evaluation(monkeypatch):
    monkeypatch.setitem(sys.modules, "someones", sys.modules[__name__])
    found = classifier.load_classifier(None, "someones:own_classifier")
    assert not found.training
    assert not any(p.requires_grad for p in found.parameters())


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("", "neither was given"),
        ("no_colon", "expected package.module:attribute"),
        ("no_such_package:model", "cannot be imported: No module named"),
        ("math:nothing", "cannot be imported"),
        ("math:pi", "is float, expected a torch.nn.Module"),
    ],
)
def test_what_is_no_classifier_is_refused(module, said):
    with pytest.raises(InputError, match=said):
        classifier.load_classifier(None, module)


def test_a_file_of_something_else_is_refused(tmp_path):
    from core.storage import tensor_file

    tensor_file.save(tmp_path / "other.safetensors", {"weight": torch.zeros(2)})
    with pytest.raises(InputError, match="not a classifier that image2image/classifier wrote"):
        classifier.load_classifier(tmp_path / "other.safetensors", "")
    with pytest.raises(InputError, match="cannot be read"):
        classifier.load_classifier(tmp_path / "none.safetensors", "")
