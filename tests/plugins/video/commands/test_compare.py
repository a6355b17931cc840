"""Clips compared from the command line, with errors known by hand."""

from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from commands import call

pytest.importorskip("av")

from core.commands import run_app
from plugins.video.__main__ import app
from plugins.video.io.writing import Written, writer


def clip(path, values):
    with writer(path, Written(16, 20, Fraction(5), lossless=True)) as write:
        for t, value in enumerate(values):
            write(np.full((16, 20, 3), value, np.uint8), Fraction(t, 5))
    return path


@pytest.mark.slow
def test_the_error_of_all_frames_is_pooled(tmp_path):
    """Errors of 0 and 51 of 255: 100 dB, 14 dB (1/5), and 17 dB of the mean square, not 57."""
    one, other = clip(tmp_path / "a.mkv", [10, 10]), clip(tmp_path / "b.mkv", [10, 61])
    done = call(partial(run_app, app), "compare", one, other)
    rows = [line.split(",") for line in done.stdout.splitlines()]
    assert [row[:2] for row in rows] == [
        ["frame", "psnr"], ["0", "100.00"], ["1", "13.98"], ["all", "16.99"],
    ]  # fmt: skip
    assert rows[1][2] == "1.0000"
    done = call(partial(run_app, app), "compare", one, clip(tmp_path / "c.mkv", [1]))
    assert done.returncode == 2
    assert "expected 2 frames of 20x16" in done.stderr
