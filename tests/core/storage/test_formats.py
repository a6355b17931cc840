"""Every document that a run writes states its format, and a newer one is refused in a sentence."""

import hashlib
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from small_model import sampled, trained

from core.errors import InputError
from core.model import load_model
from core.request import EvaluateRequest, JoinRequest
from core.results import samples
from core.runs import evaluate
from core.storage import formats

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("formats") / "run")


def restated(file: Path, change) -> None:
    """Rewrite a JSON document."""
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def newer(document: dict) -> None:
    document["format"] += 1


def without(document: dict) -> None:
    del document["format"]


def resealed(step: Path, change) -> None:
    """Rewrite a checkpoint's state as a newer version would, with sizes and digests that fit."""
    restated(step / "state.json", change)
    data = (step / "state.json").read_bytes()
    manifest = json.loads((step / "MANIFEST.json").read_text())
    manifest.pop("sha256")
    manifest["files"]["state.json"] = [len(data), hashlib.sha256(data).hexdigest()]
    seal = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    (step / "MANIFEST.json").write_text(json.dumps({**manifest, "sha256": seal}))


def refusal(name: str, number: int) -> str:
    return rf"{name} has format {number + 1}; .* reads up to {number}: update polymode"


def test_a_newer_checkpoint_state_is_refused_and_one_without_a_format_is_the_first(model, tmp_path):
    step = trained(tmp_path / "run") / "checkpoints" / "step-00000001"
    resealed(step, without)
    assert load_model(tmp_path / "run").step == 1
    resealed(step, lambda state: state.update(format=formats.CHECKPOINT_STATE + 1))
    for read in (load_model, lambda out: trained(out)):
        with pytest.raises(InputError, match=refusal(r"state\.json", formats.CHECKPOINT_STATE)):
            read(tmp_path / "run")


def test_newer_samples_are_refused_whole_and_in_parts(model, tmp_path):
    whole = sampled(model, tmp_path / "whole")
    restated(whole / "samples.json", without)
    assert len(samples.read(whole).results) == 2
    restated(whole / "samples.json", lambda about: about.update(format=formats.SAMPLES + 1))
    with pytest.raises(InputError, match=refusal(r"samples\.json", formats.SAMPLES)):
        evaluate(EvaluateRequest(samples=whole), tmp_path / "scores")
    for place in (lambda part: part, lambda part: part["of"]):
        part = sampled(model, tmp_path / "part", part=1, parts=1)
        samples.write_part(part, samples.torch.zeros(2, 1, 8, 8), {"format": 1, "items": []}, 1, 1)
        restated(part / "part.json", lambda document, place=place: newer(place(document)))
        with pytest.raises(InputError, match=f"format 2; .* up to {formats.SAMPLES}: update"):
            samples.join(JoinRequest(), {"one": part}, tmp_path / "joined")


def test_a_format_that_is_no_number_is_refused():
    for value in ("2", 0, 1.0, None, True):
        with pytest.raises(InputError, match="x: format: expected a number from 1 to 3"):
            formats.check_format({"format": value}, 3, "x")


def test_metrics_json_has_one_writer():
    """Whoever evaluates builds an `Evaluation`, whose document states its format."""
    for file in [*ROOT.glob("core/**/*.py"), *ROOT.glob("plugins/**/*.py")]:
        if file.name != "evaluation.py":
            assert 'write_json(out / "metrics.json"' not in file.read_text(), file
