"""A linear classifier of pixels in closed form: ridge regression onto the classes.

With classes that weigh alike it is linear discriminant analysis with a shrunken covariance.
Source: Hastie, Tibshirani and Friedman 2009, The Elements of Statistical Learning, 3.4 and 4.2.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from plugins.segmentation.heads.pixels import Pixels, log_odds

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the ridge, of standardised features


@dataclass(frozen=True)
class Ridge:
    """Scores linear in the features; the class of the highest is the label.

    Args:
        weight: of the layer.
        bias: of the layer.
        sharpness: the factor on scores whose softmax has the least held-out cross-entropy.
        strength: of the ridge, chosen on held-out pixels.
        loss: cross-entropy of the held-out pixels, in nats.
    """

    weight: Float[Tensor, " classes k"]
    bias: Float[Tensor, " classes"]
    sharpness: float
    strength: float
    loss: float = float("nan")

    @property
    def first(self) -> tuple[Float[Tensor, " o k"], Float[Tensor, " o"]]:
        """Weight and bias of the linear layer on the features."""
        return self.weight, self.bias

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.bias)

    def after_first(self, x: Float[Tensor, " n o"]) -> Float[Tensor, " 1 n classes"]:
        """Logits from the outputs of `first`, as of one member."""
        return (x * self.sharpness)[None]

    def at_frequencies(self, counts: Int64[Tensor, " classes"]) -> "Ridge":
        """The classifier for classes as frequent as `counts`; it learned them as alike."""
        return replace(self, bias=self.bias + log_odds(counts).to(self.bias) / self.sharpness)


def fit(pixels: Pixels) -> Ridge:
    """argmin of sum w |W x + b - e|^2 + r |W|^2, e the pixel's class, w even over classes.

    The strength r, a fraction of the mean eigenvalue of the features' covariance, has the least
    held-out error; the fit is then repeated on all pixels.
    """
    x, weights = pixels.features.double(), pixels.weights.double()
    goals = torch.nn.functional.one_hot(pixels.labels, pixels.classes).double()
    held = pixels.held
    mean, std = x.mean(0), x.std(0).clamp(min=1e-6)
    z = (x - mean) / std
    if not held.any():
        chosen, sharpness, loss = 1e-2, 4.0, float("nan")
    else:
        learned = ~held
        solved = _solved(z[learned], goals[learned], weights[learned], STRENGTHS)
        found = [z[held] @ weight.T + bias for weight, bias in solved]
        labels, mass = pixels.labels[held], weights[held]
        losses = [_least(scores, labels, mass) for scores in found]
        best = min(range(len(losses)), key=lambda i: losses[i][0])
        chosen, (loss, sharpness) = STRENGTHS[best], losses[best]
    ((weight, bias),) = _solved(z, goals, weights, (chosen,))
    weight = weight / std
    return Ridge(weight.float(), (bias - weight @ mean).float(), sharpness, chosen, loss)


def _least(scores: Tensor, labels: Tensor, mass: Tensor) -> tuple[float, float]:
    """The least cross-entropy over sharpnesses, and the sharpness."""
    found = []
    for sharpness in (1.0, 2.0, 4.0, 8.0, 16.0):
        losses = torch.nn.functional.cross_entropy(scores * sharpness, labels, reduction="none")
        found.append((float((losses * mass).sum() / mass.sum()), sharpness))
    return min(found)


def _solved(
    z: Tensor, goals: Tensor, weights: Tensor, strengths: tuple[float, ...]
) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias for each strength, from one eigendecomposition.

    With A the weighted, centred features (n, k) and E the classes: (A'A + r)^-1 A' E, or, of fewer
    pixels than features, the equal A' (AA' + r)^-1 E (Hastie et al. 2009, exercise 18.4).
    """
    mass = weights / weights.sum()
    centre, goal, root = mass @ z, mass @ goals, mass.sqrt()[:, None]
    far, aim = (z - centre) * root, (goals - goal) * root
    few = len(far) < far.shape[1]
    values, vectors = torch.linalg.eigh(far @ far.T if few else far.T @ far)
    turned = vectors.T @ (aim if few else far.T @ aim)
    back = far.T @ vectors if few else vectors
    scale = far.square().sum() / far.shape[1]  # the mean eigenvalue of A'A
    found = []
    for strength in strengths:
        weight = (back @ (turned / (values.clamp(min=0) + strength * scale)[:, None])).T
        found.append((weight, goal - weight @ centre))
    return found
