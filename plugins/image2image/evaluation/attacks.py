"""Attacks on classifiers: images within a ball that are taken for something else.

An attack is made on a victim, a function from images to logits.  What of a defence its gradient
sees is the victim's business: `core.sampler.sample` gives exact gradients of a purifier.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from core.process.gaussian import over
from core.process.noise import Noise

# Images (b, c, h, w) in [-1, 1] to logits (b, classes); it may draw, anew at every call.
Victim = Callable[[Tensor], Tensor]

# Madry et al. 2018 move 2.5 radii in all: enough to cross the ball and to come back along its rim.
TRAVEL = 2.5


@dataclass(frozen=True)
class Ball:
    """Where an attack may move: within `eps` of an image, and within [-1, 1].

    Args:
        norm: ``linf``, the largest change of a pixel; ``l2``, the root of the sum of squares.
        eps: its radius, in units of pixels in [-1, 1].
    """

    norm: Literal["linf", "l2"]
    eps: float

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise InputError(f"eps: expected more than 0, got {self.eps}")

    def project(
        self, x: Float[Tensor, " b *shape"], centre: Float[Tensor, " b *shape"]
    ) -> Float[Tensor, " b *shape"]:
        """A point of the ball around `centre` near `x`; the nearest in linf.

        `centre` lies in [-1, 1], so that clamping to it only comes nearer.
        """
        apart = x - centre
        if self.norm == "linf":
            apart = apart.clamp(-self.eps, self.eps)
        else:
            apart = apart * over((self.eps / _length(apart)).clamp(max=1), x)
        return (centre + apart).clamp(-1, 1)

    def start(self, centre: Float[Tensor, " b *shape"], noise: Noise) -> Float[Tensor, " b *shape"]:
        """A random point, uniform over the ball before [-1, 1] cuts it."""
        if self.norm == "linf":
            apart = self.eps * (2 * noise.uniform_like(centre).to(centre) - 1)
        else:
            way, size = noise.like(centre), centre[0].numel()
            radius = self.eps * noise.uniform().to(centre) ** (1 / size)
            apart = way * over(radius / _length(way), centre)
        return self.project(centre + apart, centre)

    def rise(self, gradient: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        """The steepest step of length 1 in the norm; none where the gradient is 0."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / over(_length(gradient), gradient)


def _length(x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b"]:
    """Root of the sum of squares of each sample, not quite 0."""
    return x.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny)


def expected_loss(
    victim: Victim, x: Float[Tensor, " b *shape"], target: Int[Tensor, " b"], draws: int
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b *shape"]]:
    """The mean cross-entropy over `draws` calls of a victim that draws, and its gradient.

    Source: Athalye et al. 2018, arXiv:1707.07397, section 2.1 (expectation over transformation).
    """
    loss = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    gradient = torch.zeros_like(x)
    for _ in range(draws):
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            found = F.cross_entropy(victim(at), target, reduction="none")
            gradient += torch.autograd.grad(found.sum(), at)[0] / draws
        loss += found.detach() / draws
    return loss, gradient


def pgd(
    victim: Victim,
    x: Float[Tensor, " b *shape"],
    target: Int[Tensor, " b"],
    noise: Noise,
    *,
    ball: Ball,
    steps: int = 20,
    draws: int = 1,
) -> Float[Tensor, " b *shape"]:
    """Projected gradient ascent on the cross-entropy, from a random point of the ball.

    A step is 2.5 eps / steps long, along the sign of the gradient (linf) or the gradient (l2).  Of
    the points that were passed, each image keeps the one with the greatest loss.
    Source: Madry et al. 2018, arXiv:1706.06083, section 2.1 and appendix on hyper-parameters.

    Args:
        victim: what is attacked.
        x: images in [-1, 1].
        target: their true classes.
        noise: one stream for each, for the start.
        ball: where they may go.
        steps: of the ascent; each takes `draws` calls with their gradient, and so does a last look.
        draws: calls that loss and gradient are averaged over; more than 1 for a victim that draws.
    """
    at, size = ball.start(x, noise), TRAVEL * ball.eps / steps
    best, most = at, torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    for step in range(steps + 1):
        loss, gradient = expected_loss(victim, at, target, draws)
        better = (loss > most).view(-1, *[1] * (x.ndim - 1))
        best, most = torch.where(better, at, best), torch.maximum(loss, most)
        if step < steps:
            at = ball.project(at + size * ball.rise(gradient), x)
    return best
