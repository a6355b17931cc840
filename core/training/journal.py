"""Metric logging of a training run: ``metrics.jsonl``, and TensorBoard's files on request.

One JSON object a line, each written at once, so that a crash costs a line at most.  A run that
resumes from a checkpoint drops the lines of later steps.
"""

import json
import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.results.metrics import Interval
from core.storage import files, json_file
from core.training.loop import Step

LINES = 2000  # of a run; with more steps each line is of several
RECENT = 50  # steps over which the rate and the shown loss are averaged
NAMES = {"loss": "train/loss", "gradient": "train/gradient", "lr": "train/lr", "rate": "train/rate"}


class Journal:
    """The open metric logs of a run.

    Args:
        out: the run's folder.
        steps: of the whole run.
        writes: whether this process writes; the first one does.
        tensorboard: write its files too.
    """

    def __init__(self, out: Path, steps: int, *, writes: bool, tensorboard: bool) -> None:
        self._log = out / "metrics.jsonl" if writes else Path(os.devnull)
        self._curves = out / "tensorboard" if writes and tensorboard else None
        self._steps, self._every, self._writes = steps, max(1, steps // LINES), writes
        self._gathered: list[Step] = []
        self._recent: deque[Step] = deque(maxlen=RECENT)
        self._writer: Any = None
        self._file = self._log.open("a", buffering=1)

    def truncate(self, step: int) -> None:
        """Drop the lines of steps after one from which the run resumes."""
        self.close()
        self._gathered = []
        self._recent.clear()
        if self._writes:
            kept = [row for row in _rows(self._log) if row["step"] <= step]
            files.write_text(self._log, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = self._log.open("a", buffering=1)
        if self._curves is not None:
            self._writer = _writer(self._curves, step)

    @property
    def rate(self) -> float:
        """Recent steps a second."""
        return len(self._recent) / sum(step.seconds for step in self._recent)

    @property
    def loss(self) -> float | None:
        """Mean loss of recent steps that counted."""
        return _mean([step.loss for step in self._recent if not step.skipped])

    def log(self, step: Step) -> None:
        """Record a step; write a line where one is due."""
        self._recent.append(step)
        self._gathered.append(step)
        if step.step % self._every == 0 or step.step == self._steps:
            self.flush()

    def flush(self) -> None:
        """Write the line of the steps gathered so far."""
        if self._gathered:
            self._write(_line(self._gathered, self.rate))
            self._gathered = []

    def log_validation(self, step: int, mean: Interval) -> None:
        """Write the line of a validation."""
        values = {"val/loss": mean.mean, "val/low": mean.low, "val/high": mean.high}
        self._write({"step": step, **values, "val/n": mean.n})

    def sync(self) -> None:
        """Sync the file to disk, before a checkpoint of the same step."""
        self.flush()
        os.fsync(self._file.fileno())

    def late_loss(self, step: int) -> float:
        """Mean loss of the last tenth of the steps up to `step`; of all if that has none."""
        rows = [(row["step"], row.get("loss")) for row in _rows(self._log)]
        kept = [(at, loss) for at, loss in rows if loss is not None]
        late = [loss for at, loss in kept if at > 0.9 * step] or [loss for _, loss in kept]
        return _mean(late) or 0.0

    def close(self) -> None:
        """Write the lines still buffered and close the files."""
        if not self._file.closed:
            self.flush()
            self._file.close()
        if self._writer is not None:
            self._writer.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        if self._writer is not None:
            for name, value in line.items():
                if value is not None and ("/" in name or name in NAMES):
                    self._writer.add_scalar(NAMES.get(name, name), value, line["step"])


@contextmanager
def journal(
    out: Path, steps: int, *, taken: int, tensorboard: bool = False, writes: bool = True
) -> Iterator[Journal]:
    """A run's metric logs, without the lines of steps after `taken`; closed at the end."""
    record = Journal(out, steps, writes=writes, tensorboard=tensorboard)
    try:
        record.truncate(taken)
        yield record
    finally:
        record.close()


def check_tensorboard() -> None:
    """Check before a run starts that TensorBoard is installed.

    Raises:
        InputError: it is not installed.
    """
    from importlib.util import find_spec

    if find_spec("tensorboard") is None:
        raise InputError(
            "tensorboard: the package of that name is not installed; install it with "
            "pip install 'polymode[tensorboard]', or go without: metrics.jsonl has the same figures"
        )


def _writer(folder: Path, taken: int) -> Any:
    from torch.utils.tensorboard.writer import SummaryWriter

    return SummaryWriter(str(folder), purge_step=taken + 1)


def _line(steps: list[Step], rate: float) -> dict[str, Any]:
    """The line of several steps: means over those not skipped; the last one's rate and gradient."""
    counted = [step for step in steps if not step.skipped]
    last = counted[-1] if counted else None
    return {
        "step": steps[-1].step,
        "loss": _mean([step.loss for step in counted]),
        "gradient": last.gradient if last else None,
        "lr": steps[-1].lr,
        "rate": rate,
        "seconds": sum(step.seconds for step in steps),
        "skipped": len(steps) - len(counted),
        "micro_batch": steps[-1].micro_batch,
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _rows(log: Path) -> list[dict[str, Any]]:
    rows = []
    for line in log.read_text().splitlines() if log.exists() else []:
        try:
            rows.append(json_file.parse(line))
        except json_file.NotJson:  # the line that a crash cut short
            break
    return rows
