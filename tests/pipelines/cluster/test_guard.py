"""A folder that outlives no process: its guard removes it, whatever ends that process."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.cluster import guard

USER = """
import sys, time
from pathlib import Path
from pipelines.cluster import guard

with guard.temporary("code-", Path(sys.argv[1])) as folder:
    (folder / "module.py").touch()
    print(folder, flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize("seconds", [0, 60], ids=["ended", "killed"])
def test_a_temporary_folder_is_removed_even_after_a_kill(tmp_path, seconds):
    command = [sys.executable, "-c", USER, tmp_path, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        folder = Path(process.stdout.readline().strip())
        assert folder.parent == tmp_path
        if seconds:
            assert (folder / "module.py").exists()
            process.kill()
        assert process.wait(20) == (-9 if seconds else 0)
    deadline = time.monotonic() + guard.PATIENCE
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
