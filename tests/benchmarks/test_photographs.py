"""The tables of photographs: a peer's result is scored, or named, and does not end the run."""

import importlib
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


class Colours:
    """An extractor whose features are the mean of each colour."""

    def features(self, pictures):
        return pictures.mean((-2, -1))


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("bench_photographs")


def test_a_result_that_is_not_finite_has_a_dash_and_a_note(bench, tmp_path):
    bicubic, draw = bench.classical()[bench.BICUBIC], np.random.default_rng(0)

    def peer(low):
        result = bicubic(low)
        if low.stem == "b":
            result[..., 40, 40] = torch.tensor([torch.nan, torch.inf, -torch.inf])
        return result

    methods, options = {bench.BICUBIC: bicubic, "peer": peer}, Namespace(degrade=False)
    options.crops, found = tmp_path / "crops", {}
    for name in "ab":
        small = Image.fromarray(draw.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        path = tmp_path / f"{name}.png"
        small.resize((192, 192), Image.Resampling.BICUBIC).save(path)
        found[name] = bench.measured(path, methods, Colours(), options)
    lines = list(bench.tables(found, "colours"))
    first = {line.split(" | ")[0].strip("| "): line for line in lines[2:6]}
    assert first["peer"] == "| peer | - | - | - | - | - | - |"
    assert "-" not in first["bicubic"].split("|")[2:6]
    psnr = f"{found['a']['peer'].figures['psnr']:.2f}"
    assert lines[-4].startswith(f"| a | {psnr} | {psnr} |")
    assert lines[-3] == f"| b | {found['b']['bicubic'].figures['psnr']:.2f} | - |"
    assert lines[-2:] == ["", "peer: values that are not finite in the results of b"]
    assert (tmp_path / "crops" / "b.png").exists()
