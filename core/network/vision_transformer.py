"""The vision transformer of DINO and DINOv2: an image to its class token, or to maps of patches.

Patch embedding, class token, position embedding, pre-norm blocks of self-attention and an MLP, a
last norm.  DINOv2 scales what a block adds, channel by channel, and may have registers: tokens
that belong to no patch.  Names of parameters are those of the published files.
Source: Dosovitskiy et al. 2021, arXiv:2010.11929, eq. 1 to 4; Touvron et al. 2021,
arXiv:2103.17239, eq. 3 (layer scale); Darcet et al. 2024, arXiv:2309.16588 (registers).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Sizes:
    """Sizes of a vision transformer.

    Args:
        patch: patch side in pixels.
        width: channels of a token.
        depth: number of blocks.
        heads: heads of attention.
        hidden: channels within the MLP.
        grid: side of the grid of patches that the position embedding was learned on.
        registers: number of register tokens.
        scaled: whether blocks have a layer scale.
        eps: of the norms.
    """

    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    grid: int
    registers: int = 0
    scaled: bool = False
    eps: float = 1e-6


class VisionTransformer(nn.Module):
    """A vision transformer for images of any sides that are multiples of its patch."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes, width = sizes, sizes.width
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, width, sizes.patch, stride=sizes.patch)}
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + sizes.grid**2, width))
        if sizes.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, sizes.registers, width))
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(width, eps=sizes.eps)

    def forward(self, x: Float[Tensor, " b 3 h w"]) -> Float[Tensor, " b d"]:
        """The class token after the last norm, of images normalised as in training."""
        x = self._embedded(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])  # eq. 4

    def patches(
        self, x: Float[Tensor, " b 3 h w"], blocks: Sequence[int]
    ) -> list[Float[Tensor, " b d rows columns"]]:
        """Tokens of the patches after some blocks, counted from 0, each under the last norm."""
        rows, columns = (side // self.sizes.patch for side in x.shape[-2:])
        x = self._embedded(x)
        found: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks[: max(blocks) + 1]):
            x = block(x)
            if number in blocks:
                tokens = self.norm(x[:, 1 + self.sizes.registers :])
                found[number] = tokens.mT.unflatten(2, (rows, columns))
        return [found[number] for number in blocks]

    def _embedded(self, x: Float[Tensor, " b 3 h w"]) -> Float[Tensor, " b tokens d"]:
        x = self.patch_embed["proj"](x)  # b d rows columns
        rows, columns = x.shape[-2:]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(2).mT], 1)
        x = x + self._positions(rows, columns)  # eq. 1
        if self.sizes.registers:  # behind the class token, without a position
            registers = self.register_tokens.expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], registers, x[:, 1:]], 1)
        return x

    def _positions(self, rows: int, columns: int) -> Float[Tensor, " 1 tokens d"]:
        """The position embedding, that of patches interpolated bicubically to another grid.

        Antialiased where there are registers, as in the networks that were published with them.
        """
        grid = self.sizes.grid
        if rows == columns == grid:
            return self.pos_embed
        known = self.pos_embed[:, 1:].mT.unflatten(2, (grid, grid))
        smooth = self.sizes.registers > 0
        new = F.interpolate(
            known, (rows, columns), mode="bicubic", align_corners=False, antialias=smooth
        )
        return torch.cat([self.pos_embed[:, :1], new.flatten(2).mT], 1)


class Block(nn.Module):
    """Self-attention and an MLP, each behind a norm and added to its input."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, self.heads = sizes.width, sizes.heads
        self.norm1 = nn.LayerNorm(width, eps=sizes.eps)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
        )
        self.norm2 = nn.LayerNorm(width, eps=sizes.eps)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, sizes.hidden), "fc2": nn.Linear(sizes.hidden, width)}
        )
        if sizes.scaled:
            self.ls1, self.ls2 = Scale(width), Scale(width)
        else:
            self.ls1, self.ls2 = nn.Identity(), nn.Identity()

    def forward(self, x: Float[Tensor, " b tokens d"]) -> Float[Tensor, " b tokens d"]:
        x = x + self.ls1(self._attended(self.norm1(x)))  # eq. 2
        hidden = F.gelu(self.mlp["fc1"](self.norm2(x)))
        return x + self.ls2(self.mlp["fc2"](hidden))  # eq. 3

    def _attended(self, x: Float[Tensor, " b tokens d"]) -> Float[Tensor, " b tokens d"]:
        """Self-attention; rows of `qkv` are those of the queries, keys and values in turn."""
        q, k, v = self.attn["qkv"](x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        each = F.scaled_dot_product_attention(q, k, v)  # b heads tokens channels
        return self.attn["proj"](each.transpose(1, 2).flatten(2))


class Scale(nn.Module):
    """A factor for each channel, learned from a small value on (layer scale)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, " b tokens d"]) -> Float[Tensor, " b tokens d"]:
        return self.gamma * x
