"""An evaluation is the same after its document is written and read; older documents are read."""

import json
from dataclasses import replace

import pytest
import torch

from core.errors import InputError
from core.results.evaluation import DRAWN, KINDS, Evaluation, Row, methods_of, read_evaluation
from core.results.metrics import Interval
from core.storage import formats
from core.task import Figure, Method

FIGURES = {"psnr": Figure("PSNR", "dB", "higher")}
FOUND = Evaluation(
    task="a/b",
    dataset={"name": "c/d", "size": 8},
    split="test",
    n=3,
    sources=["x", "y"],
    draws=2,
    confidence=0.9,
    interval="as it is",
    figures=FIGURES,
    reference="bicubic",
    methods={
        "bicubic": Row("baseline", {"psnr": Interval(20.5, 19.0, 21.0, 3)}),
        "mean of 2": Row("mean", {"psnr": Interval(21.5, None, None, 3)}),
        "real": Row("floor", {}),
    },
    differences={"mean of 2": {"psnr": Interval(1.0, 0.5, 1.5, 3)}},
    panels=[{"title": "one", "images": []}],
    charts=[{"title": "two"}],
)


def test_a_document_is_read_as_it_was_written(tmp_path):
    path = FOUND.write(tmp_path)
    document = json.loads(path.read_text())
    assert read_evaluation(document, path) == FOUND
    assert document["format"] == formats.METRICS == 2
    assert document["methods"]["bicubic"]["psnr"] == {
        "mean": 20.5, "low": 19.0, "high": 21.0, "n": 3,
    }  # fmt: skip
    assert document["kinds"] == {"bicubic": "baseline", "mean of 2": "mean", "real": "floor"}
    assert FOUND.means() == {"bicubic": {"psnr": 20.5}, "mean of 2": {"psnr": 21.5}, "real": {}}


def test_a_writers_own_entries_are_in_the_document(tmp_path):
    document = replace(FOUND, further={"items": [1]}).document()
    assert document["items"] == [1]
    assert read_evaluation(document, "x") == FOUND


def test_a_document_of_format_1_states_drawn_methods_and_a_floor():
    document = {**FOUND.document(), "format": 1, "drawn": ["mean of 2"], "floor": "real"}
    del document["kinds"]
    kinds = {name: row.kind for name, row in read_evaluation(document, "x").methods.items()}
    assert kinds == {"bicubic": None, "mean of 2": "draw", "real": "floor"}
    assert set(DRAWN) < set(KINDS)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"reference": "lanczos"}, "no method 'lanczos', the reference; methods are 'bicubic'"),
        ({"metrics": {}}, "no description of 'psnr'"),
        ({"methods": 7}, "AttributeError"),
        ({"n": None}, "TypeError"),
        ({"metrics": {"psnr": {"label": "PSNR"}}}, "TypeError"),
    ],
)
def test_a_document_that_is_none_is_one_sentence(changed, words):
    with pytest.raises(InputError, match=r"^m.json: not what `evaluate` writes") as caught:
        read_evaluation({**FOUND.document(), **changed}, "m.json")
    assert words in str(caught.value)
    assert "evaluate again" in str(caught.value)


def test_a_newer_document_is_refused():
    with pytest.raises(InputError, match="update polymode"):
        read_evaluation({**FOUND.document(), "format": formats.METRICS + 1}, "m.json")


def test_a_figure_without_a_number_is_left_out_and_unknown_ends_stay_unknown():
    document = FOUND.document()
    document["methods"]["real"] = {"psnr": {"mean": None, "low": None, "high": None}}
    document["methods"]["bicubic"] = {"psnr": {"mean": 3.0}}
    found = read_evaluation(document, "x").methods
    assert found["real"].figures == {}
    assert found["bicubic"].figures == {"psnr": Interval(3.0, None, None, 3)}


def test_scores_of_older_tasks_are_a_baseline_and_draws():
    values = {"psnr": torch.ones(2)}
    found = methods_of({"a": values, "b": values, "c": Method("mean", values)}, "a")
    assert {name: method.kind for name, method in found.items()} == {
        "a": "baseline", "b": "draw", "c": "mean",
    }  # fmt: skip
    assert found["b"].figures is values
