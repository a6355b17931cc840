"""Data read ahead by other processes is the data read in between: the same items, the same bits."""

import itertools
import multiprocessing
import os
import signal
import time

import pytest
import torch
from small_runs import After, request, sums, trained

from core.data import collate
from core.errors import InputError
from core.training.batches import batches, order
from core.training.stopping import Stopped

pytestmark = [
    pytest.mark.usefixtures("toys"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes"),
]


@pytest.mark.parametrize("workers", [0, 2, 4])
@pytest.mark.parametrize("start", [0, 7])
def test_the_same_items_in_the_same_order_whatever_the_workers(workers, start):
    from toy_training import Cloud

    cloud, before = Cloud("train"), torch.random.get_rng_state()
    wanted = itertools.islice(order(5, len(cloud), 6, start=start), 12)
    found = list(batches(cloud, wanted, workers=workers))
    expected = list(itertools.islice(order(5, len(cloud), 6, start=start), 12))
    assert [step for step, _ in found] == [step for step, _ in expected]
    for (_, batch), (_, indices) in zip(found, expected, strict=True):
        whole = collate(cloud, indices)
        assert batch.keys() == whole.keys()
        assert all(torch.equal(batch[name], whole[name]) for name in whole)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
def test_a_resumed_run_may_have_another_number_of_workers(tmp_path):
    trained(request(), tmp_path / "whole")
    for first, then in ((0, 2), (2, 4), (4, 0)):
        out = tmp_path / f"{first}-{then}"
        with pytest.raises(Stopped):
            trained(request(), out, stop=After(5), workers=first)
        trained(request(), out, workers=then)
        assert sums(out) == sums(tmp_path / "whole")


def test_an_item_that_cannot_be_read_ends_the_run_with_its_error(tmp_path):
    for workers in (0, 2):
        with pytest.raises(RuntimeError, match="point 3 cannot be read"):
            trained(request(dataset={"broken": 3}), tmp_path / str(workers), workers=workers)
        refused = request(dataset={"broken": 3, "refused": True})
        with pytest.raises(InputError, match=r"^point 3 cannot be read$"):
            trained(refused, tmp_path / f"{workers}-refused", workers=workers)
        assert not multiprocessing.active_children()


def test_workers_have_one_thread_and_no_ear_for_signals():
    """Ctrl-C reaches every process of a terminal; the one that reads decides."""

    from toy_training import Cloud

    class Telling(Cloud):
        def __getitem__(self, index):
            if index == 1:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.1)
            return {"told": torch.tensor([torch.get_num_threads(), os.getpid()])}

    wanted = ((step, [2 * step, 2 * step + 1]) for step in range(4))
    told = torch.cat([batch["told"] for _, batch in batches(Telling("train"), wanted, workers=2)])
    assert len(told) == 8
    assert set(told[:, 0].tolist()) == {1}
    pids = set(told[:, 1].tolist())
    assert len(pids) == 2
    assert os.getpid() not in pids
    deadline = time.monotonic() + 5
    while any(_lives(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlive the iterator"
        time.sleep(0.02)


def _lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
