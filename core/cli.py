"""The commands of the core: text becomes a request, one function is called, one result is printed.

Results go to standard output, one a line; messages to standard error.  The exit status is 0, 1
(the run failed), 2 (the request was wrong), 130 or 143 (stopped).
"""

import os
import signal
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from core.errors import InputError, StorageError
from core.parts.registry import KINDS, Verb, installed
from core.request import VERBS
from core.storage.files import NO_ROOM
from core.training.stopping import Stopped


def commands(text: str) -> typer.Typer:
    """An empty set of commands, as every entry script has one; `text` is its help.

    A set of one command would be that command without its name: hence a callback.
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
    return made


app = commands("Diffusion models as practical tools.  Start with `list`, then `show KIND NAME`.")

RequestFile = Annotated[
    Path | None, typer.Argument(metavar="[REQUEST]", help="YAML file of options.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Set one option over the file's; repeatable."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for everything the run writes.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Have torch compile the network: slow at first, then fast."),
]

BUILT_IN: dict[str, Verb] = {verb.name: verb for verb in VERBS}
"""Verbs of jobs that no plug-in brings; `pipelines.cli` adds its own."""


def _note_broken() -> None:
    for name, why in installed().broken.items():
        print(f"plug-in {name!r} could not be read: {why}", file=sys.stderr)


@app.command("list")
def list_parts(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND|PATTERN]",
            help=f"One of: {', '.join(KINDS)}, verb; or a pattern of names, such as '*snr*'.",
        ),
    ] = None,
) -> None:
    """List every part that is installed: kind, full name, summary, and what it still needs.

    Example: polymode list 'core/*_log_snr'
    """
    registry = installed()
    pattern = kind if kind and set(kind) & set("*?[") else "*"
    if kind is not None and kind == pattern:
        kind = None
    if kind is not None and kind not in (*KINDS, "verb"):
        registry.find(kind, "")  # raises: the message lists the kinds
    rows = [
        (part.kind, name, part.summary, registry.missing(part))
        for name, part in registry.names(kind)
    ]
    if kind in (None, "verb"):
        rows += [("verb", name, verb.summary, ()) for name, verb in _verbs().items()]
    rows = [row for row in rows if fnmatchcase(row[1], pattern)]
    if not rows:
        raise InputError(f"no name matches {pattern!r}; `polymode list` prints all names")
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    for its_kind, name, summary, missing in rows:
        state = f"needs {', '.join(missing)}" if missing else "ready"
        print(f"{its_kind:<{widths[0]}}  {name:<{widths[1]}}  {summary:<{widths[2]}}  {state}")
    _note_broken()


@app.command("show")
def show(
    kind: Annotated[str, typer.Argument(help=f"One of: {', '.join(KINDS)}, verb.")],
    name: Annotated[str, typer.Argument(help="Full name, for example core/unet.")],
) -> None:
    """Show one part or verb: its description, its options with defaults, and its source.

    Example: polymode show sampler core/multistep
    """
    from core.parts.description import describe_part, describe_verb

    if kind == "verb":
        print(describe_verb(name, _verbs().get(name) or installed().find_verb(name, BUILT_IN)))
    else:
        print(describe_part(kind, name))
    _note_broken()


def _verbs() -> dict[str, Verb]:
    """The verbs of jobs by name: the built-in ones, then those of plug-ins."""
    return {**BUILT_IN, **dict(installed().verbs())}


def _request(kind: type[Any], file: Path | None, settings: list[str] | None) -> Any:
    from core.parts.config import bind, override
    from core.parts.yaml_file import read_yaml

    return bind(kind, override(read_yaml(file) if file else {}, settings or []))


def _machine(device: str, threads: int | None, **more: Any) -> Any:
    from core.request import Machine

    return Machine(device=device, threads=threads, **more)


@app.command("train")
def train(
    request: RequestFile = None,
    out: Out = Path("runs/train"),
    settings: Settings = None,
    device: Device = "auto",
    threads: Threads = None,
    save_seconds: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two checkpoints.")
    ] = 20.0,
    micro_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Samples computed at once; the whole batch by default."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read data ahead.")] = 0,
    compile: Compile = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write curves for TensorBoard too.")
    ] = False,
) -> None:
    """Train a network; run the same command again to go on from the last checkpoint.

    Ctrl-C, SIGTERM or a file named STOP in the output folder end it with a checkpoint written.
    Start it by torchrun to share each batch among processes.

    Example: polymode train --set task=image2image/sr3 --set dataset=image2image/photos
    --set network.width=32 --set steps=2000 -o runs/sr3
    """
    from core.request import TrainRequest

    wanted = _request(TrainRequest, request, settings)
    machine = _machine(
        device, threads, save_seconds=save_seconds, micro_batch=micro_batch, workers=workers,
        compile=compile, tensorboard=tensorboard,
    )  # fmt: skip
    from core import runs
    from core.progress import listener

    with listener("train") as emit:
        result = runs.train(wanted, out, machine=machine, emit=emit)
    if os.environ.get("RANK", "0") == "0":  # of processes that train together one speaks
        print(result.checkpoint)


@app.command("sample")
def sample(
    request: RequestFile = None,
    out: Out = Path("runs/sample"),
    settings: Settings = None,
    device: Device = "auto",
    threads: Threads = None,
    compile: Compile = False,
) -> None:
    """Draw from a trained network.

    Example: polymode sample --set checkpoint=runs/sr3 --set samples=8 --set grid.steps=10
    """
    from core.request import SampleRequest

    wanted = _request(SampleRequest, request, settings)
    machine = _machine(device, threads, compile=compile)
    from core import runs
    from core.progress import listener

    with listener("sample") as emit:
        result = runs.sample(wanted, out, machine=machine, emit=emit)
    print(result.samples)


@app.command("evaluate")
def evaluate(
    request: RequestFile = None,
    out: Out = Path("runs/evaluate"),
    settings: Settings = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Score samples against the items they were drawn for.

    Example: polymode evaluate --set samples=runs/sample -o runs/evaluate
    """
    from core.request import EvaluateRequest

    wanted, machine = _request(EvaluateRequest, request, settings), _machine(device, threads)
    from core import runs
    from core.progress import listener

    with listener("evaluate") as emit:
        result = runs.evaluate(wanted, out, machine=machine, emit=emit)
    for method, figures in result.scores.items():
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"{method}: {shown}", file=sys.stderr)
    print(result.metrics)


@app.command("import-weights")
def import_weights(
    source: Annotated[Path, typer.Argument(help="A file of weights, or a folder of diffusers'.")],
    out: Out = Path("runs/imported"),
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            help="auto, guided-diffusion, improved-diffusion, ddpm-segmentation or diffusers.",
        ),
    ] = "auto",
    flags: Annotated[
        str, typer.Option(help="MODEL_FLAGS and DIFFUSION_FLAGS of the original, in one string.")
    ] = "",
    like: Annotated[
        str, typer.Option(help="A published checkpoint whose flags to take, as lsun_cat.")
    ] = "",
    entry: Annotated[
        str, typer.Option(help="Entry of a training checkpoint; averaged weights by default.")
    ] = "",
) -> None:
    """Make a checkpoint of pretrained weights; nothing in them is run.

    Example: polymode import-weights 256x256_diffusion_uncond.pt --like 256x256_diffusion_uncond
    -o runs/imagenet
    """
    from core.weights.importing import import_weights, kind_of

    made = import_weights(source, out, kind=kind_of(kind), flags=flags, like=like, entry=entry)
    for note in made.notes:
        print(note, file=sys.stderr)
    print(made.checkpoint)


@app.command("export-weights")
def export_weights(
    checkpoint: Annotated[Path, typer.Argument(help="A run's folder, or one checkpoint's.")],
    out: Out = Path("runs/exported"),
    to: Annotated[str, typer.Option(help="diffusers.")] = "diffusers",
    ema: Annotated[bool, typer.Option(help="The averaged weights.")] = True,
) -> None:
    """Write a checkpoint as a folder that another program loads.

    Example: polymode export-weights runs/imagenet --to diffusers -o runs/for-diffusers
    """
    if to != "diffusers":
        raise InputError(f"to: expected diffusers, got {to!r}")
    from core.weights.exporting import export_weights

    print(export_weights(checkpoint, out, ema=ema))


def add_plugins(to: typer.Typer) -> None:
    """Add the commands of every installed plug-in, ``polymode PLUGIN COMMAND``, by name alone.

    A plug-in's own module is imported when one of its commands is called or asked for help.  A
    built-in command of the same name stays.
    """
    taken = {command.name for command in to.registered_commands}
    for name, plugin in sorted(installed().plugins.items()):
        if plugin.commands and name not in taken:
            # All that follows the name, --help too, is the plug-in's to read.
            to.command(
                name,
                help=plugin.summary,
                add_help_option=False,
                context_settings={
                    "allow_extra_args": True,
                    "ignore_unknown_options": True,
                    "allow_interspersed_args": False,
                },
            )(_run_plugin)


def _run_plugin(context: typer.Context) -> int:
    """Run the commands of the plug-in that `context` names; returns the exit status."""
    commands: typer.Typer = installed().load_commands(str(context.info_name))
    return commands(context.args, prog_name=context.command_path, standalone_mode=False) or 0


def run_app(commands: typer.Typer) -> NoReturn:
    """Run a set of commands with the exit codes and messages that every entry script shares."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `polymode list | head` ends quietly
    try:
        _end(commands(standalone_mode=False) or 0)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except typer.Exit as stop:
        _end(stop.exit_code)
    except KeyboardInterrupt:
        _end(130)
    except Stopped as stopped:
        _end(stopped.status)
    except OSError as error:
        _say_no_room(error)
    except Exception as error:  # noqa: BLE001  (the last place where a cause can be said)
        _say_failure(error)


def _end(code: int) -> NoReturn:
    if code in (130, 143):  # typer turns an interruption into the first
        print("stopped; run the same command again to go on", file=sys.stderr)
    sys.exit(code)


def _say_no_room(error: OSError) -> NoReturn:
    """One line for what cannot be written; other errors of the system are failures."""
    if not isinstance(error, StorageError) and error.errno not in NO_ROOM:
        _say_failure(error)
    place = error.filename or "the output folder"
    said = f"{place}: {error.strerror}; make room and run the same command again"
    print(f"error: {error if isinstance(error, StorageError) else said}", file=sys.stderr)
    sys.exit(1)


def _say_failure(error: Exception) -> NoReturn:
    usage = getattr(error, "format_message", None)  # typer's own: an unknown option, a bad value
    if usage is not None:
        asked_nothing = type(error).__name__ == "NoArgsIsHelpError"
        print(usage() if asked_nothing else f"error: {usage()}", file=sys.stderr)
        sys.exit(2)
    import traceback

    if os.environ.get("POLYMODE_TRACEBACK"):
        traceback.print_exc()
    print(
        f"error: {type(error).__name__}: {error}\n"
        "  set POLYMODE_TRACEBACK=1 to see where it happened",
        file=sys.stderr,
    )
    sys.exit(1)


def _stop(signum: int, frame: object) -> NoReturn:
    _end(128 + signum)


def main() -> NoReturn:
    """The commands of the core and of plug-ins; ``polymode`` adds those of pipelines."""
    add_plugins(app)
    run_app(app)
