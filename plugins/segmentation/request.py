"""Requests and results of the plug-in's verbs: frozen values, no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from core.errors import InputError
from core.parts.registry import Spec
from core.scans.request import Modality, Plane

Kind = Literal["ensemble", "linear"]
"""Of a pixel classifier: ten small networks, or a linear one in closed form."""


Frequencies = Literal["labelled", "even"]
"""Of classes: those of the labelled pixels, or all alike."""


Objects = Literal["none", "components", "watershed"]
"""How masks are divided into objects: connected components, or a watershed of their distance."""


@dataclass(frozen=True, kw_only=True)
class Dividing:
    """How masks are divided into objects.

    Args:
        objects: connected components of each class but the first, or a watershed of their distance
            to the background, which divides those that touch.
        min_area: pixels of an object at least; smaller ones are left out.
        apart: pixels between the middles of two objects at least; for the watershed.
    """

    objects: Objects = "none"
    min_area: Annotated[int, Ge(0)] = 0
    apart: Annotated[int, Ge(1)] = 5


@dataclass(frozen=True, kw_only=True)
class Labels:
    """How masks are read.

    Args:
        masks: folder of masks, each with its image's name, or a file or folder of annotations (COCO
            JSON, LabelMe JSON, CVAT for images 1.1); by default masks lie beside the images, as
            ``photo_mask.png`` beside ``photo.png``.
        classes: names of the classes 0, 1, ...; by default those of ``classes.json`` beside the
            masks, else the numbers found in them, or background and the classes of the annotations.
        ignore: numbers of pixels without a label; with `instances` every number counts.
        instances: every number but 0, or every shape, is an object of one class.
        sparse: pixels outside all shapes of an annotation have no label, instead of background.
    """

    masks: Path | None = None
    classes: tuple[str, ...] = ()
    ignore: tuple[Annotated[int, Ge(0)], ...] = (255,)
    instances: bool = False
    sparse: bool = False


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How large images are read.

    Args:
        tile: side of the part of an image that is read at once, in pixels.
        margin: of each part, whose labels the neighbours decide, in pixels; less than half of
            `tile`.

    Raises:
        InputError: a margin that leaves nothing of a tile.
    """

    tile: Annotated[int, Ge(64)] = 512
    margin: Annotated[int, Ge(0)] = 64

    def __post_init__(self) -> None:
        if 2 * self.margin >= self.tile:
            raise InputError(
                f"margin: expected less than half of the tile's {self.tile} pixels, got "
                f"{self.margin}; state a smaller margin, or a larger tile"
            )


@dataclass(frozen=True, kw_only=True)
class Scans:
    """How DICOM, NIfTI, MetaImage and NRRD are read: slice by slice, as grey images.

    Args:
        plane: scans: plane of the slices.
        low: CT: Hounsfield units that become black.
        high: CT: Hounsfield units that become white.
        percentile: other scans: the voxels' percentile that becomes white; 0 becomes black.
        modality: NIfTI: modality, which no header states; by default CT where values lie below
            -500.
        volume: NIfTI: index of the volume of a 4-D file, from 0.

    Raises:
        InputError: a window that is empty.
    """

    plane: Plane = "acquired"
    low: float = -1000.0
    high: float = 1000.0
    percentile: Annotated[float, Gt(0), Le(100)] = 99.8
    modality: Modality | None = None
    volume: Annotated[int, Ge(0)] | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(
                f"low, high: expected a window, its lower end first, got {self.low:g} to "
                f"{self.high:g} HU; for soft tissue -160 and 240"
            )


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """A pixel classifier from images with labels.

    Args:
        images: folder of images; those with a mask are used.
        labels: how masks are read.
        features: what the classifier reads.
        kind: the paper's ensemble, or a linear classifier in closed form.
        members: of the ensemble.
        pixels: labelled pixels that are used at most, as many of each class as possible.
        frequencies: how frequent classes are taken to be where an image does not tell: as they are
            in the labels, or even, as where strokes do not say how much there is of each.
        tiling: how large images are read.
        scans: how scans are read.
        seed: random seed of weights, pixels and folds.
    """

    images: Path
    features: Spec
    labels: Labels = Labels()
    kind: Kind = "ensemble"
    members: Annotated[int, Ge(1), Le(100)] = 10
    pixels: Annotated[int, Ge(100)] = 40_000
    frequencies: Frequencies = "labelled"
    tiling: Tiling = Tiling()
    scans: Scans = Scans()
    seed: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True, kw_only=True)
class ChooseRequest:
    """Mean IoU of a linear classifier over blocks and noise levels of a diffusion model.

    Cross-validated over the images: each is segmented by a classifier of the others.

    Args:
        images: folder of images; those with a mask are used, two at least.
        checkpoint: folder of a model of task core/generate without conditions.
        labels: how masks are read.
        blocks: names of the U-Net's blocks to compare; by default all of its decoder.
        steps: noise levels to compare, as steps from 0 to 999 of DDPM's linear chain of 1000.
        pixels: labelled pixels that are used at most, as many of each class as possible.
        folds: parts that the images are divided into; as many as images where there are fewer.
        tiling: how large images are read.
        seed: random seed of pixels and noise.
    """

    images: Path
    checkpoint: Path
    labels: Labels = Labels()
    blocks: tuple[str, ...] = ()
    steps: tuple[Annotated[int, Ge(0), Le(999)], ...] = (1, 20, 50, 100, 150, 250)
    pixels: Annotated[int, Ge(100)] = 10_000
    folds: Annotated[int, Ge(2)] = 5
    tiling: Tiling = Tiling()
    seed: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True)
class ChooseResult:
    """The blocks and noise levels of the highest mean IoU.

    Args:
        metrics: ``metrics.json``: mean IoU of every combination, with intervals over images.
        blocks: of the best combination.
        steps: of the best combination.
        miou: of the best combination.
    """

    metrics: Path
    blocks: tuple[str, ...]
    steps: tuple[int, ...]
    miou: float


@dataclass(frozen=True)
class FitResult:
    """A fitted classifier.

    Args:
        classifier: the folder of it.
        loss: cross-entropy of held-out labelled pixels, in nats.
    """

    classifier: Path
    loss: float


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """Images drawn from a prior, and their labels by a classifier, as training data.

    Source: DatasetDDPM, Baranchuk et al. 2022, arXiv:2112.03126, section 5.

    Args:
        checkpoint: folder of a diffusion model of images without conditions.
        classifier: folder of a fitted classifier.
        count: images drawn.
        discard: fraction of them that is left out again: those of which the members of the ensemble
            disagree most, by the mean over pixels.
        steps: solver steps of each image.
        batch: images at a time.
        seed: image i depends on it and i alone.
    """

    checkpoint: Path
    classifier: Path
    count: Annotated[int, Ge(1)] = 500
    discard: Annotated[float, Ge(0), Lt(1)] = 0.1
    steps: Annotated[int, Ge(1)] = 50
    batch: Annotated[int, Ge(1)] = 16
    seed: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True)
class GenerateResult:
    """Generated images and masks.

    Args:
        images: the folder, which `segmentation/folder` reads.
        kept: images in it.
    """

    images: Path
    kept: int
