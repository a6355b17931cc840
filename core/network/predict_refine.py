"""Predict and refine: an estimate from the condition alone, and a network for what it lacks.

The estimate f(condition) takes one call, whatever the number of sampler steps, and works on a
coarse grid, where a layer costs little.  What is diffused beside it is x0 - f: small where the
condition determines the answer, so that the refining network can be small too.
Source: Whang et al. 2022, Deblurring via stochastic refinement, arXiv:2112.02475, section 3; the
residual network on the coarse grid after Lim et al. 2017 (EDSR), arXiv:1707.02921, section 3.
"""

from collections.abc import Mapping
from typing import Annotated, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from core.network import conditioning
from core.network.layers import convolution, crop, fold, pad_to_multiple, unfold, zeroed
from core.parts.config import configure
from core.parts.registry import Spec

ESTIMATE = "estimate"  # the entry of a condition that holds f, so that it is computed once


@runtime_checkable
class Estimating(Protocol):
    """A network that estimates x0 from its condition alone."""

    def estimate(self, condition: conditioning.Condition) -> Float[Tensor, " b c *space"]:
        """f(condition), an estimate of x0."""
        ...


def with_estimate(
    network: nn.Module, condition: conditioning.Condition | None
) -> conditioning.Condition | None:
    """The condition with the network's estimate; as it is for networks that make none.

    An estimate that is there already is kept, except where samples are marked as having no
    condition: theirs is another one.
    """
    if not isinstance(network, Estimating) or condition is None:
        return condition
    if ESTIMATE in condition and conditioning.NULL not in condition:
        return condition
    return {**condition, ESTIMATE: network.estimate(condition)}


class Convolutions(nn.Module):
    """x + conv(SiLU(conv(x))), without norms, which would remove the image's contrast."""

    def __init__(self, dims: int, width: int) -> None:
        super().__init__()
        self.first = convolution(dims, width, width)
        self.second = zeroed(convolution(dims, width, width))

    def forward(self, x: Float[Tensor, " b c *space"]) -> Float[Tensor, " b c *space"]:
        return x + self.second(F.silu(self.first(x)))


class Estimator(nn.Module):
    """f(image): residual blocks on a grid that is coarser by `patch`; zero before it is trained."""

    def __init__(self, dims: int, inputs: int, outputs: int, width: int, blocks: int, patch: int):
        super().__init__()
        self.patch = patch
        self.conv_in = convolution(dims, inputs * patch**dims, width)
        self.blocks = nn.Sequential(*(Convolutions(dims, width) for _ in range(blocks)))
        self.conv_out = zeroed(convolution(dims, width, outputs * patch**dims))

    def forward(self, image: Float[Tensor, " b k *space"]) -> Float[Tensor, " b c *space"]:
        size = image.shape[2:]
        h = fold(pad_to_multiple(image, [self.patch] * len(size)), self.patch)
        if h.ndim == 4 and h.is_cpu:
            h = h.contiguous(memory_format=torch.channels_last)
        h = self.conv_in(h)
        return crop(unfold(self.conv_out(h + self.blocks(h)), self.patch), size)


class PredictRefine(nn.Module):
    """An estimate from the condition "image", and a network for what it lacks.

    F(x, level, condition) is the refining network's, of x - alpha f; the estimate f is a further
    part of its image condition.  `core.denoiser.parameterization` moves between the two; with
    `core/predict_refine` as the objective f is trained to be the mean of x0.
    Source: Whang et al. 2022, arXiv:2112.02475, section 3.

    Args:
        dims: axes of space.
        width: channels of the estimator.
        blocks: residual blocks of the estimator.
        patch: side of the cubes of elements folded into channels before the estimator: the factor
            of super-resolution, 8 for JPEG.
        refiner: the refining network, of `dims` axes too.

    Raises:
        InputError: a task without the condition "image", or options out of range.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        conditions: Mapping[str, int],
        *,
        dims: int = 2,
        width: int = 64,
        blocks: int = 8,
        patch: int = 4,
        refiner: Annotated[Spec, "network"] = Spec("core/unet"),
    ) -> None:
        super().__init__()
        counts = {"width": width, "blocks": blocks, "patch": patch}
        checks = conditioning.at_least(1, counts)
        checks += [
            (dims not in (1, 2, 3), f"dims: expected 1, 2 or 3, got {dims}"),
            ("image" not in conditions, "refiner: the task has no condition named 'image', which "
             "an estimate is made from; use the refining network alone"),
        ]  # fmt: skip
        conditioning.check(conditions, checks)
        image = {"image": conditions["image"]}
        self.null_condition = conditioning.NullCondition(image, "zero")
        self.estimator = Estimator(dims, image["image"], channels, width, blocks, patch)
        wider = {**conditions, "image": conditions["image"] + channels}
        self.refiner = configure("network", refiner, at="refiner")(channels, outputs, wider)
        self.multiples: tuple[int, ...] = getattr(self.refiner, "multiples", (1,))

    @property
    def required_level(self) -> str | None:
        """The level that the refining network's embedding is made for; None for any."""
        return getattr(self.refiner, "required_level", None)

    def estimate(self, condition: conditioning.Condition) -> Float[Tensor, " b c *space"]:
        """f, an estimate of x0.

        Raises:
            InputError: the condition has no image.
        """
        return self.estimator(self.null_condition(condition)["image"]).float()

    def forward(
        self,
        x: Float[Tensor, " b c *space"],
        level: Float[Tensor, " b"],
        condition: conditioning.Condition | None = None,
    ) -> Float[Tensor, " b k *space"]:
        given = dict(conditioning.required({"image": 0}, condition)) | dict(condition or {})
        estimate = given.pop(ESTIMATE, None)
        if estimate is None:
            estimate = self.estimate(given)
        image = torch.cat([given["image"], estimate.to(given["image"])], dim=1)
        return self.refiner(x, level, {**given, "image": image})
