"""Super-resolution by any factor, by one network.

Source: Kim et al. 2016 (VDSR), arXiv:1511.04587, section 4.3: one network for several factors,
whose input is the bicubic enlargement.
"""

from collections.abc import Mapping

from core.errors import InputError
from core.parts.registry import Spec
from core.process.noise import derive, generator
from core.task import Batch
from plugins.image2image.tasks.restoration import Restoration, Target
from plugins.image2image.tasks.super_resolution import SR3


class MultiScale(Restoration):
    """Super-resolution by any factor in a range: each item's is random by its index.

    For training; to sample, set ``task`` to ``image2image/sr3`` with a ``scale`` and the `unit` of
    that scale, as `upscale` does.  The network sees the factor in the bicubic enlargement and in
    the expected standard deviation of its residual.
    Source: Kim et al. 2016 (VDSR), arXiv:1511.04587, section 4.3, for the networks of SR3
    (Saharia et al. 2021, arXiv:2104.07636).

    Args:
        least: smallest factor, above 1.
        most: largest factor.
        target: the diffused x0 of each item.
        back_projections: of results at every factor, as in ``image2image/sr3``.
        seed: random seed of the factors.

    Raises:
        InputError: factors that are no range above 1.
    """

    def __init__(
        self,
        *,
        least: float = 1.5,
        most: float = 4.0,
        target: Target = "residual",
        back_projections: int = 5,
        seed: int = 0,
    ) -> None:
        if not 1 < least <= most < float("inf"):
            raise InputError(f"least: expected above 1 and at most {most:g}, got {least:g}")
        super().__init__("bicubic", target)
        self.least, self.most, self.back_projections = least, most, back_projections
        self.seed = seed
        self.at(most)  # which checks the other options

    @property
    def specs(self) -> Mapping[str, Spec]:
        """The tasks to choose a default for, by name: the ends of the range, and factor 2."""
        middle = {2.0} if self.least < 2 < self.most else set[float]()
        factors = sorted({self.least, self.most, *middle})
        return {f"{factor:g}-fold": self.spec(factor) for factor in factors}

    def spec(self, factor: float) -> Spec:
        """The task of drawing at one factor."""
        options = {
            "scale": factor, "unit": unit(factor), "target": self.target,
            "back_projections": self.back_projections,
        }  # fmt: skip
        return Spec("image2image/sr3", options)

    def at(self, factor: float) -> SR3:
        """`spec`, made."""
        return SR3(**self.spec(factor).options)

    def degrade(self, item: Batch, index: int) -> Batch:
        """The first estimate of the item's own factor, at the item's size."""
        random = generator(derive("scale", self.seed), index)
        task = self.at(self.least + (self.most - self.least) * random.random())
        batch = {"image": item["image"][None]}
        return {**item, "base": task.base(batch)[0], "residual_std": task.residual_std(batch)[0]}


def unit(factor: float) -> float:
    """The expected standard deviation of the residual at a factor, in that at factor 4.

    (factor/4)^0.6: 0.56, 0.66, 0.84 at factors 1.5, 2, 3; the training photographs have 0.50, 0.67,
    0.87, coffee of scikit-image 0.60, 0.74, 0.91.
    """
    return (factor / 4) ** 0.6
