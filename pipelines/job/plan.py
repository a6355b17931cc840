"""What would run and why: each step's key, and whether the store has a whole result of that key.

Imports neither torch nor Ray.
"""

import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from core.errors import InputError
from core.parts.registry import Part, Registry, installed
from core.storage import files
from pipelines.job.file import Job, Step
from pipelines.job.identity import identity_of, key_of, weighed
from pipelines.job.reasons import difference
from pipelines.job.verbs import VERBS, Verbs, find
from pipelines.store import results
from pipelines.store.contents import content_of


@dataclass(frozen=True)
class Read:
    """A file or folder that a step reads, also by way of the steps that it needs.

    Args:
        path: where it lies.
        digest: of what it held when the step was planned.
        at: the dotted option that names it; of another step, which one.
        own: whether the step's own request names it; what another step's names need not be there.
    """

    path: Path
    digest: str
    at: str
    own: bool


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A step with its identity and what is to be done about it.

    Args:
        step: as the job states it.
        key: sha256 of `identity`, in hex.
        identity: everything that decides the result, as JSON's types.
        folder: where the result lies or will lie.
        state: a hit is there already, whole.
        why: one line; empty for a hit.
        named: paths of the files and folders in its identity, by dotted place.
        reads: what it reads, which has to stay as it is while it runs.
        unlisted: of a hit: files in its folder that are not part of it.
        code: digests of the modules that do it, by name.
        note: of a hit: which of them have changed since it was made.
    """

    step: Step
    key: str
    identity: Mapping[str, Any]
    folder: Path
    state: Literal["hit", "run"]
    why: str
    named: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[Read, ...] = ()
    unlisted: tuple[str, ...] = ()
    code: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def plan(
    job: Job,
    root: Path,
    *,
    verify: bool = False,
    verbs: Verbs = VERBS,
    registry: Registry | None = None,
) -> tuple[Planned, ...]:
    """Each step of `job` with its key, and whether the store `root` has its result.

    Args:
        job: as it was read.
        root: the store; need not exist.
        verify: compare the contents of stored files, not only their sizes.
        verbs: what steps can run.
        registry: where parts are looked up; the installed one by default.

    Raises:
        InputError: a request names a file or folder that does not exist or cannot be read, or a
            result cannot be read now; all of them at once.
    """
    registry = registry or installed()
    planned: dict[str, Planned] = {}
    problems: list[str] = []
    stored, modules = results.by_step(root), dict[str, str | None]()
    contents: dict[Path, str | InputError] = {}

    def digest(path: Path) -> str:
        """Of what lies at `path`, which every step of one plan sees alike and is read once."""
        if path not in contents:
            try:
                contents[path] = content_of(path, store=root).digest
            except InputError as error:
                contents[path] = error
        found = contents[path]
        if isinstance(found, InputError):
            raise InputError(str(found))
        return found

    for step in job.steps:
        verb = find(step.run, verbs, registry)
        found = weighed(verb, step, registry, digest)
        problems += [f"steps.{step.name}.{said}" for said in found.problems]
        if found.problems or not planned.keys() >= set(step.needs):
            continue
        identity = identity_of(step, verb, found, {name: planned[name].key for name in step.needs})
        targets = [verb.target, *(part.target for part in _parts(identity, registry))]
        judged = _judge(step, identity, found.named, root, stored.get(step.name, ()), verify)
        if isinstance(judged, str):
            problems.append(judged)
            continue
        noted = _noted(judged, _code(targets, modules))
        planned[step.name] = replace(noted, reads=_reads(noted, planned))
    if problems:
        raise InputError("\n".join(problems))
    return tuple(planned.values())


def check_inputs(planned: Iterable[Planned]) -> None:
    """Refuse inputs of steps that run whose folders hold files that are not part of the result.

    Raises:
        InputError: some do; all of them at once.
    """
    planned = list(planned)
    needed = {need for p in planned if p.state == "run" for need in p.step.needs}
    problems = [
        f"{p.folder}: holds {_listed(p.unlisted)}, which the step did not make; move it elsewhere"
        for p in planned
        if p.step.name in needed and p.unlisted
    ]
    if problems:
        raise InputError("\n".join(problems))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _reads(p: Planned, planned: Mapping[str, Planned]) -> tuple[Read, ...]:
    """What a step reads: its own request's files, and those of the steps that it needs.

    A checkpoint names its dataset, and whoever samples from it reads that too.
    """
    digests = p.identity["files"]
    found = {
        path: Read(Path(path), digests[at], at, own=True)
        for at, path in p.named.items()
        if at in digests
    }
    for need in p.step.needs:
        for read in planned[need].reads:
            at = f"{read.at} of step {need}" if read.own else read.at
            found.setdefault(str(read.path), replace(read, at=at, own=False))
    return tuple(found.values())


def _parts(identity: Mapping[str, Any], registry: Registry) -> Iterator[Part]:
    for named in identity["parts"]:
        kind, _, name = named.partition(" ")
        if kind != "verb":
            yield registry.find(kind, name)


def _code(targets: Iterable[str], digests: dict[str, str | None]) -> dict[str, str]:
    """Digests of the modules that hold `targets`; those that they import are not looked at.

    Args:
        targets: each ``package.module:attribute``.
        digests: of modules that were looked at before; new ones are added.
    """
    modules = sorted({target.partition(":")[0] for target in targets})
    for module in modules:
        if module not in digests:
            digests[module] = _digest(module)
    return {module: found for module in modules if (found := digests[module])}


def _digest(module: str) -> str | None:
    """The digest of a module's text; None where there is none."""
    with suppress(ImportError, ValueError, OSError):
        spec = importlib.util.find_spec(module)
        if spec and spec.origin and spec.origin.endswith(".py"):
            return files.digest(Path(spec.origin))[:16]
    return None


def _noted(planned: Planned, code: Mapping[str, str]) -> Planned:
    """`planned` with its code, and of a hit a note if that was another when it was made.

    A hit reads its files where they lay when it was made: what comes after it finds them there.
    """
    if planned.state != "hit":
        return replace(planned, code=code)
    request = results.read_json(planned.folder / results.REQUEST) or {}
    before, named = request.get("code"), request.get("named")
    before = before if isinstance(before, dict) else {}
    changed = [name for name in code if name in before and before[name] != code[name]]
    notes = []
    if changed:
        notes.append(f"{', '.join(changed)} changed since; raise the part's version if results do")
    if planned.unlisted:
        notes.append(f"holds {_listed(planned.unlisted)}, which the step did not make")
    if isinstance(named, dict) and all(isinstance(path, str) for path in named.values()):
        planned = replace(planned, named=named)
    return replace(planned, code=code, note="; ".join(notes))


# --- hit or run, and why ---------------------------------------------------------------------


def _judge(
    step: Step,
    identity: Mapping[str, Any],
    named: Mapping[str, Path],
    root: Path,
    stored: Sequence[Path],
    verify: bool,
) -> Planned | str:
    """The step and what is to be done about it; or why that cannot be known now."""
    key = key_of(identity)
    folder = results.folder_of(root, step.name, key)
    found = results.inspect(folder, key, verify=verify)
    match found.state:
        case "unreadable":
            return results.unreadable(folder, found)
        case "whole":
            why = ""
        case "damaged":
            why = f"output damaged: {found.what}"
        case "unfinished":
            why = "unfinished: resumes where it stopped"
        case "absent":
            before = results.latest(stored)
            why = difference(before["identity"], identity, step, named) if before else "first run"
    return Planned(
        step=step,
        key=key,
        identity=identity,
        folder=folder,
        state="run" if why else "hit",
        why=why,
        named={at: str(path) for at, path in named.items()},
        unlisted=found.unlisted,
    )
