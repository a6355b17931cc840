"""Mean IoU from a few labelled crops: features of a prior, of others, and a network from nothing.

python tests/benchmarks/bench_labels.py TRAIN TEST PRIOR [--labels 5 10 20 50] [--draws 5] [-o FILE]

TRAIN and TEST are folders of images with masks of instances beside them (NAME_instances.png);
PRIOR is a checkpoint trained on TRAIN's images without labels, on crops of --size pixels.  Labelled
crops are drawn from TRAIN, the same for all methods; the mean IoU of background and objects is of
one confusion matrix over crops of TEST, with the range over draws of labels.

a network from nothing: a U-Net of 0.3 million parameters, trained on the labelled crops alone with
flips and turns, the best of its checks on a fifth of them held out.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from core.features import Features, Maps
from core.model import load_model, network_of, objective_of
from core.network.unet import UNet
from core.parts.config import configure, plain
from core.process.noise import derive
from core.request import Machine
from core.storage import checkpoint
from plugins.segmentation.data.labelled import Labelled, pairs_of, read_labelled, rgb
from plugins.segmentation.evaluation.confusion import Confusion
from plugins.segmentation.features.diffusion import Diffusion
from plugins.segmentation.features.filters import Filters
from plugins.segmentation.heads import mlp, ridge
from plugins.segmentation.heads.pixels import places_of, with_features
from plugins.segmentation.heads.predicting import Head, segmented

Crop = tuple[Tensor, Tensor]  # image (3, n, n) in [-1, 1], and labels
MACHINE = Machine(device="cpu", threads=1)


class Colour:
    """The colour of each pixel, and nothing else."""

    channels, least = (3,), 1

    def digest(self) -> str:
        return "0" * 64

    def __call__(self, images: Tensor) -> Maps:
        size = (images.shape[-2], images.shape[-1])
        return Maps((images,), size, size)


def untrained(prior: Path, folder: Path) -> Path:
    """A checkpoint of the prior's network with the weights that its training began with."""
    request = load_model(prior, machine=MACHINE).request
    task = configure("task", request.task)()
    network = network_of(request, task, objective_of(request).outputs)
    draw = torch.Generator().manual_seed(0)
    for p in network.parameters():  # layers that begin at 0 would give no features
        if p.ndim > 1 and not p.any():
            p.data = torch.randn(p.shape, generator=draw) * (1 / p[0].numel()) ** 0.5
    weights = network.state_dict()
    state = {"request": plain(request), "data": ""}
    checkpoint.save(folder / "checkpoints", 0, {"model": weights, "ema": weights}, state)
    return folder


def crops(found: Labelled, size: int, each: int, seed: int) -> list[Crop]:
    """Crops of every image, `each` of them."""
    draw = np.random.Generator(np.random.PCG64(derive("crops", seed)))
    kept: list[Crop] = []
    for file, mask in zip(found.files, found.masks, strict=True):
        image = rgb(file)
        for _ in range(each):
            y, x = (int(draw.integers(n - size + 1)) for n in mask.shape)
            kept.append((image[:, y : y + size, x : x + size], mask[y : y + size, x : x + size]))
    return kept


def labels_of(pool: list[Crop], count: int, seed: int) -> list[Crop]:
    """Crops to label: those in which both classes are."""
    draw = np.random.Generator(np.random.PCG64(derive("labels", seed)))
    both = [crop for crop in pool if 0.03 < float(crop[1].float().mean()) < 0.97]
    return [both[i] for i in draw.permutation(len(both))[:count]]


def classified(
    features: Features, kind: str
) -> Callable[[list[Crop], int], Callable[[Tensor], Tensor]]:
    """A method: fitted on crops, it gives the labels of an image."""

    def fitted(given: list[Crop], seed: int) -> Callable[[Tensor], Tensor]:
        places = places_of([mask for _, mask in given], 2, seed=seed)
        pixels = with_features(places, lambda i: features(given[i][0][None]))
        head: Head = ridge.fit(pixels) if kind == "linear" else mlp.fit(pixels, seed=seed)[0]
        return lambda image: segmented(head, features(image[None])).labels

    return fitted


def from_nothing(given: list[Crop], seed: int, seconds: float = 45.0) -> Callable[[Tensor], Tensor]:
    """A U-Net trained on the labelled crops alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive("nothing", seed))
        network = UNet(3, 2, {}, width=24, multipliers=(1, 2, 3), blocks=1, attention=(),
                       middle_attention=False, head_channels=24)  # fmt: skip
    draw = torch.Generator().manual_seed(seed)
    held = max(1, len(given) // 5)
    images, masks = (torch.stack(part) for part in zip(*given, strict=True))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    best, kept, begun = float("inf"), network.state_dict(), time.process_time()

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(network(x, torch.zeros(len(x))), y.long())

    step = 0
    while time.process_time() - begun < seconds:
        at = held + torch.randint(len(given) - held, (8,), generator=draw)
        turns, flip = (
            int(torch.randint(4, (), generator=draw)),
            int(torch.randint(2, (), generator=draw)),
        )
        x, y = (torch.rot90(v[at], turns, (-2, -1)) for v in (images, masks))
        x, y = (x.flip(-1), y.flip(-1)) if flip else (x, y)
        network.train()
        optimizer.zero_grad()
        loss_of(x, y).backward()
        optimizer.step()
        step += 1
        if step % 20 == 0:
            network.eval()
            with torch.no_grad():
                now = float(loss_of(images[:held], masks[:held]))
            if now < best:
                best, kept = now, {k: v.clone() for k, v in network.state_dict().items()}
    network.load_state_dict(kept)
    network.eval()

    @torch.no_grad()
    def labels(image: Tensor) -> Tensor:
        return network(image[None], torch.zeros(1)).argmax(1)[0].to(torch.uint8)

    return labels


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("prior", type=Path)
    parser.add_argument("--labels", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--blocks", nargs="*", default=[])
    parser.add_argument("--steps", type=int, nargs="*", default=[50, 150, 250])
    parser.add_argument("-o", "--out", type=Path)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    pool, test = (
        crops(read_labelled(pairs_of(folder), instances=True), wanted.size, each, seed)
        for folder, each, seed in ((wanted.train, 4, 0), (wanted.test, 2, 1))
    )
    how = {"blocks": tuple(wanted.blocks), "steps": tuple(wanted.steps)}
    with tempfile.TemporaryDirectory() as folder:
        trained = Diffusion(MACHINE, checkpoint=wanted.prior, **how)
        random = Diffusion(MACHINE, checkpoint=untrained(wanted.prior, Path(folder)), **how)
        methods = {
            "ensemble, prior": classified(trained, "ensemble"),
            "linear, prior": classified(trained, "linear"),
            "ensemble, untrained network": classified(random, "ensemble"),
            "ensemble, filters": classified(Filters(MACHINE), "ensemble"),
            "linear, filters": classified(Filters(MACHINE), "linear"),
            "ensemble, colour": classified(Colour(), "ensemble"),
            "U-Net from nothing": from_nothing,
        }
        if wanted.only:
            methods = {k: v for k, v in methods.items() if any(o in k for o in wanted.only)}
        found: dict[str, dict[int, list[float]]] = {name: {} for name in methods}
        print("| method | " + " | ".join(f"{n} labels" for n in wanted.labels) + " | seconds |")
        print("|---|" + "---|" * (len(wanted.labels) + 1))
        for name, method in methods.items():
            begun = time.process_time()
            for count in wanted.labels:
                for seed in range(wanted.draws):
                    labels = method(labels_of(pool, count, seed), seed)
                    total = None
                    for image, truth in test:
                        one = Confusion.of(truth, labels(image), 2)
                        total = one if total is None else total + one
                    found[name].setdefault(count, []).append(total.mean_iou)
            seconds = (time.process_time() - begun) / len(wanted.labels) / wanted.draws
            cells = [
                f"{np.mean(v):.3f} ({min(v):.3f} to {max(v):.3f})" for v in found[name].values()
            ]
            print(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)
        if wanted.out:
            wanted.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
