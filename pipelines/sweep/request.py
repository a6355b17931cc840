"""Request and result of `sweep`: a search of training options."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from core.request import Count, TrainRequest


@dataclass(frozen=True, kw_only=True)
class SweepRequest(TrainRequest):
    """Train with several choices of options and keep the best; see `TrainRequest` for the rest.

    Choices are drawn from `space` by `seed`: a choice is the same whatever the number of trials.
    Trials that do badly in validation are cut by successive halving, as soon as they are measured.
    Source: Li et al. 2020, arXiv:1810.05934, algorithm 2.

    Args:
        space: dotted option of the training to the values it may take: a list of them, or one of
            ``{uniform: [low, high]}``, ``{loguniform: [low, high]}``, ``{int: [low, high, step]}``.
        trials: choices that are tried; fewer where the space has no more.
        metric: what is compared, lower is better: the mean loss on held-out items, or the upper
            end of its interval.
        grace: steps before a trial may be cut; by default until its first validation.
        reduction: of the trials that got as far, the best one in so many goes on; measured again
            after `grace` times it, times its square, and so on.
    """

    space: dict[str, Any]
    trials: Count = 16
    metric: Literal["val/loss", "val/high"] = "val/loss"
    grace: Count | None = None
    reduction: Annotated[int, Ge(2)] = 3


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The best of several trainings.

    Args:
        checkpoint: folder of checkpoints of the best trial.
        best: its step with the lowest validation loss.
        request: its options as ``polymode train`` reads them.
        table: ``trials.json``: options and outcome of every trial.
        trial: its name.
        value: the figure that was compared, at that step.
        finished: trials that were trained to the end.
        cut: trials that were ended early because others did better.
        failed: trials that could not be trained.
        seconds: spent by this process.
    """

    checkpoint: Path
    best: Path
    request: Path
    table: Path
    trial: str
    value: float
    finished: int
    cut: int
    failed: int
    seconds: float
