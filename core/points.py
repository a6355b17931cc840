"""Points of the plane: toy densities, and the task of drawing from them.

The pictures of every introduction to diffusion models, in seconds on a CPU: train on `core/points`,
sample, and look at the scatter plot ``sheet.png``.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from core.errors import InputError
from core.process.noise import derive
from core.results.sheet import scatter
from core.task import Batch, Example, Figure, Method, Panel, Scores

Density = Literal["ring", "grid", "spirals", "checkerboard", "moons"]
CLASSES: dict[Density, int] = {"ring": 8, "grid": 25, "spirals": 2, "checkerboard": 8, "moons": 2}
TURNS = 1.5  # of each spiral
DATA, SAMPLES = (176, 176, 176), (31, 119, 180)  # colours of the scatter plot


class Points:
    """Independent points of a density in the plane, within about [-1, 1]: `point` and `class`.

    Item i is a function of (density, std, split, seed, i) alone.  Its class is the component it was
    drawn from: of eight Gaussians on a ring, 25 on a grid, two spirals, the eight dark squares of
    a board of four by four, or two moons.

    Args:
        density: the density of the points.
        std: standard deviation of the Gaussian noise of each coordinate; a checkerboard has none.
        count: points in each split.
        seed: another seed gives other points of the same density.
    """

    def __init__(
        self,
        split: str,
        *,
        density: Density = "ring",
        std: float = 0.05,
        count: int = 8192,
        seed: int = 0,
    ) -> None:
        if std < 0 or count < 1:
            raise InputError(f"points: expected std >= 0 and count >= 1, got {std} and {count}")
        self.density: Density = density
        self.split, self.std, self.count = split, std, count
        self.seed = seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Shaped[Tensor, "..."]]:
        stream = torch.Generator().manual_seed(derive(self.seed, "points", self.split, index))
        component = torch.randint(CLASSES[self.density], (), generator=stream)
        uniform = torch.rand(2, generator=stream, dtype=torch.float64)
        point = _curve(self.density, component, uniform)
        if self.density != "checkerboard":
            point += self.std * torch.randn(2, generator=stream, dtype=torch.float64)
        return {"point": point.float(), "class": component}

    def source(self, index: int) -> str:
        """Points are independent: each is its own source."""
        return f"{self.split} {index}"

    def name(self, index: int) -> str:
        """A title for the point."""
        return f"point {index}"

    def digest(self) -> str:
        """SHA-256 of the options, which determine the points."""
        options = repr((self.density, self.std, self.split, self.count, self.seed))
        return hashlib.sha256(options.encode()).hexdigest()


def _curve(
    density: Density, component: Int[Tensor, ""], uniform: Float[Tensor, " 2"]
) -> Float[Tensor, " 2"]:
    """The point of a component before noise is added, from two uniform draws in [0, 1)."""
    k, (u, v) = int(component), uniform.tolist()
    if density == "ring":
        angle = 2 * math.pi * k / 8
        x, y = 0.7 * math.cos(angle), 0.7 * math.sin(angle)
    elif density == "grid":
        x, y = 0.35 * (k % 5) - 0.7, 0.35 * (k // 5) - 0.7
    elif density == "spirals":
        # Radius proportional to angle; the root makes points about evenly dense along the arm.
        angle = 2 * math.pi * TURNS * math.sqrt(u)
        radius = 0.8 * math.sqrt(u) * (1 if k == 0 else -1)
        x, y = radius * math.cos(angle), radius * math.sin(angle)
    elif density == "checkerboard":
        row, column = k // 2, 2 * (k % 2) + k // 2 % 2
        x, y = -1 + (column + u) / 2, -1 + (row + v) / 2
    else:
        # Half circles of radius 0.55, the second turned over and moved into the first.
        angle, sign = math.pi * u, 1 if k == 0 else -1
        x = 0.55 * math.cos(angle) * sign - 0.275 * sign
        y = 0.55 * math.sin(angle) * sign - 0.1375 * sign
    return torch.tensor([x, y], dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Draw points like those of the data, free or of a class.

    Scored by the energy score of an item's k draws X_j against its own point y,
    mean |X_j - y| - 1/2 mean |X_j - X_l| over pairs j != l: its expectation is least when the draws
    have the distribution of the data.  With one draw the second term is left out.
    Source: Gneiting and Raftery 2007, doi:10.1198/016214506000001437, eq. 22.

    Args:
        classes: number of components that points are drawn from on demand; 0 draws freely.
    """

    classes: int = 0

    channels: ClassVar[int] = 2
    reference: ClassVar[str] = "origin"
    figures: ClassVar[Mapping[str, Figure]] = {"energy": Figure("energy score", "", "lower")}

    def __post_init__(self) -> None:
        if self.classes < 0:
            raise InputError(f"points: classes: expected 0 or more, got {self.classes}")

    @property
    def conditions(self) -> Mapping[str, int]:
        """The number of classes, where there are some."""
        return {"class": self.classes} if self.classes else {}

    @property
    def reads(self) -> Mapping[str, str]:
        """The point, and the class where there are classes."""
        return {"point": "2"} | ({"class": ""} if self.classes else {})

    def prepare(self, batch: Batch) -> Example:
        """The points, with their classes."""
        if "point" not in batch:
            raise InputError("points: this dataset has no points; use core/points")
        return Example(batch["point"], {"class": batch["class"]} if self.classes else {})

    def finish(self, x0: Float[Tensor, " b 2"], batch: Batch) -> Float[Tensor, " b 2"]:
        """The draws as they are."""
        return x0

    def score(self, results: Float[Tensor, " b k 2"], batch: Batch) -> Scores:
        """The energy score of each item's draws; the reference draws the origin alone."""
        truth, draws = batch["point"].double(), results.double()
        count = draws.shape[1]
        energy = (draws - truth[:, None]).norm(dim=-1).mean(1)
        if count > 1:
            pairs = torch.cdist(draws, draws).sum((1, 2)) / (count * (count - 1))
            energy = energy - pairs / 2
        return {
            "origin": Method("baseline", {"energy": truth.norm(dim=-1)}),
            "samples": Method("draw", {"energy": energy}),
        }

    def show(
        self, results: Float[Tensor, " b k 2"], batch: Batch, titles: list[str]
    ) -> list[Panel]:
        """Nothing of single points; see `show_together`."""
        return []

    def show_together(self, results: Float[Tensor, " b k 2"], batch: Batch) -> Panel:
        """A scatter plot of the data, and one of all draws over the data, to one scale."""
        data, draws = batch["point"], results.flatten(0, 1)
        limit = 1.25 * float(data.abs().max())
        return Panel(
            f"{len(draws)} samples over {len(data)} points",
            {
                "data": scatter([(data, DATA)], limit),
                "samples": scatter([(data, DATA), (draws, SAMPLES)], limit),
            },
        )
