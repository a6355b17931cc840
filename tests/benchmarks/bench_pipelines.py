"""What planning a job, and running one of sixteen steps, costs beside the steps themselves.

python -m pytest tests/benchmarks/bench_pipelines.py -m benchmark -s
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOYS = Path(__file__).parents[1] / "pipelines"
CACHED, STEP = 2.0, 0.05  # seconds of CPU for sixteen hits; seconds for a step without Ray
PLANNED = 2.0  # milliseconds of CPU to parse and plan a step


def _cost(folder: Path, *words: str) -> tuple[float, float, str]:
    """Seconds and seconds of CPU of one call, its children's too, and what it said."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, str(TOYS / "toy_verbs.py"), "run", "job.yaml", *words],
        cwd=folder, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(TOYS), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, cpu, done.stderr


@pytest.mark.benchmark
def test_sixteen_steps_cost_little(tmp_path):
    names = [f"s{i}" for i in range(16)]
    for count in (1, 16):
        at = tmp_path / str(count)
        at.mkdir()
        steps = {name: {"run": "make", "request": {"number": i}} for i, name in enumerate(names)}
        chosen = dict(list(steps.items())[:count])
        (at / "job.yaml").write_text(json.dumps({"name": "toys", "steps": chosen}))
    best = {  # of three calls each, since starting Python varies by more than the steps cost
        count: [min(c[i] for c in calls) for i in (0, 1)]
        for count in (1, 16)
        for calls in [[_cost(tmp_path / str(count), "--local", "-o", f"{k}") for k in range(3)]]
    }
    _, cached, said = _cost(tmp_path / "16", "-o", "0")
    wall, cpu = ((whole - one) / 15 for whole, one in zip(best[16], best[1], strict=True))
    print(f"\na step without Ray: {1e3 * wall:.0f} ms, {1e3 * cpu:.0f} ms of CPU")
    print(f"16 hits: {cached:.2f} s of CPU")
    assert "nothing to do" in said
    assert "starting Ray" not in said
    assert cached <= CACHED
    assert 0 < cpu <= STEP
    assert wall <= STEP


PLANS = """
import sys, time
from pathlib import Path
from pipelines.job.file import parse
from pipelines.job.plan import plan

request = {"task": "image2image/sr3", "dataset": "image2image/photos", "network": {"width": 32}}
for count in (1, 10, 100, 1000):  # the first imports modules and reads signatures
    steps = {f"t{i}": {"run": "train", "request": {**request, "seed": i}} for i in range(count)}
    began = time.process_time()
    planned = plan(parse({"name": "many", "steps": steps}), Path(sys.argv[1]))
    print(1e3 * (time.process_time() - began) / len({p.key for p in planned}))
"""


@pytest.mark.benchmark
def test_a_step_is_planned_in_two_milliseconds(tmp_path):
    """In a process of its own, whose functions are not checked."""
    done = subprocess.run(
        [sys.executable, "-c", PLANS, tmp_path], capture_output=True, text=True, check=True
    )
    _, *each = map(float, done.stdout.split())
    print(
        "\n10, 100, 1000 steps planned: " + ", ".join(f"{x:.2f}" for x in each) + " ms of CPU each"
    )
    assert max(each) <= PLANNED
