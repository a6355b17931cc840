"""Distances of results and their truth in features: image by image, and between the sets.

Three kinds of networks, each used where it is given: features of patches, LPIPS, and features of
whole images.  Each half of the results is compared with the other half of the truth, so that
nothing is compared with what it was made from; the truth's own halves are the floor.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import InputError
from core.results.distances import cosine_distance, frechet, kernel_distance
from core.weights.dino import SIDE
from plugins.image2image.evaluation.features import Features, patches
from plugins.image2image.evaluation.lpips import Lpips

PATCH = 32  # pixels, of features of patches
HALVES = "every half of them against the other half of the truth's; floors are the truth's own"


@dataclass
class Distances:
    """Distances by the networks that are given; keeps features for those between the sets.

    Args:
        patches: features of patches, for FID, KID and the distance to the truth.
        lpips: the perceptual distance to the truth.
        dino: features of whole images, for the cosine distance to the truth, FID and KID.
    """

    patches: Features | None = None
    lpips: Lpips | None = None
    dino: Features | None = None
    _halves: dict[str, list[Tensor]] = field(default_factory=dict)  # of patches, by kind and half
    _images: dict[str, list[Tensor]] = field(default_factory=dict)  # of whole images, by kind

    def of_pair(
        self, ours: Float[Tensor, " 1 c h w"], theirs: Float[Tensor, " 1 c h w"], notes: list[str]
    ) -> dict[str, float]:
        """Distances of a result to its truth; NaN, with a note, where the images do not suit."""
        found: dict[str, float] = {}
        for name, network, measure in (
            ("distance", self.patches, self._of_patches),
            ("lpips", self.lpips, self._perceptual),
            ("dino", self.dino, self._cosine),
        ):
            if network is None:
                continue
            try:
                found[name] = measure(ours, theirs)
            except InputError as error:
                found[name] = math.nan
                notes.append(f"no {name}: {error}")
        return found

    def convention(self, pixels: str) -> dict[str, str]:
        """What each figure is, in words.

        Args:
            pixels: clause of the pixels that are compared.
        """
        words: dict[str, str] = {}
        if self.patches is not None:
            features = f"{self.patches.name}, of patches of {PATCH} pixels"
            words["distance"] = f"mean distance to the truth in {features}"
            words["fid"] = words["kid"] = f"of all {features}, {HALVES}"
        if self.lpips is not None:
            words["lpips"] = f"distance to the truth by {self.lpips.name}, of R, G and B, {pixels}"
        if self.dino is not None:
            features = f"{self.dino.name}, {pixels}, the shorter side resized to {SIDE} pixels"
            words["dino"] = f"1 - cosine to the truth of {features}"
            words["dino_fid"] = words["dino_kid"] = f"of all {features}, {HALVES}; from 4 images on"
        return words

    def sets(self) -> dict[str, float]:
        """FID and KID of all patches and of all images, with the floors."""
        halves = {
            f"{kind} {half}": list(x[half::2])
            for kind, x in self._images.items()
            for half in (0, 1)
        }
        return _crossed(self._halves, "") | _crossed(halves, "dino_")

    def _of_patches(self, ours: Tensor, theirs: Tensor) -> float:
        """The mean feature distance of the patches of a pair, which are kept for the sets."""
        assert self.patches is not None, "asked by the caller"
        found = []
        for kind, x in (("result", ours), ("truth", theirs)):
            cut = patches(x.float(), PATCH)
            features = self.patches.features(cut.flatten(0, 2)).unflatten(0, cut.shape[1:3])
            row, column = (torch.arange(n) for n in features.shape[:2])
            colour = (row[:, None] + column) % 2  # of a chessboard
            for half in (0, 1):
                self._halves.setdefault(f"{kind} {half}", []).append(features[colour == half])
            found.append(features.double())
        return float((found[0] - found[1]).norm(dim=-1).mean())

    def _perceptual(self, ours: Tensor, theirs: Tensor) -> float:
        assert self.lpips is not None, "asked by the caller"
        return self.lpips.distance(ours, theirs)

    def _cosine(self, ours: Tensor, theirs: Tensor) -> float:
        """The cosine distance of a pair, whose features are kept for the sets."""
        assert self.dino is not None, "asked by the caller"
        found = [self.dino.features(x) for x in (ours, theirs)]
        for kind, features in zip(("result", "truth"), found, strict=True):
            self._images.setdefault(kind, []).append(features)
        return cosine_distance(found[0][0], found[1][0])


def _crossed(halves: Mapping[str, Sequence[Tensor]], prefix: str) -> dict[str, float]:
    """Distances of the results' halves and the truth's to the truth's other half, both ways."""
    whole = {name: torch.cat(list(x)) for name, x in halves.items() if x}
    if len(whole) < 4 or min(map(len, whole.values())) < 2:
        return {}
    found = {}
    for name, measure in ((f"{prefix}fid", frechet), (f"{prefix}kid", kernel_distance)):
        for kind, label in (("result", name), ("truth", f"{name} floor")):
            ways = [(f"{kind} {half}", f"truth {1 - half}") for half in (0, 1)]
            found[label] = float(np.mean([measure(whole[a], whole[b]) for a, b in ways]))
    return found
