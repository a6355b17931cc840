"""Do two networks give a picture the same latent?  Correlations, printed.

The probability-flow ODE encodes data uniquely given the score, so networks of different
architecture that learned the same data should agree on the latent of a picture, even of one they
never saw (Song et al. 2021, arXiv:2011.13456, section 4.3).

pytest tests/benchmarks/bench_encodings.py -m benchmark -s
python tests/benchmarks/bench_encodings.py --steps 2800
"""

import argparse
import math
import time
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from core.denoiser.parameterization import FunctionDenoiser, NetworkDenoiser, Prediction
from core.denoiser.parameterization import edm as says_edm
from core.network.ema import ExponentialAverage
from core.network.embedding import LevelEmbedding
from core.network.unet import UNet
from core.objective.denoising import Denoising
from core.objective.times import SampledTimes
from core.objective.weighting import edm as weighs_edm
from core.process.noise import Noise, derive
from core.process.schedules import edm
from core.sampler.grids import karras
from core.sampler.runge_kutta import Heun
from core.sampler.sample import encode, sample

pytestmark = pytest.mark.benchmark

# Latents are of digits with noise of 0.1, some 2 of their 17 levels of grey: without it most pixels
# of the border would be constant, and their latents tell of nothing but rounding.
PROCESS = edm(sigma_min=0.1, sigma_max=80.0)
HELD_OUT = 297
STEPS = 2800


class PixelMixer(nn.Module):
    """All pixels at once through residual layers: no convolution, no notion of neighbours."""

    def __init__(self, *, pixels: int = 64, width: int = 320, blocks: int = 4) -> None:
        super().__init__()
        self.level = LevelEmbedding(64, width)
        self.enter = nn.Linear(pixels, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.told = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.wide = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.back = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(blocks))
        self.leave = nn.Linear(width, pixels)
        for layer in [*self.back, self.leave]:
            nn.init.zeros_(layer.weight)

    def forward(self, x, level, condition=None):
        told = nn.functional.silu(self.level(level))
        h = self.enter(x.flatten(1))
        for norm, tell, wide, back in zip(self.norms, self.told, self.wide, self.back, strict=True):
            h = h + back(nn.functional.silu(wide(norm(h) + tell(told))))
        return self.leave(h).reshape(x.shape)


def unet() -> UNet:
    return UNet(1, 1, {}, width=24, multipliers=(1, 2), blocks=1, attention=(2,), head_channels=24)


def seeded(make, seed):
    """A network whose first weights depend on its seed alone."""
    network, draw = make(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim > 1 and bool(parameter.any()):  # layers begun at zero stay
                bound = 1 / math.sqrt(parameter[0].numel())
                parameter.uniform_(-bound, bound, generator=draw)
    return network


class Digits(NamedTuple):
    """Pictures (n, 1, 8, 8) in [-1, 1]."""

    train: Tensor
    test: Tensor
    std: float


def digits() -> Digits:
    datasets = pytest.importorskip("sklearn.datasets", reason="needs the parity extra")
    pictures = torch.from_numpy(datasets.load_digits().images).float()[:, None] / 8 - 1
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    pictures = pictures[order]
    return Digits(pictures[HELD_OUT:], pictures[:HELD_OUT], float(pictures.std()))


def evenly_in_log_sigma(process, weighting, noise) -> SampledTimes:
    """Training times: an encoding passes every level alike.

    With more weight on low levels the mean agreement rises a little, and a few pictures' latents
    are lost altogether.
    """
    share = noise.uniform()
    t = process.t_first * (process.t_max / process.t_first) ** share
    return SampledTimes(t, torch.ones_like(t))


def bent(pictures: Tensor, *keys) -> Tensor:
    """Each turned, sheared, scaled and shifted a little: 1,500 digits alone are learned by heart.

    A network that knows its data by heart has another score than one that knows their like.
    """
    draw = torch.Generator().manual_seed(derive("bent", *keys))
    eye = torch.eye(2, 3).expand(len(pictures), 2, 3)
    # A deviation of 0.12 for the matrix, and of as much of half the width for the shift.
    maps = eye + 0.12 * torch.randn(len(pictures), 2, 3, generator=draw)
    at = nn.functional.affine_grid(maps, list(pictures.shape), align_corners=False)
    return nn.functional.grid_sample(pictures + 1, at, align_corners=False) - 1


def learn(make, data: Digits, *, seed: int, steps: int, batch: int = 64, lr: float = 2e-3):
    """The averaged network after `steps`, and the seconds of a processor it took."""
    network = seeded(make, seed)
    objective = Denoising(
        PROCESS, says_edm(data_std=data.std), weighs_edm(data_std=data.std),
        evenly_in_log_sigma,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=1e-4)
    average, start = ExponentialAverage(network, 0.999), time.process_time()
    for step in range(steps):
        chosen = torch.randint(
            len(data.train), (batch,), generator=torch.Generator().manual_seed(derive(seed, step))
        )
        noise = Noise.of(seed, step, each=range(batch))
        x0 = bent(data.train[chosen], seed, step)
        t, weight, eps = objective.draw(x0, noise)
        loss = (weight * objective.loss(network, x0, t, eps)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        warm = min(1.0, (step + 1) / 200)
        for group in optimizer.param_groups:
            group["lr"] = lr * warm * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.step()
        average.update(network, step)
    network.load_state_dict(average.weights)
    return network.eval(), time.process_time() - start


def linear_denoiser(data: Digits):
    """E[x0 | x] if the digits were one Gaussian: all that mean and covariance tell."""
    x = torch.cat([bent(data.train, "fit", turn) for turn in range(20)]).flatten(1).double()
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh((x - mean).T.cov())

    def predict(x, t, condition=None):
        z = (x.flatten(1).double() - mean) @ vectors
        gain = values / (values + t.double()[:, None] ** 2)
        return Prediction((mean + (gain * z) @ vectors.T).reshape(x.shape).to(x))

    return FunctionDenoiser(PROCESS, predict)


def latents(denoise, x0, steps=60):
    """The noise ends, scaled to deviation 1, and the largest error of the way back."""
    grid = karras(PROCESS, steps=steps, sigma_min=PROCESS.t_first)[:-1]
    z = encode(denoise, grid, Heun(), x0)
    back = sample(denoise, grid, Heun(), z, Noise(range(len(x0))))
    return z.flatten(1).double() / PROCESS.t_max, float((back - x0).abs().max())


def pearson(a: Tensor, b: Tensor, axis: int) -> Tensor:
    a, b = a - a.mean(axis, keepdim=True), b - b.mean(axis, keepdim=True)
    return (a * b).sum(axis) / (a.norm(dim=axis) * b.norm(dim=axis))


class Agreement(NamedTuple):
    """Pearson correlations of two sets of latents (n, d)."""

    samples: Tensor
    dimensions: Tensor

    def __str__(self) -> str:
        rows = []
        for what, values in zip(("samples", "dimensions"), self, strict=True):
            low = float(values.quantile(0.05))
            rows.append(f"{what} mean {float(values.mean()):.4f}, 5 % below {low:.4f}")
        return "; ".join(rows)


def agreement(a, b) -> Agreement:
    return Agreement(pearson(a, b, 1), pearson(a, b, 0))


def measure(steps: int = STEPS, say=print) -> Agreement:
    """Train two networks, encode, compare; what the held-out digits agree to."""
    data = digits()
    # A step of the mixer costs a quarter of the U-Net's.
    makes = {"UNet": (unet, steps), "PixelMixer": (PixelMixer, 4 * steps)}
    denoisers = {}
    for seed, (name, (make, long)) in enumerate(makes.items()):
        network, seconds = learn(make, data, seed=seed, steps=long)
        count = sum(p.numel() for p in network.parameters())
        say(f"{name}: {count} parameters, {long} steps in {seconds:.0f} s of a processor")
        denoisers[name] = NetworkDenoiser(network, PROCESS, says_edm(data_std=data.std))
    denoisers["one Gaussian"] = linear_denoiser(data)
    untrained = seeded(PixelMixer, 9)
    denoisers["untrained"] = NetworkDenoiser(untrained, PROCESS, says_edm(data_std=data.std))
    found = {}
    for label, pictures in (("held out", data.test), ("training", data.train[:HELD_OUT])):
        noise = Noise.of(label, each=range(len(pictures)))
        first = torch.full((len(pictures),), PROCESS.t_first, dtype=torch.float64)
        x0 = PROCESS.diffuse(bent(pictures, label), first, noise.like(pictures))
        made = {name: latents(denoise, x0) for name, denoise in denoisers.items()}
        one, other = (made[name][0] for name in makes)
        found[label] = agreement(one, other)
        say(f"{label}: {' and '.join(makes)}: {found[label]}")
        shuffled = other.roll(1, 0)
        say(f"{label}: of different digits: {agreement(one, shuffled)}")
        for floor in ("one Gaussian", "untrained"):
            say(f"{label}: UNet and {floor}: {agreement(one, made[floor][0])}")
        say(f"{label}: deviation of the latents {float(one.std()):.3f}, {float(other.std()):.3f}")
        away = ", ".join(f"{name} {error:.1e}" for name, (_, error) in made.items())
        say(f"{label}: there and back: {away}")
    return found["held out"]


def test_two_networks_agree_on_the_latents_of_digits(capsys):
    """Held-out digits; below 0.9 something has broken, whatever the machine."""
    with capsys.disabled():
        found = measure()
    assert float(found.samples.mean()) > 0.9


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    torch.set_num_threads(1)
    measure(parser.parse_args().steps, lambda text: print(text, flush=True))
