"""The GPU scripts on a CPU: one step, the figures they write, and weights that commands take."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from core.errors import InputError
from core.model import load_model
from core.storage import checkpoint

SCRIPTS = Path(__file__).parent / "gpu"


@pytest.fixture
def script(monkeypatch):
    """Import a script as running it does, with its folder first on the path."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def load(name):
        for module in (name, "record"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        return importlib.import_module(name)

    return load


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model", "tables"),
    [
        pytest.param("medical", "ct", {"23 views", "10 views"}, marks=pytest.mark.slow),
        ("image2image", "x4", {"scores"}),
    ],
)
def test_one_step_writes_figures_and_weights(script, tmp_path, name, model, tables):
    tiny = ["--width", "8", "--size", "16", "--batch", "2", "--items", "1", "--workers", "0"]
    script(name).main(["--only", model, "--steps", "1", *tiny, "--out", str(tmp_path)])
    document = json.loads((tmp_path / f"{name}-{model}.json").read_text())
    assert {"machine", "date", "figures"} == set(document)
    figures = document["figures"][model]
    assert figures["training"]["steps"] == 1
    assert tables < set(figures)
    weights = tmp_path / "weights" / model
    small, trained = load_model(weights), load_model(tmp_path / "runs" / model)
    pairs = zip(small.network.parameters(), trained.network.parameters(), strict=True)
    for one, other in pairs:  # half precision: 11 bits, and 2^-24 between its smallest numbers
        torch.testing.assert_close(one, other, rtol=2**-11, atol=2**-25)


def test_weights_that_are_too_large_are_refused(script, tmp_path, monkeypatch):
    record = script("record")
    monkeypatch.setattr(record, "LARGEST", 10_000)
    weights = {"w": torch.zeros(70, 72)}
    run = checkpoint.save(tmp_path / "run", 1, {"ema": weights}, {})
    with pytest.raises(InputError, match="train a narrower network"):
        record.write_weights(tmp_path, "large", run)
    assert not (tmp_path / "weights").exists()
