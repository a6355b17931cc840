"""The commands of the core: parse a request, call one function, print its result.

Results go to standard output, one a line; messages to standard error.  The exit status is 0, 1
(the run failed), 2 (the request was wrong), 129, 130 or 143 (stopped).
"""

import os
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from core.commands import OnMachine, RequestFile, Settings, domain, run_app, with_options
from core.errors import InputError
from core.parts.inherited import inherit
from core.parts.registry import KINDS, Verb, attribute_of, installed
from core.progress import columns
from core.request import VERBS, Machine

app = domain("Diffusion models as practical tools.  Start with `list`, then `show KIND NAME`.")

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for everything the run writes.")]
OnCompiled = Annotated[Machine, ("device", "threads", "compile")]
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
            metavar="KIND|PATTERN",
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
        (part.kind, name, part.summary, _state(registry.missing(part), part.inputs))
        for name, part in registry.names(kind)
    ]
    if kind in (None, "verb"):
        rows += [("verb", name, verb.summary, "ready") for name, verb in _verbs().items()]
    rows = [row for row in rows if fnmatchcase(row[1], pattern)]
    if not rows:
        raise InputError(f"no name matches {pattern!r}; `polymode list` prints all names")
    for line in columns(rows):
        print(line)
    _note_broken()


def _state(missing: tuple[str, ...], inputs: tuple[str, ...]) -> str:
    """Whether a part can be used as it is: the last column of `list`."""
    if missing:
        return f"needs {', '.join(missing)}"
    return f"from Python, with {', '.join(inputs)}" if inputs else "ready"


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


def _run(verb: str, file: Path | None, settings: list[str] | None, out: Path, on: Machine) -> Any:
    """Run a built-in verb on the request of a file and settings; returns its result.

    The request is checked before torch is imported.
    """
    from core.parts.config import bind, override
    from core.parts.yaml_file import read_yaml

    kind = attribute_of(BUILT_IN[verb].request, verb)
    given = override(read_yaml(file) if file else {}, settings or [])
    request = bind(kind, inherit(given, file.parent if file else Path()))
    run = attribute_of(BUILT_IN[verb].target, verb)
    from core.progress import listener

    with listener(verb) as emit:
        return run(request, out, machine=on, emit=emit)


@app.command("new-plugin")
def new_plugin(
    name: Annotated[str, typer.Argument(help="Of the plug-in, its package and its folder.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder that the plug-in's folder is made in.")
    ] = Path(),
) -> None:
    """Write a small plug-in that trains, draws, is scored, and passes its own tests.

    Then: pip install -e NAME; pytest NAME; and put your domain in the place of its own.

    Example: polymode new-plugin waves
    """
    from core.scaffold.plugin import write_plugin

    print(write_plugin(name, out))


@app.command("train")
@with_options
def train(
    request: RequestFile = None,
    out: Out = Path("runs/train"),
    settings: Settings = None,
    *,
    machine: Machine,
) -> None:
    """Train a network; run the same command again to resume from the last checkpoint.

    Ctrl-C, SIGTERM, SIGHUP (but under nohup) or a file named STOP in the output folder end it with
    a checkpoint written.
    Start it by torchrun to shard each batch over processes.

    Example: polymode train --set task=image2image/sr3 --set dataset=image2image/photos
    --set network.width=32 --set steps=2000 -o runs/sr3
    """
    result = _run("train", request, settings, out, machine)
    if os.environ.get("RANK", "0") == "0":  # of processes that train together the first prints
        print(result.checkpoint)


@app.command("sample")
@with_options
def sample(
    request: RequestFile = None,
    out: Out = Path("runs/sample"),
    settings: Settings = None,
    *,
    machine: OnCompiled,
) -> None:
    """Draw from a trained network.

    Example: polymode sample --set checkpoint=runs/sr3 --set samples=8 --set grid.steps=10
    """
    print(_run("sample", request, settings, out, machine).samples)


@app.command("evaluate")
@with_options
def evaluate(
    request: RequestFile = None,
    out: Out = Path("runs/evaluate"),
    settings: Settings = None,
    *,
    machine: OnMachine,
) -> None:
    """Score samples against the items they were drawn for.

    Example: polymode evaluate --set samples=runs/sample -o runs/evaluate
    """
    result = _run("evaluate", request, settings, out, machine)
    for method, figures in result.scores.items():
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"{method}: {shown}", file=sys.stderr)
    print(result.metrics)


@app.command("encode")
@with_options
def encode(
    request: RequestFile = None,
    out: Out = Path("runs/encode"),
    settings: Settings = None,
    *,
    machine: OnCompiled,
) -> None:
    """Encode items of a dataset to latents, and measure how well they decode again.

    `polymode show verb encode` lists the options.

    Example: polymode encode --set checkpoint=runs/digits --set count=16 --set grid.steps=40
    """
    result = _run("encode", request, settings, out, machine)
    print(f"error of decoding: {result.error:.3g} (root mean square)", file=sys.stderr)
    print(result.latents)


@app.command("interpolate")
@with_options
def interpolate(
    request: RequestFile = None,
    out: Out = Path("runs/interpolate"),
    settings: Settings = None,
    *,
    machine: OnCompiled,
) -> None:
    """Draw samples on the way from each item of a dataset to the next one, through their latents.

    `polymode show verb interpolate` lists the options; sheet.png has a row for each pair.

    Example: polymode interpolate --set checkpoint=runs/digits --set count=5 --set frames=8
    """
    print(_run("interpolate", request, settings, out, machine).samples)


@app.command("likelihood")
@with_options
def likelihood(
    request: RequestFile = None,
    out: Out = Path("runs/likelihood"),
    settings: Settings = None,
    *,
    machine: OnCompiled,
) -> None:
    """Measure bits per dimension of held-out items, by the probability-flow ODE.

    `polymode show verb likelihood` lists the options.  8-bit images: --set levels=256.

    Example: polymode likelihood --set checkpoint=runs/digits --set count=64 --set trace=exact
    """
    result = _run("likelihood", request, settings, out, machine)
    shown = f"{result.bits_per_dim:.4f} [{result.low:.4f}, {result.high:.4f}]"
    print(f"bits per dimension: {shown}, {result.items} items", file=sys.stderr)
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
            # The plug-in parses all arguments after its name, --help included.
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


def main() -> NoReturn:
    """The commands of the core and of plug-ins; ``polymode`` adds those of pipelines."""
    add_plugins(app)
    run_app(app)
