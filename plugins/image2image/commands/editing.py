"""One run of `edit`, `guide` or `repaint`: an unconditional model on one image file."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.commands import check_new
from core.request import Machine
from plugins.image2image.commands.images import (
    check_no_overwrite,
    check_quality,
    is_folder,
    lossy,
    made,
    one_line,
    output_paths,
    print_cost,
    print_path,
    sample_paths,
    sibling,
    thumbnail,
    write_sheet,
    written_paths,
)
from plugins.image2image.inference.region import Region
from plugins.image2image.request import EditOptions, OutputOptions

if TYPE_CHECKING:
    from torch import Tensor

    from core.images.pictures import Picture
    from core.model import Model
    from core.sampler.solver import Solver
    from plugins.image2image.inference.editing import Edit, Prior


@dataclass(frozen=True, kw_only=True)
class EditRun:
    """One run on one image file; the fields are the options of that name."""

    command: str
    file: Path
    checkpoint: Path
    out: str | Path
    samples: int
    dry_run: bool
    record: bool
    overwrite: bool = False
    output: OutputOptions = OutputOptions()
    editing: EditOptions
    region: Region
    machine: Machine

    @property
    def target(self) -> Path:
        """The output file; in a folder it has the input's name, and a lossless format."""
        return output_paths([self.file], self.out, {}, lossless=True)[0][1]

    def run(
        self,
        picture: "Picture",
        fill: "Tensor | None",
        bind: "Callable[[Tensor, Solver], Edit]",
        options: dict[str, Any],
    ) -> None:
        """Draw, write the outputs and print their paths; or print the cost of a dry run.

        Args:
            picture: the input image.
            fill: the pixels that may change; all if None.
            bind: makes the edit from a grid and a solver.
            options: of the command, for the record.

        Raises:
            InputError: as `RestoreRun.run`; all problems are found before the first step.
        """
        from core.parts.config import configure
        from core.parts.registry import Spec
        from core.progress import listener, print_note
        from plugins.image2image.inference import editing, masks
        from plugins.image2image.inference.colours import shown_colours
        from plugins.image2image.inference.purify import load_prior

        paths, name = sample_paths(self.target, self.samples), one_line(self.file.name)
        self._check_outputs(picture, paths)
        notes = [] if fill is None else lossy(self.target, self.output.quality)
        for note in (*picture.notes, *notes):
            print(f"{name}: {note}", file=sys.stderr)
        weights = None if fill is None else masks.feathered(fill, self.region.feather)
        chosen = self.editing
        model = load_prior(self.checkpoint, self.machine, emit=print_note)
        prior = editing.prior_of(model, tile=chosen.tile, overlap=chosen.overlap)
        grid = configure("grid", Spec("core/uniform_time", {"steps": chosen.steps}))(prior.process)
        edit = bind(grid, configure("sampler", chosen.sampler)())
        pixels, shown = picture.pixels, shown_colours(picture)
        if self.dry_run:
            cost = editing.estimate_cost(edit, prior, pixels, fill=fill, samples=self.samples)
            print_cost(cost, self.samples, self.file)
            return
        views = {"given": thumbnail(pixels if fill is None else pixels.masked_fill(fill, 0.0))}
        with made(self.target.parent, self.out), listener(f"{self.command} {name}") as emit:
            draws = editing.draw_edits(
                edit, prior, shown, fill=fill, seed=chosen.seed, samples=self.samples, emit=emit
            )
            for path, draw in zip(paths, draws, strict=True):
                result = draw if weights is None else editing.composite(pixels, draw, weights)
                self._write(path, replace(picture, pixels=result))
                views[f"sample {len(views)}"] = thumbnail(result)
        if self.samples > 1:
            sheet = sibling(self.target, "-sheet.png")
            write_sheet(sheet, views)
            print_path(sheet)
        if self.record:
            self._write_record(model, prior, paths, options)

    def _write(self, path: Path, result: "Picture") -> None:
        from core.images.writing import write_picture

        write_picture(path, result, quality=self.output.quality, strip=self.output.strip)
        print_path(path)

    def _check_outputs(self, picture: "Picture", paths: list[Path]) -> None:
        from core.images.writing import check_format, check_writable

        outputs = written_paths(self.target, self.samples, record=self.record)
        check_no_overwrite(outputs, [self.file, self.region.mask])
        check_new(outputs, overwrite=self.overwrite)
        check_quality(self.output.quality, paths)
        alpha, size = picture.alpha is not None, picture.pixels.shape[1:]
        check = check_format if is_folder(self.out) or self.dry_run else check_writable
        for path in paths:
            check(path, alpha=alpha, depth=picture.depth, size=size)

    def _write_record(
        self, model: "Model", prior: "Prior", paths: list[Path], options: dict[str, Any]
    ) -> None:
        from core.images.writing import behind_links
        from core.parts.config import plain
        from core.results import record
        from core.storage.files import digest

        mask = self.region.mask
        about = {
            "mask_sha256": mask and digest(mask),
            **options,
            **plain(self.editing),
            "samples": self.samples,
            "tile": prior.tile,
            "overlap": prior.overlap,
            "model": plain(model.request),
        }
        record.write(
            behind_links(sibling(self.target, ".json")), self.command, about,
            inputs=[self.file], checkpoint=model.checkpoint, results=[path.name for path in paths],
        )  # fmt: skip
