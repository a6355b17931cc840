"""Palette's four tasks by one network.

Source: Saharia et al. 2022 (Palette), arXiv:2111.05826, section 4.3.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from core.parts.registry import Spec
from core.process.noise import derive
from core.task import Batch
from plugins.image2image.tasks.colourise import Colourise
from plugins.image2image.tasks.inpaint import Inpaint, Uncrop
from plugins.image2image.tasks.jpeg import JPEG
from plugins.image2image.tasks.restoration import (
    Restoration,
    Target,
)


class MultiTask(Restoration):
    """Palette's four tasks by one network: each item is of one of them, random by its index.

    For training; to sample, set ``task`` to one of the four.
    Source: Saharia et al. 2022 (Palette), arXiv:2111.05826, section 4.3.

    Args:
        target: the diffused x0 of each task.
        seed: random seed of masks, qualities and the task of an item.
    """

    names = tuple(f"image2image/{name}" for name in ("colourise", "inpaint", "uncrop", "jpeg"))

    def __init__(self, *, target: Target = "residual", seed: int = 0) -> None:
        super().__init__("degraded", target)
        self.seed = seed
        self.tasks: tuple[Colourise | Inpaint | JPEG, ...] = (
            Colourise(target=target),
            Inpaint(target=target, seed=seed),
            Uncrop(target=target, seed=seed),
            JPEG(target=target, seed=seed),
        )

    @property
    def specs(self) -> Mapping[str, Spec]:
        """The tasks to draw for, by name."""
        return {name: Spec(name, {"target": self.target}) for name in self.names}

    def degrade(self, item: Batch, index: int) -> Batch:
        """The item degraded by one of the tasks: the fields that all have."""
        task = self.tasks[derive("task", self.seed, index) % len(self.tasks)]
        made = task.degrade(item, index)
        mask = task.loss_mask({name: value[None] for name, value in made.items()})
        counts = torch.ones_like(item["image"]) if mask is None else mask[0]
        return {
            **item,
            "base": made["base"],
            "residual_std": made["residual_std"],
            "counts": counts,
        }

    def loss_mask(self, batch: Batch) -> Tensor:
        """The loss mask of each item's task."""
        return batch["counts"]
