"""Predict and refine: exact where the estimate and its error are known, learned by training."""

import pytest
import torch
from torch import nn

from core.denoiser.parameterization import NetworkDenoiser, edm, eps, flow, v
from core.errors import InputError
from core.network.conditioning import null_condition
from core.network.predict_refine import ESTIMATE, Estimating, PredictRefine, with_estimate
from core.objective.denoising import Denoising
from core.objective.predict_refine import PredictRefine as Loss
from core.objective.times import stratified
from core.objective.weighting import v as v_weight
from core.parts.registry import Spec
from core.process.noise import Noise
from core.process.schedules import vp_linear
from core.training.replay import Replay

SMALL = Spec("core/unet", {"width": 8, "multipliers": [1], "blocks": 1, "attention": [],
                           "middle_attention": False, "head_channels": 8})  # fmt: skip


def network_of(conditions=None, **options):
    """A small network of images of one channel."""
    return PredictRefine(
        1, 1, {"image": 1} if conditions is None else conditions,
        width=8, blocks=2, patch=2, refiner=SMALL, **options,
    )  # fmt: skip


class Gaussian(nn.Module):
    """x0 = 3 image + 0.2 n, n standard normal: the exact estimate and exact refinement."""

    def __init__(self, process, row):
        super().__init__()
        self.process, self.row = process, row

    def estimate(self, condition):
        return 3 * condition["image"]

    def forward(self, x, level, condition=None):
        # Undo the scale of the input; of the remainder, N(0, 0.04), the posterior mean is linear.
        alpha, sigma = (value.view(-1, 1, 1, 1) for value in self.process.alpha_sigma(self.t))
        c = self.row.coefficients(alpha, sigma)
        z = x.double() / c.input
        mean = z * alpha * 0.04 / (alpha**2 * 0.04 + sigma**2)
        return self.row.from_x0(mean, z, alpha, sigma).to(x)


@pytest.mark.parametrize("row", [v(), eps(), flow(), edm(data_std=0.5)], ids=str)
def test_the_estimate_and_its_refinement_make_the_posterior_mean(row):
    process, draw = vp_linear(), torch.Generator().manual_seed(0)
    image, x = (torch.randn(5, 1, 4, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    network = Gaussian(process, row)
    network.t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    found = NetworkDenoiser(network, process, row)(x, network.t, {"image": image}).x0
    # x_t = alpha x0 + sigma eps with x0 ~ N(3 image, 0.04): the normal posterior's mean.
    alpha, sigma = (value.view(-1, 1, 1, 1) for value in process.alpha_sigma(network.t))
    gain = alpha * 0.04 / (alpha**2 * 0.04 + sigma**2)
    torch.testing.assert_close(found, 3 * image + gain * (x - alpha * 3 * image))


@pytest.mark.slow
def test_training_makes_the_estimate_the_mean():
    # x0 is 2 image plus noise that the image does not tell: its mean is 2 image.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = network_of()
    process = vp_linear()
    loss = Loss(process, v(), v_weight(), stratified())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(1)
    for step in range(120):
        image = torch.randn(16, 1, 4, 4, generator=draw)
        x0 = 2 * image + 0.3 * torch.randn(image.shape, generator=draw)
        noise = Noise.of(step, each=range(16))
        t, weight, eps_ = loss.draw(x0, noise)
        optimizer.zero_grad()
        (weight * loss.loss(network, x0, t, eps_, {"image": image})).mean().backward()
        optimizer.step()
    image = torch.randn(64, 1, 4, 4, generator=draw)
    error = (network.estimate({"image": image}) - 2 * image).square().mean()
    assert error < 0.05  # of a variance of 4; the noise that the image does not tell has 0.09


def test_the_estimate_is_trained_by_its_squared_error_alone():
    network, process = network_of(), vp_linear()
    draw = torch.Generator().manual_seed(0)
    for p in network.parameters():
        p.data = 0.2 * torch.randn(p.shape, generator=draw)
    x0, image, eps_ = (torch.randn(4, 1, 4, 4, generator=draw) for _ in range(3))
    t = torch.linspace(0.2, 0.8, 4, dtype=torch.float64)
    loss = Loss(process, v(), v_weight(), stratified(), estimate_weight=0.5)
    loss.loss(network, x0, t, eps_, {"image": image}).sum().backward()
    found = {name: p.grad for name, p in network.estimator.named_parameters()}
    assert all(p.grad is not None for p in network.refiner.parameters())
    network.zero_grad()
    error = (network.estimate({"image": image}) - x0).square().flatten(1).mean(1)
    (0.5 * error).sum().backward()
    for name, p in network.estimator.named_parameters():
        torch.testing.assert_close(found[name], p.grad)


def test_its_loss_is_the_denoising_loss_of_what_is_lacking_and_the_squared_error():
    process, draw = vp_linear(), torch.Generator().manual_seed(0)
    network, row = Gaussian(process, v()), v()
    x0, eps_, image = (torch.randn(4, 1, 4, 4, generator=draw) for _ in range(3))
    network.t = torch.linspace(0.2, 0.8, 4, dtype=torch.float64)
    found = Loss(process, row, v_weight(), stratified(), estimate_weight=0.5).loss(
        network, x0, network.t, eps_, {"image": image}
    )
    refining = Gaussian(process, row)
    refining.t, refining.estimate = network.t, lambda condition: torch.zeros_like(x0)
    plain = Denoising(process, row, v_weight(), stratified())
    lacking = plain.loss(refining, x0 - 3 * image, network.t, eps_, {"image": image})
    squared = (x0 - 3 * image).square().flatten(1).mean(1)
    torch.testing.assert_close(found, lacking + 0.5 * squared, rtol=1e-4, atol=1e-4)


def test_without_refinement_the_estimate_is_trained_alone():
    network, process = network_of(), vp_linear()
    nn.init.normal_(network.estimator.conv_out.weight, std=0.1)
    draw = torch.Generator().manual_seed(0)
    x0, image, eps_ = (torch.randn(4, 1, 4, 4, generator=draw) for _ in range(3))
    t = torch.linspace(0.2, 0.8, 4, dtype=torch.float64)
    alone = Loss(process, v(), v_weight(), stratified(), estimate_weight=0.5, refine_weight=0.0)
    found = alone.loss(network, x0, t, eps_, {"image": image})
    error = (network.estimate({"image": image}) - x0).square().flatten(1).mean(1)
    torch.testing.assert_close(found, 0.5 * error)
    found.sum().backward()
    assert all(p.grad is None for p in network.refiner.parameters())
    # The loss is linear in both weights.
    both, more = (
        Loss(process, v(), v_weight(), stratified(), refine_weight=weight).loss(
            network, x0, t, eps_, {"image": image}
        )
        for weight in (1.0, 3.0)
    )
    torch.testing.assert_close(more - error, 3 * (both - error))


def test_an_estimate_is_made_once_and_again_for_samples_without_condition():
    network = network_of()
    nn.init.normal_(network.estimator.conv_out.weight)
    image = {"image": torch.randn(2, 1, 6, 5)}
    known = with_estimate(network, image)
    assert with_estimate(network, known) is known
    marked = with_estimate(network, null_condition(known, torch.tensor([True, False])))
    torch.testing.assert_close(marked[ESTIMATE][1], known[ESTIMATE][1])
    nothing = network.estimate({"image": torch.zeros(2, 1, 6, 5)})
    torch.testing.assert_close(marked[ESTIMATE][0], nothing[0])
    assert not torch.equal(nothing[0], known[ESTIMATE][0])
    assert with_estimate(nn.Identity(), image) is image
    replayed = Replay(network, print)
    assert isinstance(replayed, Estimating)
    assert not isinstance(Replay(nn.Identity(), print), Estimating)


def test_an_estimate_given_is_the_one_that_the_network_would_make():
    network = network_of()
    for p in network.parameters():
        nn.init.normal_(p, std=0.1)
    x, level, image = torch.randn(2, 1, 6, 5), torch.rand(2), {"image": torch.randn(2, 1, 6, 5)}
    alone, given = network(x, level, image), network(x, level, with_estimate(network, image))
    torch.testing.assert_close(alone, given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: network_of({}), "no condition named 'image'"),
        (lambda: network_of({"class": 3}), "no condition named 'image'"),
        (lambda: network_of(dims=4), "dims: expected 1, 2 or 3, got 4"),
        (lambda: PredictRefine(1, 1, {"image": 1}, patch=0), "patch: expected at least 1, got 0"),
        (lambda: Loss(vp_linear(), v(), v_weight(), stratified(), estimate_weight=0.0), "> 0"),
        (lambda: Loss(vp_linear(), v(), v_weight(), stratified(), refine_weight=-1.0), ">= 0"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_network_without_an_estimate_is_refused_by_the_loss():
    loss, x = Loss(vp_linear(), v(), v_weight(), stratified()), torch.zeros(1, 1, 2, 2)
    with pytest.raises(InputError, match="requires a network that makes an estimate"):
        loss.loss(nn.Identity(), x, torch.tensor([0.5], dtype=torch.float64), x)
