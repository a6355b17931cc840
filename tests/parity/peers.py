"""Samplers of other libraries, and ours, on one world with a closed-form denoiser.

Levels are sigma of x = x0 + sigma eps, falling, the last one 0 or not; every end point is compared
in those coordinates.
"""

import importlib
import importlib.util
import math
import sys
import types
from collections.abc import Iterable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import cache
from importlib import metadata
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.process.noise import Noise
from core.process.schedules import beta_table, edm
from core.sampler.sample import sample

SAYS = {"prediction_type": "sample"}
INSTALL = "needs the parity extra: run `make parity`"


@dataclass(frozen=True)
class World:
    """A mixture of Gaussians with diagonal covariances, in float64.

    Args:
        means: (k, d).
        variances: (k, d).
        weights: (k,), summing to one.
    """

    means: Tensor
    variances: Tensor
    weights: Tensor

    def x0(self, x, alpha, sigma):
        """E[x0 | x = alpha x0 + sigma eps]; alpha and sigma are numbers, or tensors (b, 1)."""
        x = x.double()[:, None]
        alpha, sigma = (
            torch.as_tensor(value, dtype=torch.float64).reshape(-1, 1, 1)
            for value in (alpha, sigma)
        )
        total = alpha**2 * self.variances + sigma**2
        apart = x - alpha * self.means
        log_p = self.weights.log() - (apart**2 / total + total.log()).sum(-1) / 2
        each = self.means + alpha * self.variances / total * apart
        return (log_p.softmax(1)[..., None] * each).sum(1)

    def denoiser(self, process):
        """Our denoiser: (x, t, condition) -> Prediction(x0)."""

        def predict(x, t, condition=None):
            return Prediction(self.x0(x, *process.alpha_sigma(t)).to(x))

        return FunctionDenoiser(process, predict)


def mixture(components=5, size=8, seed=0):
    """Components a few deviations apart, so that trajectories bend but seldom switch."""
    draw = torch.Generator().manual_seed(seed)
    means = torch.randn(components, size, generator=draw, dtype=torch.float64)
    deviations = 0.1 + 0.4 * torch.rand(components, size, generator=draw, dtype=torch.float64)
    weights = torch.rand(components, generator=draw, dtype=torch.float64) + 0.5
    return World(means, deviations**2, weights / weights.sum())


def gaussian(variance=0.25):
    """One component in one dimension: every step of a sampler is affine."""
    one = torch.ones(1, 1, dtype=torch.float64)
    return World(0 * one, variance * one, one[0])


WORLD = mixture()


def starts(count, level, size=8, seed=1):
    """X at the noisy end, where the data hardly show."""
    draw = torch.Generator().manual_seed(seed)
    return level * torch.randn(count, size, generator=draw, dtype=torch.float64)


class Tape:
    """Draws made beforehand, played to both sides in the same order."""

    def __init__(self, draws: Iterable[Tensor]) -> None:
        self._draws = iter(draws)

    def like(self, x):
        return next(self._draws).to(x)

    def between(self, x, start, end):
        return self.like(x)


def draws(count, x, seed=2):
    noise = Noise.of(seed, each=range(len(x)))
    return [noise.like(x) for _ in range(count)]


@contextmanager
def quiet_math():
    """Peers take logarithms of 0 on purpose; numpy's warnings about it say nothing."""
    numpy = importlib.import_module("numpy")
    with numpy.errstate(all="ignore"):
        yield


# --- ours ----------------------------------------------------------------------------------------


def ours(solver, levels, x, noise=None, world=WORLD):
    """Where our solver ends on these levels."""
    process = edm(sigma_min=1e-9, sigma_max=1e6)
    grid = torch.as_tensor(levels, dtype=torch.float64)
    return sample(world.denoiser(process), grid, solver, x, noise or Noise(range(len(x))))


# --- k-diffusion ---------------------------------------------------------------------------------


@cache
def k_diffusion():
    """Its module of samplers alone: the package's own start wants torchvision, CLIP and wandb."""
    try:
        package = Path(str(metadata.distribution("k-diffusion").locate_file("k_diffusion")))
    except metadata.PackageNotFoundError:
        pytest.skip(f"k-diffusion {INSTALL}")
    for wanted in ("torchsde", "torchdiffeq", "scipy", "tqdm"):
        pytest.importorskip(wanted, reason=f"k-diffusion {INSTALL}")
    bare = types.ModuleType("k_diffusion")
    bare.__path__ = [str(package)]
    stubs = {"k_diffusion": bare}
    if importlib.util.find_spec("torchvision") is None:
        names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
        stubs |= {name: types.ModuleType(name) for name in names}
        stubs[names[1]].functional = stubs[names[2]]
    sys.modules.update(stubs)
    try:
        return importlib.import_module("k_diffusion.sampling")
    finally:  # others ask whether torchvision is there
        for name in [*stubs, "k_diffusion.sampling", "k_diffusion.utils"]:
            sys.modules.pop(name, None)


def k_model(world=WORLD):
    """Its kind of model: (x, sigma) -> x0."""
    return lambda x, sigma: world.x0(x, torch.ones_like(sigma), sigma).to(x)


def k_ends(sampler, levels, x, world=WORLD, **options):
    """Where a sampler of k-diffusion ends on these levels."""
    grid = torch.as_tensor(levels, dtype=torch.float64)
    return sampler(k_model(world), x, grid, disable=True, **options)


# --- azula and skrample ---------------------------------------------------------------------------


def azula():
    """Its samplers, if it is installed."""
    return pytest.importorskip("azula.sample", reason=f"azula {INSTALL}")


def azula_ends(name, levels, x, world=WORLD, **options):
    """Where a sampler of azula ends on these levels: its time is sigma here."""
    kind = getattr(azula(), name)
    levels = torch.as_tensor(levels, dtype=torch.float64)

    class Model:
        @staticmethod
        def schedule(t):
            return torch.ones_like(t), t

        def __call__(self, x, t):
            return types.SimpleNamespace(mean=world.x0(x, 1.0, t).to(x))

    on = type(name, (kind,), {"timesteps": levels})  # in place of its even times
    return on(Model(), steps=len(levels) - 1, silent=True, **options)(x)


def skrample():
    """The package's samplers, if it is installed; it needs Python 3.12."""
    return pytest.importorskip("skrample.sampling.structured", reason=f"skrample {INSTALL}")


def skrample_ends(name, levels, x, world=WORLD, *, noise=False, **options):
    """Where a sampler of skrample ends on these levels, computing on eps if `noise`."""
    structured = skrample()
    models = importlib.import_module("skrample.sampling.models")
    scheduling = importlib.import_module("skrample.scheduling")
    numpy = importlib.import_module("numpy")
    table = numpy.asarray(levels, dtype=numpy.float64)
    count = len(table) - 1

    class On(scheduling.SkrampleSchedule):
        space = None

        def _points(self, t):  # 1 is the first level
            sigma = table[numpy.rint((1 - numpy.asarray(t)) * count).astype(int)]
            return numpy.stack([sigma, sigma, numpy.ones_like(sigma)], axis=1)

    transform = models.NoiseModel() if noise else models.DataModel()
    sampler = getattr(structured, name)(derivative_transform=transform, **options)
    step_of = importlib.import_module("skrample.common").Step
    schedule, previous = On(), []
    for i in range(count):
        x0 = world.x0(x, 1.0, float(table[i])).to(x)
        step = step_of.from_int(i, count)
        found = sampler.sample(x, x0, step, models.DataModel(), schedule, previous=previous)
        previous = (
            [*previous, found][-sampler.require_previous :] if sampler.require_previous else []
        )
        x = found.final
    return x


# --- diffusers -----------------------------------------------------------------------------------


def diffusers():
    """The package, if it is installed."""
    return pytest.importorskip("diffusers", reason=f"diffusers {INSTALL}")


@dataclass(frozen=True)
class Kind:
    """How a scheduler of diffusers sees x and the model.

    Args:
        preserving: x is scaled to unit variance, alpha = 1 / sqrt(1 + sigma^2).
        says: what its model is asked for.
    """

    preserving: bool
    says: str


EXPLODING = Kind(False, "epsilon")
PRESERVING = Kind(True, "sample")
EDM = Kind(False, "edm")


def level_of(scheduler):
    """Sigma at which it asks its model next."""
    index = scheduler.step_index
    if not getattr(scheduler, "state_in_first_order", True) and hasattr(
        scheduler, "sigmas_interpol"
    ):
        return float(scheduler.sigmas_interpol[index])
    return float(scheduler.sigmas[index])


def said(kind, scheduler, x, x0, sigma):
    """What its model would have said where the clean sample is x0."""
    if kind.says == "epsilon":
        return (x - x0) / sigma
    if kind.says == "sample":
        return x0
    data = scheduler.config.sigma_data
    whole = math.hypot(sigma, data)
    return (x0 - (data / whole) ** 2 * x) * whole / (sigma * data)


def _heard(tape):
    """Their source of noise, which is told a shape and a dtype."""
    return lambda shape, **rest: tape.like(torch.empty(0, dtype=rest["dtype"]))


def diffusers_ends(scheduler, kind, x, noise=None, world=WORLD):
    """Where a scheduler ends from x (scaled as for sigma alone); its steps are set already.

    The model is asked at the scheduler's own sigma, not at its rounded integer time.
    """
    first, last = float(scheduler.sigmas[0]), float(scheduler.sigmas[-1])
    module = sys.modules[type(scheduler).__module__]
    tape = Tape(noise or [])
    patched = nullcontext()
    if hasattr(module, "randn_tensor"):
        patched = mock.patch.object(module, "randn_tensor", _heard(tape))
    if kind.preserving:
        x = x / math.hypot(1, first)
    with patched, quiet_math(), torch.no_grad():
        for t in scheduler.timesteps:
            if scheduler.step_index is None:
                scheduler._init_step_index(t)
            if hasattr(scheduler, "is_scale_input_called"):
                scheduler.is_scale_input_called = True
            sigma = level_of(scheduler)
            clean = x * math.hypot(1, sigma) if kind.preserving else x
            x0 = world.x0(clean, 1.0, sigma).to(x)
            x = scheduler.step(said(kind, scheduler, x, x0, sigma), t, x).prev_sample
    return x * math.hypot(1, last) if kind.preserving else x


# --- chains on a table of betas, in diffusers and here -------------------------------------------

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
TABLE = beta_table(steps=1000, beta_start=1e-4, beta_end=0.02)


def chain(peer, name, steps, **options):
    """A scheduler on a float64 table."""
    scheduler = getattr(peer, name)(clip_sample=False, **SAYS, **options)
    scheduler.alphas_cumprod = torch.cumprod(1 - BETAS, 0)
    one = torch.ones((), dtype=torch.float64)
    scheduler.one = scheduler.final_alpha_cumprod = one
    scheduler.set_timesteps(steps)
    return scheduler


def chain_ends(scheduler, x, noise, v=None, **options):
    tape, module = Tape(noise), sys.modules[type(scheduler).__module__]
    with mock.patch.object(module, "randn_tensor", _heard(tape)):
        for t in scheduler.timesteps:
            kept = scheduler.alphas_cumprod[t]
            said = WORLD.x0(x, kept.sqrt(), (1 - kept).sqrt())
            if v is not None:
                said = torch.cat([said, v.expand_as(x)], dim=1)
            x = scheduler.step(said, t, x, **options).prev_sample
    return x


def chain_of_ours(solver, grid, x, noise, v=None):
    def predict(x, t, condition=None):
        fraction = None if v is None else ((v + 1) / 2).expand_as(x)
        return Prediction(WORLD.denoiser(TABLE)(x, t).x0, fraction)

    return sample(FunctionDenoiser(TABLE, predict), grid, solver, x, Tape(noise))


def own_levels(scheduler):
    """The levels at which a scheduler's steps end, those of inner stages left out."""
    levels = scheduler.sigmas.double().tolist()
    return [level for i, level in enumerate(levels) if i == 0 or level != levels[i - 1]]


def on_levels(scheduler, levels):
    """The scheduler, made to run on these levels in float64 instead of its own float32 table."""
    count = len(levels) - 1
    scheduler.set_timesteps(count)
    scheduler.sigmas = torch.as_tensor(levels, dtype=torch.float64)
    scheduler.timesteps = torch.arange(count, 0, -1).float()
    return scheduler


def reference(x, first, last, world=WORLD):
    """Where the probability-flow ODE leads, by scipy's DOP853 at a tolerance of 1e-12.

    In the angle theta = atan(sigma), where dz/dtheta = (cos z - x0) / sin for z = cos x.
    """
    integrate = pytest.importorskip("scipy.integrate", reason=f"scipy {INSTALL}")

    def slope(theta, z):
        z, cos, sin = torch.from_numpy(z).reshape(x.shape), math.cos(theta), math.sin(theta)
        return ((cos * z - world.x0(z / cos, 1.0, sin / cos)) / sin).flatten().numpy()

    span = (math.atan(first), math.atan(last))
    z = (x * math.cos(span[0])).flatten().numpy()
    found = integrate.solve_ivp(slope, span, z, method="DOP853", rtol=1e-12, atol=1e-12)
    return torch.from_numpy(found.y[:, -1]).reshape(x.shape) / math.cos(span[1])


def karras_levels(steps, low=0.002, high=80.0, rho=7.0):
    """`steps` + 1 levels, evenly spaced in their seventh root (Karras et al. 2022, eq. 5)."""
    ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def with_zero(levels):
    return torch.cat([levels, levels.new_zeros(1)])


def median_distance(a, b):
    """Median over the batch: a few trajectories pass close to a watershed, and tell of nothing."""
    return float((a.double() - b).norm(dim=1).median())


def title(solver):
    """Its name and the options that are not the defaults."""
    unlike = [f for f in fields(solver) if getattr(solver, f.name) != f.default]
    told = ", ".join(f"{f.name}={getattr(solver, f.name)}" for f in unlike)
    return f"{type(solver).__name__}({told})"


def difference(a, b):
    """Largest difference, relative to the largest value."""
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())
