"""UniPC and SA-Solver: where they agree, and their orders."""

import sys
from pathlib import Path

import pytest
import torch

from core.process.noise import Noise
from core.sampler import grids
from core.sampler.sample import sample
from core.sampler.unipc import SASolver, UniPC
from core.testing.orders import (
    slope,
    three_modes,
    to_noisy_level,
)

sys.path.insert(0, str(Path(__file__).parent))
from made_samples import PATHS

pytestmark = pytest.mark.battery


def same_end(a, b, steps=9):
    """Largest difference of two solvers' ends from one start, in units of the data."""
    path = PATHS["vp_linear"]
    grid, denoise = to_noisy_level(path, steps), three_modes().denoiser(path)
    x = torch.tensor([[0.3, -1.0], [1.1, 0.2]], dtype=torch.float64)
    ends = [sample(denoise, grid, solver, x, Noise([3, 4])) for solver in (a, b)]
    return float((ends[0] - ends[1]).abs().max())


def test_sa_solver_without_noise_is_unipc_where_its_scale_cancels():
    """Both correct by the polynomial through the newest estimate (Xue et al. 2023, section 5.2).

    UniPC's B(h) stays in the first steps, which have fewer than three estimates.
    """
    path, sa = PATHS["vp_linear"], SASolver(order=3, corrector=3, eta=0.0)
    grid = grids.karras(path, steps=9)
    for a, b in list(zip(sa.plan(path, grid), UniPC(order=3).plan(path, grid), strict=True))[3:]:
        assert a.predict == b.predict
        assert a.weights == pytest.approx(b.weights, rel=1e-12)
        assert a.kept == b.kept


def test_the_order_of_the_last_steps_is_lowered_where_asked():
    rows = UniPC(order=3, lower_order_final=True).plan(
        PATHS["vp_linear"], to_noisy_level(PATHS["vp_linear"], 7)
    )
    assert [len(row.predict.weights) for row in rows] == [1, 2, 3, 3, 3, 2, 1]


@pytest.mark.slow
def test_unipc_on_eps_is_unipc_on_x0_to_their_order():
    """Both follow one flow: twice the steps bring them together by 2^4 at order 3."""
    apart = [same_end(UniPC(order=3, prediction="eps"), UniPC(order=3), n) for n in (80, 160, 320)]
    assert slope((80, 160, 320), apart) > 2.6
