"""Adversarial attacks on classifiers: PGD in a linf or l2 ball, with EOT.

The victim of an attack is a function from images to logits, which determines the gradient through
a defence: `core.sampler.sample` gives exact gradients of a purifier.
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

# Images (b, c, h, w) in [-1, 1] to logits (b, classes); it may be random at every call.
Victim = Callable[[Tensor], Tensor]

# Total step length in radii, as in Madry et al. 2018: enough to cross the ball and follow its rim.
TRAVEL = 2.5


@dataclass(frozen=True)
class Ball:
    """The threat model: images within `eps` of an image, and within [-1, 1].

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
        """`x` projected onto the ball around `centre`, then onto [-1, 1]: exact in linf.

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
    """The mean cross-entropy over `draws` calls of a random victim, and its gradient.

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

    A step is 2.5 eps / steps long, along the sign of the gradient (linf) or the gradient (l2).  The
    result for each image is the point of greatest loss on the way.
    Source: Madry et al. 2018, arXiv:1706.06083, section 2.1 and appendix on hyper-parameters.

    Args:
        victim: the attacked function.
        x: images in [-1, 1].
        target: their true classes.
        noise: one stream for each, for the random start.
        ball: the threat model.
        steps: steps of the ascent; each makes `draws` calls with gradient, and so does the last
            point.
        draws: calls that loss and gradient are averaged over (EOT); 1 for a deterministic victim.
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
