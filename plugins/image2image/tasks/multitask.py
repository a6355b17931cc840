"""Palette's four tasks by one network.

Source: Saharia et al. 2022 (Palette), arXiv:2111.05826, section 4.3.
"""

import torch
from torch import Tensor

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
    """Palette's four tasks by one network: each item is one of them, drawn from its index.

    For training.  Samples are drawn for one of the tasks: ``sample`` with ``task`` set.
    Source: Saharia et al. 2022 (Palette), arXiv:2111.05826, section 4.3.

    Args:
        target: as of each task.
        seed: of masks, qualities and of which task an item is.
    """

    def __init__(self, *, target: Target = "residual", seed: int = 0) -> None:
        super().__init__("degraded", target)
        self.seed = seed
        self.tasks: tuple[Colourise | Inpaint | JPEG, ...] = (
            Colourise(target=target),
            Inpaint(target=target, seed=seed),
            Uncrop(target=target, seed=seed),
            JPEG(target=target, seed=seed),
        )

    def degrade(self, item: Batch, index: int) -> Batch:
        """What one of the tasks makes of the item, as far as they have it in common."""
        task = self.tasks[derive("task", self.seed, index) % len(self.tasks)]
        made = task.degrade(item, index)
        counted = task.counted({name: value[None] for name, value in made.items()})
        counts = torch.ones_like(item["image"]) if counted is None else counted[0]
        return {**item, "base": made["base"], "spread": made["spread"], "counts": counts}

    def counted(self, batch: Batch) -> Tensor:
        """What counts in each item's own task."""
        return batch["counts"]
