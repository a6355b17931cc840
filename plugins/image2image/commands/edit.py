"""``edit``, ``guide`` and ``repaint``: an unconditional model at work on photographs."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plugins.image2image.commands.options import (
    Boxes,
    Device,
    DryRun,
    Extend,
    Feather,
    Grow,
    Invert,
    MaskFile,
    Record,
    Sampler,
    Samples,
    Seed,
    Threads,
    Transparent,
)
from plugins.image2image.commands.pictures import (
    beside,
    check_kept,
    lossy,
    numbered,
    say,
    thumbnail,
    write_sheet,
    written,
)
from plugins.image2image.inference.region import Region

if TYPE_CHECKING:
    from torch import Tensor

    from core.model import Model
    from core.sampler.solver import Solver
    from plugins.image2image.inference.editing import Edit, Prior
    from plugins.image2image.io.pictures import Picture
Photo = Annotated[Path, typer.Argument(help="A picture: PNG, JPEG, TIFF, WebP, BMP.")]
Checkpoint = Annotated[
    Path, typer.Option(help="Folder of a model of task core/generate, trained or imported.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="File; with --samples, of which -1, -2 ...")]
Tile = Annotated[
    int | None, typer.Option(min=16, help="Side of a tile; what the model was trained on if unset.")
]
Overlap = Annotated[
    int | None, typer.Option(min=0, help="Pixels that tiles share; a quarter of a tile if unset.")
]


def edit(
    photo: Photo,
    checkpoint: Checkpoint,
    out: Out,
    strength: Annotated[
        float, typer.Option(min=0, max=1, help="How much noise: 0 changes nothing, 1 everything.")
    ] = 0.5,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds, each from the one before.")] = 1,
    mask: MaskFile = None,
    invert: Invert = False,
    box: Boxes = None,
    transparent: Transparent = False,
    extend: Extend = None,
    grow: Grow = 0,
    feather: Feather = 0,
    steps: Annotated[int, typer.Option(min=2, help="Of the whole way; strength takes part.")] = 50,
    samples: Samples = 1,
    seed: Seed = 0,
    sampler: Sampler = "core/ancestral",
    tile: Tile = None,
    overlap: Overlap = None,
    dry_run: DryRun = False,
    record: Record = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Make strokes, a rough paste or a photograph look like the model's pictures (SDEdit).

    Paint on the photograph with any program, then let the model work the paint in.  With a mask
    only what is white changes; every other pixel keeps its bits.

    Example: polymode image2image edit painted.png --mask where.png --strength 0.5
    --checkpoint runs/photos -o edited.png
    """
    region = Region(mask, invert, tuple(box or ()), transparent, tuple(extend or ()), grow, feather)
    task = Job(
        "edit", region, photo, checkpoint, out, steps, samples, seed, sampler, tile, overlap,
        dry_run, record, device, threads,
    )  # fmt: skip

    def bind(grid: "Tensor", solver: "Solver") -> "Edit":
        from plugins.image2image.inference.editing import sdedit

        return partial(sdedit, grid=grid, solver=solver, strength=strength, repeats=repeats)

    options = {"strength": strength, "repeats": repeats, **region.about}
    task.run(*region.of(photo), bind, options)


def guide(
    photo: Photo,
    checkpoint: Checkpoint,
    out: Out,
    factor: Annotated[
        int, typer.Option(min=2, help="Reduction that is kept; more leaves more freedom.")
    ] = 8,
    free: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the last steps that are not guided.")
    ] = 0.0,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the sampler; more is slower.")] = 50,
    samples: Samples = 1,
    seed: Seed = 0,
    sampler: Sampler = "core/ancestral",
    tile: Tile = None,
    overlap: Overlap = None,
    dry_run: DryRun = False,
    record: Record = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Draw other pictures that look the same when they are made small (ILVR).

    Example: polymode image2image guide photo.png --factor 8 --samples 4
    --checkpoint runs/photos -o other.png
    """
    task = Job(
        "guide", Region(), photo, checkpoint, out, steps, samples, seed, sampler, tile, overlap,
        dry_run, record, device, threads,
    )  # fmt: skip

    def bind(grid: "Tensor", solver: "Solver") -> "Edit":
        from plugins.image2image.inference.editing import guide

        return partial(guide, grid=grid, solver=solver, factor=factor, free=free)

    task.run(*Region().of(photo), bind, {"factor": factor, "free": free})


def repaint(
    photo: Photo,
    checkpoint: Checkpoint,
    out: Out,
    method: Annotated[
        str, typer.Option(help="repaint, ddnm, dps, pigdm, diffpir or projection.")
    ] = "repaint",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Option of the method; repeatable."),
    ] = None,
    mask: MaskFile = None,
    invert: Invert = False,
    box: Boxes = None,
    transparent: Transparent = False,
    extend: Extend = None,
    grow: Grow = 0,
    feather: Feather = 0,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the sampler; more is slower.")] = 50,
    samples: Samples = 1,
    seed: Seed = 0,
    sampler: Sampler = "core/ancestral",
    tile: Tile = None,
    overlap: Overlap = None,
    dry_run: DryRun = False,
    record: Record = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Fill holes, remove things, or continue a picture beyond its edges.

    Known pixels keep their bits, but for a feather's width around the holes.  Options of a
    method: `polymode show posterior core/repaint`.

    Examples: polymode image2image repaint photo.png --mask holes.png
    --checkpoint runs/photos -o filled.png; or, in place of the mask, --box 10,20,64,48, or
    --extend right=25% --extend left=64
    """
    from core.parts.config import configure, override, plain
    from core.parts.registry import Spec

    name = method if "/" in method else f"core/{method}"
    spec = Spec(name, override({}, settings or []))
    chosen = configure("posterior", spec, at="method")
    region = Region(mask, invert, tuple(box or ()), transparent, tuple(extend or ()), grow, feather)
    task = Job(
        "repaint", region, photo, checkpoint, out, steps, samples, seed, sampler, tile, overlap,
        dry_run, record, device, threads,
    )  # fmt: skip

    def bind(grid: "Tensor", solver: "Solver") -> "Edit":
        from plugins.image2image.inference.editing import inpaint

        return partial(inpaint, grid=grid, solver=solver, method=chosen)

    task.run(*region.of(photo, needed=True), bind, {"method": plain(spec), **region.about})


@dataclass(frozen=True)
class Job:
    """One command on one picture; the fields are the options of that name."""

    command: str
    region: Region
    photo: Path
    checkpoint: Path
    out: Path
    steps: int
    samples: int
    seed: int
    sampler: str
    tile: int | None
    overlap: int | None
    dry_run: bool
    record: bool
    device: str
    threads: int | None

    def run(
        self,
        picture: "Picture",
        fill: "Tensor | None",
        bind: "Callable[[Tensor, Solver], Edit]",
        options: dict[str, Any],
    ) -> None:
        """Draw, write and say where; or say what that would take.

        Args:
            picture: what is edited.
            fill: what of it may change.
            bind: makes the edit of a grid and a solver.
            options: of the command, for the record.

        Raises:
            InputError: see `upscale`; all is found before the first step.
        """
        from plugins.image2image.inference import masks
        from plugins.image2image.io.writing import check_writable, write_picture

        places = numbered(self.out, self.samples)
        read, alpha = [self.photo, self.region.mask], picture.alpha is not None
        check_kept(written(self.out, self.samples, record=self.record), read)
        for target in places:
            size = picture.pixels.shape[1:]
            check_writable(target, alpha=alpha, depth=picture.depth, size=size)
        for note in (*picture.notes, *([] if fill is None else lossy(self.out))):
            print(f"{self.photo.name}: {note}", file=sys.stderr)
        weights = None if fill is None else masks.feathered(fill, self.region.feather)
        from core.parts.config import configure
        from core.parts.registry import Spec
        from core.progress import listener
        from core.request import Machine
        from plugins.image2image.inference import editing
        from plugins.image2image.inference.purify import load_prior

        solver = configure("sampler", Spec(self.sampler), at="sampler")()
        model = load_prior(self.checkpoint, Machine(device=self.device, threads=self.threads))
        for note in model.notes:
            print(note, file=sys.stderr)
        prior = editing.prior_of(model, tile=self.tile, overlap=self.overlap)
        grid = configure("grid", Spec("core/uniform_time", {"steps": self.steps}))(prior.process)
        edit = bind(grid, solver)
        if self.dry_run:
            takes = editing.estimated(edit, prior, picture.pixels, fill=fill, samples=self.samples)
            say(takes, self.samples)
            return
        given = picture.pixels if fill is None else picture.pixels.masked_fill(fill, 0.0)
        views = {"given": thumbnail(given)}
        with listener(f"{self.command} {self.photo.name}") as emit:
            draws = editing.drawn(
                edit, prior, picture.pixels,
                fill=fill, seed=self.seed, samples=self.samples, emit=emit,
            )  # fmt: skip
            for target, found in zip(places, draws, strict=True):
                if weights is not None:
                    found = editing.composed(picture.pixels, found, weights)
                write_picture(target, replace(picture, pixels=found))
                print(target)
                views[f"sample {len(views)}"] = thumbnail(found)
        if self.samples > 1:
            write_sheet(beside(self.out, "-sheet.png"), views)
            print(beside(self.out, "-sheet.png"))
        if self.record:
            self._write_record(model, prior, places, options)

    def _write_record(
        self, model: "Model", prior: "Prior", places: list[Path], options: dict[str, Any]
    ) -> None:
        from core.parts.config import plain
        from core.storage.files import digest, write_json

        mask = self.region.mask
        said = {
            "command": self.command,
            "input": self.photo.name,
            "input_sha256": digest(self.photo),
            "mask_sha256": mask and digest(mask),
            "results": [place.name for place in places],
            **options,
            "steps": self.steps,
            "samples": self.samples,
            "seed": self.seed,
            "sampler": self.sampler,
            "tile": prior.tile,
            "overlap": prior.overlap,
            "checkpoint": model.checkpoint.name,
            "model": plain(model.request),
        }
        write_json(beside(self.out, ".json"), said)
