"""Training by several workers of Ray: each calls `core.runs.train` in one process group.

Ray Train starts the workers and joins them; nothing is kept by it.  Checkpoints are the store's, so
a worker that dies fails the attempt and the next one resumes from the newest whole checkpoint.

Source: Ray 2.60, `ray.train.v2.torch.torch_trainer.TorchTrainer`.
"""

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.request import Emit, Machine, TrainRequest, TrainResult
from core.training.stopping import NO_SIGNAL, Stopped
from pipelines.cluster import deadlines
from pipelines.cluster.drained import is_any_drained, is_drained
from pipelines.run.step import Moved, continued, share_gpu


def train_together(
    request: TrainRequest,
    out: Path,
    *,
    workers: int,
    gpus: float,
    machine: Machine,
    emit: Emit,
) -> TrainResult:
    """The result of `core.runs.train`, each batch split over `workers` processes.

    The sums of gradients are added in another order than by one process: equal up to rounding.

    Args:
        request: what to train.
        out: the step's folder, seen by every worker.
        workers: processes, anywhere in the running Ray.
        gpus: of each of them.
        machine: of each of them.
        emit: hears of progress, from the events that the first worker writes.

    Raises:
        InputError: the request is wrong, or Ray Train's own requirements are not installed.
        Moved: a worker's machine is taken away; a checkpoint is written.
        Stopped: a file requests it; a checkpoint is written.
    """
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(deadlines.FOREVER)
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise InputError(
            f"workers: {workers} needs Ray Train; pip install 'polymode[cluster]', or set workers=1"
        ) from error
    each = {"CPU": machine.threads or 1, **({"GPU": gpus} if gpus else {})}
    ours = out / ".together"  # what Ray Train writes of its own
    trainer = TorchTrainer(
        _one_of_them,
        train_loop_config={"request": request, "out": out, "machine": machine, "gpus": gpus},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=bool(gpus), resources_per_worker=each
        ),
        run_config=RunConfig(
            name=uuid.uuid4().hex,  # an existing name would be resumed
            storage_path=str(ours),
            # Attempts are counted by whoever runs the step.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )
    try:
        answer: Any = trainer.fit().return_value  # the first worker's
    except Exception as error:
        wrong = _refusal(error)
        if wrong is not None:
            raise InputError(wrong) from error
        raise
    finally:
        shutil.rmtree(ours, ignore_errors=True)
    if isinstance(answer, TrainResult):
        return answer
    if is_any_drained():
        raise Moved
    raise Stopped(answer, NO_SIGNAL)


def _one_of_them(given: dict[str, Any]) -> TrainResult | int:
    """Train in a worker of the group that Ray has made; the first one reports it.

    Where it was stopped, the step at which, and all of them are.
    """
    from ray import train

    from core.runs import train as run

    if 0 < given["gpus"] < 1:
        share_gpu(given["gpus"])
    first = train.get_context().get_world_rank() == 0
    with continued(given["out"], tells=first) as emit:
        try:
            return run(
                given["request"],
                given["out"],
                machine=given["machine"],
                emit=emit,
                stop=is_drained,
            )
        except Stopped as stopped:
            return stopped.step


def _refusal(error: BaseException) -> str | None:
    """The sentence of an `InputError` that a worker raised."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        cause = getattr(failure, "cause", failure)
        for one in (failure, cause, getattr(cause, "cause", None)):
            if isinstance(one, InputError):
                return str(one)
    return None
