"""A machine that is taken away: the step on it saves what it did and goes on on another (R12)."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).with_name("drain_a_machine.py"))


@pytest.mark.torture  # a Ray of three machines, started and ended: a minute
def test_a_step_leaves_a_machine_that_is_drained(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
