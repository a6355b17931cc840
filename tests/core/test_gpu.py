"""On a CUDA GPU: the same answers as on a CPU, and the same bits twice (`make gpu`)."""

import pytest
import torch

from core.denoiser.parameterization import NetworkDenoiser, v
from core.network.unet import UNet
from core.parts.registry import Spec
from core.process.noise import Noise
from core.process.schedules import vp_linear
from core.request import Machine, TrainRequest
from core.runs import train
from core.sampler.exponential import Multistep
from core.sampler.grids import uniform_log_snr
from core.sampler.sample import prior, sample
from core.storage import checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here"),
]

SHAPE = (3, 32, 32)


def weights_of(out, **machine):
    """The weights after 20 steps of a small network with attention."""
    request = TrainRequest(
        task=Spec("core/generate", {"channels": SHAPE[0]}),
        dataset=Spec("core/blank", {"shape": list(SHAPE), "count": 64}),
        network=Spec(
            "core/unet", {"width": 32, "multipliers": [1, 2], "blocks": 1, "attention": [2]}
        ),
        steps=20, batch=32, warmup=0,
    )  # fmt: skip
    train(request, out, machine=Machine(device="cuda", **machine))
    return checkpoint.load(out, groups=("model",)).tensors["model"]


@pytest.mark.parametrize("graphs", [True, False])
def test_a_training_run_gives_the_same_bits_twice(tmp_path, graphs):
    one, other = (weights_of(tmp_path / name, cuda_graphs=graphs) for name in "ab")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_graphs_change_nothing_but_rounding(tmp_path):
    one = weights_of(tmp_path / "graphs", cuda_graphs=True)
    other = weights_of(tmp_path / "none", cuda_graphs=False)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_draws_of_a_seed_are_those_of_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network = UNet(3, 3, {}, width=32, multipliers=(1, 2), blocks=1, attention=(2,)).eval()
    draw = torch.Generator().manual_seed(0)
    for p in network.parameters():
        p.copy_(torch.randn(p.shape, generator=draw) * p[0].numel() ** -0.5)
    process, found = vp_linear(), {}
    grid = uniform_log_snr(process, steps=10)
    for device in ("cpu", "cuda"):
        noise = Noise(range(4))
        start = prior(process, grid, torch.empty(4, *SHAPE), noise).to(device)
        denoise = NetworkDenoiser(network.to(device), process, v())
        found[device] = sample(denoise, grid, Multistep(), start, noise).cpu()
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recompute", ["nothing", "norms", "blocks"])
def test_gradients_are_those_of_a_cpu(recompute, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network = UNet(
        3, 3, {}, width=32, multipliers=(1, 2), blocks=1, attention=(2,), recompute=recompute
    )
    draw = torch.Generator().manual_seed(0)
    for p in network.parameters():
        p.data = torch.randn(p.shape, generator=draw) * p[0].numel() ** -0.5
    x, level = torch.randn(2, *SHAPE, generator=draw), torch.rand(2, generator=draw)
    found = {}
    for device in ("cpu", "cuda"):
        network.to(device).zero_grad()
        network(x.to(device), level.to(device)).square().mean().backward()
        found[device] = {
            name: p.grad.detach().to("cpu", copy=True) for name, p in network.named_parameters()
        }
    for name, gradient in found["cpu"].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found["cuda"][name], gradient, rtol=1e-3, atol=1e-4 * scale)
