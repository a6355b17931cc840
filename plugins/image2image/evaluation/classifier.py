"""Image classifiers: a small one trained here, and the user's own by import path."""

import importlib
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from core.data import Dataset, collate
from core.errors import InputError
from core.model import device_of
from core.parts.config import bind, configure, plain
from core.process.noise import derive
from core.progress import counter
from core.request import Emit, Machine, silent
from core.storage import tensor_file
from core.storage.files import make_folder
from core.training.batches import order
from plugins.image2image.request import ClassifierRequest, ClassifierResult


class Classifier(nn.Module):
    """Strided convolutions, average pooling and a linear layer.

    Args:
        channels: image channels.
        classes: number of classes.
        width: channels of the first convolution; the second has twice, the others four times.
        depth: number of convolutions; the receptive field of three is 9 pixels, of four 17, of
            five 33.
    """

    def __init__(self, channels: int, classes: int, *, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(depth):
            after = width * min(2**i, 4)
            stride = 1 if i == 0 else 2
            layers += [nn.Conv2d(channels, after, 3, stride=stride, padding=1), nn.ReLU()]
            channels = after
        self.layers = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, classes)
        )

    def forward(self, x: Float[Tensor, " b c h w"]) -> Float[Tensor, " b classes"]:
        return self.layers(x)

    def features(self, x: Float[Tensor, " b c h w"]) -> Float[Tensor, " b d"]:
        """The last convolution's activations, averaged over the image."""
        return self.layers[:-3](x).mean((2, 3))


def train(
    request: ClassifierRequest,
    out: Path,
    *,
    machine: Machine | None = None,
    emit: Emit = silent,
) -> ClassifierResult:
    """Train a `Classifier`; the same request gives the same weights on the same kind of machine.

    Args:
        request: dataset and options.
        out: ``classifier.safetensors`` goes there.
        machine: where to run.
        emit: receives progress.

    Raises:
        InputError: the dataset has no classes, or `out` is not writable.
        StorageError: the disk is full or not writable.
    """
    start = time.perf_counter()
    request = bind(ClassifierRequest, plain(request))
    device = device_of(machine or Machine())
    build = configure("dataset", request.dataset)
    data, held_out = build("train"), build("test")
    network = fitted(request, data, device=device, emit=emit)
    place = make_folder(out) / "classifier.safetensors"
    tensor_file.save(place, network.state_dict())
    return ClassifierResult(
        classifier=place,
        accuracy=_accuracy(network, held_out, device),
        count=len(held_out),
        seconds=time.perf_counter() - start,
    )


def fitted(
    request: ClassifierRequest, data: Dataset, *, device: torch.device, emit: Emit = silent
) -> Classifier:
    """A classifier trained on items with an image and a class, in evaluation.

    Args:
        request: options; its `dataset` is not read.
        data: the training items.
        device: device of the training.
        emit: receives progress.

    Raises:
        InputError: the items have no classes.
    """
    network = _new(request, data).to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=request.lr, weight_decay=request.weight_decay
    )
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, request.steps)
    progress = counter(emit, request.steps, "step")
    for step, indices in order(derive(request.seed, "classifier"), len(data), request.batch):
        if step == request.steps:
            break
        batch = collate(data, indices)
        loss = F.cross_entropy(network(batch["image"].to(device)), batch["class"].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        progress(step + 1, loss=loss.item())
    return network.eval()


def _new(request: ClassifierRequest, data: Dataset) -> Classifier:
    first = data[0]
    if "class" not in first or "image" not in first:
        raise InputError(
            f"dataset: expected items with an image and a class, those of "
            f"{request.dataset.name} have {', '.join(first)}; use image2image/digits or your own"
        )
    classes = 1 + max(int(data[i]["class"]) for i in range(len(data)))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(request.seed, "weights"))
        channels = len(first["image"])
        return Classifier(channels, classes, width=request.width, depth=request.depth)


def _accuracy(network: nn.Module, data: Dataset, device: torch.device) -> float:
    correct = 0
    with torch.no_grad():
        for first in range(0, len(data), 256):
            batch = collate(data, list(range(first, min(first + 256, len(data)))))
            predicted = network(batch["image"].to(device)).argmax(1).cpu()
            correct += int((predicted == batch["class"]).sum())
    return correct / len(data)


def load_classifier(file: Path | None, module: str) -> nn.Module:
    """The classifier of a file or an import path, on the CPU, in eval mode, weights frozen.

    Args:
        file: a file of `train`.
        module: ``package.module:attribute``, a module or a function that makes one.

    Raises:
        InputError: both or neither are given, or it is not a classifier.
    """
    if (file is None) == (module == ""):
        given = "neither" if file is None else "both"
        raise InputError(f"classifier, module: expected one of them, {given} was given")
    found = _read(file) if file is not None else _imported(module)
    return found.eval().requires_grad_(False)


def _read(file: Path) -> Classifier:
    return of_weights(tensor_file.load(file, mend="train a classifier again"), file)


def of_weights(weights: Mapping[str, Tensor], file: Path) -> Classifier:
    """The classifier that has these weights, which were read from `file`.

    Raises:
        InputError: they are those of something else.
    """
    try:
        depth = sum(value.ndim == 4 for value in weights.values())
        width, channels = weights["layers.0.weight"].shape[:2]
        classes = len(weights[f"layers.{2 * depth + 2}.bias"])
        network = Classifier(channels, classes, width=width, depth=depth)
        network.load_state_dict(weights)
    except (KeyError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{file}: not a classifier that image2image/classifier wrote; train one, or name your "
            "own with module"
        ) from error
    return network


def _imported(target: str) -> nn.Module:
    package, _, attribute = target.partition(":")
    if not package or not attribute:
        raise InputError(f"module: expected package.module:attribute, got {target!r}")
    try:
        found = getattr(importlib.import_module(package), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"module: {target!r} cannot be imported: {error}; install it or set PYTHONPATH"
        ) from error
    if not isinstance(found, nn.Module) and callable(found):
        found = found()
    if not isinstance(found, nn.Module):
        raise InputError(
            f"module: {target!r} is {type(found).__name__}, expected a torch.nn.Module or a "
            "function without arguments that makes one"
        )
    return found
