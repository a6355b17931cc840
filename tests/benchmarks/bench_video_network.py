"""Time and memory of our U-Net of clips and of two others, in one run, at equal multiply-adds.

The others are `Unet3D` of video-diffusion-pytorch and `UNet3DConditionModel` of diffusers.  Ours is
as wide as brings its multiply-adds of a forward pass next to the other's, in steps of eight
channels; ratios are of time for a multiply-add, and of memory.  A round calls both once, in turn
first and second; the ratio is the median over rounds of theirs over ours, of one thread's
processor time.  Memory is the peak of a fresh process above what it held before the first call,
weights and AdamW's moments left out.  Where the time of a step goes is torch's profile by kind.

The others are optional: `pip install --no-deps --target PEERS video-diffusion-pytorch einops
einops-exts rotary-embedding-torch tqdm diffusers ...`, then

OMP_NUM_THREADS=1 PYTHONPATH=PEERS python tests/benchmarks/bench_video_network.py [--size 64]
"""

import argparse
import importlib
import json
import statistics
import sys
import time
import types
from pathlib import Path
from unittest import mock

import torch
from paired import peak, print_peak, times
from torch.utils.flop_counter import FlopCounterMode

from plugins.video.networks import UNet3D

OUT = Path("runs/bench_video")
FRAMES, BATCH = 16, 1
ROUNDS = {"forward": 5, "step": 5}
AIMS = {"video-diffusion-pytorch": 4.0, "diffusers": 1.5}  # times faster for a step
WIDTHS = range(16, 129, 8)
KINDS = {
    "convolution": ("conv",),
    "attention": ("attention", "softmax", "bmm"),
    "norm and activation": ("norm", "silu", "addcmul", "Lean"),
    "linear": ("mm",),
    "optimizer": ("AdamW", "lerp", "addcdiv", "sqrt"),
    "copies": ("copy_", "cat", "pad"),
}


class Absent(Exception):
    """A package that is not installed here."""


def imported(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Absent(f"{name} is left out: {error}") from error


def lucidrains():
    """`Unet3D`: spatial attention in linear time and temporal attention at every resolution.

    Its module imports torchvision for files alone, which the network does without.
    """
    stand_in = types.ModuleType("torchvision")
    stand_in.transforms = stand_in.utils = types.SimpleNamespace(ToTensor=lambda: None)
    with mock.patch.dict(sys.modules):
        sys.modules.setdefault("torchvision", stand_in)
        module = imported("video_diffusion_pytorch")
    network = module.Unet3D(dim=16, dim_mults=(1, 2, 4), channels=3)
    return network, lambda x, level: network(x, level)


def diffusers():
    """`UNet3DConditionModel`: convolutions over frames, attention at the coarsest resolution.

    Without attention elsewhere, which ours has between frames at every resolution: the cheaper
    kind of its blocks.  The text that its attention requires is one vector.
    """
    network = imported("diffusers").UNet3DConditionModel(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock3D",) * 3,
        up_block_types=("UpBlock3D",) * 3,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=4,
    )
    text = torch.zeros(BATCH, 1, 32)
    return network, lambda x, level: network(x, level, text).sample


def ours(width):
    """Our network, with its mask of known frames; attention of positions at the coarsest alone."""
    network = UNet3D(3, 3, {"image": 4}, width=width, attention=(), head_channels=width)

    def call(x, level):
        image = torch.zeros(len(x), 4, *x.shape[2:])
        return network(x, level, {"image": image})

    return network, call


PEERS = {"video-diffusion-pytorch": lucidrains, "diffusers": diffusers}


class Work:
    """A network, clips, and the two things that are timed."""

    def __init__(self, made, side):
        self.network, self.call = made
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():  # nothing is zero, so that no gradient is
            for p in self.network.parameters():
                if p.ndim > 1:
                    p.copy_(torch.randn(p.shape, generator=draw) * p[0].numel() ** -0.5)
        self.x, self.eps = (
            torch.randn(BATCH, 3, FRAMES, side, side, generator=draw) for _ in range(2)
        )
        self.level = torch.full((BATCH,), 10.0)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4)

    def forward(self):
        """Estimates without gradients."""
        self.network.eval()
        with torch.no_grad():
            return self.call(self.x, self.level)

    def step(self):
        """Loss, gradients, AdamW."""
        self.network.train()
        (self.call(self.x, self.level) - self.eps).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def multiply_adds(self):
        """Of a forward pass: matrix products, convolutions and attention."""
        with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
            self.forward()
        return counter.get_total_flops() / 2


def attention_flops(q, k, v, *_, **__):
    """Of softmax(q k^T) v: two products, which torch does not count on a CPU."""
    b, h, n, d = q
    m = k[-2]
    return 2 * b * h * n * m * (d + v[-1])


ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}


def width_of(multiply_adds, side):
    """The width of ours that computes nearest to as much."""
    costs = {}
    for width in WIDTHS:
        costs[width] = abs(Work(ours(width), side).multiply_adds() / multiply_adds - 1)
        if costs[width] > min(costs.values()):
            break
    return min(costs, key=lambda width: costs[width])


def measure_peak(who, what, side):
    """Run in a process of its own; weights, gradients and moments are there before it begins."""
    made = ours(int(who)) if who.isdigit() else PEERS[who]()
    work = Work(made, int(side))
    whole = work.x, work.eps
    work.x, work.eps = (x[:, :, :2, :16, :16] for x in whole)
    work.step()
    work.x, work.eps = whole
    print_peak(getattr(work, what))


def shares(work):
    """Parts of a training step's time, by kind of work."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as found:
        work.step()
    rows = [(row.key, row.self_cpu_time_total) for row in found.key_averages()]
    whole, left = sum(spent for _, spent in rows), dict(rows)
    parts = {}
    for kind, words in KINDS.items():
        names = [name for name in left if any(word in name for word in words)]
        parts[kind] = sum(left.pop(name) for name in names) / whole
    return parts | {"the rest": sum(left.values()) / whole}


def compared(name, side, say):
    """Figures of one of the others against ours."""
    theirs = Work(PEERS[name](), side)
    needed = theirs.multiply_adds()
    width = width_of(needed, side)
    pair = (Work(ours(width), side), theirs)
    costs = [work.multiply_adds() for work in pair]
    counts = [sum(p.numel() for p in work.network.parameters()) for work in pair]
    say(
        f"{name}, {FRAMES} frames of {side}x{side}: {costs[0] / 1e9:.2f} and {costs[1] / 1e9:.2f} "
        f"thousand million multiply-adds, {counts[0] / 1e6:.2f} and {counts[1] / 1e6:.2f} million "
        f"weights (ours {width} wide)"
    )
    found = []
    for what in ROUNDS:
        rounds = times(pair, what, ROUNDS[what], clock=time.process_time, warm=1)
        ratios = sorted(b / a * costs[0] / costs[1] for a, b in rounds)
        middle = [statistics.median(column) for column in zip(*rounds, strict=True)]
        memory = [peak(__file__, who, what, side) for who in (str(width), name)]
        figure = {
            "peer": name, "side": side, "what": what, "multiply_adds": costs, "weights": counts,
            "width": width, "ratio": statistics.median(ratios), "range": [ratios[0], ratios[-1]],
            "seconds": middle, "MiB": memory, "memory ratio": memory[1] / memory[0],
        }  # fmt: skip
        found.append(figure)
        say(
            f"  {what}: for a multiply-add ours is {figure['ratio']:.2f} times as fast "
            f"[{ratios[0]:.2f}, {ratios[-1]:.2f}] ({middle[0]:.2f} and {middle[1]:.2f} s), in "
            f"1 / {figure['memory ratio']:.2f} of the memory ({memory[0]:.0f} and "
            f"{memory[1]:.0f} MiB)"
        )
        if what == "step" and figure["ratio"] < AIMS[name]:
            say(f"  below the aim, {AIMS[name]} times")
    for who, work in zip(("ours", name), pair, strict=True):
        parts = "  ".join(f"{kind} {100 * share:.0f} %" for kind, share in shares(work).items())
        say(f"  a step of {who}: {parts}")
    return found


def run(out, sides, say=print):
    """All figures, printed and written as JSON; those of packages that are there."""
    say(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {BATCH}")
    figures = []
    for side in sides:
        for name in PEERS:
            try:
                figures += compared(name, side, say)
            except Absent as error:
                say(str(error))
    out.mkdir(parents=True, exist_ok=True)
    (out / "network.json").write_text(json.dumps(figures, indent=1))
    return figures


if __name__ == "__main__":
    if "--peak" in sys.argv:
        measure_peak(*sys.argv[2:])
        sys.exit()
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--size", type=int, nargs="+", default=[32, 64], help="side of a frame")
    options.add_argument("--out", type=Path, default=OUT)
    chosen = options.parse_args()
    run(chosen.out, chosen.size)
