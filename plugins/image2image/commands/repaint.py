"""``polymode image2image repaint``: posterior methods fill holes by an unconditional model."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from core.commands import DryRun, OnMachine, Overwrite, keeps_nothing
from plugins.image2image.commands.editing import EditRun
from plugins.image2image.commands.options import (
    ImageFile,
    OutputFile,
    Record,
    Samples,
    UnconditionalCheckpoint,
    WrittenAs,
)
from plugins.image2image.inference.region import Region
from plugins.image2image.request import EditOptions

if TYPE_CHECKING:
    from torch import Tensor

    from core.sampler.solver import Solver
    from plugins.image2image.inference.editing import Edit


@keeps_nothing
def repaint(
    file: ImageFile,
    checkpoint: UnconditionalCheckpoint,
    out: OutputFile,
    method: Annotated[
        str,
        typer.Option(
            help="Posterior method: repaint, ddnm, dps, pigdm, diffpir, projection, ilvr, or the "
            "full name of another; see `polymode list posterior`."
        ),
    ] = "repaint",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Option of the method; repeatable."),
    ] = None,
    samples: Samples = 1,
    dry_run: DryRun = False,
    record: Record = False,
    overwrite: Overwrite = False,
    *,
    editing: EditOptions,
    output: WrittenAs,
    region: Region,
    machine: OnMachine,
) -> None:
    """Inpaint holes, remove objects, or extend an image beyond its edges (RePaint and others).

    Known pixels keep their bits, except within the feather around the holes.  Options of a method:
    `polymode show posterior core/repaint`.

    Examples: polymode image2image repaint photo.png --mask holes.png
    --checkpoint runs/photos -o filled.png; instead of the mask, --box 10,20,64,48, or
    --extend right=25% --extend left=64
    """
    from core.parts.config import configure, override, plain
    from core.parts.registry import Spec

    name = method if "/" in method else f"core/{method}"
    spec = Spec(name, override({}, settings or []))
    chosen = configure("posterior", spec, at="method")
    run = EditRun(
        command="repaint", file=file, checkpoint=checkpoint, out=out, samples=samples,
        overwrite=overwrite, dry_run=dry_run, record=record, output=output,
        editing=editing, region=region, machine=machine,
    )  # fmt: skip

    def bind(grid: "Tensor", solver: "Solver") -> "Edit":
        from plugins.image2image.inference.editing import inpaint

        return partial(inpaint, grid=grid, solver=solver, method=chosen)

    run.run(*region.of(file, needed=True), bind, {"method": plain(spec), **region.about})
