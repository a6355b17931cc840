"""Damaged image files are refused or read, in bounded memory and time."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

TORTURE = os.environ.get("POLYMODE_TORTURE", "") not in ("", "0")


@pytest.mark.slow
@pytest.mark.parametrize(("kinds", "every", "read"), [("seeds", 1, 1 / 10), ("boxed", 5, 1 / 20)])
def test_damaged_files_are_refused_or_read_and_nothing_else(tmp_path, kinds, every, read):
    """500 mutants of nine files, 20,000 under POLYMODE_TORTURE, in bounded memory and time.

    A fifth as many of HEIC and AVIF files, each of which takes a process.
    """
    count = (20_000 if TORTURE else 500) // every
    script = Path(__file__).parent / "mutants.py"
    done = subprocess.run(
        [sys.executable, str(script), str(count), str(tmp_path), kinds],
        capture_output=True, text=True, check=False, timeout=60 + every * count / 10,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    counts = ast.literal_eval(done.stdout.splitlines()[-1].split("}")[0] + "}")
    assert counts["refused"] > count / 4
    assert counts["read"] > count * read
    assert counts["refused"] + counts["read"] == count
