"""Posterior samplers beside deepinv's DPS and DiffPIR, with the same prior and measurements.

polymode run pipelines/jobs/medical.yaml   # its ct-train step makes the prior
python tests/benchmarks/bench_posterior.py runs/store/ct-train-... [--count 4] [--threads 2]

CT from 23 views of held-out phantoms.  deepinv (optional) is given the same denoiser, operator and
noise in its own units, pictures in [0, 1]; its options are its defaults but for the steps.  Means
over slices of one draw each: PSNR, SSIM, misfit in units of the noise, seconds for a slice.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.data import collate, open_dataset
from core.inverse.measurement import LinearOperator, Measurement
from core.model import Model
from core.network.conditioning import Condition
from core.parts.registry import Spec
from core.request import Machine
from plugins.medical.evaluation.samplers import RULES, compare
from plugins.medical.inference.reconstruct import prior_of
from plugins.medical.request import SamplersRequest
from plugins.medical.tasks.ct import Ct

TASK = Spec("medical/ct", {"views": 23, "side": 256.0})
DATA = Spec("medical/phantoms", {"size": 64, "count": 16})


def norm_of(operator: LinearOperator, like: Tensor) -> float:
    """The largest singular value of A, by twenty power iterations."""
    x = torch.randn(like.shape, generator=torch.Generator().manual_seed(0))
    for _ in range(20):
        x = operator.adjoint(operator.forward(x / x.norm()))
    return float(x.norm()) ** 0.5


def peers(
    model: Model, measurement: Measurement, like: Tensor, condition: Condition
) -> dict[str, Callable[[], Tensor]]:
    """deepinv's samplers, as calls that give samples; nothing where it is absent.

    Args:
        model: a prior of images in [-1, 1].
        measurement: of all slices; complex ones become pairs of numbers.
        like: a sample of each slice.
        condition: what the network is given.
    """
    try:
        import deepinv
    except ImportError as missing:
        print(f"deepinv: left out, {missing}")
        return {}

    class Denoiser(deepinv.models.Denoiser):
        """Ours on pictures in [0, 1]: x = 2 u - 1 at twice the level."""

        def forward(self, x: Tensor, sigma: Any, **_: Any) -> Tensor:
            level = torch.as_tensor(sigma, dtype=torch.float64).flatten() * 2
            level = level.clamp(model.process.t_first, model.process.t_max).expand(len(x))
            return (model.denoise(2 * x.float() - 1, level, condition).x0.to(x) + 1) / 2

    operator = measurement.operator
    norm = norm_of(operator, like)  # DPS takes steps that suit a norm of 1
    sigma = measurement.noise_std / 2 / norm
    paired = measurement.y.is_complex()

    def forward(u: Tensor, **_: Any) -> Tensor:
        y = operator.forward(u.float()) / norm
        return (torch.view_as_real(y) if paired else y).to(u)

    def adjoint(y: Tensor, **_: Any) -> Tensor:
        y32 = y.float().contiguous()
        return operator.adjoint(torch.view_as_complex(y32) if paired else y32).to(y) / norm

    physics = deepinv.physics.LinearPhysics(
        A=forward, A_adjoint=adjoint, noise_model=deepinv.physics.GaussianNoise(sigma)
    )
    y = (torch.view_as_real(measurement.y) if paired else measurement.y) / norm
    y = (y + forward(torch.ones_like(like))) / 2  # of u = (x + 1) / 2
    fidelity = deepinv.optim.data_fidelity.L2(sigma=sigma)

    def diffpir(steps: int) -> Tensor:
        torch.default_generator.manual_seed(0)  # the peer draws from the global stream
        run = deepinv.sampling.DiffPIR(Denoiser(), fidelity, sigma=sigma, max_iter=steps)
        with torch.no_grad():
            return (2 * run(y, physics) - 1).float()

    def dps(steps: int) -> Tensor:
        run = deepinv.sampling.DPS(Denoiser(), schedule="ve", num_steps=steps, dtype=torch.float32)
        return (2 * run(y, physics, x_init=tuple(like.shape), seed=0) - 1).float()

    return {
        "deepinv DiffPIR, 20": lambda: diffpir(20),
        "deepinv DiffPIR, 100": lambda: diffpir(100),
        "deepinv DPS, 100": lambda: dps(100),
        "deepinv DPS, 1000": lambda: dps(1000),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, nargs="*", default=[20, 100])
    wanted = parser.parse_args()
    machine = Machine(threads=wanted.threads)
    model = prior_of(wanted.checkpoint, TASK, machine)
    task = model.task
    assert isinstance(task, Ct)
    batch = collate(open_dataset(DATA, "test", task), list(range(wanted.count)))
    measurement = task.measured(batch)
    for name in RULES:
        request = SamplersRequest(
            checkpoint=wanted.checkpoint, task=TASK, dataset=DATA, count=wanted.count,
            steps=tuple(wanted.steps), methods=(name,),
        )  # fmt: skip
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = compare(request, Path(folder), machine=machine)
        seconds = (time.perf_counter() - begun) / wanted.count
        for label, row in found.scores.items():
            if label.startswith(name):
                said = "  ".join(f"{key} {value:.3f}" for key, value in row.items())
                print(f"{label:28} {said}  ({seconds:.2f} s a slice for all of its steps)")
    for label, draw in peers(model, measurement, batch["image"], {}).items():
        begun = time.perf_counter()
        x = draw()
        seconds = (time.perf_counter() - begun) / wanted.count
        row = task.figures_of(x, measurement, batch)
        said = "  ".join(f"{key} {float(value.mean()):.3f}" for key, value in row.items())
        print(f"{label:28} {said}  {seconds:.2f} s a slice")


if __name__ == "__main__":
    main()
