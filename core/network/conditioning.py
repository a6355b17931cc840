"""Conditions of a network, by name: its inputs beside the noisy sample and the level.

| name | tensor | number | use | null |
|---|---|---|---|---|
| image | (b, c, *space) | channels c | concatenated to the input's channels | zeros, or (c,) |
| class | (b,) integers | classes | an embedding added to the level's | a further row |
| vector | (b, d) | width d | two linear layers, added to the level's embedding | zeros, or (d,) |
| sequence | (b, m, d) | width d | cross-attention | zeros, or (d,) |

The null stands for no condition: in training by the fraction `unconditional` of the samples, and in
the unconditional estimate of classifier-free guidance.  Both mark samples by `null_condition`; the
network's `NullCondition` replaces what is marked.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core.errors import InputError

NAMES = ("image", "class", "vector", "sequence")
NULL = "null"  # the entry of a condition that marks the samples without one: (b,), bool
Condition = Mapping[str, Tensor]  # each (b, ...)


def null_condition(
    condition: Condition | None, dropped: Bool[Tensor, " b"] | None = None
) -> Condition:
    """The condition with samples marked as having none; a network gives those its null.

    Values stay as they are.  Nothing is marked where there is no condition to drop.
    Source: Ho and Salimans 2022, arXiv:2207.12598, section 3.2 (the null token).

    Args:
        condition: of a batch, by name.
        dropped: the samples without condition; all where None.
    """
    values = dict(condition or {})
    if not values:
        return values
    first = next(iter(values.values()))
    if dropped is None:
        dropped = torch.ones(len(first), dtype=torch.bool, device=first.device)
    marked = values.get(NULL)
    dropped = dropped.to(first.device)
    return {**values, NULL: dropped if marked is None else marked | dropped}


class NullCondition(nn.Module):
    """The one home of a network's null conditions: rows marked by `null_condition` get them.

    Args:
        conditions: the network's, with their numbers.
        kind: zeros, or learned: a vector for each condition that is not a class, the same at every
            position.  The null of a class is always a row of its embedding.
    """

    def __init__(self, conditions: Mapping[str, int], kind: Literal["zero", "learned"]) -> None:
        super().__init__()
        self.conditions = dict(conditions)
        values = {name: number for name, number in conditions.items() if name != "class"}
        self.learned = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(number)) for name, number in values.items()}
            if kind == "learned"
            else {}
        )

    def _null(self, name: str, value: Tensor) -> Tensor:
        """The null of a condition, broadcasting over `value`."""
        if name == "class":
            return value.new_full((), self.conditions["class"])  # the row behind the classes
        if name not in self.learned:
            return value.new_zeros(())
        axis = 1 if name == "image" else -1  # of the channels
        return self.learned[name].view(
            [-1 if i == axis % value.ndim else 1 for i in range(value.ndim)]
        )

    def forward(self, condition: Condition | None) -> Condition:
        """The conditions that the network was built with, nulls in the rows marked.

        Raises:
            InputError: one of them is missing.
        """
        values = required(self.conditions, condition)
        null = (condition or {}).get(NULL)
        if null is None:
            return values
        return {
            name: torch.where(
                null.view(-1, *[1] * (value.ndim - 1)),
                self._null(name, value).to(value.dtype),
                value,
            )
            for name, value in values.items()
        }


def takes_null(network: nn.Module) -> bool:
    """Whether a network gives the samples marked by `null_condition` a null."""
    return any(isinstance(module, NullCondition) for module in network.modules())


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
    found = [
        f"network: takes no condition named {name!r}, only {', '.join(names)}" for name in unknown
    ]
    found += [
        f"network: condition {name!r}: expected at least 1 channel, class or element, got {number}"
        for name, number in conditions.items()
        if name in names and number < 1
    ]
    found += [f"network.{problem}" for wrong, problem in checks if wrong]
    if found:
        raise InputError("\n".join(found))


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

    The last row of the class's embedding is its null.
    Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 3.1 (class in the level's
    embedding).
    """

    def __init__(self, conditions: Mapping[str, int], outputs: int) -> None:
        super().__init__()
        classes, width = conditions.get("class"), conditions.get("vector")
        self.label = None if classes is None else nn.Embedding(classes + 1, outputs)
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
