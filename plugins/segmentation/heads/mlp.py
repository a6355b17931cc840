"""An ensemble of small networks that classify pixels by their features.

Source: Baranchuk et al. 2022, arXiv:2112.03126, section 4; Zhang et al. 2021 (DatasetGAN),
arXiv:2104.06490, section 3.3, whose classifier and uncertainty it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from core.process.noise import derive
from plugins.segmentation.heads.pixels import FOLDS, Pixels, log_odds

HIDDEN = {False: (128, 32), True: (256, 128)}  # of up to 29 classes, and of more
MANY = 30  # classes
MOST_HELD = 4096  # held-out pixels that a member looks at
CHECK, PATIENCE = 25, 8  # steps between looks at the held-out pixels, and looks without gain
MOMENTUM, EPSILON = 0.1, 1e-5  # of the batch norms


class Fit(NamedTuple):
    """How the ensemble was fitted.

    Args:
        steps: of the optimiser.
        loss: cross-entropy of the held-out pixels, the mean over members at their best.
    """

    steps: int
    loss: float


@dataclass(frozen=True)
class Ensemble:
    """Members that were trained together: linear, ReLU, batch norm, twice; then linear.

    Args:
        tensors: by name, the first axis of each over members: ``weight0``, ``bias0``, ``mean0``,
            ``variance0``, ``scale0``, ``shift0``, and so on.
    """

    tensors: dict[str, Tensor]

    @property
    def members(self) -> int:
        """Number of members."""
        return len(self.tensors["weight0"])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.tensors["bias2"].shape[1]

    @property
    def first(self) -> tuple[Float[Tensor, " o k"], Float[Tensor, " o"]]:
        """Weight and bias of the first layer of all members as one layer."""
        return self.tensors["weight0"].flatten(0, 1), self.tensors["bias0"].flatten()

    def after_first(self, x: Float[Tensor, " n o"]) -> Float[Tensor, " m n classes"]:
        """Logits of each member from the outputs of `first`."""
        h = x.unflatten(1, (self.members, -1)).transpose(0, 1)
        for layer in (0, 1):
            t = {name: self.tensors[f"{name}{layer}"].to(x)[:, None] for name in NORMS}
            gain = t["scale"] / (t["variance"] + EPSILON).sqrt()
            h = torch.addcmul(t["shift"] - t["mean"] * gain, F.relu(h), gain)
            bias, weight = (self.tensors[f"{n}{layer + 1}"].to(x) for n in ("bias", "weight"))
            h = torch.baddbmm(bias[:, None], h, weight.mT)
        return h

    def at_frequencies(self, counts: Int64[Tensor, " classes"]) -> "Ensemble":
        """The members for classes as frequent as `counts`; they learned them as alike."""
        bias = self.tensors["bias2"]
        return Ensemble({**self.tensors, "bias2": bias + log_odds(counts).to(bias)})


NORMS = ("mean", "variance", "scale", "shift")


def fit(
    pixels: Pixels,
    *,
    members: int = 10,
    batch: int = 256,
    lr: float = 1e-3,
    most: int = 3000,
    seed: int = 0,
) -> tuple[Ensemble, Fit]:
    """Members with weights and batches of their own, each kept where its held-out loss is least.

    All members take a step at once, as one batched product.  Each holds out a fold of its own, one
    member after another, so that all pixels are learned from.  Features are standardised, which
    the first layer of the result has folded in.

    Args:
        pixels: labelled; of a fold without any, all pixels stop a member too.
        members: of the ensemble.
        batch: pixels of a member's step.
        lr: Adam's step size.
        most: steps.
        seed: random seed of weights and batches.
    """
    x, y, weights = pixels.features, pixels.labels, pixels.weights
    mean, std = x.mean(0), x.std(0).clamp(min=1e-6)
    inside = (x - mean) / std
    draw = torch.Generator().manual_seed(derive("segmentation/ensemble", seed))
    learned, held = _divided(pixels.fold, members, draw)
    network = _Members(members, x.shape[1], pixels.classes, draw)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    best, kept, since, step = torch.full((members,), math.inf), network.state(), 0, 0
    while step < most and since < PATIENCE:
        for _ in range(CHECK):
            at = learned.drawn(batch, draw)
            logits = network(inside[at], training=True)
            losses = F.cross_entropy(logits.flatten(0, 1), y[at].flatten(), reduction="none")
            loss = (losses * weights[at].flatten()).mean() * members  # a mean for each member
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        now = _held_loss(network, held, inside, y, weights)
        better = now < best
        since = 0 if bool(better.any()) else since + 1
        best = torch.where(better, now, best)
        kept = {name: _chosen(better, value, kept[name]) for name, value in network.state().items()}
    return Ensemble(_folded(kept, mean, std)), Fit(step, float(best.mean()))


def _chosen(better: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, old)


class _Part(NamedTuple):
    """Pixels of each member, in rows as long as the longest.

    Args:
        at: positions, each row repeated from its start.
        length: of each row, how many are its own.
    """

    at: Int64[Tensor, " m n"]
    length: Int64[Tensor, " m"]

    @classmethod
    def of(cls, rows: Sequence[Int64[Tensor, "..."]]) -> "_Part":
        longest = torch.arange(max(map(len, rows)))
        return cls(
            torch.stack([row[longest % len(row)] for row in rows]),
            torch.tensor([len(row) for row in rows]),
        )

    def drawn(self, batch: int, draw: torch.Generator) -> Int64[Tensor, " m batch"]:
        """Positions at random, with replacement."""
        u = torch.rand((len(self.at), batch), generator=draw, dtype=torch.float64)
        return self.at.gather(1, (u * self.length[:, None]).long())

    @property
    def own(self) -> Bool[Tensor, " m n"]:
        """Which positions are no repetitions."""
        return torch.arange(self.at.shape[1]) < self.length[:, None]


def _divided(fold: Int64[Tensor, " n"], members: int, draw: torch.Generator) -> tuple[_Part, _Part]:
    """Pixels that each member learns from, and those that stop it."""
    learned, held = [], []
    for number in range(members):
        mine = fold == number % FOLDS
        every = torch.ones_like(mine)
        here, there = (mine, ~mine) if bool(mine.any()) else (every, every)
        found = torch.nonzero(here)[:, 0]
        held.append(found[torch.randperm(len(found), generator=draw)[:MOST_HELD]])
        learned.append(torch.nonzero(there)[:, 0])
    return _Part.of(learned), _Part.of(held)


@torch.no_grad()
def _held_loss(
    network: "_Members",
    held: _Part,
    x: Float[Tensor, " n k"],
    y: Int64[Tensor, " n"],
    weights: Float[Tensor, " n"],
) -> Float[Tensor, " m"]:
    total, mass = torch.zeros(network.members), torch.zeros(network.members)
    for at, own in zip(held.at.split(512, 1), held.own.split(512, 1), strict=True):
        logits = network(x[at], training=False)
        losses = F.cross_entropy(logits.flatten(0, 1), y[at].flatten(), reduction="none")
        weight = weights[at] * own
        total += (losses.view_as(weight) * weight).sum(1)
        mass += weight.sum(1)
    return total / mass


def _folded(state: dict[str, Tensor], mean: Tensor, std: Tensor) -> dict[str, Tensor]:
    """The tensors with features as they come: W (x - m) / s + b = (W / s) x + (b - W m / s)."""
    weight = state["weight0"] / std
    return {**state, "weight0": weight, "bias0": state["bias0"] - weight @ mean}


class _Members(nn.Module):
    """The networks of all members, in training."""

    def __init__(self, members: int, inputs: int, classes: int, draw: torch.Generator) -> None:
        super().__init__()
        self.members = members
        sizes = (inputs, *HIDDEN[classes >= MANY], classes)
        for layer in range(3):
            # He's variance for ReLU; the published N(0, 0.02) is for 8448 unscaled features.
            shape = (members, sizes[layer + 1], sizes[layer])
            weight = torch.randn(shape, generator=draw) * math.sqrt(2 / sizes[layer])
            self.register_parameter(f"weight{layer}", nn.Parameter(weight))
            self.register_parameter(f"bias{layer}", nn.Parameter(torch.zeros(shape[:2])))
            if layer < 2:
                self.register_buffer(f"mean{layer}", torch.zeros(shape[:2]))
                self.register_buffer(f"variance{layer}", torch.ones(shape[:2]))
                self.register_parameter(f"scale{layer}", nn.Parameter(torch.ones(shape[:2])))
                self.register_parameter(f"shift{layer}", nn.Parameter(torch.zeros(shape[:2])))

    def state(self) -> dict[str, Tensor]:
        """Copies of all tensors."""
        return {name: value.detach().clone() for name, value in self.state_dict().items()}

    def forward(self, x: Float[Tensor, " m n k"], *, training: bool) -> Float[Tensor, " m n c"]:
        for layer in range(3):
            weight, bias = self._of("weight", layer), self._of("bias", layer)
            x = torch.baddbmm(bias[:, None], x, weight.mT)
            if layer < 2:
                x = self._normed(F.relu(x), layer, training)
        return x

    def _normed(self, x: Tensor, layer: int, training: bool) -> Tensor:
        """Batch norm of each member's channels over its pixels."""
        members, count, width = x.shape
        flat = x.transpose(0, 1).reshape(count, members * width)
        mean, variance, scale, shift = (self._of(name, layer).flatten() for name in NORMS)
        out = F.batch_norm(flat, mean, variance, scale, shift, training, MOMENTUM, EPSILON)
        return out.view(count, members, width).transpose(0, 1)

    def _of(self, name: str, layer: int) -> Tensor:
        return getattr(self, f"{name}{layer}")
