"""Submitting to a running Ray: jobs go on without us, stop with a checkpoint, go on again."""

import itertools
import re
import time

import pytest
from ray_head import call

from pipelines.cluster import deadlines

pytestmark = pytest.mark.torture  # a head of Ray's own, started and ended: minutes
INDENTED = re.compile(" ").match

TINY = """
name: tiny
steps:
  train:
    run: train
    request:
      task: {name: image2image/sr3, scale: 4}
      dataset: {name: image2image/photos, size: 32}
      network: {name: core/unet, width: 8, multipliers: [1], blocks: 1, attention: [],
                middle_attention: false}
      steps: 400
      batch: 2
      warmup: 10
"""


def _until(head, job, ends):
    """Wait for one of these states; what `status` prints of the job."""
    deadline = time.monotonic() + 150
    while True:
        lines = _ask(head, "status").splitlines()
        begins = next(i for i, line in enumerate(lines) if line.startswith(job))
        its = [lines[begins], *itertools.takewhile(INDENTED, lines[begins + 1 :])]
        if its[0].split()[1] in ends:
            return its
        assert time.monotonic() < deadline, _ask(head, "logs", job)
        time.sleep(1)


def _ask(head, *words):
    done = call(head, *words, "--address", head["dashboard"])
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def _submit(head, file, out, *settings):
    words = ["submit", file, "--address", head["dashboard"], "--out", out, *settings]
    done = call(head, *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def test_a_job_without_a_token_or_with_another_is_refused(head, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    words = ["submit", file, "--address", head["dashboard"], "--out", tmp_path / "runs"]
    none = call(head, *words, RAY_AUTH_MODE=None, RAY_AUTH_TOKEN_PATH=str(tmp_path / "none"))
    assert (none.returncode, none.stdout) == (2, "")
    assert "no token for the cluster there" in none.stderr
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text("0" * 64)
    for changes in (
        {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")},
        {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": None},
    ):
        done = call(head, *words, **changes)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert "refuses this token" in line
    assert "tiny" not in call(head, "status", "--address", head["dashboard"]).stdout


def test_a_submitted_job_is_stopped_with_a_checkpoint_and_goes_on_with_the_same_bits(
    head, tmp_path
):
    file, out = tmp_path / "tiny.yaml", tmp_path / "runs"
    file.write_text(TINY)
    job = _submit(head, file, out)
    deadline = time.monotonic() + 120
    while not list(out.glob("store/train-*/metrics.jsonl")):
        assert time.monotonic() < deadline, _ask(head, "logs", job)
        time.sleep(0.1)
    began = time.monotonic()
    assert "stopped" in _ask(head, "stop", job)
    assert time.monotonic() - began < deadlines.CLUSTER  # it has obeyed, not been waited for
    (folder,) = out.glob("store/train-*")
    assert not (folder / "MANIFEST.json").exists()
    assert not (folder / "STOP").exists()
    assert list(folder.glob("checkpoints/*")), _ask(head, "logs", job)
    again = _submit(head, file, out)  # by the command
    assert again != job
    ended = _until(head, again, {"succeeded", "failed"})
    assert ended[0].startswith(f"{again}  succeeded"), ended
    assert ended[1:] == ["    train  done"]
    _ask(head, "logs", again, "train")
    whole = tmp_path / "whole"
    words = ["run", file, "--local", "--out", whole]
    assert call(head, *words).returncode == 0
    weights = {
        place: [path.read_bytes() for path in sorted(place.rglob("checkpoints/**/*.safetensors"))]
        for place in (out, whole)
    }
    assert weights[whole]
    assert weights[out][-1] == weights[whole][-1]


def test_what_is_asked_of_jobs_that_are_not_there(head, tmp_path):
    for words in (["logs", "nobody"], ["stop", "nobody"]):
        done = call(head, *words, "--address", head["dashboard"])
        assert done.returncode == 2
        assert done.stderr.startswith("error: no job 'nobody' on this cluster; it has: ")
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY.replace("steps: 400", "stepz: 400"))
    words = ["submit", file, "--address", "127.0.0.1:1", "--out", "/runs"]
    assert "request.stepz: unknown option" in call(head, *words).stderr  # before it asks anyone
    file.write_text(TINY)
    assert "nothing listens at 127.0.0.1:1" in call(head, *words).stderr
    words = ["submit", file, "--address", head["dashboard"], "--out", "runs"]
    assert "expected an absolute path" in call(head, *words).stderr
