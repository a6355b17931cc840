"""Parts by name: plug-ins are tables of contents found through entry points, imported on first use.

Listing what is installed imports neither torch nor any part.  A plug-in is one value::

    parts = (network("unet3d", "package.module:UNet3D", "..."),)
    PLUGIN = Plugin(name="video", summary="...", parts=parts)

named in the entry-point group ``polymode.plugins`` of whatever distribution carries it.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any, Literal, get_args

from core.errors import LONGEST_VALUE, InputError, brief

GROUP = "polymode.plugins"

Kind = Literal[
    "dataset",
    "features",
    "grid",
    "guidance",
    "metric",
    "network",
    "objective",
    "operator",
    "parameterization",
    "posterior",
    "predictor",
    "process",
    "sampler",
    "task",
    "times",
    "weighting",
]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Part:
    """One named, lazily imported piece of a plug-in.

    Args:
        kind: the contract it fulfils.
        name: its name within the plug-in; the full name is ``<plug-in>/<name>``.
        target: ``package.module:attribute``, imported on first use.
        summary: one line, under 60 characters, shown by ``polymode list``.
        needs: optional packages, by import name.
        version: raised when the part's results change for the same options; results of another
            version are made again by pipelines.
        inputs: parameters that only a program can supply, such as a classifier; a request cannot
            name a part that has some.
        command: of a task, the command that applies its model to a user's own file, with
            ``{checkpoint}``; shown by reports.
    """

    kind: Kind
    name: str
    target: str
    summary: str
    needs: tuple[str, ...] = ()
    version: str = "1"
    inputs: tuple[str, ...] = ()
    command: str = ""


dataset, grid, metric = partial(Part, "dataset"), partial(Part, "grid"), partial(Part, "metric")
features = partial(Part, "features")
guidance, posterior = partial(Part, "guidance"), partial(Part, "posterior")
network, operator = partial(Part, "network"), partial(Part, "operator")
objective = partial(Part, "objective")
parameterization, process = partial(Part, "parameterization"), partial(Part, "process")
predictor = partial(Part, "predictor")
sampler, task = partial(Part, "sampler"), partial(Part, "task")
times, weighting = partial(Part, "times"), partial(Part, "weighting")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One more thing that a step of a job can run.

    `request` and `result` are frozen dataclasses in a module that imports nothing heavy: it is
    imported to read a job.  `target` is a function ``(request, out, *, machine, emit) -> result``;
    with `folders`, ``(request, inputs, out, *, machine, emit) -> result``, where `inputs` maps
    labels to the folders of whole steps.

    Args:
        name: its name within the plug-in; the full name is ``<plug-in>/<name>``.
        request: ``package.module:Class``, its options.
        result: ``package.module:Class``; its `Path` fields can be other steps' inputs.
        target: ``package.module:function``, imported by whoever does the step.
        summary: one line, under 60 characters.
        folders: its inputs are whole steps under free labels, not fields of its request.
        version: raised when its results change for the same request.
    """

    name: str
    request: str
    result: str
    target: str
    summary: str
    folders: bool = False
    version: str = "1"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plug-in's table of contents.

    Args:
        name: first half of every part's full name.
        summary: one line about the plug-in.
        parts: its parts.
        extra: the requirement that installs the parts' `needs`, for example ``polymode[medical]``.
        verbs: verbs that steps of jobs can run beside the built-in ones.
        commands: ``package.module:app``, a `typer.Typer` that ``polymode <plug-in> ...`` runs;
            imported when it is called.
    """

    name: str
    summary: str
    parts: tuple[Part, ...]
    extra: str = ""
    verbs: tuple[Verb, ...] = ()
    commands: str = ""


class RegistryError(InputError, LookupError):
    """A part that does not exist, cannot be had, or is not what its table says."""


def installed_version(package: str) -> str | None:
    """The version of an installed distribution; None if it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x' or 'y'?`` for the closest of `known`, or nothing."""
    if len(word) > LONGEST_VALUE:  # comparing letters takes the square of the length
        return ""
    close = get_close_matches(word, list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def _near_part(name: str, known: list[str]) -> str:
    """Neighbours by last halves: within the plug-in named first, then anywhere (`heun`)."""
    if len(name) > LONGEST_VALUE:
        return ""
    plugin, _, last = name.rpartition("/")
    for pool in ([k for k in known if k.rpartition("/")[0] == plugin], known):
        close = get_close_matches(last, [k.rpartition("/")[2] for k in pool], n=2, cutoff=0.6)
        full = [k for k in pool if k.rpartition("/")[2] in close]
        if full:
            return f"; did you mean {' or '.join(map(repr, full[:2]))}?"
    return nearest(name, known)


class Registry:
    """The parts of a set of plug-ins.  Immutable; tests build their own."""

    def __init__(self, plugins: Iterable[Plugin], broken: dict[str, str] | None = None) -> None:
        self.broken = dict(broken or {})
        self.plugins: dict[str, Plugin] = {}
        self._parts: dict[tuple[str, str], tuple[Plugin, Part]] = {}
        for plugin in plugins:
            problem = self._problem(plugin)
            if problem:
                self.broken[plugin.name] = problem
                continue
            self.plugins[plugin.name] = plugin
            for part in plugin.parts:
                self._parts[part.kind, f"{plugin.name}/{part.name}"] = plugin, part

    def _problem(self, plugin: Plugin) -> str:
        if plugin.name in self.plugins:
            return f"another installed plug-in is named {plugin.name!r} too; uninstall one of them"
        unknown = sorted({part.kind for part in plugin.parts} - set(KINDS))
        if unknown:
            return (
                f"unknown kind of part {', '.join(map(repr, unknown))}; known: {', '.join(KINDS)}"
            )
        seen: set[tuple[str, str]] = set()
        for part in plugin.parts:
            if (part.kind, part.name) in seen:
                return f"two parts are the {part.kind} {part.name!r}"
            seen.add((part.kind, part.name))
            if ":" not in part.target:
                return f"target {part.target!r} of {part.name!r} is not 'package.module:attribute'"
        for verb in plugin.verbs:
            if ("verb", verb.name) in seen:
                return f"two verbs are {verb.name!r}"
            seen.add(("verb", verb.name))
            for target in (verb.request, verb.result, verb.target):
                if ":" not in target:
                    return f"{target!r} of the verb {verb.name!r} is not 'package.module:attribute'"
        if plugin.commands and ":" not in plugin.commands:
            return f"commands {plugin.commands!r} is not 'package.module:attribute'"
        return ""

    def names(self, kind: str | None = None) -> Iterator[tuple[str, Part]]:
        """Full names and parts, sorted, of one kind or of all."""
        for (its_kind, name), (_, part) in sorted(self._parts.items(), key=lambda item: item[0]):
            if kind in (None, its_kind):
                yield name, part

    def verbs(self) -> Iterator[tuple[str, Verb]]:
        """Full names and verbs, sorted."""
        found = ((f"{p.name}/{verb.name}", verb) for p in self.plugins.values() for verb in p.verbs)
        yield from sorted(found, key=lambda item: item[0])

    def find_verb(self, name: str, built_in: Iterable[str] = ()) -> Verb:
        """The verb of that full name; imports nothing.

        Args:
            name: of the verb.
            built_in: names of verbs that no plug-in brings, for the message.

        Raises:
            RegistryError: there is none, or its plug-in is broken.
        """
        verbs = dict(self.verbs())
        if name in verbs:
            return verbs[name]
        plugin = name.split("/", 1)[0]
        if plugin in self.broken:
            raise RegistryError(
                f"verb {name!r} cannot be had: plug-in {plugin!r} could not be read: "
                f"{self.broken[plugin]}"
            )
        known = [*built_in, *verbs]
        raise RegistryError(
            f"no verb {brief(name)}{nearest(name, known)}\n  known: {', '.join(known)}"
        )

    def missing(self, part: Part) -> tuple[str, ...]:
        """The optional packages that `part` needs and that are not installed."""
        return tuple(name for name in part.needs if importlib.util.find_spec(name) is None)

    def find(self, kind: str, name: str) -> Part:
        """The part of that full name; imports nothing.

        Raises:
            RegistryError: no such kind or name (with the nearest ones), or its plug-in is broken.
        """
        if kind not in KINDS:
            raise RegistryError(
                f"no kind of part named {kind!r}{nearest(kind, KINDS)}\n  known: {', '.join(KINDS)}"
            )
        if (kind, name) in self._parts:
            return self._parts[kind, name][1]
        plugin = name.split("/", 1)[0]
        if plugin in self.broken:
            raise RegistryError(
                f"{kind} {name!r} cannot be had: plug-in {plugin!r} could not be read: "
                f"{self.broken[plugin]}"
            )
        known = [other for other, _ in self.names(kind)]
        listed = ", ".join(known) if known else f"none; is a plug-in with a {kind} installed?"
        raise RegistryError(
            f"no {kind} named {brief(name)}{_near_part(name, known)}\n  known: {listed}"
        )

    def load(self, kind: str, name: str) -> Callable[..., Any]:
        """Import the part of that full name.  Errors inside its module pass through untouched.

        Raises:
            RegistryError: as `find`, or a needed package is missing, or the target does not exist.
        """
        part = self.find(kind, name)
        missing = self.missing(part)
        if missing:
            extra = self._parts[kind, name][0].extra
            how = f"pip install '{extra}'" if extra else f"pip install {' '.join(missing)}"
            raise RegistryError(
                f"{kind} {name!r} needs {', '.join(missing)}, not installed here\n"
                f"  install with: {how}"
            )
        return attribute_of(part.target, f"{kind} {name!r}")

    def load_commands(self, plugin: str) -> Any:
        """Import a plug-in's commands, a `typer.Typer`.

        Raises:
            RegistryError: the plug-in has none, or its target does not exist.
        """
        target = self.plugins[plugin].commands if plugin in self.plugins else ""
        if not target:
            raise RegistryError(f"plug-in {plugin!r} has no commands")
        return attribute_of(target, f"commands of plug-in {plugin!r}")


def attribute_of(target: str, what: str) -> Any:
    """Import ``package.module:attribute``; errors inside the module pass through untouched."""
    module, attribute = target.split(":")
    loaded = importlib.import_module(module)
    if not hasattr(loaded, attribute):
        raise RegistryError(f"{what}: module {module} has no {attribute!r}")
    return getattr(loaded, attribute)


def _read(plugin: object, where: str) -> Plugin:
    if not isinstance(plugin, Plugin):
        raise TypeError(f"{where} is {type(plugin).__name__}, not a core.parts.registry.Plugin")
    return plugin


@cache
def installed() -> Registry:
    """The registry of everything found through entry points; one bad plug-in hides no other."""
    plugins: list[Plugin] = []
    broken: dict[str, str] = {}
    found = {(point.name, point.value): point for point in entry_points(group=GROUP)}
    for point in found.values():
        try:
            plugins.append(_read(point.load(), point.value))
        except Exception as error:  # noqa: BLE001  (whatever a stranger's module raises must not hide the rest)
            broken[point.name] = f"{type(error).__name__}: {error}"
    registry = Registry(plugins, broken)
    if not found:
        print(
            "polymode: no plug-in found: the code imports, but its package metadata is missing; "
            "install the distribution (pip install .)",
            file=sys.stderr,
        )
    return registry


@dataclass(frozen=True, slots=True)
class Spec:
    """A part by full name, with options: plain, picklable, savable."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: "str | Mapping[str, Any] | Spec") -> "Spec":
        """A spec from ``"core/heun"`` or ``{name: core/heun, steps: 18}``.

        Raises:
            ValueError: neither a name nor a mapping with a name.
        """
        if isinstance(value, Spec):
            return value
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            return cls(value["name"], {key: v for key, v in value.items() if key != "name"})
        raise ValueError(f"a part is a name or a mapping with a name, got {brief(value)}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(cls.parse)
