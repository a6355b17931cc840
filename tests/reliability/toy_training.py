"""A plug-in of points in the plane of eight axes: training that takes milliseconds, in any process.

`on_path` makes it installed, here and in the processes that tests start.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from core.errors import InputError
from core.network.conditioning import NullCondition
from core.parts.registry import Plugin, dataset, network, task
from core.process.noise import Noise
from core.task import Example

AXES = 8


class Points:
    """x0 are the points; each is told on which side it was drawn."""

    channels = AXES
    conditions: Mapping[str, int] = {"side": 1}
    figures: Mapping[str, object] = {}
    reference = ""

    def prepare(self, batch):
        return Example(batch["x"], {"side": batch["side"]})

    def finish(self, x0, batch):
        return x0

    def score(self, results, batch):
        return {}

    def show(self, results, batch, titles):
        return []


class Cloud:
    """Two clusters; four neighbours are of one source.  `TOY_LOG` names a file of indices read.

    Args:
        count: points in the training split; a quarter of it is held out.
        poison: index of a point that is no number; -1 for none.
        broken: index at which reading fails; -1 for none.
        refused: it fails because of what the user gave.
    """

    def __init__(
        self,
        split: str,
        *,
        count: int = 40,
        poison: int = -1,
        broken: int = -1,
        refused: bool = False,
    ) -> None:
        self.split, self.count = split, count if split == "train" else count // 4
        self.poison, self.broken, self.refused = poison, broken, refused

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Mapping[str, Tensor]:
        if "TOY_LOG" in os.environ:
            with Path(f"{os.environ['TOY_LOG']}.{os.environ.get('RANK', '0')}").open("a") as log:
                log.write(f"{index}\n")
        if index == self.broken:
            raise (InputError if self.refused else RuntimeError)(f"point {index} cannot be read")
        side = torch.tensor([float(index % 2)])
        x = 0.3 * Noise.of(self.split, each=[index]).normal((AXES,))[0] + side - 0.5
        return {"x": x * (torch.nan if index == self.poison else 1), "side": side}

    def source(self, index: int) -> str:
        return f"{self.split}-{index // 4}"

    def name(self, index: int) -> str:
        return f"point {index}"

    def digest(self) -> str:
        return f"{self.split}-{self.count}"


class Layers(nn.Module):
    """Two linear layers; told the level and the side.

    Args:
        width: between them.
        dropout: share of it that is dropped.
        pause: seconds a call takes.
        fits: samples that the memory holds; more raise what torch raises. 0 for any number.
        only: rank that this is so in; -1 for all.
        megabytes: that a call really holds for each sample until the backward pass.
        blank: begin with zeros, so that all that it says is zero.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        conditions: Mapping[str, int],
        *,
        width: int = 16,
        dropout: float = 0.0,
        pause: float = 0.0,
        fits: int = 0,
        only: int = -1,
        megabytes: int = 0,
        blank: bool = False,
    ) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(channels + 2, width), nn.Linear(width, outputs)
        self.drop, self.pause, self.megabytes = nn.Dropout(dropout), pause, megabytes
        self.null_condition = NullCondition(conditions, "zero")
        here = only in (-1, int(os.environ.get("RANK", "0")))
        self.fits = fits if here else 0
        if blank:
            for p in self.parameters():
                nn.init.zeros_(p)

    def forward(self, x: Tensor, level: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        time.sleep(self.pause)
        if self.fits and len(x) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        side = self.null_condition(condition)["side"]
        inputs = torch.cat([x, level.to(x)[:, None] / 300, side], dim=1)
        h = self.drop(torch.tanh(self.into(inputs)))
        if self.megabytes:
            numbers = self.megabytes * 2**20 // 4
            held = h.mean(1, keepdim=True).expand(-1, numbers).sin()  # kept for its gradient
            h = h + 1e-3 * held.square().mean(1, keepdim=True)
        return self.out(h)


PLUGIN = Plugin(
    name="toy",
    summary="Points, to test training on.",
    parts=(
        task("points", "toy_training:Points", "Points near one of two places"),
        dataset("cloud", "toy_training:Cloud", "Two clusters of points"),
        network("layers", "toy_training:Layers", "Two linear layers"),
    ),
)


def on_path(folder: Path) -> list[str]:
    """What to put before the path, so that the plug-in is found as an installed one is."""
    about = folder / "toy_training-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-training\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[polymode.plugins]\ntoy = toy_training:PLUGIN\n")
    return [str(folder), str(Path(__file__).parent)]
