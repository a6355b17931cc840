"""Why a step runs: what differs between what decides its result now and what did before."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from core.errors import shortened
from pipelines.job.file import Step
from pipelines.job.identity import CONTENT, one_number

SHOWN = 4  # differences named in a reason
_ABSENT = object()


def difference(
    before: Mapping[str, Any], now: Mapping[str, Any], step: Step, named: Mapping[str, object]
) -> str:
    """What differs between two identities, the likeliest causes first.

    Args:
        before: of an earlier result, as it was read from a file.
        now: of the step.
        step: whose inputs are named by their steps.
        named: paths of the files in `now`, by dotted place, as the user wrote them.
    """
    said = (
        [f"run {_text(before.get('run'))} -> {now['run']}"]
        if before.get("run") != now["run"]
        else []
    )
    same_format = before.get("format") == now["format"]
    for name, old, new in _changed(before, now, "request"):
        if not same_format and new == CONTENT:
            continue  # it was a path
        if new is _ABSENT:
            said.append(f"{name} {_text(old)} is gone")
            continue
        shown = str(named.get(name, CONTENT)) if new == CONTENT else _text(new)
        if old is _ABSENT:
            said.append(f"{name} {shown} is new")
        else:
            said.append(f"{name} {_text(old)} -> {shown}")
    for name, old, new in _changed(before, now, "parts"):
        if _ABSENT not in (old, new):  # a part come or gone shows in the request
            said.append(f"part {name.partition(' ')[2]} version {_text(old)} -> {new}")
    if same_format:
        said += [f"file {named.get(name, name)} changed" for name in _files(before, now)]
        said += _inputs(before, now, step)
    else:
        said.insert(0, "the format of step keys has changed in this version")
    more = f"; and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    return "; ".join(dict.fromkeys(said[:SHOWN])) + more or "its earlier result is gone"


def _section(identity: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = identity.get(name)
    return found if isinstance(found, Mapping) else {}


def _changed(
    before: Mapping[str, Any], now: Mapping[str, Any], section: str
) -> Iterator[tuple[str, Any, Any]]:
    """Dotted names in a section of both whose values differ, and these."""
    old, new = (_flat(_section(identity, section), section) for identity in (before, now))
    for name in dict.fromkeys([*new, *old]):
        pair = old.get(name, _ABSENT), new.get(name, _ABSENT)
        if one_number(pair[0]) != one_number(pair[1]):
            yield name, *pair


def _flat(value: Any, at: str) -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {
            k: v for key, inner in value.items() for k, v in _flat(inner, f"{at}.{key}").items()
        }
    return {at: value}


def _text(value: Any) -> str:
    return shortened(value if isinstance(value, str) else json.dumps(value))


def _files(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old = _section(before, "files")
    yield from (name for name, new in now["files"].items() if name in old and old[name] != new)


def _inputs(before: Mapping[str, Any], now: Mapping[str, Any], step: Step) -> Iterator[str]:
    sources = {name: source.step for name, source in step.inputs.items()}
    old = _section(before, "inputs")
    for name in dict.fromkeys([*now["inputs"], *old]):
        if name not in sources:
            yield f"input {name} gone"
        elif old.get(name) != now["inputs"][name]:
            yield f"input {sources[name]} changed"
