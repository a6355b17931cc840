"""Mean IoU from a few labelled crops: features of a prior, of others, and a network from nothing.

python tests/benchmarks/bench_labels.py TRAIN TEST PRIOR [--labels 5 10 20 50] [--draws 5] [-o OUT]

TRAIN and TEST are folders of images with masks of instances beside them (NAME_instances.png);
PRIOR is a checkpoint trained on TRAIN's images without labels, on crops of --size pixels.  Images
are stretched for all methods if PRIOR's were.  Labelled crops are drawn from TRAIN, the same for
all methods, fewer being the first of more; the mean IoU of background and objects is of one
confusion matrix over crops of TEST.  Intervals (95 %, Student's t) are over draws of labels.

OUT gets labels.json and labels.svg; what is in labels.json is not measured again.  --instances N
adds the average precision of objects on TEST's whole images, of classifiers of N labelled crops and
the watershed, beside scikit-image's Otsu threshold and the same watershed.

a U-Net from nothing: 0.3 million parameters, trained on the labelled crops alone with flips and
turns, the best of its checks on a fifth of them held out.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from figure import write_svg
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from core.features import Features, Maps
from core.images.contrast import stretched
from core.model import load_model, network_of, objective_of
from core.network.unet import UNet
from core.parts.config import configure, plain
from core.parts.registry import Spec
from core.process.noise import derive
from core.request import Machine
from core.storage import checkpoint
from core.storage.files import make_folder, write_json
from plugins.segmentation.data.labelled import objects_of, pairs_of, read_labelled, rgb
from plugins.segmentation.evaluation.instances import average_precision
from plugins.segmentation.features.diffusion import Diffusion
from plugins.segmentation.features.filters import Filters
from plugins.segmentation.heads import mlp, ridge
from plugins.segmentation.heads.pixels import places_of, with_features
from plugins.segmentation.heads.predicting import segmented
from plugins.segmentation.inference.fit import frequencies
from plugins.segmentation.inference.objects import objects_in
from plugins.segmentation.tasks.confusion import Confusion

Crop = tuple[Tensor, Tensor]  # image (3, n, n) in [-1, 1], and labels
Segmenter = Callable[[Tensor], Tensor]  # image to labels
Method = Callable[[list[Crop], int], Segmenter]  # labelled crops and seed to a segmenter
MACHINE = Machine(device="cpu", threads=1)
DIFFUSION = "segmentation/diffusion"
FIRST, PEER = "ensemble, prior and filters", "U-Net from nothing"


class Colour:
    """The colour of each pixel, and nothing else."""

    channels, least, stretch = (3,), 1, False

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


def crops(folder: Path, size: int, each: int, seed: int, *, stretch: bool) -> list[Crop]:
    """Crops of every image of a folder, `each` of them."""
    found = read_labelled(pairs_of(folder), instances=True)
    draw = np.random.Generator(np.random.PCG64(derive("crops", seed)))
    kept: list[Crop] = []
    for file, mask in zip(found.files, found.masks, strict=True):
        image = stretched(rgb(file)) if stretch else rgb(file)
        for _ in range(each):
            y, x = (int(draw.integers(n - size + 1)) for n in mask.shape)
            kept.append((image[:, y : y + size, x : x + size], mask[y : y + size, x : x + size]))
    return kept


def labels_of(pool: list[Crop], count: int, seed: int) -> list[Crop]:
    """Crops to label: those in which both classes are."""
    draw = np.random.Generator(np.random.PCG64(derive("labels", seed)))
    both = [crop for crop in pool if 0.03 < float(crop[1].float().mean()) < 0.97]
    return [both[i] for i in draw.permutation(len(both))[:count]]


class Kept:
    """Features of images that are read again and again: computed once for each."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._kept: dict[int, tuple[Tensor, Maps]] = {}

    def __call__(self, image: Tensor) -> Maps:
        if id(image) not in self._kept:  # the image is kept too, so that its id stays its own
            self._kept[id(image)] = image, self._features(image[None])
        return self._kept[id(image)][1]


def classified(features: Features, kind: str) -> Method:
    """The method that fits a pixel classifier on crops."""
    maps = Kept(features)

    def fitted(given: list[Crop], seed: int) -> Segmenter:
        places = places_of([mask for _, mask in given], 2, seed=seed)
        pixels = with_features(places, lambda i: maps(given[i][0]))
        head = ridge.fit(pixels) if kind == "linear" else mlp.fit(pixels, seed=seed)[0]
        head = head.at_frequencies(frequencies([mask for _, mask in given], 2))
        return lambda image: segmented(head, maps(image)).labels

    return fitted


def from_nothing(given: list[Crop], seed: int, seconds: float) -> Segmenter:
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


def methods_of(
    prior: Path, how: Mapping[str, object], scratch: Path, *, machine: Machine, seconds: float
) -> dict[str, Method]:
    """The methods by name; networks and maps are made when one is called.

    Args:
        prior: the checkpoint.
        how: options of its features.
        scratch: an empty folder.
        machine: where features are computed.
        seconds: of processor time, that the U-Net from nothing trains for.
    """

    def lazily(make: Callable[[], Features], kind: str) -> Method:
        made: list[Method] = []

        def fitted(given: list[Crop], seed: int) -> Segmenter:
            if not made:
                made.append(classified(make(), kind))
            return made[0](given, seed)

        return fitted

    def diffusion(checkpoint: Path, **more: object) -> Features:
        spec = Spec(DIFFUSION, {**how, **more, "checkpoint": checkpoint})
        return configure("features", spec)(machine)

    return {
        FIRST: lazily(lambda: diffusion(prior, filters=True), "ensemble"),
        "ensemble, prior": lazily(lambda: diffusion(prior), "ensemble"),
        "linear, prior and filters": lazily(lambda: diffusion(prior, filters=True), "linear"),
        "ensemble, untrained network": lazily(
            lambda: diffusion(untrained(prior, scratch)), "ensemble"
        ),
        "ensemble, filters": lazily(lambda: Filters(machine), "ensemble"),
        "linear, filters": lazily(lambda: Filters(machine), "linear"),
        "ensemble, colour": lazily(Colour, "ensemble"),
        PEER: lambda given, seed: from_nothing(given, seed, seconds),
    }


def mean_iou(labels: Segmenter, test: Sequence[Crop]) -> float:
    """Of one confusion matrix over crops."""
    found = [Confusion.of(truth, labels(image), 2) for image, truth in test]
    return sum(found[1:], found[0]).mean_iou


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean, and the ends of its 95 % interval by Student's t."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean, mean
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return mean, float(mean - half), float(mean + half)


def table(found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Rows of methods, columns of numbers of labels, and differences to the last row."""
    counts = sorted({int(count) for row in found.values() for count in row})
    lines = ["| method | " + " | ".join(f"{n} crops" for n in counts) + " |"]
    lines.append("|---|" + "---|" * len(counts))
    for name, row in found.items():
        cells = [interval(row[str(n)]) if str(n) in row else None for n in counts]
        texts = [f"{c[0]:.3f} [{c[1]:.3f}, {c[2]:.3f}]" if c else "" for c in cells]
        lines.append(f"| {name} | {' | '.join(texts)} |")
    if all(str(n) in found.get(name, {}) for name in (FIRST, PEER) for n in counts):
        pairs = [zip(found[FIRST][str(n)], found[PEER][str(n)], strict=True) for n in counts]
        cells = [interval([one - other for one, other in pair]) for pair in pairs]
        texts = [f"{c[0]:+.3f} [{c[1]:+.3f}, {c[2]:+.3f}]" for c in cells]
        lines.append(f"| first less the U-Net, draw by draw | {' | '.join(texts)} |")
    return "\n".join(lines)


def instances(
    folder: Path, segmenters: Mapping[str, Sequence[Segmenter]], *, stretch: bool
) -> dict[str, list[float]]:
    """Mean average precision at IoU 0.5 over whole images, of each segmenter and of Otsu's."""
    from skimage.filters import threshold_otsu

    def otsu(image: Tensor) -> Tensor:
        grey = image.mean(0).numpy()
        return torch.from_numpy((grey > threshold_otsu(grey)).astype(np.uint8))

    pairs = pairs_of(folder)
    images = [stretched(rgb(one.image)) if stretch else rgb(one.image) for one in pairs]
    truths = [objects_of(one) for one in pairs]

    def precision(labels: Segmenter) -> float:
        found = [objects_in(labels(image).numpy(), "watershed").numbers for image in images]
        each = [average_precision(t, f) for t, f in zip(truths, found, strict=True)]
        return float(np.nanmean(each))

    every = {"Otsu's threshold": [otsu], **segmenters}
    return {name: [precision(one) for one in each] for name, each in every.items()}


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
    parser.add_argument("--only", nargs="*", default=[], help="names of methods")
    parser.add_argument("--blocks", nargs="*", default=[])
    parser.add_argument("--steps", type=int, nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=45.0, help="of the U-Net from nothing")
    parser.add_argument("--instances", type=int, default=0, help="labelled crops; 0: none")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/labels"))
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    how = {"blocks": wanted.blocks, "steps": wanted.steps}
    how = {name: value for name, value in how.items() if value}
    stretch = Diffusion(MACHINE, checkpoint=wanted.prior).stretch
    pool = crops(wanted.train, wanted.size, 4, 0, stretch=stretch)
    test = crops(wanted.test, wanted.size, 2, 1, stretch=stretch)
    file = wanted.out / "labels.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    segmenters: dict[str, list[Segmenter]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        methods = methods_of(
            wanted.prior, how, Path(scratch), machine=MACHINE, seconds=wanted.seconds
        )
        for name, method in methods.items():
            if wanted.only and name not in wanted.only:
                continue
            row = found.setdefault(name, {})
            for seed, count in itertools.product(range(wanted.draws), wanted.labels):
                values = row.setdefault(str(count), [])
                if len(values) > seed and count != wanted.instances:
                    continue
                begun = time.process_time()
                labels = method(labels_of(pool, count, seed), seed)
                values[seed : seed + 1] = [mean_iou(labels, test)]
                if count == wanted.instances:
                    segmenters.setdefault(name, []).append(labels)
                write_json(make_folder(wanted.out) / file.name, found)
                seconds = time.process_time() - begun
                print(f"{name}, {count} crops, draw {seed}: {seconds:.0f} s", flush=True)
        if segmenters:
            precisions = instances(wanted.test, segmenters, stretch=stretch)
            for name, values in precisions.items():
                mean, low, high = interval(values)
                print(f"{name}, watershed: AP at IoU 0.5 {mean:.3f} [{low:.3f}, {high:.3f}]")
    found = {name: found[name] for name in methods if name in found}
    lines = {
        name: [(int(n), *interval(values)) for n, values in row.items()]
        for name, row in found.items()
    }
    write_svg(wanted.out / "labels.svg", "Mean IoU of nuclei", "labelled crops", "mean IoU", lines)
    print(table(found))


if __name__ == "__main__":
    main()
