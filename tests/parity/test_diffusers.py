"""Our solvers and processes against diffusers' schedulers, on the schedulers' own levels.

Their tables are float32, and most schedulers compute in it: differences near 1e-6 of the largest
value are equality.  Where a scheduler takes float64 levels, it is given them, and agrees to 1e-12.
"""

import pytest
import torch
from peers import (
    EDM,
    EXPLODING,
    PRESERVING,
    SAYS,
    TABLE,
    WORLD,
    Tape,
    chain,
    chain_ends,
    chain_of_ours,
    diffusers,
    diffusers_ends,
    draws,
    karras_levels,
    on_levels,
    ours,
    own_levels,
    starts,
    title,
)

from core.process import schedules
from core.process.noise import Noise
from core.sampler import grids
from core.sampler.ancestral import DDIM, Ancestral
from core.sampler.exponential import Multistep, Singlestep
from core.sampler.linear_multistep import LinearMultistep
from core.sampler.runge_kutta import Heun
from core.sampler.sample import sample
from core.sampler.unipc import SASolver, UniPC

pytestmark = pytest.mark.parity

# Float32 keeps 6e-8 of a value; some twenty steps of it, on x that starts a hundred times as large
# as it ends.
SINGLE = 5e-6
# DEIS subtracts near-equal products of logarithms in its float32 table.
CANCELLING = 5e-5
DOUBLE = 1e-12
STEPS = 20


@pytest.fixture(scope="module")
def peer():
    return diffusers()


@pytest.fixture
def x():
    """Starts of deviation 1."""
    return starts(32, 1.0)


PP, SDE = "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}
SPACINGS = [{}, {"use_karras_sigmas": True}]
# Scheduler, how it sees x, its options, our solver, tolerance.
PAIRS = [
    ("EulerDiscreteScheduler", EXPLODING, {}, DDIM(), SINGLE),
    ("HeunDiscreteScheduler", EXPLODING, {}, Heun(), SINGLE),
    ("KDPM2DiscreteScheduler", EXPLODING, {}, Singlestep(prediction="eps"), SINGLE),
    ("LMSDiscreteScheduler", EXPLODING, {}, LinearMultistep(), SINGLE),
    (PP, PRESERVING, {"solver_order": 1}, Multistep(order=1), SINGLE),
    (PP, PRESERVING, {"solver_order": 2}, Multistep(weights="midpoint"), SINGLE),
    (PP, PRESERVING, {"solver_order": 2, "solver_type": "heun"}, Multistep(), SINGLE),
    (PP, PRESERVING, {"solver_order": 1, **SDE}, Multistep(order=1, eta=1.0), SINGLE),
    (PP, PRESERVING, {**SDE}, Multistep(eta=1.0, weights="midpoint"), SINGLE),
    (PP, PRESERVING, {"solver_type": "heun", **SDE}, Multistep(eta=1.0), SINGLE),
    ("UniPCMultistepScheduler", PRESERVING, {"solver_order": 1}, UniPC(order=1), SINGLE),
    ("UniPCMultistepScheduler", PRESERVING, {"solver_order": 2}, UniPC(order=2), SINGLE),
    ("DEISMultistepScheduler", PRESERVING, {"solver_order": 1}, Multistep(order=1), SINGLE),
    (
        "DEISMultistepScheduler",
        PRESERVING,
        {"solver_order": 2},
        Multistep(prediction="eps"),
        CANCELLING,
    ),
    (
        "DEISMultistepScheduler",
        PRESERVING,
        {"solver_order": 3},
        Multistep(order=3, prediction="eps"),
        CANCELLING,
    ),
]


def scheduler_of(peer, name, kind, options, steps=STEPS):
    says = SAYS if kind is PRESERVING else {}
    scheduler = getattr(peer, name)(**says, **options)
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("spacing", SPACINGS, ids=["linspace", "karras"])
@pytest.mark.parametrize(("name", "kind", "options", "solver", "within"), PAIRS, ids=str)
def test_schedulers_end_where_our_solvers_do(
    peer, x, agree, name, kind, options, solver, within, spacing
):
    scheduler = scheduler_of(peer, name, kind, options | spacing)
    levels, noise = own_levels(scheduler), draws(STEPS, x)
    theirs = diffusers_ends(scheduler, kind, levels[0] * x, noise)
    found = ours(solver, levels, levels[0] * x, Tape(noise))
    told = ", ".join(f"{key}={value}" for key, value in options.items())
    spaced = "use_karras_sigmas" if spacing else "linspace"
    agree(
        f"{title(solver)} = diffusers {name}({told})",
        f"own levels, {spaced}",
        found,
        theirs,
        within,
    )


# UniPC's third order ends at its smallest level, so that neither side lowers an order for the last
# steps; on Karras levels it repeats that level and is not a number (`test_where_peers_differ.py`).
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_to_the_smallest_level_is_ours(peer, x, agree, order, variant):
    options = {
        "solver_order": order,
        "solver_type": variant,
        "final_sigmas_type": "sigma_min",
        "lower_order_final": False,
    }
    scheduler = scheduler_of(peer, "UniPCMultistepScheduler", PRESERVING, options)
    levels = own_levels(scheduler)
    theirs = diffusers_ends(scheduler, PRESERVING, levels[0] * x)
    found = ours(UniPC(order=order, variant=variant), levels, levels[0] * x)
    pair = f"UniPC(order={order}, variant={variant}) = diffusers UniPCMultistepScheduler"
    agree(pair, "own levels, linspace, sigma_min", found, theirs, SINGLE)


@pytest.mark.parametrize(
    ("solver", "order"), [(Multistep(order=1), 1), (Multistep(weights="midpoint"), 2)], ids=str
)
def test_unipc_without_its_corrector_is_our_predictor(peer, x, agree, solver, order):
    options = {"solver_order": order, "disable_corrector": list(range(STEPS))}
    scheduler = scheduler_of(peer, "UniPCMultistepScheduler", PRESERVING, options)
    levels = own_levels(scheduler)
    theirs = diffusers_ends(scheduler, PRESERVING, levels[0] * x)
    pair = f"{title(solver)} = diffusers UniPCMultistepScheduler, no corrector"
    agree(pair, "own levels, linspace", ours(solver, levels, levels[0] * x), theirs, SINGLE)


EVEN = {"lower_order_final": False}
FINAL = {"final_sigmas_type": "sigma_min", **EVEN}
IN_DOUBLE = [
    ("UniPCMultistepScheduler", PRESERVING, {"solver_order": 1, **EVEN}, UniPC(order=1)),
    ("UniPCMultistepScheduler", PRESERVING, {"solver_order": 2, **EVEN}, UniPC(order=2)),
    ("UniPCMultistepScheduler", PRESERVING, {"solver_order": 3, **EVEN}, UniPC(order=3)),
    (
        "UniPCMultistepScheduler",
        PRESERVING,
        {"solver_order": 3, "solver_type": "bh1", **EVEN},
        UniPC(order=3, variant="bh1"),
    ),
    (
        "DEISMultistepScheduler",
        PRESERVING,
        {"solver_order": 2, **EVEN},
        Multistep(prediction="eps"),
    ),
    (
        "DEISMultistepScheduler",
        PRESERVING,
        {"solver_order": 3, **EVEN},
        Multistep(order=3, prediction="eps"),
    ),
    (
        "EDMDPMSolverMultistepScheduler",
        EDM,
        FINAL,
        Multistep(weights="midpoint"),
    ),
    *(
        (
            "UniPCMultistepScheduler",
            PRESERVING,
            {"solver_order": order, "solver_type": variant, "predict_x0": False, **EVEN},
            UniPC(order=order, variant=variant, prediction="eps"),
        )
        for order in (1, 2, 3)
        for variant in ("bh1", "bh2")
    ),
    *(
        (
            "UniPCMultistepScheduler",
            PRESERVING,
            {"solver_order": 3, "predict_x0": kind == "x0"},
            UniPC(order=3, prediction=kind, lower_order_final=True),
        )
        for kind in ("x0", "eps")
    ),
    (
        "DPMSolverMultistepScheduler",
        PRESERVING,
        {"solver_order": 2, "algorithm_type": "dpmsolver", "solver_type": "heun", **FINAL},
        Multistep(prediction="eps"),
    ),
]


@pytest.mark.parametrize(("name", "kind", "options", "solver"), IN_DOUBLE, ids=str)
def test_schedulers_given_float64_levels_agree_to_rounding(
    peer, x, agree, name, kind, options, solver
):
    levels = karras_levels(STEPS)
    says = SAYS if kind is PRESERVING else {}
    scheduler = on_levels(getattr(peer, name)(**says, **options), levels)
    theirs = diffusers_ends(scheduler, kind, 80 * x)
    within = 1e-9 if name.startswith("DEIS") else DOUBLE  # its coefficients cancel
    within = SINGLE if options.get("algorithm_type") else within  # its table of alphas is float32
    told = ", ".join(f"{key}={value}" for key, value in options.items() if key not in FINAL)
    pair = f"{title(solver)} = diffusers {name}({told})"
    agree(pair, "float64, Karras 80 to 0.002", ours(solver, levels, 80 * x), theirs, within)


@pytest.mark.parametrize("kind", ["x0", "eps"])
def test_the_published_third_order_is_theirs(peer, x, agree, kind):
    """Its table of alphas is float32."""
    levels = karras_levels(STEPS)
    algorithm = {"algorithm_type": "dpmsolver++" if kind == "x0" else "dpmsolver"}
    options = {"solver_order": 3, "solver_type": "heun", **algorithm, **FINAL}
    scheduler = on_levels(peer.DPMSolverMultistepScheduler(**SAYS, **options), levels)
    theirs = diffusers_ends(scheduler, PRESERVING, 80 * x)
    solver = Multistep(order=3, weights="published", prediction=kind)
    pair = f"{title(solver)} = diffusers DPMSolverMultistepScheduler(solver_order=3)"
    agree(pair, "float64, Karras 80 to 0.002", ours(solver, levels, 80 * x), theirs, SINGLE)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_sa_solver_is_theirs(peer, x, agree, eta):
    """Their corrector counts the newest estimate.

    Their rules of order 2 add a term of order 3 by choice: the first steps, which have but two
    estimates, differ by some 1e-6 of the result.
    """
    levels, noise = karras_levels(STEPS), draws(STEPS, x)
    scheduler = peer.SASolverScheduler(
        **SAYS,
        predictor_order=3,
        corrector_order=4,
        tau_func=lambda t: eta**0.5,
        lower_order_final=False,
    )
    theirs = diffusers_ends(on_levels(scheduler, levels), PRESERVING, 80 * x, noise)
    solver = SASolver(eta=eta)
    found = ours(solver, levels, 80 * x, Tape(noise))
    agree(
        f"{title(solver)} = diffusers SASolverScheduler",
        "float64, Karras 80 to 0.002",
        found,
        theirs,
        CANCELLING,
    )


@pytest.mark.parametrize(
    ("name", "options", "solver"),
    [
        ("EDMEulerScheduler", {}, DDIM()),
        ("EDMDPMSolverMultistepScheduler", {}, Multistep(weights="midpoint")),
        ("EDMDPMSolverMultistepScheduler", {"solver_type": "heun"}, Multistep()),
    ],
    ids=str,
)
def test_edm_schedulers_end_where_our_solvers_do(peer, x, agree, name, options, solver):
    scheduler = scheduler_of(peer, name, EDM, options)
    levels = own_levels(scheduler)
    theirs = diffusers_ends(scheduler, EDM, levels[0] * x)
    told = ", ".join(f"{key}={value}" for key, value in options.items())
    pair = f"{title(solver)} = diffusers {name}({told})"
    agree(pair, "own levels", ours(solver, levels, levels[0] * x), theirs, SINGLE)


def test_euler_ancestral_with_the_same_draws_is_ours(peer, x, agree):
    scheduler = scheduler_of(peer, "EulerAncestralDiscreteScheduler", EXPLODING, {})
    levels, noise = own_levels(scheduler), draws(STEPS, x)
    theirs = diffusers_ends(scheduler, EXPLODING, levels[0] * x, noise)
    found = ours(Ancestral(), levels, levels[0] * x, Tape(noise))
    pair = "Ancestral() = diffusers EulerAncestralDiscreteScheduler"
    agree(pair, "own levels, linspace; shared draws", found, theirs, SINGLE)


def test_singlestep_of_order_two_is_ours_where_its_stages_are_midpoints(peer, x, agree):
    """It alternates a stage and a step on one grid: ours takes every second of log-even levels."""
    options = {"use_exponential_sigmas": True, "solver_order": 2}
    scheduler = scheduler_of(peer, "DPMSolverSinglestepScheduler", PRESERVING, options, steps=21)
    levels = scheduler.sigmas.double().tolist()
    theirs = diffusers_ends(scheduler, PRESERVING, levels[0] * x)
    found = ours(Singlestep(), [*levels[:-1:2], 0.0], levels[0] * x)
    pair = "Singlestep() = diffusers DPMSolverSinglestepScheduler(solver_order=2)"
    agree(pair, "own levels, exponential, 21 calls", found, theirs, SINGLE)


# --- chains on a table of betas ------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
@pytest.mark.parametrize(
    ("theirs", "solver"),
    [("fixed_small", Ancestral()), ("fixed_large", Ancestral(variance="large"))],
    ids=str,
)
def test_ddpm_with_fixed_variances_is_ours(peer, x, agree, theirs, solver, spacing):
    noise = draws(50, x)
    scheduler = chain(peer, "DDPMScheduler", 50, variance_type=theirs, timestep_spacing=spacing)
    grid = grids.discrete(TABLE, steps=50, spacing=spacing)
    found = chain_of_ours(solver, grid, x, noise)
    pair = f"{title(solver)} = diffusers DDPMScheduler({theirs})"
    theirs = chain_ends(scheduler, x, noise)
    agree(pair, f"float64 table, {spacing}, 50 of 1000; shared draws", found, theirs, 1e-11)


def test_ddpm_on_trailing_times_is_ours(peer, x, agree):
    """They clamp the last variance at 1e-20 and draw with it: 1e-10 of noise in the result."""
    noise = draws(50, x)
    scheduler = chain(peer, "DDPMScheduler", 50, timestep_spacing="trailing")
    found = chain_of_ours(Ancestral(), grids.discrete(TABLE, steps=50), x, noise)
    pair = "Ancestral() = diffusers DDPMScheduler(fixed_small)"
    theirs = chain_ends(scheduler, x, noise)
    agree(pair, "float64 table, trailing, 50 of 1000; shared draws", found, theirs, 1e-9)


def test_ddpm_with_a_learned_range_is_ours(peer, x, agree):
    noise = draws(50, x)
    v = torch.linspace(-1, 1, 8, dtype=torch.float64)
    scheduler = chain(
        peer, "DDPMScheduler", 50, variance_type="learned_range", timestep_spacing="leading"
    )
    grid = grids.discrete(TABLE, steps=50, spacing="leading")
    found = chain_of_ours(Ancestral(variance="learned"), grid, x, noise, v)
    pair = "Ancestral(variance=learned) = diffusers DDPMScheduler(learned_range)"
    theirs = chain_ends(scheduler, x, noise, v)
    agree(pair, "float64 table, leading, 50 of 1000; shared draws", found, theirs, 1e-11)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_ours_where_its_steps_end_at_its_next_time(peer, x, agree, eta):
    noise = draws(50, x)
    scheduler = chain(peer, "DDIMScheduler", 50)
    grid = grids.discrete(TABLE, steps=50, spacing="leading")
    found = chain_of_ours(DDIM(eta=eta), grid, x, noise)
    pair = f"DDIM(eta={eta}) = diffusers DDIMScheduler"
    theirs = chain_ends(scheduler, x, noise, eta=eta)
    agree(pair, "float64 table, leading, 50 of 1000; shared draws", found, theirs, 1e-11)


# --- processes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_euler_is_ddim_on_our_flow(peer, x, agree, shift):
    scheduler = peer.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[1 - i / STEPS for i in range(STEPS)])
    y = x
    for now, t in zip(scheduler.sigmas.tolist(), scheduler.timesteps, strict=False):
        velocity = (y - WORLD.x0(y, 1 - now, now)) / now
        y = scheduler.step(velocity, t, y).prev_sample
    process = schedules.flow(shift=shift)
    grid = grids.uniform_time(process, steps=STEPS)
    found = sample(WORLD.denoiser(process), grid, DDIM(), x, Noise(range(len(x))))
    pair = f"DDIM() on flow(shift={shift:g}) = diffusers FlowMatchEulerDiscreteScheduler"
    agree(pair, "20 even times from pure noise", found, y, SINGLE)


@pytest.mark.parametrize(
    ("name", "path", "options", "nodes"),
    [
        ("beta_table()", schedules.beta_table(), {"beta_schedule": "linear"}, 1000),
        (
            "beta_table(shape=sqrt_linear)",
            schedules.beta_table(shape="sqrt_linear", beta_start=0.00085, beta_end=0.012),
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
            1000,
        ),
        # The last of their cosine betas is clipped; our process ends where that beta is reached.
        ("vp_cosine()", schedules.vp_cosine(), {"beta_schedule": "squaredcos_cap_v2"}, 999),
        (
            "beta_table(zero_terminal_snr=True)",
            schedules.beta_table(zero_terminal_snr=True),
            {"rescale_betas_zero_snr": True},
            1000,
        ),
    ],
    ids=str,
)
def test_processes_are_theirs_at_the_nodes(peer, agree, name, path, options, nodes):
    at = torch.arange(1, nodes + 1, dtype=torch.float64) / 1000
    theirs = peer.DDIMScheduler(**options).alphas_cumprod[:nodes].double().sqrt()
    told = ", ".join(f"{key}={value}" for key, value in options.items())
    found = path.alpha_sigma(at)[0]
    agree(f"{name} = diffusers DDIMScheduler({told})", "alpha at the nodes", found, theirs, 1e-6)


def test_a_wrong_order_would_be_noticed(peer, x):
    """The comparison has teeth: order 2 against order 1 is far outside float32's rounding."""
    scheduler = scheduler_of(peer, PP, PRESERVING, {"solver_order": 2})
    levels = own_levels(scheduler)
    theirs = diffusers_ends(scheduler, PRESERVING, levels[0] * x)
    found = ours(Multistep(order=1), levels, levels[0] * x)
    assert float((found - theirs).abs().max()) > 1000 * SINGLE
