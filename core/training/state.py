"""The state of a training run beside its tensors: plain values, saved with every checkpoint."""

from dataclasses import dataclass, field
from typing import Any

from core.parts.config import plain
from core.results.metrics import Interval
from core.storage.checkpoint import Checkpoint
from core.training.validation import ValidationState


@dataclass(frozen=True)
class TrainingState:
    """Everything beside the learner that the next step depends on.

    Args:
        step: optimiser steps taken.
        skipped: steps among them that were left out because they were not finite.
        rollbacks: times the run went back to a checkpoint; each changes the draws that follow.
        validation: results so far.
    """

    step: int = 0
    skipped: int = 0
    rollbacks: int = 0
    validation: ValidationState = field(default_factory=ValidationState)

    @classmethod
    def of(cls, saved: Checkpoint) -> "TrainingState":
        """The state that a checkpoint holds."""
        state = saved.state
        validation = dict(state.get("validation", {}))
        if validation.get("loss"):
            validation["loss"] = Interval(**validation["loss"])
        return cls(
            saved.step,
            state.get("skipped", 0),
            state.get("rollbacks", 0),
            ValidationState(**validation),
        )

    def document(self) -> dict[str, Any]:
        """Plain values for a checkpoint, which knows the step itself."""
        return {
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "validation": plain(self.validation),
        }

    def is_last(self, steps: int, patience: int) -> bool:
        """Whether the run ends here: all steps taken, or validation without improvement."""
        impatient = 0 < patience <= self.validation.stale
        return self.step >= steps or impatient
