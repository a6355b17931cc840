"""Posterior draws of images given a measurement, by a prior and a posterior sampler."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional as F

from core.denoiser.parameterization import Condition, Denoiser, FunctionDenoiser, Prediction
from core.denoiser.tiles import by_parts, tiled
from core.inverse.measurement import Measurement
from core.inverse.posterior import Method
from core.process.noise import Noise, Source, seed_of
from core.sampler.sample import Watch, prior, sample
from core.sampler.solver import Solver
from plugins.medical.inference.spacing import Resampling, beside_detail, consistent
from plugins.medical.inference.stacks import of_stacks


@dataclass(frozen=True, kw_only=True)
class How:
    """Options of a draw.

    Args:
        method: the posterior sampler.
        solver: of the reverse process.
        grid: falling times; from below the noisy end, draws start at a reconstruction with noise
            of that level added.
        along: weight of total variation between slices, in units of the images; 0 for none.
        at_once: slices per network call; bounds the memory.
        tile: side of the overlapping tiles in which the network sees a slice; 0 for whole slices.
        slices: of which the prior learned stacks; several for the slices of one volume alone.
        condition: of the network, for each slice.
        grids: of the scan and of draws, where they differ.
    """

    method: Method
    solver: Solver
    grid: Float64[Tensor, " n"]
    along: float = 0.0
    at_once: int = 16
    tile: int = 0
    slices: int = 1
    condition: Condition | None = None
    grids: Resampling | None = None


def reconstructed(
    denoise: Denoiser,
    measurement: Measurement,
    how: How,
    start: Float[Tensor, " b c h w"],
    noise: Source,
    *,
    watch: Watch | None = None,
) -> Float[Tensor, " b c h w"]:
    """One draw for each measurement; the slices of a volume are a batch.

    Source: the start part-way, Chung et al. 2022, arXiv:2112.05146 (CCDF); consistency along
    slices, Chung et al. 2023, arXiv:2211.10655 (DiffusionMBIR), there by ADMM on the samples, here
    by a proximal step on the estimates.

    Args:
        denoise: of a prior.
        measurement: of each slice.
        how: options of the draw.
        start: initial reconstruction; only its shape counts where the grid starts at the noisy end.
        noise: one stream for each slice.
        watch: called after each step.
    """
    if how.grids is None:
        return _drawn(denoise, measurement, how, start, noise, watch)
    # The scan is T x + d, where d is the detail of the start that is finer than the draws' pixels.
    detail, begun = how.grids.detail(start), how.grids.on_draws(start)
    measured = beside_detail(measurement, how.grids, detail)
    x = how.grids.on_scan(_drawn(denoise, measured, how, begun, noise, watch))
    # The detail is uncertain by about its size, and the measurement says by how much it is off.
    return consistent(measurement, x + detail, detail.square().flatten(1).mean(1).double())


def _drawn(
    denoise: Denoiser,
    measurement: Measurement,
    how: How,
    start: Tensor,
    noise: Source,
    watch: Watch | None,
) -> Tensor:
    """One draw on the grid of `start`."""
    process, asked = denoise.process, by_parts(denoise, how.at_once)
    if how.tile:
        asked = tiled(asked, tile=how.tile, overlap=how.tile // 4)
    if how.slices > 1:
        asked = of_stacks(asked, how.slices)
    if how.along:
        asked = smooth_along(asked, how.along)
    guided = how.method(measurement, asked, how.solver)
    if float(how.grid[0]) >= process.t_max:
        x = prior(process, how.grid, start, noise)
    else:
        level = how.grid[0].double().expand(len(start)).to(start.device)
        x = process.diffuse(start, level, noise.like(start))
    given = how.condition and {name: value.to(x.device) for name, value in how.condition.items()}
    return sample(guided.denoise, how.grid, guided.solver, x, noise, given, watch=watch)


def streams(seed: int, items: Iterable[int], draw: int) -> Noise:
    """One stream for each item: draw k of item i depends on (seed, i, k) alone."""
    return Noise([seed_of(seed, "reconstruct", item, draw) for item in items])


def smooth_along(denoise: Denoiser, weight: float) -> Denoiser:
    """The denoiser with estimates regularised by total variation between slices.

    Each becomes argmin_z |z - x0|^2 / 2 + min(s, 1) weight TV(z) at s = sigma / alpha, so that at
    the clean end prior and measurement alone determine the slices.
    """

    def ask(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        found = denoise(x, t, condition)
        alpha, sigma = denoise.process.alpha_sigma(t[0].double())
        level = min(float(sigma / alpha), 1.0)
        return replace(found, x0=less_variation(found.x0, level * weight))

    return FunctionDenoiser(denoise.process, ask)


def less_variation(
    x: Float[Tensor, " d *shape"], weight: float, *, iterations: int = 30
) -> Float[Tensor, " d *shape"]:
    """argmin_z |z - x|^2 / 2 + weight sum |z[k + 1] - z[k]|, by projected gradients on its dual.

    Source: Chambolle 2004, J. Math. Imaging Vis. 20, 89, in one dimension, accelerated as Beck and
    Teboulle 2009, IEEE Trans. Image Process. 18, 2419.

    Args:
        x: slices along the first axis.
        weight: of the variation.
        iterations: of the method.
    """
    if len(x) < 2 or weight == 0:
        return x
    dual = torch.zeros_like(x[1:])
    ahead, t = dual, 1.0

    def primal(p: Tensor) -> Tensor:  # x - D* p
        around = [0, 0] * (x.ndim - 1)
        return x + F.pad(p, (*around, 0, 1)) - F.pad(p, (*around, 1, 0))

    for _ in range(iterations):
        after = (ahead + primal(ahead).diff(dim=0) / 4).clamp(-weight, weight)
        following = (1 + (1 + 4 * t**2) ** 0.5) / 2
        dual, ahead, t = after, after + (t - 1) / following * (after - dual), following
    return primal(dual)
