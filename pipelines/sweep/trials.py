"""The trials of a search of training options, and what came of them: kept in the search's folder.

Whoever trains them, one after another or several at once, keeps these books.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from core.errors import InputError, cut_lines
from core.parts.config import bind, plain
from core.request import Emit, Note, Progress, TrainRequest, TrainResult
from core.storage import files, json_file
from core.training.stopping import FILE as STOP
from pipelines.run.names import places, without_names
from pipelines.store import results
from pipelines.store.tail import Tail
from pipelines.sweep.request import SweepRequest, SweepResult
from pipelines.sweep.space import Choice, draw, shown, trained

FORMAT = 1
BULK = ("checkpoints", "averages")  # of a trial that is not the best: removed
TABLE, REQUEST, ENDED = "trials.json", "best.yaml", "outcome.json"

Point = tuple[int, float]  # a validated step and its figure


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a search.

    Args:
        name: its place among those drawn, from 001.
        choice: the options that tell it from others.
        request: all its options.
        folder: where it is trained.
        metric: what is compared.
    """

    name: str
    choice: Choice
    request: TrainRequest
    folder: Path
    metric: str

    def points(self) -> list[Point]:
        """Its validations so far."""
        return points_in(Tail(self.folder / "metrics.jsonl", whole=True), self.metric)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What came of a trial.

    Args:
        state: trained to the end, cut because others did better, or not able to be trained;
            broken by what is no fault of its own, or stopped to be gone on with.
        steps: it was trained for.
        step: its best validated one; 0 without any.
        value: the figure there.
        cause: one line: why it failed.
        refused: its request was wrong.
    """

    state: Literal["finished", "cut", "failed", "broken", "stopped"]
    steps: int = 0
    step: int = 0
    value: float | None = None
    cause: str = ""
    refused: bool = False

    @property
    def is_final(self) -> bool:
        """Whether it would be the same at another try; a refusal may be the machine's fault."""
        return self.state in ("finished", "cut") or (self.state == "failed" and not self.refused)


def write_ended(
    trial: Trial,
    state: Literal["finished", "cut", "failed", "broken", "stopped"],
    error: Exception | None = None,
    result: TrainResult | None = None,
) -> Ended:
    """Put what came of a trial into its folder."""
    points = trial.points()
    step, value = min(points, key=lambda point: point[1], default=(0, None))
    if result is not None:
        step = int(result.best.name.removeprefix("step-"))
        value = dict(points).get(step)
    ended = Ended(
        state=state,
        steps=result.steps if result else max((at for at, _ in points), default=0),
        step=step,
        value=value,
        cause=_cause(error, trial.folder.parents[1]) if error else "",
        refused=isinstance(error, InputError),
    )
    files.write_json(trial.folder / ENDED, asdict(ended))
    return ended


def _cause(error: Exception, out: Path) -> str:
    """An error's first line, without names of files that the request in `out` names."""
    first = next(iter(str(error).strip().splitlines()), "")
    first = without_names(first, places([out]), error)
    return first if isinstance(error, InputError) else cut_lines(f"{type(error).__name__}: {first}")


def points_in(log: Tail, metric: str) -> list[Point]:
    """The validations in the new lines of a training's record."""
    rows = [json_file.parse(line) for line in log.lines()]
    return [(row["step"], row[metric]) for row in rows if row.get(metric) is not None]


class Search:
    """The trials of a search and what came of them, kept in its folder.

    Args:
        request: what is searched.
        out: an existing folder, which may hold a part of the search.
        emit: called with progress and notes.
    """

    def __init__(self, request: SweepRequest, out: Path, emit: Emit) -> None:
        self.request, self.out, self._emit = request, out, emit
        self.trials: list[Trial] = []
        self._ended: dict[str, Ended] = {}
        self._running: set[str] = set()
        self._best: float | None = None
        values = plain(request)
        for number, choice in enumerate(draw(request.space, request.trials, request.seed), start=1):
            folder = out / "trials" / f"{number:03d}"
            files.create_folder(folder)
            training = bind(TrainRequest, trained(values, choice))
            trial = Trial(name=folder.name, choice=choice, request=training, folder=folder,
                          metric=request.metric)  # fmt: skip
            self.trials.append(trial)
            self._find(trial)
        self._write_table()

    def _find(self, trial: Trial) -> None:
        """Take over what an earlier start has made of a trial."""
        ended = read_ended(trial)
        if ended is not None and ended.is_final:
            self._ended[trial.name] = ended
            for point in trial.points():
                self.heard(point)
        else:
            (trial.folder / ENDED).unlink(missing_ok=True)
        (trial.folder / STOP).unlink(missing_ok=True)

    def ended(self) -> list[Trial]:
        """Trials that are finished."""
        return [trial for trial in self.trials if trial.name in self._ended]

    def left(self) -> list[Trial]:
        """The others."""
        return [trial for trial in self.trials if trial.name not in self._ended]

    def running(self) -> list[Trial]:
        """Those that are trained now."""
        return [trial for trial in self.trials if trial.name in self._running]

    def heard(self, point: Point) -> None:
        """A trial has been measured."""
        self._best = point[1] if self._best is None else min(self._best, point[1])

    def began(self, trial: Trial) -> None:
        """A trial is being trained."""
        self._running.add(trial.name)
        self.tell()

    def note(self, trial: Trial, ended: Ended) -> None:
        """A trial has ended; its outcome is reported."""
        self._running.discard(trial.name)
        if ended.state == "stopped":
            return
        self._ended[trial.name] = ended
        how = ended.cause if ended.value is None else f"{ended.value:.4g} at step {ended.step}"
        more = f", {ended.cause}" if ended.cause and ended.value is not None else ""
        text = f"trial {trial.name} {ended.state}: {how}{more} ({shown(trial.choice)})"
        self._emit(Note(text=text))
        self.tell()

    def tell(self) -> None:
        """How far the search is."""
        figures = {"running": float(len(self._running))}
        if self._best is not None:
            figures["best"] = self._best
        self._emit(
            Progress(done=len(self._ended), total=len(self.trials), unit="trial", figures=figures)
        )

    def listener(self, trial: Trial) -> Emit:
        """Takes the events of a trial in this process."""

        def heard(event: Progress | Note) -> None:
            if isinstance(event, Note):
                self._emit(Note(text=f"trial {trial.name}: {event.text}"))
            else:
                self.tell()

        return heard

    def result(self, begun: float) -> SweepResult:
        """The best trial; checkpoints of the others are removed.

        Args:
            begun: reading of the clock when the work began.

        Raises:
            InputError: every trial was refused.
            RuntimeError: every trial failed, or one was broken by what is no fault of its own.
        """
        best = self._chosen()
        place = best.folder / "checkpoints" / f"step-{self._ended[best.name].step:08d}"
        files.write_text(self.out / REQUEST, _as_yaml(best.request))
        self._write_table(best.name)
        for trial in self.trials:
            if trial.name != best.name:
                files.remove([at for name in BULK if (at := trial.folder / name).exists()])
        states = [ended.state for ended in self._ended.values()]
        value = self._ended[best.name].value
        assert value is not None
        return SweepResult(
            checkpoint=best.folder / "checkpoints",
            best=place,
            request=self.out / REQUEST,
            table=self.out / TABLE,
            trial=best.name,
            value=value,
            finished=states.count("finished"),
            cut=states.count("cut"),
            failed=states.count("failed"),
            seconds=time.perf_counter() - begun,
        )

    def _chosen(self) -> Trial:
        """Of those trained to the end, or of all if none was, the first of the best."""
        broken = [t for t in self.trials if self._ended[t.name].state == "broken"]
        if broken:
            raise RuntimeError(f"trial {broken[0].name}: {self._ended[broken[0].name].cause}")
        measured = [t for t in self.trials if self._ended[t.name].state in ("finished", "cut")]
        whole = [t for t in measured if self._ended[t.name].state == "finished"]
        if not measured:
            first = self._ended[self.trials[0].name].cause
            refused = all(ended.refused for ended in self._ended.values())
            error = InputError if refused else RuntimeError
            raise error(f"all {len(self.trials)} trials failed, the first one: {first}")
        return min(whole or measured, key=lambda trial: self._ended[trial.name].value or 0.0)

    def _write_table(self, best: str = "") -> None:
        rows = []
        for trial in self.trials:
            ended = self._ended.get(trial.name)
            outcome = asdict(ended) if ended else {"state": "waiting"}
            outcome.pop("refused", None)
            rows.append({"trial": trial.name, "options": trial.choice, **outcome})
        table = {"format": FORMAT, "metric": self.request.metric, "best": best, "trials": rows}
        files.write_json(self.out / TABLE, table)


def read_ended(trial: Trial) -> Ended | None:
    outcome = results.read_json(trial.folder / ENDED)
    return Ended(**outcome) if outcome else None


def _as_yaml(request: TrainRequest) -> str:
    import yaml

    return yaml.safe_dump(plain(request), sort_keys=False, allow_unicode=True, width=100)
