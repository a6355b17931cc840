"""Outputs of a network's blocks, by name: features for segmentation, and for looking inside."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from core.errors import InputError
from core.parts.registry import nearest

Features = dict[str, Float[Tensor, " b ..."]]  # by the block's name


def blocks_of(network: nn.Module) -> dict[str, nn.Module]:
    """The parts of a network by name, the members of its lists one by one, in their order."""
    found: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        if isinstance(child, nn.ModuleList):
            found |= {f"{name}.{number}": one for number, one in enumerate(child)}
        elif name in ("conv_in", "patch_embedding", "linear_in", "middle"):
            found[name] = child
    return found


class _LastTapped(Exception):
    """The last tapped block has run."""


@contextmanager
def tapped(network: nn.Module, names: Sequence[str], *, stop: bool = False) -> Iterator[Features]:
    """Within the context, the outputs of these modules at the network's last call, by name.

    Forward hooks, removed at the end; a network that is not tapped costs nothing.

        with tapped(network, ["up.5", "middle"]) as features:
            network(x, level)
        features["up.5"]  # b c *coarse, of the last call

    Args:
        network: a U-Net has ``conv_in``, ``down.0``, ..., ``middle``, ``up.0``, ..., where ``up.i``
            is the i-th output block of ADM; a transformer ``patch_embedding``, ``block.0``, ...; an
            MLP ``linear_in``, ``block.0``, ....
        names: of blocks, see `blocks_of`.
        stop: whether the network's first call ends after the last of these blocks, and with it
            what the context holds: blocks behind it cost nothing, and there is no output.

    Raises:
        InputError: no block of such a name.
    """
    known = blocks_of(network)
    for name in names:
        if name not in known:
            raise InputError(
                f"{type(network).__name__} has no block {name!r}{nearest(name, known)}; it has "
                f"{', '.join(known)}"
            )
    found: Features = {}
    last = max(names, key=list(known).index) if stop and names else None

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[name] = output
            if name == last:
                raise _LastTapped

        return hook

    # Hooks see outputs as the network's next block does; they are removed whatever happens.
    hooks = [known[name].register_forward_hook(keep(name)) for name in names]
    try:
        with suppress(_LastTapped):  # it ends the context, and nothing else
            yield found
    finally:
        for hook in hooks:
            hook.remove()
