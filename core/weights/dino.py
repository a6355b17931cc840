"""A user's DINO or DINOv2 weights, and the features of whole images by them.

Source: Caron et al. 2021, arXiv:2104.14294; Oquab et al. 2023, arXiv:2304.07193; their class token
for distances between sets of images, Stein et al. 2023, arXiv:2306.04675.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError, brief
from core.network.vision_transformer import Sizes, VisionTransformer
from core.storage import json_file, tensor_file
from core.weights import user_file

SIDE = 224  # pixels of the shorter side, as both were evaluated
LONGEST = 4  # times the shorter side
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in [0, 1]
LEAST_PATCH = 4  # pixels; the published have 8 to 16
BATCH = 16
HEAD = 64  # channels of a head in all published DINO and DINOv2 networks
REMEDY = (
    "give the file of a ViT as DINO, DINOv2 or Hugging Face's ViTModel, Dinov2Model and "
    "Dinov2WithRegistersModel name its tensors"
)
PREFIXES = ("vit.", "dinov2.", "dinov2_with_registers.", "backbone.", "module.")
# Of a training, or of a task that the features are not of.
UNUSED = re.compile(r"(?:pooler|classifier|head)\..*|(?:embeddings\.)?mask_token")
# Our names, which are those of DINO and DINOv2, and Hugging Face's; of ViTModel first.
THEIRS = {
    "cls_token": ("embeddings.cls_token",),
    "pos_embed": ("embeddings.position_embeddings",),
    "register_tokens": ("embeddings.register_tokens",),
    "patch_embed.proj": ("embeddings.patch_embeddings.projection",),
    "norm": ("layernorm",),
    "attn.proj": ("attention.output.dense",),
    "norm1": ("layernorm_before", "norm1"),
    "norm2": ("layernorm_after", "norm2"),
    "mlp.fc1": ("intermediate.dense", "mlp.fc1"),
    "mlp.fc2": ("output.dense", "mlp.fc2"),
    "ls1.gamma": ("layer_scale1.lambda1",),
    "ls2.gamma": ("layer_scale2.lambda1",),
}


@dataclass(frozen=True)
class Dino:
    """Class tokens of whole images.

    Args:
        network: with the user's weights.
        name: of these features in figures, such as ``DINOv2 ViT 384/14 1a2b3c4d``.
    """

    network: VisionTransformer
    name: str

    @torch.no_grad()
    def features(self, pictures: Float[Tensor, " n c h w"]) -> Float[Tensor, " n d"]:
        """Class tokens of images in [-1, 1], resized so that the shorter side is of 224 pixels.

        Bicubic and antialiased; both sides become multiples of the patch.

        Raises:
            InputError: an image more than four times as long as wide.
        """
        height, width = pictures.shape[-2:]
        size = resized(height, width, self.network.sizes.patch)
        mean, deviation = (torch.tensor(x)[:, None, None] for x in (MEAN, DEVIATION))
        found = []
        for x in pictures.float().split(BATCH):
            x = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False)
            shown = ((x + 1) / 2).clamp(0, 1).expand(-1, 3, -1, -1)
            found.append(self.network((shown - mean) / deviation))
        return torch.cat(found)


def resized(height: int, width: int, patch: int) -> tuple[int, int]:
    """Height and width with a shorter side of 224 pixels or the multiple of `patch` below.

    Raises:
        InputError: an image more than four times as long as wide.
    """
    short, long = sorted((height, width))
    if long > LONGEST * short:
        raise InputError(
            f"{width}x{height} pixels are more than {LONGEST} times as long as wide; crop it"
        )
    side = max(SIDE // patch, 1) * patch
    other = round(side * long / short / patch) * patch
    return (side, other) if height <= width else (other, side)


# --- the user's file ---------------------------------------------------------------------------


def load(path: Path) -> Dino:
    """The features of a file, or of a folder that ``save_pretrained`` wrote.

    Sizes are those of the tensors.  Heads and the norms' epsilon are of ``config.json`` beside a
    file with Hugging Face's names, or else 64 channels a head and 1e-6.

    Raises:
        InputError: it cannot be read, or is of another network.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    shapes = user_file.shapes_of(file)
    stored = {_bare(name): name for name in shapes}
    found = {name: shapes[full] for name, full in stored.items() if not UNUSED.fullmatch(name)}
    naming = 0 if any(".layernorm_before." in name for name in found) else 1
    hub = "embeddings.cls_token" in found
    config = file.with_name("config.json")
    sizes = _sizes(found, naming if hub else None, _config(config) if hub else {}, file)
    with torch.device("meta"):  # nothing is allocated before the file is known to fit
        network = VisionTransformer(sizes)
    parts = {name: _names(name, naming) if hub else (name,) for name in network.state_dict()}
    expected: dict[str, tuple[int, ...]] = {}
    for name, value in network.state_dict().items():
        for part in parts[name]:
            expected[part] = (len(value) // len(parts[name]), *value.shape[1:])
    title = f"{file}: read as a ViT of {sizes.depth} blocks of {sizes.width} channels"
    user_file.check(found, expected, title, REMEDY)
    read = user_file.read(file, [stored[name] for name in expected])
    weights = {name: torch.cat([read[stored[part]] for part in of]) for name, of in parts.items()}
    network.load_state_dict(weights, assign=True)
    kind = "DINOv2" if sizes.scaled else "DINO"
    name = f"{kind} ViT {sizes.width}/{sizes.patch} {tensor_file.seal(weights)[:8]}"
    return Dino(network.eval().requires_grad_(False), name)


def _bare(name: str) -> str:
    """A tensor's name without the name of the model that it is the backbone of."""
    prefix = next((one for one in PREFIXES if name.startswith(one)), "")
    return _bare(name.removeprefix(prefix)) if prefix else name


def _names(ours: str, naming: int) -> tuple[str, ...]:
    """Hugging Face's names of a tensor of ours; three where queries, keys and values are apart."""
    block = re.fullmatch(r"blocks\.(\d+)\.(.*)", ours)
    before, rest = (f"encoder.layer.{block[1]}.", block[2]) if block else ("", ours)
    part, _, last = rest.rpartition(".")
    if part == "attn.qkv":
        return tuple(f"{before}attention.attention.{x}.{last}" for x in ("query", "key", "value"))
    if rest in THEIRS:
        return (before + THEIRS[rest][min(naming, len(THEIRS[rest]) - 1)],)
    known = THEIRS[part]
    return (f"{before}{known[min(naming, len(known) - 1)]}.{last}",)


def _sizes(
    found: user_file.Shapes, naming: int | None, config: Mapping[str, Any], file: Path
) -> Sizes:
    """Sizes of the network by the shapes of its tensors; `naming` is None for our own names.

    Raises:
        InputError: the tensors that state them are missing, or contradict each other.
    """

    def shape(ours: str, axes: int) -> tuple[int, ...]:
        name = ours if naming is None else _names(ours, naming)[0]
        if len(found.get(name, ())) != axes or 0 in found[name]:
            raise InputError(f"{file}: has no {name} of {axes} axes, as a ViT has; {REMEDY}")
        return found[name]

    width, _, patch, _ = shape("patch_embed.proj.weight", 4)
    grid = math.isqrt(max(shape("pos_embed", 3)[1] - 1, 0))
    hidden = shape("blocks.0.mlp.fc1.weight", 2)[0]
    blocks = {
        x[1] for name in found if (x := re.match(r"(?:blocks|encoder\.layer)\.(\d+)\.", name))
    }
    heads = config.get("num_attention_heads", width // HEAD)
    known = min(width, grid) > 0 and LEAST_PATCH <= patch <= SIDE  # which bounds the tokens
    if not known or not 0 < heads <= width or width % heads:
        raise InputError(
            f"{file}: {width} channels, patches of {patch} pixels, a grid of {grid} and {heads} "
            f"heads are no ViT's; {'correct' if config else 'give'} its config.json beside it"
        )
    scale, registers = ("ls1.gamma", "register_tokens")
    if naming is not None:
        scale, registers = "layer_scale1.lambda1", _names(registers, naming)[0]
    return Sizes(
        patch=patch,
        width=width,
        depth=len(blocks),
        heads=heads,
        hidden=hidden,
        grid=grid,
        registers=found[registers][1] if len(found.get(registers, ())) == 3 else 0,
        scaled=any(name.endswith(scale) for name in found),
        eps=config.get("layer_norm_eps", 1e-6),
    )


def _config(path: Path) -> dict[str, Any]:
    """Options of a ``config.json`` that are used; none where there is no such file.

    Raises:
        InputError: it is not one, or is of a network that differs from DINO's.
    """
    if not path.exists():
        return {}
    found = json_file.read_options(path)
    _expect(path, found, {"hidden_act": "gelu", "qkv_bias": True, "use_swiglu_ffn": False})
    images = path.with_name("preprocessor_config.json")  # other ViTs are normalised otherwise
    normalised = {"image_mean": list(MEAN), "image_std": list(DEVIATION)}
    _expect(images, json_file.read_options(images) if images.exists() else {}, normalised)
    heads, eps = found.get("num_attention_heads"), found.get("layer_norm_eps", 1e-6)
    if type(heads) is not int or type(eps) not in (int, float) or not 0 <= eps < 1:
        raise InputError(
            f"{path}: expected num_attention_heads, a whole number, and layer_norm_eps from 0 to "
            f"1, got {brief(heads)} and {brief(eps)}; get it again from where it came from"
        )
    return {"num_attention_heads": heads, "layer_norm_eps": eps}


def _expect(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for option, value in expected.items():
        if (given := found.get(option, value)) != value:
            raise InputError(
                f"{path}: {option}: expected {value!r}, got {brief(given)}, so the network is not "
                "DINO's; use another one"
            )
