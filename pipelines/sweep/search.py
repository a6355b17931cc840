"""A search of training options: several trainings, those that do badly cut, the best one kept.

One worker trains them one after another in its process; several are trials of Ray Tune.  Both ask
Tune's ASHA scheduler.  What came of a trial lies in its folder, so that a search that was ended
goes on; nothing is kept by Tune.

Source: Ray 2.60, `ray.tune.schedulers.async_hyperband` and `ray.tune.Tuner`.
"""

import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from core.errors import InputError
from core.request import Emit, Machine, silent
from core.training.stopping import FILE as STOP
from core.training.stopping import (
    Stopped,
    catch_signals,
    raise_caught_signal,
    remove_stop_file,
    stop_request,
)
from pipelines.cluster import deadlines
from pipelines.cluster.drained import is_drained
from pipelines.run.step import Moved, continued, share_gpu
from pipelines.store.tail import Tail
from pipelines.sweep.request import SweepRequest, SweepResult
from pipelines.sweep.trials import Ended, Point, Search, Trial, points_in, read_ended, write_ended

# No files and no words of Tune's own; a trial that failed reports nothing.
QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
}
NEWS_SECONDS = 1.0  # between two pieces of news while nothing changes

Told = Callable[[Trial, Point], bool]
"""Hears of a validation; whether the trial is to be cut."""


def sweep(
    request: SweepRequest,
    out: Path,
    *,
    machine: Machine | None = None,
    emit: Emit = silent,
    stop: Callable[[], bool] | None = None,
) -> SweepResult:
    """Train one trial after another in this process; cut those that do worse than earlier ones.

    Args:
        request: what to search.
        out: ``trials/``, ``trials.json`` and ``best.yaml`` go there.
        machine: of each trial.
        emit: hears of trials that end and of the one that is trained.
        stop: asked at every micro-batch whether to stop; what was done is saved.

    Raises:
        InputError: no trial can be trained, or Ray Tune is not installed.
        RuntimeError: every trial failed, or one was broken by what is no fault of its own.
        Stopped: asked to stop, by `stop`, a signal or a file named STOP in `out`.
    """
    begun = time.perf_counter()
    search = Search(request, out, emit)
    rule, asked = _Rule(request, search.ended()), stop_request(lambda: 0, out, stop)

    def told(trial: Trial, point: Point) -> bool:
        search.heard(point)
        return rule.hear(trial, point)

    for trial in search.left():
        rule.begin(trial)
        search.began(trial)
        try:
            ended = _train(trial, machine or Machine(), search.listener(trial), asked, told)
        except Stopped:
            remove_stop_file(out)
            raise
        rule.end(trial)
        search.note(trial, ended)
    return search.result(begun)


def sweep_together(
    request: SweepRequest,
    out: Path,
    *,
    workers: int,
    gpus: float,
    machine: Machine,
    emit: Emit,
) -> SweepResult:
    """What `sweep` gives, with `workers` trials at once, each in a process of its own.

    Which trials are cut depends on the order in which they are measured; their numbers do not.

    Args:
        request: what to search.
        out: the step's folder, seen by every worker.
        workers: trials at once, anywhere in the running Ray.
        gpus: of each of them.
        machine: of each of them.
        emit: hears of trials that end.

    Raises:
        InputError: as `sweep`.
        RuntimeError: as `sweep`.
        Moved: a trial's machine is taken away; checkpoints are written.
        Stopped: as `sweep`.
    """
    begun = time.perf_counter()
    search = Search(request, out, emit)
    if search.left():
        with catch_signals() as signals:
            try:
                _tune(search, workers, gpus, machine, stop_request(signals, out, None))
            except Stopped as stopped:
                remove_stop_file(out)
                raise_caught_signal(stopped)
                raise
    return search.result(begun)


# --- one trial ----------------------------------------------------------------------------------


def _train(
    trial: Trial, machine: Machine, emit: Emit, asked: Callable[[], int], told: Told
) -> Ended:
    """Train a trial, telling of each validation; what came of it, written in its folder too.

    Raises:
        Stopped: asked to stop; a checkpoint is written.
    """
    from core.runs import train

    log = Tail(trial.folder / "metrics.jsonl", whole=True)
    last, cut = 0, False

    def tell(upto: int) -> bool:
        # After a rollback steps are measured again: the first figure has been told.
        nonlocal last
        for step, value in points_in(log, trial.metric):
            if last < step < upto:
                last = step
                if told(trial, (step, value)):
                    return True
        return False

    def stop() -> bool:
        nonlocal cut
        # Who is at the last step has only its checkpoint to write.
        cut = cut or tell(trial.request.steps)
        return cut or bool(asked())

    try:
        result = train(trial.request, trial.folder, machine=machine, emit=emit, stop=stop)
    except Stopped:
        if not cut:
            raise
        return write_ended(trial, "cut")
    except OSError as error:  # a full disk is no fault of the options
        return write_ended(trial, "broken", error)
    except Exception as error:  # noqa: BLE001  (whatever one trial raises must not end the others)
        return write_ended(trial, "failed", error)
    ended = write_ended(trial, "finished", result=result)
    tell(trial.request.steps + 1)
    return ended


# --- who is cut ---------------------------------------------------------------------------------


class _Rule:
    """Successive halving: whether a trial that has been measured is cut.

    Args:
        request: what is searched.
        before: trials of an earlier start, which count as if they had just been measured.
    """

    def __init__(self, request: SweepRequest, before: Sequence[Trial]) -> None:
        try:
            from ray.tune.schedulers import ASHAScheduler
        except ImportError as error:
            raise InputError(
                "sweep needs Ray Tune, not installed here; pip install 'polymode[cluster]'"
            ) from error
        self.scheduler: Any = ASHAScheduler(
            time_attr="step",
            metric="value",
            mode="min",
            max_t=request.steps,
            grace_period=request.grace or request.validate_every,
            reduction_factor=request.reduction,
        )
        for trial in before:
            self.begin(trial)
            for point in trial.points():
                self.hear(trial, point)
            self.end(trial)

    def begin(self, trial: Trial) -> None:
        """A trial takes part."""
        self.scheduler.on_trial_add(None, _by_name(trial))

    def hear(self, trial: Trial, point: Point) -> bool:
        """A trial has been measured; whether it is cut."""
        return self.scheduler.on_trial_result(None, _by_name(trial), _measured(point)) == "STOP"

    def end(self, trial: Trial) -> None:
        """A trial takes part no more."""
        points = trial.points()
        last = _measured(points[-1]) if points else {}
        self.scheduler.on_trial_complete(None, _by_name(trial), last)


def _by_name(trial: Trial) -> SimpleNamespace:
    return SimpleNamespace(trial_id=trial.name)


def _measured(point: Point) -> dict[str, float]:
    return {"step": point[0], "value": point[1]}


# --- by Ray Tune --------------------------------------------------------------------------------


def _tune(
    search: Search, workers: int, gpus: float, machine: Machine, asked: Callable[[], int]
) -> None:
    """Have Ray Tune train what is left, `workers` at once."""
    rule = _Rule(search.request, search.ended())
    os.environ.update(QUIET)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    from ray import tune

    trials, here = {trial.name: trial for trial in search.left()}, os.getcwd()

    def one(config: dict[str, str]) -> None:
        with suppress(OSError):
            os.chdir(here)  # Tune has gone to a folder of its own
        _in_a_process(trials[config["trial"]], machine, gpus)

    each = {"cpu": machine.threads or 1, **({"gpu": gpus} if gpus else {})}
    ours = search.out / ".tune"  # what Tune writes of its own
    try:
        tune.Tuner(
            tune.with_resources(one, each),
            param_space={"trial": tune.grid_search(list(trials))},
            tune_config=tune.TuneConfig(scheduler=rule.scheduler, max_concurrent_trials=workers),
            run_config=tune.RunConfig(
                name=uuid.uuid4().hex,  # an existing name would be resumed
                storage_path=str(ours),
                failure_config=tune.FailureConfig(max_failures=1),  # of a process that dies
                callbacks=[_watch(search, asked)],
                verbose=0,
            ),
        ).fit()
    except KeyboardInterrupt:  # out of Ray's own waiting, where a step is cancelled
        _save(search)
        raise
    finally:
        shutil.rmtree(ours, ignore_errors=True)


def _save(search: Search) -> None:
    """Have trials write checkpoints where Tune has ended, and wait for it."""
    told, deadline = _ask(search), time.monotonic() + deadlines.TRIALS
    while any(file.exists() for file in told) and time.monotonic() < deadline:
        time.sleep(0.1)  # who obeys removes the file


def _ask(search: Search) -> list[Path]:
    """Ask the trials that are trained now to stop, by files."""
    asked = [trial.folder / STOP for trial in search.running()]
    for file in asked:
        file.touch()
    return asked


def _in_a_process(trial: Trial, machine: Machine, gpus: float) -> None:
    """Train a trial in a process of its own, with its own log, telling Tune of validations."""
    from ray import tune

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as for every step
    if 0 < gpus < 1:
        share_gpu(gpus)

    def told(_: Trial, point: Point) -> bool:
        tune.report(_measured(point))  # does not return where the trial is cut
        return False

    with continued(trial.folder, tells=True) as emit:
        try:
            _train(trial, machine, emit, lambda: int(is_drained()), told)
        except Stopped:
            write_ended(trial, "stopped")


def _watch(search: Search, asked: Callable[[], int]) -> Any:
    """A listener of Tune that keeps the search's books, and stops it on request."""
    from ray import tune

    by_name = {trial.name: trial for trial in search.trials}

    class Watch(tune.Callback):
        why: BaseException | None = None
        deadline = told = 0.0

        def __reduce__(self) -> Any:
            return tune.Callback, ()  # Tune saves itself, but is never restored from that

        def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
            if time.monotonic() - self.told >= NEWS_SECONDS:
                self.told = time.monotonic()
                search.tell()
            if self.why is None:
                number = asked()
                if number or is_drained():
                    self.stop(Stopped(0, number) if number else Moved())
            elif not search.running() or time.monotonic() > self.deadline:
                raise self.why

        def stop(self, why: BaseException) -> None:
            """Have running trials save what they did; Tune continues meanwhile."""
            self.why, self.deadline = why, time.monotonic() + deadlines.TRIALS
            _ask(search)

        def on_trial_start(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            if self.why is None:
                search.began(by_name[trial.config["trial"]])

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            search.heard((result["step"], result["value"]))

        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            its = by_name[trial.config["trial"]]
            ended = read_ended(its) or write_ended(its, "cut")
            search.note(its, ended)
            if ended.state == "stopped" and self.why is None:
                self.stop(Moved())

        def on_trial_error(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            its = by_name[trial.config["trial"]]
            died = Ended(state="failed", cause="its process died twice")
            search.note(its, read_ended(its) or died)

    return Watch()
