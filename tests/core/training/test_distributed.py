"""Collectives of two real processes, against sums, maxima and values known by hand."""

import json
import subprocess
import sys

import pytest

from core.training.distributed import World

RANK = """
import json, sys
import torch
from torch import distributed
from core.training.distributed import PeerError, Status, process_group

rank, meeting = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
with process_group(torch.device("cpu")) as world:
    gradients = [torch.full((3,), rank + 1.0), torch.full((2, 2), 10.0**rank).double()]
    world.all_reduce_gradients(gradients)
    found = {
        "step": world.broadcast(2**53 + 1 if rank == 0 else 7),
        "loss": world.broadcast(0.1 if rank == 0 else 7.0),
        "sum": world.all_reduce_sum(torch.tensor([1.0, rank])).tolist(),
        "status": world.all_reduce_max(Status(stop=15 * rank, out_of_memory=1 - rank)),
        "gradients": [gradient.flatten().tolist() for gradient in gradients],
        "result": world.barrier_after(lambda: rank),
    }
    if rank == 1:
        world.report_failure()
    else:
        try:
            world.barrier_after(lambda: None)
        except PeerError as error:
            found["error"] = str(error)
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_two_processes_reduce_and_broadcast_without_losing_a_bit(tmp_path):
    command = [sys.executable, "-c", RANK]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meeting")], stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    first, second = (json.loads(process.communicate(timeout=60)[0]) for process in started)
    for found in (first, second):
        assert found["step"] == 2**53 + 1  # a step that float64 cannot hold
        assert found["loss"] == 0.1
        assert found["sum"] == [2.0, 1.0]
        assert found["status"] == [0, 0, 1, 15]
        assert found["gradients"] == [[3.0] * 3, [11.0] * 4]
    assert (first["result"], second["result"]) == (0, 1)
    assert "another process of this run failed" in first["error"]


@pytest.mark.parametrize(("count", "size"), [(7, 3), (8, 4), (2, 5), (0, 2)])
def test_shards_cover_all_items_once_and_differ_by_at_most_one(count, size):
    shards = [range(count)[World(rank, size).shard(count)] for rank in range(size)]
    assert [i for shard in shards for i in shard] == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_alone_every_collective_is_the_identity():
    world = World()
    assert type(world.broadcast(3)) is int
    assert world.broadcast(3) == 3
    assert world.barrier_after(lambda: "done") == "done"
