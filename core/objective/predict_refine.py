"""The loss of a network that predicts and refines."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from core.denoiser.parameterization import Condition
from core.errors import InputError
from core.network.predict_refine import ESTIMATE, Estimating
from core.objective.denoising import Denoising, masked_mean


@dataclass(frozen=True)
class PredictRefine(Denoising):
    """refine_weight L(x0 - f, stopped at f) + estimate_weight |x0 - f|^2, f the network's estimate.

    The squared error makes f the mean of x0 given the condition; the denoising loss trains what
    refines it and does not reach f.  Whang et al. train both by the denoising loss alone, which
    leaves f undetermined.  With a refine_weight of 0 the estimate is trained alone, without calls
    of the refining network: a first stage that a training with both goes on from.
    Source: Whang et al. 2022, arXiv:2112.02475, section 3.

    Args:
        process: the forward process.
        parameterization: the meaning of the refining network's output.
        weighting: of a time, in units of the squared eps error.
        times: the distribution of training times.
        norm: squared (l2) or absolute (l1) error of the refining network.
        estimate_weight: weight of the estimate's squared error, positive.
        refine_weight: weight of the refining network's loss, 0 or positive; 0 trains only the
            estimate.

    Raises:
        InputError: a weight out of range.
    """

    _: KW_ONLY
    norm: Literal["l1", "l2"] = "l2"  # again, since options are read from the text of a class
    estimate_weight: float = 1.0
    refine_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.estimate_weight <= 0:
            raise InputError(
                f"predict_refine: expected estimate_weight > 0, got {self.estimate_weight:g}"
            )
        if self.refine_weight < 0:
            raise InputError(
                f"predict_refine: expected refine_weight >= 0, got {self.refine_weight:g}"
            )

    def loss(
        self,
        network: nn.Module,
        x0: Float[Tensor, " b *shape"],
        t: Float[Tensor, "..."],
        eps: Float[Tensor, " b *shape"],
        condition: Condition | None = None,
        mask: Float[Tensor, " b *shape"] | None = None,
    ) -> Float[Tensor, " b"]:
        """The loss of each sample; arguments as of `Denoising.loss`.

        Raises:
            InputError: the network makes no estimate.
        """
        if not isinstance(network, Estimating):
            raise InputError(
                f"objective: core/predict_refine requires a network that makes an estimate, such "
                f"as core/predict_refine; {type(network).__name__} makes none"
            )
        # f is a constant of the refinement: its gradient would move f away from the mean.
        f = network.estimate(condition or {})
        loss = self.estimate_weight * masked_mean((f - x0) ** 2, mask)
        if self.refine_weight == 0:
            return loss
        refine = super().loss(
            network, x0, t, eps, {**(condition or {}), ESTIMATE: f.detach()}, mask
        )
        return self.refine_weight * refine + loss
