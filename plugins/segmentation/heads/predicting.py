"""Labels, probabilities and uncertainty of every pixel, in strips of rows.

Source: majority vote and Jensen-Shannon divergence, Baranchuk et al. 2022, arXiv:2112.03126,
section 4, and Zhang et al. 2021 (DatasetGAN), arXiv:2104.06490, section 3.3.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.features import Maps
from plugins.segmentation.heads.projection import projected

STRIP = 2**22  # outputs of the first layer at once: 16 MiB


@runtime_checkable
class Head(Protocol):
    """A pixel classifier whose first layer is linear in the features."""

    @property
    def first(self) -> tuple[Float[Tensor, " o k"], Float[Tensor, " o"]]:
        """Weight and bias of the first layer."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...

    def after_first(self, x: Float[Tensor, " n o"]) -> Float[Tensor, " m n classes"]:
        """Logits of each member from the first layer's outputs."""
        ...


class Segmented(NamedTuple):
    """The segmentation of an image.

    Args:
        labels: class of each pixel: of the members' votes, and of the mean probability where votes
            are even.
        probability: mean over members.
        uncertainty: entropy of the mean less the mean entropy over members, in nats (members that
            disagree); of one member, its entropy.
    """

    labels: UInt8[Tensor, "h w"]
    probability: Float[Tensor, "classes h w"]
    uncertainty: Float[Tensor, "h w"]


@torch.no_grad()
def segmented(head: Head, maps: Maps) -> Segmented:
    """The segmentation of one image, from its maps; the upsampled features are never made."""
    strips = list(_strips(head, maps))
    return Segmented(*(torch.cat(part, -2) for part in zip(*strips, strict=True)))


def _strips(head: Head, maps: Maps) -> Iterator[Segmented]:
    weight, bias = head.first
    found, height = projected(maps, weight), maps.size[0]
    step = max(1, STRIP // (len(bias) * maps.size[1]))
    for top in range(0, height, step):
        rows = range(top, min(top + step, height))
        outputs = found.rows(rows)[0] + bias.to(found.values[0])[:, None, None]
        logits = head.after_first(outputs.flatten(1).mT.float())
        yield voted(logits, (len(rows), maps.size[1]))


def voted(logits: Float[Tensor, " m n classes"], shape: tuple[int, int]) -> Segmented:
    """Labels, mean probability and uncertainty of a rectangle of pixels, from members' logits."""
    log = logits.log_softmax(-1)
    mean = log.exp().mean(0)
    votes = torch.nn.functional.one_hot(log.argmax(-1), log.shape[-1]).sum(0)
    labels = (votes + mean).argmax(-1)  # a mean is below 1: it decides between even votes
    entropy = -(mean * mean.clamp(min=1e-30).log()).sum(-1)
    if len(log) > 1:
        entropy = (entropy + (log.exp() * log).sum(-1).mean(0)).clamp(min=0)
    return Segmented(
        labels.to(torch.uint8).view(shape), mean.mT.reshape(-1, *shape), entropy.view(shape)
    )
