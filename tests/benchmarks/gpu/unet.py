"""The core on a GPU: agreement with a CPU, cost of training and sampling beside diffusers.

python tests/benchmarks/gpu/unet.py [--out runs/gpu] [--width 128] [--batch 128] [--rounds 20]

The network is DDPM's for CIFAR-10 (Ho et al. 2020, arXiv:2006.11239, appendix B: widths 128, 256,
256, 256, two blocks), with attention at the second resolution.  Ours and the peer's have the same
weights; a round calls each once, and a ratio is the median over rounds of our time over theirs.
Two to three minutes on an H100.
"""

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from record import precision, trained, write_figures
from torch import nn

from core.denoiser.parameterization import NetworkDenoiser, v
from core.network.ema import ExponentialAverage
from core.parts.registry import Spec
from core.process.noise import Noise
from core.process.schedules import vp_linear
from core.request import Machine, TrainRequest
from core.runs import train
from core.sampler.exponential import Multistep
from core.sampler.grids import uniform_log_snr
from core.sampler.sample import prior, sample
from core.training.replay import Replay

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench_network import ours, peer, said

SIDE = 32
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NETWORK = Spec("core/unet", {"width": 32, "multipliers": [1, 2], "blocks": 1, "attention": [2]})


def wait() -> None:
    """Wait for the GPU's queue."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def autocast(form: str) -> Any:
    """The block of a number format."""
    return nullcontext() if form == "fp32" else torch.autocast(DEVICE.type, dtype=torch.bfloat16)


def relative(found: torch.Tensor, reference: torch.Tensor) -> float:
    """|found - reference| / |reference|."""
    found, reference = found.double().cpu(), reference.double().cpu()
    return float((found - reference).norm() / reference.norm())


class Work:
    """A network on the device, a batch, and the two things that are timed."""

    def __init__(self, network: nn.Module, batch: int, form: str) -> None:
        draw = torch.Generator().manual_seed(1)
        self.network, self.form = network.to(DEVICE), form
        self.x, self.eps = (
            torch.randn(batch, 3, SIDE, SIDE, generator=draw).to(DEVICE) for _ in range(2)
        )
        self.level = torch.randint(0, 1000, (batch,), generator=draw).float().to(DEVICE)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=1e-5, fused=DEVICE.type == "cuda"
        )
        self.average = ExponentialAverage(self.network, 0.999)
        self.replay = Replay(self.network, print)

    def forward(self) -> None:
        """Estimates without gradients."""
        with torch.no_grad(), autocast(self.form):
            said(self.network(self.x, self.level))

    def step(self, call: nn.Module | None = None) -> None:
        """Loss, gradients, AdamW."""
        with autocast(self.form):
            output = said((call or self.network)(self.x, self.level))
            loss = (output.float() - self.eps).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def replayed(self) -> None:
        """A step as a training run takes it on a GPU: by CUDA graphs."""
        self.step(self.replay.next_step())

    def update(self) -> None:
        """The exponential average of the weights."""
        self.average.update(self.network, 1000)

    def seconds(self, what: str) -> float:
        """Of one call, the device's queue included."""
        wait()
        start = time.perf_counter()
        getattr(self, what)()
        wait()
        return time.perf_counter() - start

    def peak_gib(self, what: str) -> float:
        """Memory of one call above what was held before it."""
        if DEVICE.type != "cuda":
            return 0.0
        wait()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        getattr(self, what)()
        wait()
        return (torch.cuda.max_memory_allocated() - held) / 2**30


def costs(width: int, batch: int, rounds: int, compiled: bool) -> dict[str, Any]:
    """Milliseconds of a call and of a step, ours and the peer's, and their ratio."""
    found: dict[str, Any] = {}
    widths = (width, 2 * width, 2 * width, 2 * width)
    for form in ("fp32", "bf16") if precision() == "bf16" else ("fp32",):
        model = peer(SIDE, widths)
        pair = [Work(ours(model), batch, form), Work(model, batch, form)]
        if compiled:
            for work in pair:
                work.network.compile()
        found[form] = {"parameters": sum(p.numel() for p in model.parameters())}
        for what in ("forward", "step"):
            for work in pair:
                for _ in range(3):
                    getattr(work, what)()
            each = [[work.seconds(what) for work in pair] for _ in range(rounds)]
            mine, theirs = (statistics.median(column) for column in zip(*each, strict=True))
            found[form][what] = {
                "ours_ms": round(1e3 * mine, 2),
                "diffusers_ms": round(1e3 * theirs, 2),
                "ratio": round(statistics.median(a / b for a, b in each), 3),
                "ours_gib": round(pair[0].peak_gib(what), 2),
                "diffusers_gib": round(pair[1].peak_gib(what), 2),
            }
        if DEVICE.type == "cuda":
            for _ in range(3):
                pair[0].replayed()
            spent = statistics.median(pair[0].seconds("replayed") for _ in range(rounds))
            found[form]["step"]["ours_by_graphs_ms"] = round(1e3 * spent, 2)
        pair[0].update()
        spent = statistics.median(pair[0].seconds("update") for _ in range(5))
        found[form]["average_ms"] = round(1e3 * spent, 2)
    return found


def agreement() -> dict[str, float]:
    """Relative errors against float64 on the CPU: one call, and a batch of draws."""
    model = ours(peer(SIDE, (32, 64, 64, 64))).eval()
    draw = torch.Generator().manual_seed(2)
    x, level = torch.randn(4, 3, SIDE, SIDE, generator=draw), torch.rand(4, generator=draw)
    process, row = vp_linear(), v()
    grid = uniform_log_snr(process, steps=10)

    @torch.no_grad()
    def results(
        device: torch.device, dtype: torch.dtype, form: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        network = model.to(device, dtype)
        noise = Noise(range(4))
        with autocast(form):
            once = network(x.to(device, dtype), level.to(device, dtype))
            denoise = NetworkDenoiser(network, process, row)
            start = prior(process, grid, x, noise).to(device, dtype)
            return once, sample(denoise, grid, Multistep(), start, noise)

    exact = results(torch.device("cpu"), torch.float64, "fp32")
    found = {}
    tf32 = torch.backends.cudnn.allow_tf32
    for name, form, allowed in (("fp32", "fp32", False), ("tf32", "fp32", True)) + (
        (("bf16", "bf16", True),) if precision() == "bf16" else ()
    ):
        torch.backends.cudnn.allow_tf32 = allowed
        for what, a, b in zip(
            ("call", "draw"), results(DEVICE, torch.float32, form), exact, strict=True
        ):
            found[f"{what}_{name}"] = float(f"{relative(a, b):.3g}")
    torch.backends.cudnn.allow_tf32 = tf32
    return found


def repeated(folder: Path) -> dict[str, bool]:
    """Whether two runs of one request end in the same weights, bit for bit, by number format."""
    from core.storage import checkpoint

    found = {}
    for form in dict.fromkeys(("fp32", precision())):
        request = TrainRequest(
            task=Spec("core/generate", {"channels": 3}), network=NETWORK, precision=form,
            dataset=Spec("core/blank", {"shape": [3, SIDE, SIDE], "count": 64}),
            steps=20, batch=32, warmup=0,
        )  # fmt: skip
        ends = []
        for turn in range(2):
            out = folder / f"{form}-{turn}"
            train(request, out, machine=Machine(save_seconds=600))
            ends.append(checkpoint.load(out, groups=("model",)).tensors["model"])
        found[form] = all(bool((ends[0][name] == ends[1][name]).all()) for name in ends[0])
    return found


def loop(folder: Path, width: int, batch: int, seconds: float) -> dict[str, Any]:
    """Samples a second of a whole training run, data, noise, averages and checkpoints included."""
    found = {}
    for workers in (0, 4):
        request = TrainRequest(
            task=Spec("core/generate", {"channels": 3}), precision=precision(), steps=10**6,
            network=Spec(
                "core/unet",
                {"width": width, "multipliers": [1, 2, 2, 2], "blocks": 2, "attention": [2]},
            ),
            dataset=Spec("core/blank", {"shape": [3, SIDE, SIDE], "count": 10_000}),
            batch=batch,
        )  # fmt: skip
        found[f"workers_{workers}"] = trained(
            request, folder / f"loop-{workers}", seconds / 60, workers=workers
        )
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=128, help="less, to try it on a CPU")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=15, help="of each whole training run")
    parser.add_argument("--compile", action="store_true", help="compiled networks too: minutes")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = {
            "relative errors": agreement(),
            "same bits twice": repeated(folder),
            "cost": costs(options.width, options.batch, options.rounds, False),
            "training run": loop(folder, options.width, options.batch, options.seconds),
        }
        if options.compile:
            figures["cost, compiled"] = costs(options.width, options.batch, options.rounds, True)
    write_figures(options.out, "unet", figures)


if __name__ == "__main__":
    main()
