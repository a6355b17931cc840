"""The table of verbs that a step can run: the core's, those of pipelines, and plug-ins' own."""

import importlib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from core import request
from core.parts import registry
from core.parts.registry import Registry, RegistryError, installed


@dataclass(frozen=True, kw_only=True)
class Runnable:
    """Something a step can run.

    Args:
        request: a frozen dataclass whose fields are its options.
        result: a frozen dataclass; its `Path` fields can be other steps' inputs.
        target: ``package.module:function``, imported by whoever does the step.
        summary: one line, under 60 characters.
        folders: its inputs are whole steps under free labels, not fields of its request.
        joined_by: the verb that makes one result of its parts; its request then has the options
            ``part`` and ``parts``.
        together: ``package.module:function``, called instead of `target`, with `workers` and `gpus`
            too, where the step has several processes of Ray; empty if it cannot.
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


def _resolved(name: str, verb: registry.Verb) -> Runnable:
    """A verb of a table of contents, with its request and result imported.

    Raises:
        RegistryError: either is not a dataclass.
    """
    return Runnable(
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


Verbs = Mapping[str, Runnable]
PIPELINES = (
    registry.Verb(
        name="sweep",
        request="pipelines.sweep.request:SweepRequest",
        result="pipelines.sweep.request:SweepResult",
        target="pipelines.sweep.search:sweep",
        summary="Search options of a training by successive halving (ASHA)",
    ),
    registry.Verb(
        name="join",
        request="core.request:JoinRequest",
        result="core.request:SampleResult",
        target="core.results.samples:join",
        summary="Concatenate the parts of a sampling",
        folders=True,
        version="",
    ),
    registry.Verb(
        name="apply",
        request="pipelines.apply.request:ApplyRequest",
        result="pipelines.apply.request:ApplyResult",
        target="pipelines.apply.batch:apply",
        summary="Apply a predictor to every file in a folder",
        version="",
    ),
    registry.Verb(
        name="report",
        request="pipelines.report.request:ReportRequest",
        result="pipelines.report.request:ReportResult",
        target="pipelines.report.render:report",
        summary="One HTML page about other steps",
        folders=True,
        version="",
    ),
)
"""Verbs of this package; those of the core are in `core.request.VERBS`."""
_ABILITIES: Mapping[str, Mapping[str, str]] = {
    "train": {"together": "pipelines.run.ddp:train_together"},
    "sample": {"joined_by": "join"},
    "sweep": {
        "together": "pipelines.sweep.search:sweep_together",
        "variants": "pipelines.sweep.space:variants",
    },
    "apply": {"together": "pipelines.apply.batch:apply_together"},
}
VERBS: Verbs = {
    verb.name: replace(_resolved(verb.name, verb), **_ABILITIES.get(verb.name, {}))
    for verb in (*request.VERBS, *PIPELINES)
}


def known(verbs: Verbs = VERBS, registry: Registry | None = None) -> list[str]:
    """The names of all verbs, those of plug-ins last; imports none of them."""
    return [*verbs, *(name for name, _ in (registry or installed()).verbs())]


def find(name: str, verbs: Verbs = VERBS, registry: Registry | None = None) -> Runnable:
    """The verb of that name, from the table or from a plug-in, whose request is then imported.

    Raises:
        RegistryError: there is none, or its table is wrong.
    """
    if name in verbs:
        return verbs[name]
    return _resolved(name, (registry or installed()).find_verb(name, verbs))


def load(target: str) -> Any:
    """The attribute that ``package.module:attribute`` names, imported.

    Raises:
        AttributeError: the module has no such thing.
    """
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
