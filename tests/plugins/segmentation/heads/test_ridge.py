"""The linear classifier, against scikit-learn's ridge regression."""

import torch
from sklearn.linear_model import Ridge as Reference

from plugins.segmentation.heads import ridge
from plugins.segmentation.heads.pixels import Pixels


def clouds(count=400, seed=0):
    """Three classes of different sizes around three centres, in features of unlike scales."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), count, True, generator=draw)
    centres = torch.tensor([[0.0, 0, 0, 0], [2, 0, 1, 0], [0, 2, -1, 0]])
    x = centres[labels] + 0.7 * torch.randn(count, 4, generator=draw)
    fold = torch.randint(5, (count,), generator=draw)
    return Pixels(x * torch.tensor([1.0, 100, 0.01, 3]) + 5, labels, fold, 3)


def test_it_is_ridge_regression_with_classes_that_weigh_alike():
    pixels = clouds()
    found = ridge.fit(pixels)
    x = pixels.features.double()
    mean, std = x.mean(0), x.std(0)
    z, weights = (x - mean) / std, pixels.weights.double()
    far = z - (weights @ z) / weights.sum()
    mass = weights / weights.sum()
    scale = torch.linalg.eigvalsh(far.T @ (far * mass[:, None])).mean()
    alpha = float(found.strength * scale * weights.sum())
    goals = torch.nn.functional.one_hot(pixels.labels, 3).double()
    reference = Reference(alpha=alpha).fit(z.numpy(), goals.numpy(), weights.numpy())
    expected = torch.from_numpy(reference.predict(z.numpy())).float()
    weight, bias = found.first
    torch.testing.assert_close(pixels.features @ weight.T + bias, expected, atol=2e-4, rtol=1e-3)


def test_it_finds_the_classes_of_other_pixels():
    found, test = ridge.fit(clouds()), clouds(seed=1)
    weight, bias = found.first
    logits = found.after_first(test.features @ weight.T + bias)
    assert logits.shape == (1, 400, 3)
    right = (logits[0].argmax(-1) == test.labels).float()
    assert min(float(right[test.labels == one].mean()) for one in range(3)) > 0.75
    assert found.loss < 0.6  # of guessing: 1.10


def test_without_held_out_pixels_it_is_fitted_all_the_same():
    pixels = clouds()._replace(fold=torch.full((400,), -1))
    assert ridge.fit(pixels).first[0].isfinite().all()
