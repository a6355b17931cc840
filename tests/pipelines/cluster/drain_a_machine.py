"""A machine that is taken away: the step on it saves what it did and goes on on another.

python drain_a_machine.py FOLDER: a process of its own, since one process knows one Ray.
"""

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.cluster import connection
from pipelines.job.file import parse
from pipelines.job.plan import plan
from pipelines.run.display import Display
from pipelines.run.execute import locally, on_ray
from pipelines.store import results

STEPS = 400
TRAIN = {
    "run": "train",
    "request": {
        "task": {"name": "image2image/sr3", "scale": 4},
        "dataset": {"name": "image2image/photos", "size": 32},
        "network": {
            "name": "core/unet", "width": 8, "multipliers": [1], "blocks": 1, "attention": [],
            "middle_attention": False,
        },
        "steps": STEPS, "batch": 2, "warmup": 10,
    },
}  # fmt: skip


@contextmanager
def machines() -> Iterator[tuple[str, dict]]:
    """Two machines of one core each, beside a head that has none."""
    os.environ.update({"RAY_AUTH_MODE": "disabled", **connection.QUIET})
    connection.heed_environment()
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = {}
    for _ in range(2):
        node = made.add_node(num_cpus=1)
        nodes[node.node_id] = node
    connection.connect(address=made.address)
    yield made.address, nodes
    ray.shutdown()
    made.shutdown()


def weights(root):
    (folder,) = root.glob("train-*")
    return {path.name: path.read_bytes() for path in folder.glob(f"checkpoints/*{STEPS}/*.saf*")}


def wait_until(what, seconds):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def drain(address, node, seconds):
    command = [
        str(Path(sys.executable).with_name("ray")),
        "drain-node",
        "--address",
        address,
        "--node-id",
        node,
    ]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "x"]
    command += ["--deadline-remaining-seconds", str(seconds)]
    subprocess.run(command, check=True, capture_output=True)


def leave_a_drained_machine(address: str, nodes: dict, place: Path) -> None:
    import ray

    root = place / "store"
    steps = plan(parse({"name": "t", "steps": {"train": TRAIN}}), root)
    times = {}

    def take_away():
        """Drain the machine that the step is on; note when it was told and when it had saved."""
        (folder,) = (p.folder for p in steps)
        wait_until(lambda: (folder / "metrics.jsonl").exists(), 120)
        free = ray._private.state.available_resources_per_node()
        (busy,) = (name for name in nodes if free.get(name, {}).get("CPU", 0) < 1)
        before = set(folder.glob("checkpoints/step-*"))
        drain(address, busy, 20)
        times["told"] = time.monotonic()
        wait_until(lambda: set(folder.glob("checkpoints/step-*")) - before, 20)
        times["saved"] = time.monotonic()

    thread = threading.Thread(target=take_away)
    thread.start()
    shown = io.StringIO()
    with Display(["train"], stream=shown) as display:
        outcome = on_ray(steps, display)["train"]
    thread.join()
    assert outcome.state == "done", shown.getvalue()
    assert "its machine is taken away; resuming on another" in shown.getvalue()
    assert "resuming from step" in shown.getvalue()
    assert times["saved"] - times["told"] < 10
    assert results.inspect(steps[0].folder, steps[0].key, verify=True).state == "whole"

    alone = place / "alone"
    with Display(["train"], stream=io.StringIO()) as display:
        locally(plan(parse({"name": "t", "steps": {"train": TRAIN}}), alone), display)
    assert weights(root) == weights(alone)
    assert weights(alone)


if __name__ == "__main__":
    with machines() as (address, nodes):
        leave_a_drained_machine(address, nodes, Path(sys.argv[1]))
