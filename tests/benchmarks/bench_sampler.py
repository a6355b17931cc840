"""What a solver costs beside its network, and SR3's cost per result; ratios, printed.

pytest tests/benchmarks -m benchmark -s
"""

import time
from itertools import pairwise

import pytest
import torch

from core.denoiser.parameterization import Prediction
from core.process.schedules import edm
from core.process.noise import Noise
from core.sampler.grids import karras
from core.sampler.sample import sample
from core.sampler.ancestral import DDIM
from core.sampler.exponential import Multistep

pytestmark = pytest.mark.benchmark


def seconds(work, repeats=30):
    work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[repeats // 2]


@pytest.mark.parametrize("solver", [DDIM(), Multistep()], ids=str)
def bench_overhead_of_a_step_against_plain_euler(solver, capsys):
    """Median time of 64 steps with a denoiser that costs nothing, against Euler written inline."""
    process, x = edm(), 80 * torch.randn(1, 3, 32, 32)
    grid = karras(process, steps=64)
    levels = grid.tolist()
    noise = Noise([0])

    def denoise(x, t, condition=None):
        return Prediction(x / 2)

    def inline():
        y = x
        for now, then in pairwise(levels):
            y = y + (then - now) * (y - y / 2) / now
        return y

    ours = seconds(lambda: sample(denoise, process, grid, solver, x, noise))
    plain = seconds(inline)
    with capsys.disabled():
        print(f"\n{solver}: {ours / 64 * 1e6:.0f} us a step, {ours / plain:.1f} times inline Euler")
