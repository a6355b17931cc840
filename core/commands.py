"""Commands from signatures, with the help, exit codes and messages of every entry script.

A keyword-only parameter of a command stands for options that are stated elsewhere:

- of a dataclass, its fields; of ``Annotated[Dataclass, ("device", "threads")]``, the fields named;
- of ``Annotated[Spec, "predictor", "image2image/upscale"]``, the options of that registered part,
  without those that a default of the parameter fixes;
- of `Stated`, none: the command is called with the names of the options that the line states.

The command is called with the value, checked.  Signatures are read as text, so that ``--help``
imports no torch.
"""

import inspect
import json
import os
import signal
import sys
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

import typer
from annotated_types import Ge, Le

from core.errors import InputError, StorageError, cut_lines
from core.parts.registry import Spec
from core.parts.signature import REQUIRED, Flag, Option, options_of, part_options
from core.request import Machine
from core.storage.files import NO_ROOM
from core.training.stopping import STATUSES, Stopped, leave_terminal, stop_signals

# --- options that several commands have --------------------------------------------------------

RequestFile = Annotated[
    Path | None, typer.Argument(metavar="REQUEST", help="YAML file of options.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Set one option over the file's; repeatable."),
]
Checkpoint = Annotated[Path, typer.Option(help="Folder of a model that `polymode train` wrote.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print time and memory that it would take; write nothing.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace outputs that are already there.")
]
OnMachine = Annotated[Machine, ("device", "threads")]


def check_new(outputs: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse outputs that would replace what is there.

    Raises:
        InputError: one is there, and `overwrite` is off.
    """
    there = [] if overwrite else [path for path in outputs if os.path.exists(path)]
    if there:
        more = f" and {len(there) - 1} more outputs" if len(there) > 1 else ""
        raise InputError(
            f"{there[0]}{more}: already there; choose another output, or replace with --overwrite"
        )


# --- groups of commands --------------------------------------------------------------------------


def domain(text: str, *functions: Callable[..., None]) -> typer.Typer:
    """A group of commands named after functions, with the settings of every entry script.

    Typer runs a group of one command without its name unless the group has a callback.

    Args:
        text: the group's help.
        functions: its commands; `with_options` is applied.  Others can be added.
    """
    made = typer.Typer(
        help=text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(lambda: None)
    for function in functions:
        made.command()(with_options(function))
    return made


# --- options from signatures ---------------------------------------------------------------------


class Stated(frozenset[str]):
    """Names of the options that a command line states, also where it states the default."""

    @classmethod
    def of(cls, context: Any) -> "Stated":
        """Those of the context of a running command."""
        sources = {name: context.get_parameter_source(name) for name in context.params}
        return cls(name for name, one in sources.items() if one and one.name == "COMMANDLINE")


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with options in place of each keyword-only parameter that stands for some.

    Names, types, bounds, choices, defaults and help are those of the dataclass or part.

    Raises:
        ConfigError: when it is called, of values that do not fit.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    signature = inspect.signature(command)
    parameters, sets, contexts = [], {}, []
    for parameter in signature.parameters.values():
        if hints[parameter.name] is Stated:
            contexts.append(parameter.name)
            parameters.append(parameter.replace(annotation=typer.Context))
            continue
        options = _stated_elsewhere(hints[parameter.name], parameter)
        if options is None:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
        else:
            sets[parameter.name] = options
    if not (sets or contexts):
        return command
    every = [option for options in sets.values() for option in options]
    parameters += [_as_parameter(option) for option in every]

    def fixed(name: str) -> Mapping[str, Any]:
        return getattr(signature.parameters[name].default, "options", {})

    @wraps(command)
    def called(*given: Any, **chosen: Any) -> None:
        for name, options in sets.items():
            values = {o.name: _value(o, chosen.pop(o.name)) for o in options}
            chosen[name] = _chosen(hints[name], options, values, fixed(name))
        chosen |= {name: Stated.of(chosen[name]) for name in contexts}
        command(*given, **chosen)

    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    called.__dict__["__signature__"] = signature.replace(parameters=keyword)
    called.__annotations__ = {p.name: p.annotation for p in keyword}
    return called


def specialised(
    command: Callable[..., None], name: str, text: str, fixed: Mapping[str, Spec]
) -> Callable[..., None]:
    """The same command by another name and help, some options of its parts fixed and not offered.

    Args:
        command: one whose keyword-only parameters stand for options of parts.
        name: of the new command, as a function is named.
        text: its help.
        fixed: of each such parameter, the part with the options that are fixed.
    """
    signature = inspect.signature(command)
    parameters = [
        p.replace(default=fixed[p.name]) if p.name in fixed else p
        for p in signature.parameters.values()
    ]

    @wraps(command)
    def called(*given: Any, **chosen: Any) -> None:
        command(*given, **chosen)

    called.__name__, called.__doc__ = name, text
    called.__dict__["__signature__"] = signature.replace(parameters=parameters)
    return called


def _stated_elsewhere(hint: Any, parameter: inspect.Parameter) -> tuple[Option, ...] | None:
    """The options that a parameter of a command stands for; None for an option of its own."""
    if parameter.kind is not parameter.KEYWORD_ONLY:
        return None
    kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if kind is Spec and len(marks) == 2:
        fixed = {} if parameter.default is REQUIRED else parameter.default.options
        return tuple(o for o in part_options(*marks) if o.name not in fixed)
    if not is_dataclass(kind) or kind is Spec:
        return None
    named = marks[0] if marks else None
    options = tuple(o for o in options_of(kind) if named is None or o.name in named)
    if parameter.default is REQUIRED:
        return options
    return tuple(replace(o, default=getattr(parameter.default, o.name)) for o in options)


def _chosen(
    hint: Any, options: tuple[Option, ...], values: Mapping[str, Any], fixed: Mapping[str, Any]
) -> Any:
    """The value of a parameter that stands for options: a part's spec, or a dataclass.

    Raises:
        ConfigError: values that do not fit.
    """
    from core.parts.config import ConfigError, bind, check

    kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if kind is not Spec:
        return bind(kind, values)
    checked, problems = check(part_options(*marks), {**fixed, **values}, label=str(marks[1]))
    if problems:
        raise ConfigError(problems)
    return Spec(marks[1], checked)


def _as_parameter(option: Option) -> inspect.Parameter:
    """An option of a dataclass or part as a parameter of a Typer command."""
    inner = _flat(option.annotation)
    least: Any = next((one.ge for one in inner if isinstance(one, Ge)), None)
    most: Any = next((one.le for one in inner if isinstance(one, Le)), None)
    several = any(get_origin(one) in (tuple, list) for one in inner)
    choice = next((one for one in inner if get_origin(one) is Literal), None)
    plain: Any = choice or next((t for t in (bool, int, float, Path) if t in inner), str)
    flag = next((one.name for one in inner if isinstance(one, Flag)), option.name)
    name = "--" + flag.replace("_", "-")
    name += f"/--no-{name[2:]}" if plain is bool and option.default is True else ""
    numeric = plain in (int, float)
    declared = typer.Option(
        name,
        min=least if numeric else None,
        max=most if numeric else None,
        help=_sentence(option.meaning),
    )
    default: Any = option.default
    if isinstance(default, Spec):
        default = (
            json.dumps({"name": default.name, **default.options})
            if default.options
            else default.name
        )
    if several:
        plain, default = list[plain], list(default) if default else None
    if default is None:
        plain = plain | None
    kind = inspect.Parameter.KEYWORD_ONLY
    annotation = Annotated[plain, declared]
    return inspect.Parameter(option.name, kind, default=default, annotation=annotation)


def _value(option: Option, given: Any) -> Any:
    """The value of an option as a request has it; text for other types than text is YAML."""
    from core.parts.yaml_file import parse_yaml

    inner = _flat(option.annotation)
    if given is None and option.default is not REQUIRED:
        return option.default
    if isinstance(given, str) and not {str, Path} & set(inner) and not _choices(inner):
        return parse_yaml(given, f"--{option.name}")
    return given


def _choices(inner: tuple[Any, ...]) -> bool:
    return any(get_origin(one) is Literal for one in inner)


def _flat(annotation: Any) -> tuple[Any, ...]:
    """The types in an annotation, with those inside unions and `Annotated`, and its bounds."""
    metadata = getattr(annotation, "__metadata__", ())
    inner = [one for part in get_args(annotation) for one in _flat(part)]
    return (annotation, *metadata, *inner)


def _sentence(meaning: str) -> str:
    """A line of ``Args`` as help: begun with a capital, unless with a symbol."""
    plain = meaning.replace("``", "")
    return plain if meaning.startswith("`") else plain[:1].upper() + plain[1:]


# --- what a stop leaves --------------------------------------------------------------------------

_AFTER_STOP = ["run the same command again to resume"]  # of the command that runs, last


def after_stop(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator of a command whose stop leaves something else than a run to resume.

    Args:
        text: what is printed after "stopped; " where a signal ends the command.
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def called(*given: Any, **chosen: Any) -> None:
            _AFTER_STOP.append(text)
            command(*given, **chosen)
            _AFTER_STOP.pop()  # not where it is stopped: the message comes later

        return called

    return decorated


keeps_nothing = after_stop("files that are written are whole; nothing of others is kept")


# --- running -------------------------------------------------------------------------------------


def run_app(commands: typer.Typer) -> NoReturn:
    """Run a group of commands with the exit codes and messages of every entry script."""
    for number in set(stop_signals()) - {signal.SIGINT}:
        signal.signal(number, _stop)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `polymode list | head` ends quietly
    warnings.formatwarning = format_warning
    try:
        _end(commands(standalone_mode=False) or 0)
    except InputError as error:
        if error.__cause__ is not None:  # such as an exception of a plug-in's method
            _print_traceback()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except typer.Exit as stop:
        _end(stop.exit_code)
    except KeyboardInterrupt:
        _end(130)
    except Stopped as stopped:
        _end(stopped.status)
    except OSError as error:
        _print_no_room(error)
    except Exception as error:  # noqa: BLE001  (the last place where a cause can be printed)
        _print_failure(error)


def format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning as a line of its own: where in the code it was raised says nothing to a user."""
    return f"warning: {cut_lines(str(message))}\n"


def _end(code: int) -> NoReturn:
    if code in STATUSES:  # typer turns an interruption into the first
        print(f"stopped; {_AFTER_STOP[-1]}", file=sys.stderr)
    sys.exit(code)


def _print_no_room(error: OSError) -> NoReturn:
    """Print one line for a file that cannot be written; other system errors are failures."""
    if not isinstance(error, StorageError) and error.errno not in NO_ROOM:
        _print_failure(error)
    path = error.filename or "the output folder"
    message = f"{path}: {error.strerror}; make room and run the same command again"
    shown = str(error) if isinstance(error, StorageError) else message
    print(f"error: {cut_lines(shown)}", file=sys.stderr)
    sys.exit(1)


def _print_failure(error: Exception) -> NoReturn:
    usage = getattr(error, "format_message", None)  # typer's own: an unknown option, a bad value
    if usage is not None:
        no_arguments = type(error).__name__ == "NoArgsIsHelpError"
        print(usage() if no_arguments else cut_lines(f"error: {usage()}"), file=sys.stderr)
        sys.exit(2)
    _print_traceback()
    print(
        f"error: {type(error).__name__}: {cut_lines(str(error))}\n"
        "  set POLYMODE_TRACEBACK=1 to see where it happened",
        file=sys.stderr,
    )
    sys.exit(1)


def _print_traceback() -> None:
    import traceback

    if os.environ.get("POLYMODE_TRACEBACK"):
        traceback.print_exc()


def _stop(signum: int, frame: object) -> NoReturn:
    if signum == signal.SIGHUP:
        leave_terminal()
    _end(128 + signum)
