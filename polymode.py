"""Diffusion models as practical tools: the public names in one module, and ``python -m polymode``.

    import polymode

    model = polymode.load("runs/digits")
    samples = polymode.draw(model, seeds=range(4))

A name is imported when it is first used, so that ``import polymode`` costs no torch.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # `python -m` puts the caller's folder first, where any folder named `core` would be ours.
    sys.path[0] = __file__.rpartition("/")[0]

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.draw import draw
    from core.errors import InputError, StorageError
    from core.model import Model
    from core.model import load_model as load
    from core.parts.registry import Spec, installed
    from core.process.noise import Brownian, Noise
    from core.request import EvaluateRequest, Machine, SampleRequest, TrainRequest
    from core.runs import evaluate, sample, train

__all__ = [
    "Brownian",
    "EvaluateRequest",
    "InputError",
    "Machine",
    "Model",
    "Noise",
    "SampleRequest",
    "Spec",
    "StorageError",
    "TrainRequest",
    "draw",
    "evaluate",
    "installed",
    "load",
    "sample",
    "train",
]
_HOMES = {
    "Brownian": "core.process.noise",
    "EvaluateRequest": "core.request",
    "InputError": "core.errors",
    "Machine": "core.request",
    "Model": "core.model",
    "Noise": "core.process.noise",
    "SampleRequest": "core.request",
    "Spec": "core.parts.registry",
    "StorageError": "core.errors",
    "TrainRequest": "core.request",
    "draw": "core.draw",
    "evaluate": "core.runs",
    "installed": "core.parts.registry",
    "load": "core.model:load_model",
    "sample": "core.runs",
    "train": "core.runs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'polymode' has no attribute {name!r}")
    module, _, other = _HOMES[name].partition(":")
    return getattr(import_module(module), other or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if __name__ == "__main__":
    from pipelines.cli import main

    main()
