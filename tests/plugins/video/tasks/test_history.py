"""Guidance by given frames, by a denoiser whose answer is known."""

import torch

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.process.schedules import vp_cosine
from plugins.video.tasks.history import history, noised


def mean_of_history(x, t, condition=None):
    """x0 is 3 times what is given of the first frame, wherever it is asked."""
    first = condition["image"][:, :1, :1]
    return Prediction((3 * first).expand_as(x))


def test_guidance_is_linear_in_what_is_given():
    """x0' = 3 f + (scale - 1) (3 f' - 0), f' = f without noise."""
    denoise = FunctionDenoiser(vp_cosine(), mean_of_history)
    image = torch.zeros(2, 2, 4, 8, 8)
    image[:, 0, 0], image[:, 1, 0] = 0.2, 1
    x = torch.zeros(2, 1, 4, 8, 8)
    found = history(denoise, scale=2.5)(x, 0.5, {"image": image}).x0
    torch.testing.assert_close(found, torch.full_like(x, 3 * 0.2 * 2.5))
    same = history(denoise, scale=1.0)(x, 0.5, {"image": image}).x0
    assert torch.equal(same, denoise(x, 0.5, {"image": image}).x0)
    noisy = history(denoise, scale=2.0, noise=0.5)(x, 0.5, {"image": image}).x0
    mean = noisy.mean()  # alpha = cos(pi / 4); the mean of 64 draws has a standard error of 0.27
    assert abs(mean - (0.6 + 0.6 * 0.5**0.5)) < 4 * 3 * 0.5**0.5 / 8


def test_noise_is_on_the_circle_and_its_level_is_its_log_snr():
    u = torch.tensor([[0.0, 0.5, 1.0]])
    eps = torch.ones(1, 1, 3, 2, 2)
    frames, level = noised(torch.zeros_like(eps), u, eps)
    torch.testing.assert_close(frames[0, 0, :, 0, 0], torch.tensor([0.0, 0.5**0.5, 1.0]))
    torch.testing.assert_close(level, torch.tensor([[500.0, 0.0, -500.0]]))
