"""What a step can run: the core's three runs, folders, joins, reports, and plug-ins' own."""

import importlib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from core import request
from core.parts import registry
from core.parts.registry import Registry, RegistryError, Spec, installed
from core.request import Count, SampleResult, TrainRequest


@dataclass(frozen=True, kw_only=True)
class JoinRequest:
    """Put the parts of a sampling together."""


@dataclass(frozen=True, kw_only=True)
class ApplyRequest:
    """Make one file of each file in a folder and those inside it.

    Args:
        predictor: what makes one file of another.
        checkpoint: the model's folder or file.
        folder: the files; those that the predictor does not read are passed over.
    """

    predictor: Annotated[Spec, "predictor"]
    checkpoint: Path
    folder: Path


@dataclass(frozen=True, kw_only=True)
class ApplyResult:
    """A folder of results.

    Args:
        results: a file for each that could be used, in the same folders.
        files: what became of each file: one line of JSON, `pipelines.ledger.Record`.
        done: files with a result.
        bad: files that cannot be used.
        failed: files that something else went wrong with; they are tried again next time.
    """

    results: Path
    files: Path
    done: int
    bad: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """One page about other steps.

    Args:
        title: the page's heading; by default, what was evaluated.
    """

    title: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportResult:
    """A page and its facts.

    Args:
        report: one self-contained HTML file.
        data: the same facts as JSON.
    """

    report: Path
    data: Path


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


@dataclass(frozen=True, kw_only=True)
class Verb:
    """Something a step can run.

    Args:
        request: what it is asked, a frozen dataclass whose fields are its options.
        result: what it answers, a frozen dataclass; its `Path` fields can be other steps' inputs.
        target: ``package.module:function``, imported by whoever does the step.
        summary: one line, under 60 characters.
        folders: its inputs are whole steps under free labels, not fields of its request.
        joined_by: the verb that makes one result of its parts; its request then has the options
            ``part`` and ``parts``.
        together: ``package.module:function``, called instead of `target`, with `workers` and `gpus`
            too, where several processes of Ray share the step; empty if they cannot.
        variants: ``package.module:function``, from the options of a request to those of all that
            is made of it, and what is wrong with them; the parts and files that these name count
            as the request's.  Empty if nothing is.
        version: of what it computes; another one is another result.
    """

    request: type[Any]
    result: type[Any]
    target: str
    summary: str = ""
    folders: bool = False
    joined_by: str = ""
    together: str = ""
    variants: str = ""
    version: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """The names of the result's fields that are files or folders."""
        hints = typing.get_type_hints(self.result)
        return tuple(f.name for f in fields(self.result) if hints[f.name] is Path)


def _resolved(name: str, verb: registry.Verb) -> Verb:
    """A verb of a table of contents, with its request and result imported.

    Raises:
        RegistryError: either is not a dataclass.
    """
    return Verb(
        request=_dataclass(verb.request, name),
        result=_dataclass(verb.result, name),
        target=verb.target,
        summary=verb.summary,
        folders=verb.folders,
        version=verb.version,
    )


def _dataclass(target: str, name: str) -> type[Any]:
    found = registry.attribute_of(target, f"verb {name!r}")
    if not isinstance(found, type) or not is_dataclass(found):
        raise RegistryError(f"verb {name!r}: {target} is not a dataclass")
    return found


Verbs = Mapping[str, Verb]
_CORE = {verb.name: _resolved(verb.name, verb) for verb in request.VERBS}
VERBS: Verbs = {
    **_CORE,
    "train": replace(_CORE["train"], together="pipelines.ddp:train_together"),
    "sweep": Verb(
        request=SweepRequest,
        result=SweepResult,
        target="pipelines.sweep:sweep",
        together="pipelines.sweep:sweep_together",
        variants="pipelines.space:variants",
        summary="Search options of a training by successive halving (ASHA)",
        version="1",
    ),
    "sample": replace(_CORE["sample"], joined_by="join"),
    "join": Verb(
        request=JoinRequest,
        result=SampleResult,
        target="core.results.samples:join",
        summary="Concatenate the parts of a sampling",
        folders=True,
    ),
    "apply": Verb(
        request=ApplyRequest,
        result=ApplyResult,
        target="pipelines.batch:apply",
        summary="Apply a predictor to every file in a folder",
        together="pipelines.batch:apply_together",
    ),
    "report": Verb(
        request=ReportRequest,
        result=ReportResult,
        target="pipelines.report:report",
        summary="One HTML page about other steps",
        folders=True,
    ),
}


def known(verbs: Verbs = VERBS, registry: Registry | None = None) -> list[str]:
    """The names of all verbs, those of plug-ins last; imports none of them."""
    return [*verbs, *(name for name, _ in (registry or installed()).verbs())]


def find(name: str, verbs: Verbs = VERBS, registry: Registry | None = None) -> Verb:
    """The verb of that name, from the table or from a plug-in, whose request is then imported.

    Raises:
        RegistryError: there is none, or it is not what its plug-in says.
    """
    if name in verbs:
        return verbs[name]
    return _resolved(name, (registry or installed()).find_verb(name, verbs))


def load(target: str) -> Any:
    """What ``package.module:attribute`` names, imported.

    Raises:
        AttributeError: the module has no such thing.
    """
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
