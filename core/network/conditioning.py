"""What a network is told beside the noisy sample and its level, by name.

| name | tensor | number | use |
|---|---|---|---|
| image | (b, c, *space) | channels c | put beside the input's channels |
| class | (b,) whole numbers | classes | an embedding added to the level's |
| vector | (b, d) | width d | through two layers, added to the level's: adaptive norms hear it |
| sequence | (b, m, d) | width d | attended to |
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from core.errors import InputError

NAMES = ("image", "class", "vector", "sequence")


def check(conditions: Mapping[str, int], checks: Iterable[tuple[bool, str]]) -> None:
    """Refuse a network whose conditions it cannot take or whose options do not fit.

    Args:
        conditions: asked for, with their numbers.
        checks: (whether something is wrong, what).

    Raises:
        InputError: all that is wrong, a line each.
    """
    unknown = sorted(set(conditions) - set(NAMES))
    found = [f"takes no condition named {name}, only {', '.join(NAMES)}" for name in unknown]
    found += [
        f"condition {name}: expected at least 1 channel, class or element, got {number}"
        for name, number in conditions.items()
        if name in NAMES and number < 1
    ]
    found += [said for wrong, said in checks if wrong]
    if found:
        raise InputError("\n".join(f"network.{said}" for said in found))


def asked(
    conditions: Mapping[str, int], given: Mapping[str, Tensor] | None
) -> Mapping[str, Tensor]:
    """The conditions a network was made for, of those given.

    Raises:
        InputError: one of them is missing.
    """
    given = given or {}
    missing = [name for name in conditions if name not in given]
    if missing:
        names = " and ".join(repr(name) for name in missing)
        raise InputError(f"this network was made for a condition named {names}; none given")
    return {name: given[name] for name in conditions}


class Told(nn.Module):
    """What the class and the vector add to the embedding of the level.

    Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 3.1 (class in the level's
    embedding).
    """

    def __init__(self, conditions: Mapping[str, int], outputs: int) -> None:
        super().__init__()
        classes, width = conditions.get("class"), conditions.get("vector")
        self.label = None if classes is None else nn.Embedding(classes, outputs)
        self.vector = None
        if width is not None:
            self.vector = nn.Sequential(
                nn.Linear(width, outputs), nn.SiLU(), nn.Linear(outputs, outputs)
            )

    def forward(self, told: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        if self.label is not None:
            told = told + self.label(given["class"])
        if self.vector is not None:
            told = told + self.vector(given["vector"].to(told))
        return told


def beside(x: Tensor, given: Mapping[str, Tensor]) -> Tensor:
    """`x` with the channels of the condition "image" behind its own.

    Raises:
        InputError: the image has another size.
    """
    image = given.get("image")
    if image is None:
        return x
    if image.shape[2:] != x.shape[2:]:
        raise InputError(
            f"condition 'image': expected the size of the input, {tuple(x.shape[2:])}, got "
            f"{tuple(image.shape[2:])}"
        )
    return torch.cat([x, image.to(x)], dim=1)
