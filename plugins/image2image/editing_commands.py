"""``edit``, ``guide`` and ``repaint``: an unconditional model at work on photographs."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from core.model import Model
    from core.sampler.solver import Solver
    from plugins.image2image.editing import Edit, Estimate, Prior
    from plugins.image2image.io import Picture

SHEET_SIDE = 512  # of a picture on the contact sheet, in pixels

Photo = Annotated[Path, typer.Argument(help="A picture: PNG, JPEG, TIFF, WebP, BMP.")]
Checkpoint = Annotated[
    Path, typer.Option(help="Folder of a model of task core/generate, trained or imported.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="File; with --samples, of which -1, -2 ...")]
Samples = Annotated[int, typer.Option(min=1, help="Draws, each a file, and a contact sheet.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same pictures.")]
Sampler = Annotated[str, typer.Option(help="See `polymode list sampler`.")]
Tile = Annotated[
    int | None, typer.Option(min=16, help="Side of a tile; what the model was trained on if unset.")
]
Overlap = Annotated[
    int | None, typer.Option(min=0, help="Pixels that tiles share; a quarter of a tile if unset.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what it would take, and write nothing.")
]
Record = Annotated[bool, typer.Option(help="Write the settings beside it, as .json.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")]
MaskFile = Annotated[
    Path | None, typer.Option("--mask", help="Picture of the same size: white is to be filled.")
]
Invert = Annotated[bool, typer.Option("--invert", help="White in the mask is to be kept instead.")]
Boxes = Annotated[
    list[str] | None,
    typer.Option("--box", metavar="X,Y,W,H", help="Fill a rectangle, in pixels; repeatable."),
]
Transparent = Annotated[
    bool, typer.Option("--transparent", help="Fill what the picture's alpha makes transparent.")
]
Extend = Annotated[
    list[str] | None,
    typer.Option(
        "--extend", metavar="SIDE=N", help="Grow the canvas, as right=25% or top=64; repeatable."
    ),
]
Grow = Annotated[int, typer.Option(min=0, max=1024, help="Let the mask grow by so many pixels.")]
Feather = Annotated[
    int, typer.Option(min=0, max=1024, help="Blend over so many pixels around the mask.")
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

    Example: python -m plugins.image2image edit painted.png --mask where.png --strength 0.5
    --checkpoint runs/photos -o edited.png
    """
    region = Region(mask, invert, tuple(box or ()), transparent, tuple(extend or ()), grow, feather)
    task = Job(
        "edit", region, photo, checkpoint, out, steps, samples, seed, sampler, tile, overlap,
        dry_run, record, device, threads,
    )  # fmt: skip

    def bind(grid: "Tensor", solver: "Solver") -> "Edit":
        from plugins.image2image.editing import sdedit

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

    Example: python -m plugins.image2image guide photo.png --factor 8 --samples 4
    --checkpoint runs/photos -o other.png
    """
    task = Job(
        "guide", Region(), photo, checkpoint, out, steps, samples, seed, sampler, tile, overlap,
        dry_run, record, device, threads,
    )  # fmt: skip

    def bind(grid: "Tensor", solver: "Solver") -> "Edit":
        from plugins.image2image.editing import guide

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

    Examples: python -m plugins.image2image repaint photo.png --mask holes.png
    --checkpoint runs/photos -o filled.png; or, in place of the mask, --box 10,20,64,48, or
    --extend right=25% --extend left=64
    """
    from core.config import Spec, configure, override, plain

    name = method if "/" in method else f"core/{method}"
    spec = Spec(name, override({}, settings or []))
    chosen = configure("posterior", spec, at="method")()
    region = Region(mask, invert, tuple(box or ()), transparent, tuple(extend or ()), grow, feather)
    task = Job(
        "repaint", region, photo, checkpoint, out, steps, samples, seed, sampler, tile, overlap,
        dry_run, record, device, threads,
    )  # fmt: skip

    def bind(grid: "Tensor", solver: "Solver") -> "Edit":
        from plugins.image2image.editing import inpaint

        return partial(inpaint, grid=grid, solver=solver, method=chosen)

    task.run(*region.of(photo, needed=True), bind, {"method": plain(spec), **region.about})


@dataclass(frozen=True)
class Region:
    """What of a picture may change, as a user says it; the fields are the options of that name."""

    mask: Path | None = None
    invert: bool = False
    boxes: tuple[str, ...] = ()
    transparent: bool = False
    extend: tuple[str, ...] = ()
    grow: int = 0
    feather: int = 0

    @property
    def about(self) -> dict[str, Any]:
        """For the record."""
        return {
            "mask": self.mask and self.mask.name,
            "invert": self.invert,
            "box": list(self.boxes),
            "transparent": self.transparent,
            "extend": list(self.extend),
            "grow": self.grow,
            "feather": self.feather,
        }

    def of(self, photo: Path, *, needed: bool = False) -> "tuple[Picture, Tensor | None]":
        """The picture, on its larger canvas, and what may change of it; None for everything.

        Raises:
            InputError: see `plugins.image2image.masks`; or no region where one is needed, or
                options of a region without one.
        """
        from plugins.image2image import io, masks

        picture = io.read(photo)
        height, width = picture.pixels.shape[1:]
        found = [masks.box(text, height, width) for text in self.boxes]
        if self.mask is not None:
            found.append(masks.read_mask(self.mask, height, width, invert=self.invert))
        elif self.invert:
            raise InputError("invert: turns a mask round, and there is none; give --mask")
        if self.transparent:
            found.append(masks.transparent(picture))
        margins = masks.margins(self.extend, height, width)
        if not found and not self.extend:
            if needed:
                raise InputError(
                    "nothing says what to fill; give --mask, --box, --transparent or --extend"
                )
            if self.grow or self.feather:
                raise InputError("grow, feather: want a region; give --mask, --box or --extend")
            return picture, None
        picture, fill = masks.extended(picture, margins)
        inner = fill[margins.top : margins.top + height, margins.left : margins.left + width]
        for one in found:
            inner |= one
        masks.check_mask(fill, some_known=False)
        fill = masks.grown(fill, self.grow)
        masks.check_mask(fill, some_known=needed)
        if picture.alpha is not None:
            picture = replace(picture, alpha=picture.alpha.masked_fill(fill, 1.0))
        return picture, fill


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
        from plugins.image2image import io, masks

        targets = self._targets()
        for target in targets:
            io.check_writable(target, alpha=picture.alpha is not None, depth=picture.depth)
        for note in (*picture.notes, *self._lossy(fill)):
            print(f"{self.photo.name}: {note}", file=sys.stderr)
        weights = None if fill is None else masks.feathered(fill, self.region.feather)
        from core.config import Spec, configure
        from core.progress import listener
        from core.request import Machine
        from plugins.image2image import editing
        from plugins.image2image.purify import load_prior

        solver = configure("sampler", Spec(self.sampler), at="sampler")()
        model = load_prior(self.checkpoint, Machine(device=self.device, threads=self.threads))
        for note in model.notes:
            print(note, file=sys.stderr)
        prior = editing.prior_of(model, tile=self.tile, overlap=self.overlap)
        grid = configure("grid", Spec("core/uniform_time", {"steps": self.steps}))(prior.process)
        edit = bind(grid, solver)
        if self.dry_run:
            takes = editing.estimated(edit, prior, picture.pixels, fill=fill, samples=self.samples)
            _say(takes, self, prior, picture)
            return
        results = []
        with listener(f"{self.command} {self.photo.name}") as emit:
            draws = editing.drawn(
                edit, prior, picture.pixels,
                fill=fill, seed=self.seed, samples=self.samples, emit=emit,
            )  # fmt: skip
            for target, found in zip(targets, draws, strict=True):
                if weights is not None:
                    found = editing.composed(picture.pixels, found, weights)
                io.write(target, replace(picture, pixels=found))
                print(target)
                results.append(found)
        if len(results) > 1:
            print(_sheet(self._beside("-sheet.png"), picture, fill, results))
        if self.record:
            self._write_record(model, prior, targets, options)

    def _targets(self) -> "list[Path]":
        """A file for each draw.

        Raises:
            InputError: one that would replace the picture or its mask.
        """
        numbered = [self._beside(f"-{k + 1}{self.out.suffix}") for k in range(self.samples)]
        targets = numbered if self.samples > 1 else [self.out]
        for source in (self.photo, self.region.mask):
            for target in targets:
                if source and source.exists() and target.exists() and target.samefile(source):
                    raise InputError(f"{target}: would replace {source}; choose another name")
        return targets

    def _beside(self, end: str) -> Path:
        return self.out.with_name(self.out.stem + end)

    def _lossy(self, fill: "Tensor | None") -> list[str]:
        from plugins.image2image import io

        if fill is None or io.SUFFIXES.get(self.out.suffix.lower()) != "JPEG":
            return []
        return ["JPEG changes every pixel a little; PNG and TIFF keep what is known exactly"]

    def _write_record(
        self, model: "Model", prior: "Prior", targets: list[Path], options: dict[str, Any]
    ) -> None:
        from core.config import plain
        from core.files import digest, write_json

        mask = self.region.mask
        said = {
            "command": self.command,
            "input": self.photo.name,
            "input_sha256": digest(self.photo),
            "mask_sha256": mask and digest(mask),
            "results": [target.name for target in targets],
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
        write_json(self.out.with_suffix(".json"), said)


def _say(estimate: "Estimate", job: Job, prior: "Prior", picture: "Picture") -> None:
    from core.progress import duration

    height, width = picture.pixels.shape[1:]
    tile, calls, tiles = prior.tile, estimate.calls, estimate.tiles
    print(f"{width}x{height} pixels: {tiles} tiles of {tile}x{tile} that share {prior.overlap}")
    print(
        f"{calls} evaluations for each of {job.samples} draws: {calls * tiles * job.samples} of "
        "the network"
    )
    print(
        f"about {duration(estimate.seconds)} here, and {estimate.memory / 2**20:.0f} MiB beside "
        "the network and one tile"
    )


def _sheet(path: Path, picture: "Picture", fill: "Tensor | None", results: "list[Tensor]") -> Path:
    """The picture, its holes grey, and the draws, side by side and at most 512 pixels each."""
    import torch
    from torch.nn import functional as F

    from core.sheet import contact_sheet, to_bytes
    from core.task import Panel
    from plugins.image2image import io

    given = picture.pixels if fill is None else picture.pixels.masked_fill(fill, 0.0)
    height, width = given.shape[1:]
    share = min(1.0, SHEET_SIDE / max(height, width))
    size = (max(1, round(height * share)), max(1, round(width * share)))
    small = [
        F.interpolate(x[None], size, mode="bicubic", antialias=True)[0] for x in (given, *results)
    ]
    names = ["given", *(f"sample {k + 1}" for k in range(len(results)))]
    panels = [Panel(name, {name: to_bytes(x)}) for name, x in zip(names, small, strict=True)]
    pixels = torch.from_numpy(contact_sheet(panels)).movedim(-1, 0).float() / 127.5 - 1
    io.write(path, io.Picture(pixels))
    return path
