"""Files that hold labels of voxels instead of an image: segmentations lie beside their scans.

Layouts: TotalSegmentator's ``s0001/segmentations/liver.nii.gz``, ``labelsTr`` of the Medical
Segmentation Decathlon and nnU-Net, ``segmentation.nii.gz`` of KiTS, ``_seg`` of BraTS, and
``_dseg`` and ``_probseg`` of BIDS derivatives.
"""

import re
from pathlib import PurePath

import numpy as np
from jaxtyping import Float

NAMED = re.compile(
    r"(?:^|/)(?:labels?(?:T[rs]|Va)?|segs?|segmentations?|masks?|annotations?)(?:/|$)"
    r"|(?:^|[/_.-])(?:d?seg|segmentation|masks?|labels?|aseg|aparc)(?:[_.-]?\d+)?$",
    re.IGNORECASE,
)
PROBABILITIES = re.compile(r"(?:^|[/_.-])(?:probseg|prob|softmax)$", re.IGNORECASE)
FEW = 12  # an image has more grey levels than this
# Neighbours of one value, of those that are not background.  Noise leaves few of them; of smooth
# images in 8 bits a good part, but then most of the other neighbours are a grey level or two apart.
ALIKE, SOME, NEAR = 0.9, 0.6, 2
ENOUGH = 1000  # pairs of neighbours to decide by


def reason_of_name(place: PurePath, bits: int) -> str:
    """Why a file of so many bits a voxel is no image by its path in the dataset's folder.

    Empty where it may be one.
    """
    name = re.sub(r"(?:\.nii)?\.\w+$", "", place.as_posix())
    if PROBABILITIES.search(name):
        return "probabilities of labels, by its name"
    if bits == 8 and NAMED.search(name):
        return "a label map, by its name and its 8-bit voxels"
    return ""


class Content:
    """Values that have been seen of a volume, as far as they say whether it is an image.

    A label map holds whole numbers from 0 upwards, few of them or the same one in most neighbours.
    """

    def __init__(self) -> None:
        self._values: set[float] = set()
        self._pairs = self._alike = self._near = 0
        self.lowest, self._broken = np.inf, False

    def see(self, values: Float[np.ndarray, " n"]) -> None:
        """Count values in the order of storage."""
        values = values[np.isfinite(values)]
        if not len(values):
            return
        self.lowest = min(self.lowest, float(values.min()))
        self._broken |= self.lowest < 0 or bool((values != np.rint(values)).any())
        if len(self._values) <= 2 * FEW:
            self._values.update(np.unique(values)[: 4 * FEW].tolist())
        inside = (values[1:] != 0) & (values[:-1] != 0)
        self._pairs += int(inside.sum())
        steps = np.abs(np.diff(values))[inside]
        self._alike += int((steps == 0).sum())
        self._near += int(((steps > 0) & (steps <= NEAR)).sum())

    @property
    def _in_regions(self) -> bool:
        """Whether most neighbours have one value."""
        apart = self._pairs - self._alike
        if self._near > apart / 2:
            return self._alike >= ALIKE * self._pairs
        return self._alike >= SOME * self._pairs

    @property
    def is_image(self) -> bool:
        """Whether values were seen that no label map has."""
        several = len(self._values) > FEW and self._pairs > ENOUGH
        return self._broken or (several and not self._in_regions)

    @property
    def reason(self) -> str:
        """Why a volume that was seen to its end is no image; empty where it is one."""
        if len(self._values) <= 1:
            return "all voxels have one value"
        few = len(self._values) <= FEW
        if self._broken or not (few or self._in_regions):
            return ""
        return f"a label map of {f'{len(self._values)} values' if few else 'regions of one value'}"
