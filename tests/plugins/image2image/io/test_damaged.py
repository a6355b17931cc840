"""Damaged image files are refused or read, in bounded memory and time."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

TORTURE = os.environ.get("POLYMODE_TORTURE", "") not in ("", "0")


@pytest.mark.slow
def test_damaged_files_are_refused_or_read_and_nothing_else(tmp_path):
    """500 mutants of nine files, 20,000 under POLYMODE_TORTURE, in bounded memory and time."""
    count = 20_000 if TORTURE else 500
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parents[1] / "mutants.py"), str(count), str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=60 + count / 10,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    counts = ast.literal_eval(done.stdout.splitlines()[-1].split("}")[0] + "}")
    assert counts["refused"] > count / 4
    assert counts["read"] > count / 10
    assert counts["refused"] + counts["read"] == count
