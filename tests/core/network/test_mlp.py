"""The network of vectors."""

import math
import sys
from pathlib import Path

import pytest
import torch

from core.denoiser.parameterization import NetworkDenoiser, v
from core.errors import InputError
from core.network.mlp import MLP
from core.network.taps import blocks_of
from core.objective.denoising import Denoising
from core.objective.times import stratified
from core.objective.weighting import simple
from core.process.schedules import vp_cosine
from core.testing.distributions import Mixture

sys.path.insert(0, str(Path(__file__).parent))
from made_networks import drawn, stirred


def test_a_residual_mlp_is_its_formula():
    network = stirred(MLP(2, 3, {}, width=8, depth=1).double())
    x, level = drawn(4, 2, dtype=torch.float64), torch.tensor([1.0, -40.0, 300.0, 7.0]).double()
    silu = lambda v: v * torch.sigmoid(v)  # noqa: E731
    linear = lambda layer, v: v @ layer.weight.T + layer.bias  # noqa: E731
    embedding = silu(network.level_embedding(level))
    h, (layer,) = linear(network.linear_in, x), network.block
    shift, scale = linear(layer.modulation, embedding).split(8, dim=1)
    xhat = (h - h.mean(1, keepdim=True)) / (h.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    u = linear(layer.linear_in, xhat * (1 + scale) + shift)
    h = h + linear(layer.linear_out, silu(u))
    assert (network(x, level) - linear(network.linear_out, silu(h))).abs().max() < 1e-12


def test_a_new_mlp_outputs_zero_and_takes_vectors_alone():
    network = MLP(2, 4, {"class": 3, "vector": 5, "image": 1}, width=8, depth=2, dropout=0.5)
    given = {"class": torch.tensor([0, 2]), "vector": drawn(2, 5), "image": drawn(2, 1)}
    assert not network(drawn(2, 2), torch.ones(2), given).any()
    assert list(blocks_of(network)) == ["linear_in", "block.0", "block.1"]
    with pytest.raises(InputError, match=r"expects vectors of 2 numbers.*\(3, 8, 8\).*core/unet"):
        network(drawn(2, 3, 8, 8), torch.ones(2), given)
    with pytest.raises(InputError) as caught:
        MLP(2, 2, {"sequence": 4}, width=0, depth=0, dropout=1.0)
    for words in ("no condition named 'sequence', only image, class, vector", "width", "depth",
                  "dropout"):  # fmt: skip
        assert words in str(caught.value)


@pytest.mark.slow
def test_an_mlp_learns_a_mixture_that_no_linear_denoiser_knows():
    """Eight Gaussians on a circle, where noise joins neighbours: half the linear error."""
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = 0.7 * torch.stack([angles.cos(), angles.sin()], dim=1)
    world = Mixture(means, 0.05, torch.full((8,), 0.125, dtype=torch.float64))
    process, draw = vp_cosine(), torch.Generator().manual_seed(0)
    objective = Denoising(process, v(), simple(), stratified())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = MLP(2, 2, {}, width=64, depth=3)
    optimizer = torch.optim.AdamW(network.parameters())

    def noisy(n, first=process.t_first, last=process.t_max):
        x0, eps = world.draw(n, draw).float(), torch.randn(n, 2, generator=draw)
        t = (torch.rand(n, generator=draw, dtype=torch.float64) + torch.arange(n)) / n
        return x0, first + (last - first) * t, eps

    for step in range(300):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 300)
        x0, t, eps = noisy(256)
        optimizer.zero_grad()
        objective.loss(network, x0, t, eps).mean().backward()
        optimizer.step()
    x0, t, eps = noisy(4000, 0.1, 0.4)
    alpha, sigma = (level[:, None] for level in process.alpha_sigma(t))
    x, exact = (alpha * x0 + sigma * eps).float(), world.denoiser(process)
    variance = 0.7**2 / 2 + 0.05**2  # of a coordinate; the mean is 0
    linear = alpha * variance / (alpha**2 * variance + sigma**2) * x
    with torch.no_grad():
        learned = NetworkDenoiser(network.eval(), process, v())(x, t).x0
    truth = exact(x, t).x0
    error = [float((x0 - truth).square().mean().sqrt()) for x0 in (learned, linear)]
    assert error[0] < error[1] / 2, error
