"""Conditions of a network, by name: its inputs beside the noisy sample and the level.

| name | tensor | number | use |
|---|---|---|---|
| image | (b, c, *space) | channels c | concatenated to the input's channels |
| class | (b,) whole numbers | classes | an embedding added to the level's |
| vector | (b, d) | width d | two linear layers, added to the level's embedding |
| sequence | (b, m, d) | width d | cross-attention |
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from core.errors import InputError

NAMES = ("image", "class", "vector", "sequence")
Condition = Mapping[str, Shaped[Tensor, " b ..."]]


def check(
    conditions: Mapping[str, int],
    checks: Iterable[tuple[bool, str]],
    names: Sequence[str] = NAMES,
) -> None:
    """Refuse a network whose conditions it cannot take or whose options do not fit.

    Args:
        conditions: the task's, with their numbers.
        checks: of options: (whether it fails, message).
        names: of the conditions that the network takes.

    Raises:
        InputError: all problems, a line each.
    """
    # Names first, then numbers, then options: all problems in one error.
    unknown = sorted(set(conditions) - set(names))
    found = [f"takes no condition named {name}, only {', '.join(names)}" for name in unknown]
    found += [
        f"condition {name}: expected at least 1 channel, class or element, got {number}"
        for name, number in conditions.items()
        if name in names and number < 1
    ]
    found += [problem for wrong, problem in checks if wrong]
    if found:
        raise InputError("\n".join(f"network.{problem}" for problem in found))


def at_least(least: int, options: Mapping[str, int]) -> list[tuple[bool, str]]:
    """Checks, for `check`, that numbers are no smaller than `least`."""
    return [
        (value < least, f"{name}: expected at least {least}, got {value}")
        for name, value in options.items()
    ]


def required(conditions: Mapping[str, int], given: Condition | None) -> Condition:
    """The conditions that a network was built with, of those given.

    Raises:
        InputError: one of them is missing.
    """
    given = given or {}
    missing = [name for name in conditions if name not in given]
    if missing:
        names = " and ".join(repr(name) for name in missing)
        raise InputError(
            f"this network requires a condition named {names}; got {', '.join(given) or 'none'}"
        )
    return {name: given[name] for name in conditions}


class ConditionEmbedding(nn.Module):
    """The embedding of the level plus those of the class and the vector.

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

    def forward(
        self, embedding: Float[Tensor, " b d"], condition: Condition
    ) -> Float[Tensor, " b d"]:
        if self.label is not None:
            embedding = embedding + self.label(condition["class"])
        if self.vector is not None:
            embedding = embedding + self.vector(condition["vector"].to(embedding))
        return embedding


def concatenated(
    x: Float[Tensor, " b c *space"], condition: Condition
) -> Float[Tensor, " b k *space"]:
    """`x` with the channels of the condition "image" behind its own.

    Raises:
        InputError: the image has another size.
    """
    image = condition.get("image")
    if image is None:
        return x
    if image.shape[2:] != x.shape[2:]:
        raise InputError(
            f"condition 'image': expected the size of the input, {tuple(x.shape[2:])}, got "
            f"{tuple(image.shape[2:])}"
        )
    return torch.cat([x, image.to(x)], dim=1)
