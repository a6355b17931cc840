"""``polymode image2image compare``: samples beside the real images, as a table."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from core.commands import Overwrite, check_new, keeps_nothing
from core.errors import InputError
from core.parts.config import bind, override
from plugins.image2image.request import CompareRequest


@keeps_nothing
def compare(
    folders: Annotated[
        list[str], typer.Argument(help="Folders of samples (`polymode sample`), or NAME=FOLDER.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder of metrics.json.")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="NAME=VALUE, such as patch=16, count=100, real=...; repeatable."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """FID, KID, precision, recall and diversity of samples, on features trained here.

    Each is printed with its interval and n; the first line is the floor.  The features are not
    Inception's: figures are comparable only with others on features of the same name.

    Example: polymode image2image compare runs/samples -o runs/compared
    """
    request = bind(CompareRequest, override({}, settings or []))
    inputs = dict(_labelled(text) for text in folders)
    if len(inputs) < len(folders):
        raise InputError("compare: two folders have the same name; name them, such as one=runs/a")
    written = [out / name for name in ("metrics.json", "features.safetensors")]
    check_new(written, overwrite=overwrite)
    from core.progress import listener
    from core.request import Machine
    from plugins.image2image.evaluation import compare as comparison

    with listener("compare") as emit:
        machine = Machine(device="cpu", threads=threads)
        result = comparison.compare(request, inputs, out, machine=machine, emit=emit)
    for line in _lines(json.loads(result.metrics.read_text())):
        typer.echo(line, err=True)
    print(result.metrics)


def _labelled(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if equals and not Path(text).exists():
        return name, Path(folder)
    return Path(text).name, Path(text)


def _lines(metrics: dict[str, Any]) -> list[str]:
    """A paragraph for each figure, a line for each method."""
    lines = []
    for figure, said in metrics["metrics"].items():
        lines.append(f"{said['label']}, {said['better']} is better")
        for method, row in metrics["methods"].items():
            if figure in row:
                cell = row[figure]
                known = cell["low"] is not None
                ends = f" [{cell['low']:.3g}, {cell['high']:.3g}]" if known else ""
                lines.append(f"  {cell['mean']:8.3g}{ends}  n = {cell['n']}  {method}")
    return lines
