"""A step is its whole batch, however many samples are computed at once; memory that runs out."""

import json
import subprocess
import sys

import pytest
import torch
from small_runs import losses, request, rows, sums, trained
from torch import nn

from core.denoiser.parameterization import eps as eps_row
from core.errors import InputError
from core.network.ema import ExponentialAverage
from core.objective import times, weighting
from core.objective.denoising import Denoising
from core.process.noise import Noise
from core.process.schedules import vp_cosine
from core.storage import checkpoint
from core.task import Example
from core.training.loop import Execution, Learner, OutOfMemory, drop_conditions, fit


class Small(nn.Module):
    """A network of points with a memory for so many samples; what it was given is kept."""

    def __init__(self, dtype, fits=64, error=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.random.default_generator.manual_seed(3)
            self.a, self.b = nn.Linear(5, 16, dtype=dtype), nn.Linear(16, 4, dtype=dtype)
        self.fits, self.error, self.seen = fits, error, []

    def forward(self, x, level, condition):
        if len(x) > self.fits:
            raise self.error
        self.seen.append(x.detach().clone())
        side = torch.where(condition["null"][:, None], 0, condition["side"])
        return self.b(torch.tanh(self.a(torch.cat([x, side], 1))))


def step_of(network, dtype, micro=None, said=None, batch=10):
    """One step; its gradients as they were before clipping, and the report."""
    objective = Denoising(vp_cosine(), eps_row(), weighting.min_snr(), times.stratified())
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    learner = Learner(network, objective, optimizer, ExponentialAverage(network, 0.9))

    def prepare(step, _):
        noise = Noise.of(7, step, each=range(batch))
        x0 = Noise.of(8, each=range(batch)).normal((4,), dtype)
        mask = (Noise.of(9, each=range(batch)).normal((4,), dtype) > 0).to(dtype)
        return drop_conditions(Example(x0, {"side": x0[:, :1]}, mask), noise, 0.3), noise

    how = Execution(micro_batch=micro, notify=(said if said is not None else []).append)
    (report,) = fit(learner, [(0, None)], prepare, lambda step: 1e-3, clip=1e9, execution=how)
    return [p.grad.clone() for p in network.parameters()], report


def apart(one, other):
    """The largest difference of gradients, relative to the largest gradient."""
    largest = max(g.abs().max() for g in one)
    return max(float((a - b).abs().max() / largest) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("micro", [1, 3, 4, 9])
def test_the_gradient_of_a_batch_in_pieces_is_that_of_the_whole(micro):
    """Also where the last piece is smaller: in float64 to its last digits, in float32 to 1e-6."""
    for dtype, limit in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        whole, whole_report = step_of(Small(dtype), dtype)
        pieces, report = step_of(Small(dtype), dtype, micro)
        assert apart(whole, pieces) < limit
        assert report.loss == pytest.approx(whole_report.loss, rel=limit)
        assert (report.micro_batch, whole_report.micro_batch) == (micro, 10)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:128] . DefaultCPUAllocator: can't allocate "
                 "memory: you tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate)"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in "
                 "a non-contiguous input."),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:24])
def test_a_step_that_does_not_fit_is_repeated_in_pieces_with_the_same_draws(error):
    roomy, tight, said = Small(torch.float64), Small(torch.float64, 2, error), []
    whole, _ = step_of(roomy, torch.float64)
    pieces, report = step_of(tight, torch.float64, said=said)
    assert apart(whole, pieces) < 1e-14
    assert report.micro_batch == 2  # 10, 5, 2
    assert torch.equal(torch.cat(tight.seen), torch.cat(roomy.seen))
    assert said == [
        "step 1: out of memory with 10 samples at once; repeating it with 5",
        "step 1: out of memory with 5 samples at once; repeating it with 2",
    ]


def test_one_sample_that_does_not_fit_is_refused_with_what_to_lower():
    with pytest.raises(OutOfMemory, match="step 1: out of memory with one sample at a time; lower"):
        step_of(Small(torch.float32, 0, ERRORS[0]), torch.float32)
    assert issubclass(OutOfMemory, InputError)  # what pipelines do not try again


def test_another_error_is_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        step_of(Small(torch.float32, 3, RuntimeError("mat1 and mat2")), torch.float32)


@pytest.mark.usefixtures("toys")
def test_a_run_whose_memory_is_short_ends_as_one_whose_is_not(tmp_path):
    """Weights after twelve steps: Adam turns rounding of small gradients into parts of 1e-5."""
    notes = trained(request(network={"fits": 3}), tmp_path / "short")
    trained(request(), tmp_path / "roomy")
    assert sum("out of memory" in note for note in notes) == 2  # 8, 4, 2; then it stays
    assert {row["micro_batch"] for row in rows(tmp_path / "short")} == {2}
    pairs = zip(losses(tmp_path / "short"), losses(tmp_path / "roomy"), strict=True)
    assert all(abs(a - b) < 1e-5 * b for a, b in pairs)
    # The micro-batch is the machine's business: another one goes on, to the same bits as itself.
    trained(request(), tmp_path / "pieces", micro_batch=3)
    trained(request(), tmp_path / "again", micro_batch=3)
    assert sums(tmp_path / "pieces") == sums(tmp_path / "again")


@pytest.mark.usefixtures("toys")
def test_dropout_is_a_function_of_the_step_and_leaves_the_global_stream(tmp_path):
    wanted = request(network={"dropout": 0.5}, steps=6)
    before = torch.random.get_rng_state()
    trained(wanted, tmp_path / "a")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    trained(wanted, tmp_path / "b")
    assert sums(tmp_path / "a") == sums(tmp_path / "b")
    trained(request(steps=6), tmp_path / "none")
    assert sums(tmp_path / "a") != sums(tmp_path / "none")


SCARCE = """
import json, resource, sys
from pathlib import Path
from small_runs import request, trained
import core.runs, torch
wanted = request(steps=3, network={"megabytes": 16})
trained(request(steps=1), Path(sys.argv[1]) / "first")  # whatever is made once is made now
held = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (held + 240 * 2**20, resource.RLIM_INFINITY))
print(json.dumps(trained(wanted, Path(sys.argv[1]) / "scarce")))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("toys")
def test_memory_that_really_runs_out(tmp_path):
    """8 samples hold 128 MB and then 256 MB, 240 MB are to be had; fewer fit."""
    done = subprocess.run(
        [sys.executable, "-c", SCARCE, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    notes = json.loads(done.stdout)
    assert "step 1: out of memory with 8 samples at once; repeating it with 4" in notes
    assert checkpoint.load(tmp_path / "scarce").step == 3
    trained(request(steps=3, network={"megabytes": 16}), tmp_path / "roomy")
    pairs = zip(losses(tmp_path / "scarce"), losses(tmp_path / "roomy"), strict=True)
    assert all(abs(a - b) < 1e-5 * b for a, b in pairs)
