"""A network's forward and backward pass recorded as CUDA graphs and replayed.

A step of a small network on a GPU is mostly the CPU's launches of its kernels: hundreds, of some
microseconds each.  A recorded graph launches all of them at once.  Kernels and results are those of
the network itself.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.network.conditioning import Condition
from core.network.predict_refine import Estimating

WARMUPS = 3  # calls before a recording, in which libraries choose and load their kernels


class _ByPosition(nn.Module):
    """A network whose conditions are positional: a graph's inputs are tensors alone."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, x: Tensor, level: Tensor, *values: Tensor) -> Tensor:
        return self.network(x, level, dict(zip(self.names, values, strict=True)))


class Replay(nn.Module):
    """Calls of a network in training, by a graph for each shape of its inputs.

    A graph holds one call's activations, so of several calls before a backward pass the first is
    replayed and the others are computed as usual.  So are networks that draw random numbers
    (dropout), and those that cannot be recorded.

    Args:
        network: on a CUDA device, in training mode.
        notify: receives a note where the network cannot be recorded.
    """

    def __init__(self, network: nn.Module, notify: Callable[[str], None]) -> None:
        super().__init__()
        self.network, self._notify = network, notify
        self._recorded: dict[tuple[Any, ...], nn.Module] = {}
        self._possible = not any(
            isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
            for module in network.modules()
        )
        self._free = True
        if isinstance(network, Estimating):
            self.estimate = network.estimate

    def next_step(self) -> "Replay":
        """Itself; the graph is free again, since the backward pass is over."""
        self._free = True
        return self

    def forward(
        self,
        x: Float[Tensor, " b c *space"],
        level: Float[Tensor, " b"],
        condition: Condition | None = None,
    ) -> Float[Tensor, " b k *space"]:
        """The network's output."""
        given = dict(condition or {})
        values = (x, level, *given.values())
        plain = not any(value.requires_grad for value in values) and torch.is_grad_enabled()
        if not (self._possible and self._free and plain):
            return self.network(x, level, condition)
        self._free = False
        recorded = self._recording(values, tuple(given))
        if recorded is None:
            return self.network(x, level, condition)
        return recorded(*values).clone()  # the graph's own output is overwritten by the next call

    def _recording(self, values: tuple[Tensor, ...], names: tuple[str, ...]) -> nn.Module | None:
        """The graph for inputs of these shapes; None where none can be made."""
        shapes = ((value.shape, value.dtype, value.stride()) for value in values)
        key = (names, torch.is_autocast_enabled("cuda"), *shapes)
        if key not in self._recorded:
            samples = tuple(value.clone() for value in values)
            dtype = torch.get_autocast_dtype("cuda")
            try:
                with torch.autocast(
                    "cuda", dtype, torch.is_autocast_enabled("cuda"), cache_enabled=False
                ):
                    called = _ByPosition(self.network, names)
                    torch.cuda.make_graphed_callables(  # replaces `forward` of what it is given
                        called, samples, num_warmup_iters=WARMUPS, allow_unused_input=True
                    )
                    self._recorded[key] = called
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._possible = False
                cause = str(error).partition("\n")[0]
                self._notify(f"the network is computed without CUDA graphs, which failed: {cause}")
                torch.cuda.synchronize()
                return None
        return self._recorded[key]
