"""The contract of networks: shapes, batches, conditions, gradients."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import InputError
from core.network.conditioning import null_condition, takes_null

Build = Callable[..., Any]


SHAPES = ((3, 24, 17), (3, 24), (3,), (3, 12, 10, 8))  # of an image, a signal, a point, a volume
NUMBERS = {"image": 3, "class": 4, "vector": 5, "sequence": 6}


def check_network(
    build: Build,
    *,
    options: Mapping[str, Any] | None = None,
    shape: tuple[int, ...] | None = None,
) -> None:
    """Shape kept at two sizes, samples independent, inputs used, every parameter trained.

    A condition is refused by an `InputError` when the network is built, or heeded.
    """
    options = options or {}
    channels = shape[0] if shape else 3
    numbers = {**NUMBERS, "image": channels}
    conditions = {
        name: number
        for name, number in numbers.items()
        if not _refuses(build, channels, {name: number}, options)
    }
    with torch.random.fork_rng(devices=[]):  # the same weights whatever ran before
        torch.default_generator.manual_seed(0)
        network: nn.Module = build(channels, channels, conditions, **options)
    with torch.no_grad():  # layers that begin at zero would hide what lies behind them
        generator = torch.Generator().manual_seed(0)
        for p in network.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    shape = shape or _shape_of(network.eval(), conditions, generator)
    level = torch.tensor([3.0, -40.0])
    for size in (shape, (shape[0], *(s + 5 for s in shape[1:]))):
        x = torch.randn(2, *size, generator=generator)
        given, other = (_condition(conditions, x, generator, label) for label in (0, 1))
        output = network(x, level, given)
        assert output.shape == x.shape, f"the output of {tuple(x.shape)} is {tuple(output.shape)}"
        first = {name: value[:1] for name, value in given.items()}
        alone = network(x[:1], level[:1], first)
        assert (alone[0] - output[0]).abs().max() < 1e-4, "a sample depends on its neighbours"
        assert (network(x, level + 20, given) - output).abs().max() > 1e-4, (
            "the output ignores the noise level"
        )
        for name, value in other.items():
            changed = network(x, level, {**given, name: value})
            assert (changed - output).abs().max() > 1e-4, (
                f"the output ignores the condition {name!r}: use it, or refuse it when the network "
                "is built, by core.network.conditioning.check"
            )
        if conditions and takes_null(network):
            one, two = (network(x, level, null_condition(c)) for c in (given, other))
            assert torch.equal(one, two), "samples without condition depend on it"
    network.train()
    x = torch.randn(2, *shape, generator=generator)
    network(x, level, _condition(conditions, x, generator, 0)).square().sum().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle, f"no gradient reaches {', '.join(idle)}"


def _refuses(
    build: Build, channels: int, conditions: Mapping[str, int], options: Mapping[str, Any]
) -> bool:
    """Whether a network refuses a condition when it is built."""
    try:
        build(channels, channels, conditions, **options)
    except InputError:
        return True
    return False


def _condition(
    conditions: Mapping[str, int], x: Tensor, generator: torch.Generator, label: int
) -> dict[str, Tensor]:
    """A value for each condition of a network, for the batch `x`."""
    shapes = {"image": x.shape, "vector": (len(x), 5), "sequence": (len(x), 7, 6)}
    drawn = {
        name: torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
        if name in conditions
    }
    labels = {"class": torch.full((len(x),), label)} if "class" in conditions else {}
    return {**drawn, **labels}


def _shape_of(
    network: nn.Module, conditions: Mapping[str, int], generator: torch.Generator
) -> tuple[int, ...]:
    """The first of `SHAPES` that a network takes and gives back."""
    failed = []
    for shape in SHAPES:
        x = torch.randn(2, *shape, generator=generator)
        try:
            with torch.no_grad():
                output = network(x, torch.zeros(2), _condition(conditions, x, generator, 0))
        except Exception as error:  # noqa: BLE001  (whatever another number of axes leads to)
            failed.append(f"{tuple(x.shape)} raises {type(error).__name__}: {error}")
            continue
        if output.shape == x.shape:
            return shape
        failed.append(f"{tuple(x.shape)} gives {tuple(output.shape)}")
    raise AssertionError("\n".join(["no batch is taken; pass `shape`, if it is another", *failed]))
