"""Where other libraries' samplers are not what they say, measured beside ours.

Each test fails, and the page `core/PARITY.md` is then wrong, when a peer is mended or ours breaks.
Orders are least-squares slopes of the median error over a batch, against scipy's DOP853.
"""

import math

import pytest
import torch
from peers import (
    EDM,
    PRESERVING,
    TABLE,
    WORLD,
    Tape,
    chain,
    chain_ends,
    chain_of_ours,
    diffusers,
    diffusers_ends,
    draws,
    gaussian,
    k_diffusion,
    k_ends,
    karras_levels,
    median_distance,
    on_levels,
    ours,
    reference,
    starts,
)

from core.process.noise import Noise
from core.process.schedules import edm
from core.sampler import grids
from core.sampler.adaptive import DormandPrince
from core.sampler.ancestral import DDIM, Ancestral
from core.sampler.exponential import Multistep, Singlestep
from core.sampler.sample import sample
from core.sampler.unipc import UniPC
from core.testing.orders import slope

pytestmark = pytest.mark.parity

STEPS = (128, 256, 512)


@pytest.fixture(scope="module")
def k():
    return k_diffusion()


@pytest.fixture(scope="module")
def hf():
    return diffusers()


@pytest.fixture(scope="module")
def problem():
    """Starts at sigma 80, and where the ODE takes them to sigma 0.002."""
    x = starts(32, 80.0)
    return x, reference(x, 80.0, 0.002)


def trajectory_errors(ends, problem, steps=STEPS):
    """Median error after so many steps on a Karras grid that does not end clean."""
    x, exact = problem
    return [median_distance(ends(karras_levels(n), x), exact) for n in steps]


def shown(errors, steps=STEPS):
    each = ", ".join(f"{n}: {error:.1e}" for n, error in zip(steps, errors, strict=True))
    return f"{each}; slope {slope(steps, errors):.2f}"


FINAL = {"final_sigmas_type": "sigma_min", "lower_order_final": False}


def test_third_order_multistep_of_peers_is_of_order_two_and_ours_of_order_three(
    k, hf, problem, note
):
    """They use h^2 x0'' where the exponential integral wants h^2 x0'' / 2."""

    def edm_scheduler(levels, x):
        scheduler = hf.EDMDPMSolverMultistepScheduler(solver_order=3, **FINAL)
        return diffusers_ends(on_levels(scheduler, levels), EDM, x)

    theirs = trajectory_errors(
        lambda levels, x: k_ends(k.sample_dpmpp_3m_sde, levels, x, eta=0.0), problem
    )
    others = trajectory_errors(edm_scheduler, problem)
    found = trajectory_errors(lambda levels, x: ours(Multistep(order=3), levels, x), problem)
    note("k-diffusion sample_dpmpp_3m_sde(eta=0)", shown(theirs))
    note("diffusers EDMDPMSolverMultistepScheduler(solver_order=3)", shown(others))
    note("Multistep(order=3)", shown(found))
    assert slope(STEPS, theirs) < 2.1
    assert slope(STEPS, others) < 2.1
    assert slope(STEPS, found) > 2.85
    assert found[-1] < theirs[-1] / 5


def test_deis_of_order_three_gets_worse_with_more_steps_in_float32_and_ours_does_not(
    hf, problem, note
):
    """Its closed-form coefficients cancel in its float32 table; in float64 they are ours."""

    def deis(dtype):
        def ends(levels, x):
            scheduler = hf.DEISMultistepScheduler(
                solver_order=3, prediction_type="sample", lower_order_final=False
            )
            on_levels(scheduler, levels).sigmas = levels.to(dtype)
            return diffusers_ends(scheduler, PRESERVING, x)

        return ends

    single = trajectory_errors(deis(torch.float32), problem)
    found = trajectory_errors(
        lambda levels, x: ours(Multistep(order=3, prediction="eps"), levels, x), problem
    )
    note("diffusers DEISMultistepScheduler(solver_order=3), its float32", shown(single))
    note("Multistep(order=3, prediction=eps)", shown(found))
    assert single[-1] > single[0]
    assert slope(STEPS, found) > 2.85


# --- stochastic, exactly: on a Gaussian every step is affine, and responses to draws add up -------

NARROW = gaussian()


def impulses(count):
    """A start for the last sample, and a unit at draw i for sample i."""
    start = torch.zeros(count + 1, 1, dtype=torch.float64)
    start[-1] = math.sqrt(80.0**2 + 0.25)
    units = [torch.zeros(count + 1, 1, dtype=torch.float64) for _ in range(count)]
    for number, unit in enumerate(units):
        unit[number] = 1
    return start, units


def variance_error(responses):
    exact = 0.25 + 0.002**2
    return abs(float(responses.double().square().sum()) / exact - 1)


def test_third_order_sde_scheduler_has_a_wrong_sign_and_loses_an_order(k, hf, note):
    steps = (64, 128, 256, 512)

    def scheduler_ends(levels, x, units):
        options = {"algorithm_type": "sde-dpmsolver++", "prediction_type": "sample"}
        scheduler = hf.DPMSolverMultistepScheduler(solver_order=3, **options, **FINAL)
        return diffusers_ends(on_levels(scheduler, levels), PRESERVING, x, units, world=NARROW)

    def k_steps(levels, x, units):
        tape = Tape(units)
        return k_ends(
            k.sample_dpmpp_3m_sde, levels, x, NARROW, noise_sampler=lambda a, b: tape.like(x)
        )

    def our_steps(levels, x, units):
        return ours(Multistep(order=3, eta=1.0), levels, x, Tape(units), world=NARROW)

    found = {
        run: [variance_error(run(karras_levels(n), *impulses(n))) for n in steps]
        for run in (scheduler_ends, k_steps, our_steps)
    }
    theirs, others, mine = found.values()
    note(
        "diffusers DPMSolverMultistepScheduler(sde-dpmsolver++, 3), variance", shown(theirs, steps)
    )
    note("k-diffusion sample_dpmpp_3m_sde(eta=1), variance", shown(others, steps))
    note("Multistep(order=3, eta=1), variance", shown(mine, steps))
    assert slope(steps, theirs) < 1.3
    assert slope(steps[-3:], mine[-3:]) > 1.6
    assert mine[-1] < others[-1] < theirs[-1] / 10
    assert mine[-1] < theirs[-1] / 50


def test_the_brownian_clock_of_two_stage_sde_is_another_than_ours_and_keeps_the_order(k, note):
    """Their path runs in sigma; the noise of x / sigma grows with 1 / sigma^2.

    Two independent draws a step stand for the increments over its halves; a peer's whole step gets
    what its clock makes of them.
    """
    steps = (32, 64, 128, 256)

    def clocked(clock):
        def run(n):
            levels = karras_levels(n)
            x, units = impulses(2 * n)
            halves = iter(units)
            kept = []

            def increment(now, then):
                now, then = float(now), float(then)
                if not kept:  # to the middle of the step, which is even in log sigma
                    kept.append((next(halves), abs(clock(now) - clock(then)), then))
                    return kept[0][0]
                (first, length, middle) = kept.pop()
                rest = abs(clock(middle) - clock(then))
                return (math.sqrt(length) * first + math.sqrt(rest) * next(halves)) / math.sqrt(
                    length + rest
                )

            ends = k_ends(k.sample_dpmpp_sde, levels, x, NARROW, eta=1.0, noise_sampler=increment)
            return variance_error(ends)

        return [run(n) for n in steps]

    theirs, right = clocked(lambda sigma: sigma), clocked(lambda sigma: sigma**-2)
    mine = [
        variance_error(ours(Singlestep(eta=1.0), karras_levels(n), x, Tape(units), world=NARROW))
        for n, (x, units) in ((n, impulses(2 * n)) for n in steps)
    ]
    note("k-diffusion sample_dpmpp_sde, variance, its clock", shown(theirs, steps))
    note("k-diffusion sample_dpmpp_sde, variance, clock of log-SNR", shown(right, steps))
    note("Singlestep(eta=1), variance", shown(mine, steps))
    assert slope(steps, mine) > 1.8
    assert right == pytest.approx(mine, rel=1e-6)
    assert slope(steps, theirs) > 1.8
    assert theirs != pytest.approx(mine, rel=0.1)


# --- times, ends ---------------------------------------------------------------------------------


def test_ddim_on_trailing_times_steps_past_its_next_time(hf, note):
    """Its step ends at t - 1000 // n, not where the next one begins; the error grows with n."""
    steps = (8, 32, 64, 128, 256)
    x = starts(32, 1.0)
    alpha, sigma = map(float, TABLE.alpha_sigma(torch.tensor(1.0, dtype=torch.float64)))
    exact = reference(x / alpha, sigma / alpha, 1e-4)
    theirs, mine = [], []
    for n in steps:
        scheduler = chain(hf, "DDIMScheduler", n, timestep_spacing="trailing")
        theirs.append(median_distance(chain_ends(scheduler, x, []), exact))
        grid = grids.discrete(TABLE, steps=n, spacing="trailing")
        mine.append(median_distance(chain_of_ours(DDIM(), grid, x, []), exact))
    note("diffusers DDIMScheduler(trailing)", shown(theirs, steps))
    note("DDIM() on discrete(trailing)", shown(mine, steps))
    assert theirs[-1] > 2 * theirs[2]
    assert mine == sorted(mine, reverse=True)
    assert mine[-1] < theirs[-1] / 5


def test_ddpm_with_large_variance_leaves_noise_in_the_clean_sample(hf, note):
    """On trailing times its last step still draws, with the forward variance of that step."""
    x, noise = starts(32, 1.0), draws(50, starts(32, 1.0))
    scheduler = chain(
        hf, "DDPMScheduler", 50, variance_type="fixed_large", timestep_spacing="trailing"
    )
    theirs = chain_ends(scheduler, x, noise)
    grid = grids.discrete(TABLE, steps=50)
    mine = chain_of_ours(Ancestral(variance="large"), grid, x, noise)
    last = 1 - float(scheduler.alphas_cumprod[scheduler.timesteps[-1]])
    added = (theirs - mine) / math.sqrt(last)
    note(
        "diffusers DDPMScheduler(fixed_large, trailing)",
        f"noise of deviation {math.sqrt(last):.3f} in x0, 50 steps",
    )
    assert (added - noise[-1]).abs().max() < 1e-6


def scheduler_on_its_levels(hf, name, steps=20, **options):
    scheduler = getattr(hf, name)(prediction_type="sample", **options)
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize(
    ("name", "options", "solver"),
    [
        ("UniPCMultistepScheduler", {"solver_type": "bh1"}, UniPC(variant="bh1")),
        (
            "UniPCMultistepScheduler",
            {"solver_order": 3, "use_karras_sigmas": True, **FINAL},
            UniPC(order=3),
        ),
        (
            "DPMSolverMultistepScheduler",
            {"solver_order": 3, "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
            Multistep(order=3),
        ),
    ],
    ids=str,
)
def test_schedulers_that_end_in_no_number(hf, note, name, options, solver):
    """A step of infinite or of no length: B(h) is infinite, or the last level is repeated."""
    scheduler = scheduler_on_its_levels(hf, name, **options)
    levels = scheduler.sigmas.double().tolist()
    x = starts(8, levels[0])
    theirs = diffusers_ends(scheduler, PRESERVING, x)
    told = ", ".join(f"{key}={value}" for key, value in options.items())
    note(
        f"diffusers {name}({told})",
        f"{float(theirs.isnan().double().mean()):.0%} of values are NaN",
    )
    falling = [level for i, level in enumerate(levels) if i == 0 or level < levels[i - 1]]
    assert theirs.isnan().any()
    assert ours(solver, falling, x).isfinite().all()


def test_karras_levels_of_a_cosine_schedule_run_out_of_steps(hf, note):
    scheduler = scheduler_on_its_levels(
        hf,
        "DPMSolverMultistepScheduler",
        beta_schedule="squaredcos_cap_v2",
        use_karras_sigmas=True,
    )
    with pytest.raises(IndexError):
        diffusers_ends(scheduler, PRESERVING, starts(2, float(scheduler.sigmas[0])))
    note("diffusers DPMSolverMultistepScheduler(squaredcos_cap_v2, karras)", "IndexError")


def test_an_adaptive_sample_of_theirs_depends_on_its_batch_and_ours_does_not(k, note):
    x = starts(16, 80.0)

    def adaptive(x):
        return k.sample_dpm_adaptive(
            lambda y, sigma: WORLD.x0(y, torch.ones_like(sigma), sigma),
            x,
            0.002,
            80.0,
            disable=True,
        )

    process = edm()
    grid = torch.tensor([80.0, 0.002], dtype=torch.float64)

    def dopri(x):
        noise = Noise(range(len(x)))
        return sample(WORLD.denoiser(process), grid, DormandPrince(), x, noise)

    theirs = float((adaptive(x)[:1] - adaptive(x[:1])).abs().max())
    note(
        "k-diffusion sample_dpm_adaptive",
        f"a sample alone and in a batch of 16 differ by {theirs:.1e}",
    )
    assert theirs > 1e-4
    found = float((dopri(x)[:1] - dopri(x[:1])).abs().max())
    note("DormandPrince", f"by {found:.1e}")
    assert found < 1e-12  # rounding of elementary functions at other places of a vector
