"""LPIPS: the perceptual distance of two images, by a user's weights.

d(x, y) = sum_l 1 / (H_l W_l) sum_hw |w_l * (x_l - y_l)|^2 with x_l, y_l the maps of five layers of
AlexNet or VGG16, each position scaled to unit length over the channels.  As published, the files
hold w_l^2, weights that are not negative.  Images of any size are compared in tiles with a margin
that is wider than the receptive field, which gives the whole image's distance.
Source: Zhang et al. 2018, arXiv:1801.03924, eq. 1.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from core.storage import tensor_file
from core.weights import user_file
from core.weights.dino import DEVIATION, MEAN

TILE = 512  # pixels; a multiple of the largest stride, 16
MARGIN = 112  # likewise; a position of the last maps sees 90 pixels before it and 106 after
EPS = 1e-10  # of the length of a position's channels
# Names of the package lpips, and what files have that is not used.
NAMES = (
    (re.compile(r"net\.slice\d\.(\d+\.(?:weight|bias))"), r"features.\1"),
    (re.compile(r"lins?\.?(\d)\.model\.\d\.weight"), r"lin\1.model.1.weight"),
)
UNUSED = re.compile(r"classifier\..*|scaling_layer\.(?:shift|scale)")
REMEDY = (
    "give AlexNet or VGG16 with torchvision's names (features.0.weight) and the heads "
    "(lin0.model.1.weight), in one file or as --lpips NETWORK --lpips HEADS"
)


@dataclass(frozen=True)
class Layer:
    """A convolution with its ReLU, and the pooling before it.

    Args:
        index: of the convolution in torchvision's ``features``.
        channels: that it gives.
        kernel: side of the convolution.
        stride: of the convolution.
        padding: of the convolution.
        pool: side of the max pooling before, at a stride of 2; 0 for none.
        compared: whether its maps are compared.
    """

    index: int
    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int = 0
    compared: bool = True


# Krizhevsky 2014, arXiv:1404.5997, as torchvision has it.
ALEX = (
    Layer(0, 64, kernel=11, stride=4, padding=2),
    Layer(3, 192, kernel=5, padding=2, pool=3),
    Layer(6, 384, pool=3),
    Layer(8, 256),
    Layer(10, 256),
)
# Simonyan and Zisserman 2015, arXiv:1409.1556, configuration D; its last layer of each size.
VGG = (
    Layer(0, 64, compared=False),
    Layer(2, 64),
    Layer(5, 128, pool=2, compared=False),
    Layer(7, 128),
    Layer(10, 256, pool=2, compared=False),
    Layer(12, 256, compared=False),
    Layer(14, 256),
    Layer(17, 512, pool=2, compared=False),
    Layer(19, 512, compared=False),
    Layer(21, 512),
    Layer(24, 512, pool=2, compared=False),
    Layer(26, 512, compared=False),
    Layer(28, 512),
)
SMALLEST = {"alex": 31, "vgg": 16}  # pixels of a side that leave one position in the last maps


@dataclass(frozen=True)
class Lpips:
    """LPIPS with a user's weights.

    Args:
        backbone: ``alex`` or ``vgg``.
        weights: by torchvision's names, and the heads'.
        name: of this distance in figures, such as ``LPIPS alex 1a2b3c4d``.
    """

    backbone: str
    weights: Mapping[str, Float[Tensor, "..."]]
    name: str

    @torch.no_grad()
    def distance(self, a: Float[Tensor, " 1 c h w"], b: Float[Tensor, " 1 c h w"]) -> float:
        """The distance of two images in [-1, 1], of one size.

        Raises:
            InputError: images too small for the last maps.
        """
        least = SMALLEST[self.backbone]
        if min(a.shape[-2:]) < least:
            raise InputError(
                f"{a.shape[-1]}x{a.shape[-2]} pixels are too few for LPIPS, which needs {least} "
                "of each side"
            )
        mean, deviation = (torch.tensor(x)[:, None, None] for x in (MEAN, DEVIATION))
        pair = torch.cat([a, b]).float().expand(-1, 3, -1, -1)
        pair = ((pair + 1) / 2 - mean) / deviation
        sums = torch.zeros(5, 2, dtype=torch.float64)  # of each layer, and numbers of positions
        for rows, columns in product(*(_tiles(side) for side in pair.shape[-2:])):
            crop = pair[..., rows.crop, columns.crop]
            for layer, (apart, stride) in enumerate(self._apart(crop)):
                kept = apart[rows.kept(stride), columns.kept(stride)].double()
                sums[layer] += torch.tensor([kept.sum(), kept.numel()], dtype=torch.float64)
        return float((sums[:, 0] / sums[:, 1]).sum())  # means over positions, summed over layers

    def _apart(
        self, pair: Float[Tensor, " 2 3 h w"]
    ) -> Iterator[tuple[Float[Tensor, " rows columns"], int]]:
        """Of each layer that is compared, the weighted squared difference, and the stride."""
        x, stride, number = pair, 1, 0
        for layer in _layers(self.backbone):
            if layer.pool:
                x = F.max_pool2d(x, layer.pool, stride=2)
            name = f"features.{layer.index}"
            weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
            x = F.conv2d(x, weight, bias, stride=layer.stride, padding=layer.padding).relu_()
            stride *= layer.stride * (2 if layer.pool else 1)
            if layer.compared:
                unit = x / (x.norm(dim=1, keepdim=True) + EPS)
                head = self.weights[f"lin{number}.model.1.weight"].flatten()
                number += 1
                yield torch.einsum("c,chw->hw", head, (unit[0] - unit[1]).square()), stride


@dataclass(frozen=True)
class _Tile:
    """A part of a side, the crop that its maps depend on, and whether it is the last."""

    start: int
    stop: int
    crop: slice
    last: bool

    def kept(self, stride: int) -> slice:
        """Positions of this part in a map of the crop."""
        start, stop = self.start - self.crop.start, self.stop - self.crop.start
        return slice(start // stride, None if self.last else stop // stride)


def _tiles(side: int) -> list[_Tile]:
    return [
        _Tile(
            start,
            min(start + TILE, side),
            slice(max(start - MARGIN, 0), min(start + TILE + MARGIN, side)),
            start + TILE >= side,
        )
        for start in range(0, side, TILE)
    ]


def _layers(backbone: str) -> tuple[Layer, ...]:
    return ALEX if backbone == "alex" else VGG


# --- the user's files --------------------------------------------------------------------------


def load(paths: Sequence[Path]) -> Lpips:
    """LPIPS with the weights of one file, or of a network's and its heads'.

    Raises:
        InputError: they cannot be read, or are of something else.
    """
    stored: dict[str, tuple[Path, str]] = {}  # where each tensor is
    found: dict[str, tuple[int, ...]] = {}
    for path in paths:
        for name, shape in user_file.shapes_of(path).items():
            ours = _ours(name)
            if UNUSED.fullmatch(ours):
                continue
            if ours in stored and stored[ours][0] != path:
                raise InputError(
                    f"{path}: {name} is in {stored[ours][0]} too; give each tensor once"
                )
            stored[ours], found[ours] = (path, name), shape
    backbone = "vgg" if "features.28.weight" in found else "alex"
    expected = _shapes(backbone)
    title = f"{', '.join(map(str, paths))}: read as LPIPS of {backbone}"
    user_file.check(found, expected, title, REMEDY)
    weights: dict[str, Tensor] = {}
    for path in paths:
        names = {ours: stored[ours][1] for ours in expected if stored[ours][0] == path}
        read = user_file.read(path, names.values())
        weights |= {ours: read[name] for ours, name in names.items()}
    for number in range(5):
        if (weights[head := f"lin{number}.model.1.weight"] < 0).any():
            raise InputError(
                f"{stored[head][0]}: {stored[head][1]} has negative weights, expected squares; "
                "get it again from where it came from"
            )
    return Lpips(backbone, weights, f"LPIPS {backbone} {tensor_file.seal(weights)[:8]}")


def _ours(name: str) -> str:
    """A tensor's name as torchvision has it, and those of the heads as their file has them."""
    for pattern, ours in NAMES:
        if pattern.fullmatch(name):
            return pattern.sub(ours, name)
    return name


def _shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the network and of its heads."""
    shapes: dict[str, tuple[int, ...]] = {}
    given, heads = 3, []
    for layer in _layers(backbone):
        shapes[f"features.{layer.index}.weight"] = (layer.channels, given, *[layer.kernel] * 2)
        shapes[f"features.{layer.index}.bias"] = (layer.channels,)
        heads += [layer.channels] if layer.compared else []
        given = layer.channels
    heads = {f"lin{i}.model.1.weight": (1, width, 1, 1) for i, width in enumerate(heads)}
    return shapes | heads
