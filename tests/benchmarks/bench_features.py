"""Pixel classification with and without the upsampled tensor, at the shapes of ADM-256.

python tests/benchmarks/bench_features.py [--members 10]

The maps of one image of 256x256 pixels, blocks 5, 6, 7, 8 and 12 at three steps, 8448 channels, of
noise.  Eager: every map upsampled by torch, concatenated, then the ensemble's first layer, as
ddpm-segmentation does it.  Lazy: `heads.predicting.segmented`.  Each in a process of its own, one
thread; what is stored of an image is that tensor or the maps.
"""

import argparse
import multiprocessing
import resource
import time

import torch
from torch.nn import functional as F

from core.features import Maps
from plugins.segmentation.heads.mlp import Ensemble
from plugins.segmentation.heads.predicting import segmented
from plugins.segmentation.heads.projection import stored

SHAPES = 3 * ((1024, 32), (512, 32), (512, 32), (512, 64), (256, 128))
SIDE, CLASSES = 256, 10


def made(members: int) -> tuple[Maps, Ensemble]:
    """Maps and an ensemble of noise."""
    draw = torch.Generator().manual_seed(0)
    values = tuple(torch.randn(1, c, n, n, generator=draw) for c, n in SHAPES)
    sizes = (sum(c for c, _ in SHAPES), 128, 32, CLASSES)
    tensors: dict[str, torch.Tensor] = {}
    for layer in range(3):
        shape = (members, sizes[layer + 1], sizes[layer])
        tensors[f"weight{layer}"] = torch.randn(shape, generator=draw) / sizes[layer] ** 0.5
        tensors[f"bias{layer}"] = torch.zeros(shape[:2])
        if layer < 2:
            for name, value in (("mean", 0.4), ("variance", 0.3), ("scale", 1.0), ("shift", 0.0)):
                tensors[f"{name}{layer}"] = torch.full(shape[:2], value)
    return Maps(values, (SIDE, SIDE), (SIDE, SIDE)), Ensemble(tensors)


@torch.no_grad()
def eager(maps: Maps, ensemble: Ensemble) -> tuple[torch.Tensor, int]:
    """Class of every pixel, and bytes of the tensor that is stored."""
    wide = [F.interpolate(v, maps.area, mode="bilinear") for v in maps.values]
    tensor = torch.cat(wide, 1)[0].flatten(1).mT.contiguous()
    del wide
    weight, bias = ensemble.first
    logits = ensemble.after_first(tensor @ weight.mT + bias)
    votes = F.one_hot(logits.argmax(-1), CLASSES).sum(0) + logits.softmax(-1).mean(0)
    return votes.argmax(-1).view(SIDE, SIDE), tensor.numel() * tensor.element_size()


def run(way: str, members: int) -> dict[str, float]:
    """What a way takes, beyond the maps and the ensemble."""
    torch.set_num_threads(1)
    maps, ensemble = made(members)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    if way == "eager":
        labels, size = eager(maps, ensemble)
    else:
        labels, size = segmented(ensemble, maps).labels, stored([maps])
    seconds = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": seconds,
        "peak": (peak - before) / 2**10,
        "stored": size / 2**20,
        "labels": float((labels.double().flatten() * torch.arange(SIDE**2)).sum()),
        "histogram": float(labels.double().mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=10)
    members = parser.parse_args().members
    found = {}
    for way in ("eager", "lazy"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[way] = pool.apply(run, (way, members))
    print(
        "| way | stored, MiB | processor seconds | peak beyond the maps, MiB |\n|---|---|---|---|"
    )
    for way, one in found.items():
        print(f"| {way} | {one['stored']:.1f} | {one['seconds']:.2f} | {one['peak']:.0f} |")
    a, b = found["eager"], found["lazy"]
    print(
        f"\nstored {a['stored'] / b['stored']:.1f} times less, {a['seconds'] / b['seconds']:.1f} "
        f"times faster; mean label {a['histogram']:.6f} and {b['histogram']:.6f}"
    )


if __name__ == "__main__":
    main()
