"""Our solvers against k-diffusion's samplers: the same levels, model, noise; all in float64."""

import math
from itertools import pairwise
from unittest import mock

import pytest
import torch
from peers import (
    WORLD,
    Tape,
    difference,
    draws,
    k_diffusion,
    k_ends,
    k_model,
    karras_levels,
    ours,
    starts,
    title,
    with_zero,
)

from core.denoiser.variance import rademacher
from core.process.noise import Brownian, Noise
from core.process.schedules import edm
from core.sampler import grids
from core.sampler.ancestral import DDIM, Ancestral
from core.sampler.exponential import Multistep, Singlestep
from core.sampler.likelihood import nll
from core.sampler.linear_multistep import LinearMultistep
from core.sampler.runge_kutta import Churn, Heun

pytestmark = pytest.mark.parity

# Sums of some tens of terms in float64, on values that start near 80 and end near 1; at ten steps
# two trajectories of a batch may lie near a watershed, where rounding grows a hundredfold.
ROUNDING = 1e-12


GRID = "float64, Karras 80 to 0.002, then 0"


def said(name, options):
    return f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})"


@pytest.fixture(scope="module")
def peer():
    return k_diffusion()


@pytest.fixture
def x():
    return starts(64, 80.0)


def run(steps):
    """A Karras grid that ends clean, in so many steps."""
    return with_zero(karras_levels(steps - 1))


ODE = [
    (DDIM(), "sample_euler", {}),
    (LinearMultistep(order=1), "sample_euler", {}),
    (Multistep(order=1), "sample_euler", {}),
    (Heun(), "sample_heun", {}),
    (Singlestep(order=2, prediction="eps"), "sample_dpm_2", {}),
    (LinearMultistep(order=1), "sample_lms", {"order": 1}),
    (LinearMultistep(order=2), "sample_lms", {"order": 2}),
    (LinearMultistep(order=3), "sample_lms", {"order": 3}),
    (LinearMultistep(order=4), "sample_lms", {"order": 4}),
    (Singlestep(order=2), "sample_dpmpp_2s_ancestral", {"eta": 0.0}),
    (Multistep(order=2, weights="midpoint"), "sample_dpmpp_2m", {}),
    (Multistep(order=2), "sample_dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"}),
]


@pytest.mark.parametrize("steps", [10, 20, 50])
@pytest.mark.parametrize(("solver", "name", "options"), ODE, ids=str)
def test_deterministic_samplers_end_where_ours_do(peer, x, agree, solver, name, options, steps):
    """Their quadrature for sample_lms is scipy's, to 1e-4; on polynomials it is exact."""
    theirs = k_ends(getattr(peer, name), run(steps), x, **options)
    found = ours(solver, run(steps), x)
    agree(f"{title(solver)} = k-diffusion {said(name, options)}", GRID, found, theirs, ROUNDING)


SDE = [
    (Ancestral(), "sample_euler_ancestral", {"eta": 1.0}),
    (Multistep(order=1, eta=1.0), "sample_euler_ancestral", {"eta": 1.0}),
    (DDIM(eta=1.0), "sample_euler_ancestral", {"eta": 1.0}),
    (DDIM(eta=0.5), "sample_euler_ancestral", {"eta": 0.5}),
    *(
        (
            Multistep(order=2, eta=eta, weights=weights),
            "sample_dpmpp_2m_sde",
            {"eta": eta, "solver_type": kind},
        )
        for eta in (0.5, 1.0)
        for weights, kind in (("midpoint", "midpoint"), ("exact", "heun"))
    ),
]


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize(("solver", "name", "options"), SDE, ids=str)
def test_stochastic_samplers_with_the_same_draws_end_where_ours_do(
    peer, x, agree, solver, name, options, steps
):
    noise = draws(steps, x)
    tape = Tape(noise)
    theirs = k_ends(
        getattr(peer, name), run(steps), x, noise_sampler=lambda a, b: tape.like(x), **options
    )
    found = ours(solver, run(steps), x, Tape(noise))
    pair = f"{title(solver)} = k-diffusion {said(name, options)}"
    agree(pair, f"{GRID}; shared draws", found, theirs, ROUNDING)


@pytest.mark.parametrize("steps", [10, 50])
def test_two_stages_on_one_brownian_path_are_theirs(peer, x, agree, steps):
    """Their stages ask for W(t, s) and W(t, u); ours for W(t, s) and W(s, u) of the same path."""
    path = Brownian(range(len(x)))

    def increment(now, then):
        return path.between(x, -2 * math.log(float(now)), -2 * math.log(float(then)))

    theirs = k_ends(peer.sample_dpmpp_sde, run(steps), x, eta=1.0, noise_sampler=increment)
    found = ours(Singlestep(order=2, eta=1.0), run(steps), x, Brownian(range(len(x))))
    agree(
        "Singlestep(order=2, eta=1) = k-diffusion sample_dpmpp_sde",
        f"{GRID}; one Brownian path in log-SNR",
        found,
        theirs,
        ROUNDING,
    )


@pytest.mark.parametrize(
    ("churn", "low", "high", "inflate"),
    [(40.0, 0.05, 50.0, 1.003), (10.0, 0.0, math.inf, 1.0)],
)
def test_churn_with_the_same_draws_ends_where_ours_does(peer, x, agree, churn, low, high, inflate):
    levels = run(20)
    noise = draws(20, x)
    tape = Tape(noise)
    options = {"s_churn": churn, "s_tmin": low, "s_tmax": high, "s_noise": inflate}
    with mock.patch.object(torch, "randn_like", tape.like):
        theirs = k_ends(peer.sample_heun, levels, x, **options)
    # They draw at every step, we only where noise is added.
    heard = [
        draw for draw, level in zip(noise, levels.tolist(), strict=False) if low <= level <= high
    ]
    solver = Churn(churn=churn, s_min=low, s_max=high, inflate=inflate)
    found = ours(solver, levels, x, Tape(heard))
    pair = f"{title(solver)} = k-diffusion {said('sample_heun', options)}"
    agree(pair, f"{GRID}; shared draws", found, theirs, ROUNDING)


def test_the_third_order_single_step_is_theirs(peer, x, agree):
    levels = karras_levels(12)
    solver = peer.DPMSolver(k_model())
    with torch.no_grad():
        y = x
        for now, then in pairwise(levels):
            y, _ = solver.dpm_solver_3_step(y, solver.t(now), solver.t(then))
    found = ours(Singlestep(order=3, prediction="eps"), levels, x)
    pair = "Singlestep(order=3, eps) = k-diffusion DPMSolver.dpm_solver_3_step"
    agree(pair, "12 steps to 0.002", found, y, ROUNDING)


def test_likelihoods_with_the_same_probes_are_theirs(peer, agree):
    """Both of x at sigma 0.002, in nats, with one fixed Rademacher probe and a prior N(0, 80^2).

    Each side integrates to a tolerance of 1e-8, in its own variable: sigma there, an angle here.
    """
    clean, process = starts(8, 1.0), edm()
    signs = rademacher(Noise(range(8)), clean)
    with mock.patch.object(torch, "randint_like", return_value=(signs + 1) / 2):
        theirs, _ = peer.log_likelihood(k_model(), clean, 0.002, 80.0, atol=1e-8, rtol=1e-8)
    found = nll(WORLD.denoiser(process), clean, Noise(range(8)), rtol=1e-8, atol=1e-8)
    pair = "-nll(trace=hutchinson) = k-diffusion log_likelihood"
    agree(pair, "8 samples of 8, nats, tolerance 1e-8, shared probes", -found.nats, theirs, 1e-6)


@pytest.mark.parametrize("steps", [5, 18])
def test_karras_levels_are_theirs(peer, agree, steps):
    """Their ramp is float32."""
    found = grids.karras(edm(), steps=steps)
    theirs = peer.get_sigmas_karras(steps, 0.002, 80.0)
    agree("grids.karras = k-diffusion get_sigmas_karras", "float32", found, theirs, 1e-6)


def test_one_wrong_level_would_be_noticed(peer, x):
    """The comparison has teeth: a hundredth of a percent in one level is seen at once."""
    levels = run(20)
    other = levels.clone()
    other[7] *= 1.0001
    theirs = k_ends(peer.sample_heun, other, x)
    assert difference(ours(Heun(), levels, x), theirs) > 1e5 * ROUNDING
