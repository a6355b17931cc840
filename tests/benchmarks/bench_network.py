"""Time and memory of our U-Net and of diffusers' `UNet2DModel`, in one run, with the same weights.

A round calls both once, in turn first and second; the ratio is the median over rounds of ours
over theirs.  Memory is the peak of a fresh process above what it held before the first call, the
weights left out.  Where the time of a training step goes is torch's profile, summed by kind.

pytest tests/benchmarks/bench_network.py -m benchmark -s
python tests/benchmarks/bench_network.py --out runs/bench_network
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import pytest
import torch
from paired import peak, print_peak, times

from core.network.unet import UNet
from core.weights.diffusers import describe, joined, naming
from core.weights.translation import skeleton, translated

pytestmark = pytest.mark.benchmark

OUT = Path("runs/bench_network")
# Side, batch.  DDPM's U-Net for CIFAR-10 at half its width: attention at the second resolution.
SIZES = ((32, 16), (64, 4))
WIDTHS, ATTENTION = (64, 128, 128, 128), 1
ROUNDS = {"forward": 20, "step": 12}
KINDS = {
    "convolution": ("conv",),
    "attention": ("attention",),
    "norm and activation": ("norm", "silu", "addcmul", "Lean"),
    "linear": ("mm",),
    "optimizer": ("AdamW", "lerp", "addcdiv", "sqrt"),
}


def peer(side, widths=WIDTHS):
    """diffusers' model, its weights drawn anew so that nothing is zero."""
    from diffusers import UNet2DModel

    kinds = ["Attn" if depth == ATTENTION else "" for depth in range(len(widths))]
    model = UNet2DModel(
        sample_size=side,
        block_out_channels=widths,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        attention_head_dim=32,
    )
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=draw) * p[0].numel() ** -0.5)
    return model


def ours(model):
    """Our network with its weights."""
    found = describe(json.loads(model.to_json_string()), None)
    network = UNet(3, 3, {}, **found.network)
    names = naming(found.network["blocks"])
    network.load_state_dict(
        translated(skeleton(found), model.state_dict(), names, joined, source="the peer")
    )
    return network


def said(output):
    return output if torch.is_tensor(output) else output.sample


class Work:
    """A network, a batch, and the two things that are timed."""

    def __init__(self, network, side, batch):
        draw = torch.Generator().manual_seed(1)
        self.network = network
        self.x, self.eps = (torch.randn(batch, 3, side, side, generator=draw) for _ in range(2))
        self.level = torch.randint(0, 1000, (batch,), generator=draw).float()
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def forward(self):
        """Estimates without gradients."""
        self.network.eval()
        with torch.no_grad():
            return said(self.network(self.x, self.level))

    def step(self):
        """Loss, gradients, AdamW."""
        self.network.train()
        (said(self.network(self.x, self.level)) - self.eps).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure_peak(who, what, side, batch):
    """Run in a process of its own; libraries have made what they make once before it begins."""
    model = peer(side)
    work = Work(ours(model) if who == "ours" else model, side, batch)
    del model
    small = Work(ours(peer(side)), side, 1)
    small.step()
    del small
    print_peak(lambda: [getattr(work, what)() for _ in range(3)])


def shares(work):
    """Parts of a training step's time, by kind of work."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(3):
            work.step()
    rows = [(row.key, row.self_cpu_time_total) for row in found.key_averages()]
    whole, left = sum(spent for _, spent in rows), dict(rows)
    parts = {}
    for kind, words in KINDS.items():
        names = [name for name in left if any(word in name for word in words)]
        parts[kind] = sum(left.pop(name) for name in names) / whole
    return parts | {"the rest": sum(left.values()) / whole}


def run(out, say=print):
    """All figures, printed and written as JSON."""
    figures = []
    threads = torch.get_num_threads()
    say(f"torch {torch.__version__}, {threads} threads")
    for side, batch in SIZES:
        model = peer(side)
        pair = (Work(ours(model), side, batch), Work(model, side, batch))
        count, other = (sum(p.numel() for p in w.network.parameters()) for w in pair)
        assert count == other, "not the same number of parameters"
        mine, theirs = (work.forward() for work in pair)
        apart = float((mine - theirs).abs().max() / theirs.abs().max())
        assert apart < 1e-5, f"not the same network: {apart}"
        for what in ROUNDS:
            rounds = times(pair, what, ROUNDS[what], clock=time.perf_counter, warm=2)
            ratios = sorted(a / b for a, b in rounds)
            middle = [statistics.median(column) for column in zip(*rounds, strict=True)]
            memory = {who: peak(__file__, who, what, side, batch) for who in ("ours", "diffusers")}
            figure = {
                "side": side, "batch": batch, "parameters": count,
                "what": what, "ratio": statistics.median(ratios),
                "quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
                "seconds": middle, "MiB": memory,
                "memory ratio": memory["ours"] / memory["diffusers"],
            }  # fmt: skip
            figures.append(figure)
            say(
                f"{side}x{side}, batch {batch}, {what}: {figure['ratio']:.2f} of diffusers' time "
                f"[{figure['quartiles'][0]:.2f}, {figure['quartiles'][1]:.2f}] "
                f"({1e3 * middle[0]:.0f} and {1e3 * middle[1]:.0f} ms), "
                f"{figure['memory ratio']:.2f} of its memory "
                f"({memory['ours']:.0f} and {memory['diffusers']:.0f} MiB)"
            )
        for name, work in zip(("ours", "diffusers"), pair, strict=True):
            parts = "  ".join(f"{kind} {100 * share:.0f} %" for kind, share in shares(work).items())
            say(f"  a step of {name}: {parts}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "figures.json").write_text(json.dumps(figures, indent=1))
    return figures


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    return run(tmp_path_factory.mktemp("figures"))


def test_a_call_and_a_step_take_at_most_diffusers_time(figures):
    slow = [one for one in figures if one["ratio"] > 1.0]
    assert not slow, slow


def test_they_take_at_most_four_fifths_of_its_memory(figures):
    large = [one for one in figures if one["memory ratio"] > 0.8]
    assert not large, large


if __name__ == "__main__":
    if "--peak" in sys.argv:
        which, task, *numbers = sys.argv[2:]
        measure_peak(which, task, *map(int, numbers))
        sys.exit()
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=OUT)
    run(options.parse_args().out)
