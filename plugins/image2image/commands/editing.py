"""One run of `edit`, `guide` or `repaint`: an unconditional model on one image file."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.request import Machine
from plugins.image2image.commands.images import (
    check_no_overwrite,
    lossy,
    print_cost,
    sample_paths,
    sibling,
    thumbnail,
    write_sheet,
    written_paths,
)
from plugins.image2image.inference.region import Region
from plugins.image2image.request import EditOptions

if TYPE_CHECKING:
    from torch import Tensor

    from core.model import Model
    from core.sampler.solver import Solver
    from plugins.image2image.inference.editing import Edit, Prior
    from plugins.image2image.io.pictures import Picture


@dataclass(frozen=True, kw_only=True)
class EditRun:
    """One run on one image file; the fields are the options of that name."""

    command: str
    file: Path
    checkpoint: Path
    out: Path
    samples: int
    dry_run: bool
    record: bool
    editing: EditOptions
    region: Region
    machine: Machine

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
        from plugins.image2image.io.writing import write_picture

        paths = sample_paths(self.out, self.samples)
        self._check_outputs(picture, paths)
        for note in (*picture.notes, *([] if fill is None else lossy(self.out))):
            print(f"{self.file.name}: {note}", file=sys.stderr)
        weights = None if fill is None else masks.feathered(fill, self.region.feather)
        chosen = self.editing
        model = load_prior(self.checkpoint, self.machine, emit=print_note)
        prior = editing.prior_of(model, tile=chosen.tile, overlap=chosen.overlap)
        grid = configure("grid", Spec("core/uniform_time", {"steps": chosen.steps}))(prior.process)
        edit = bind(grid, configure("sampler", chosen.sampler)())
        pixels, shown = picture.pixels, shown_colours(picture)
        if self.dry_run:
            cost = editing.estimate_cost(edit, prior, pixels, fill=fill, samples=self.samples)
            print_cost(cost, self.samples)
            return
        views = {"given": thumbnail(pixels if fill is None else pixels.masked_fill(fill, 0.0))}
        with listener(f"{self.command} {self.file.name}") as emit:
            draws = editing.draw_edits(
                edit, prior, shown, fill=fill, seed=chosen.seed, samples=self.samples, emit=emit
            )
            for path, draw in zip(paths, draws, strict=True):
                result = draw if weights is None else editing.composite(pixels, draw, weights)
                write_picture(path, replace(picture, pixels=result))
                print(path)
                views[f"sample {len(views)}"] = thumbnail(result)
        if self.samples > 1:
            write_sheet(sibling(self.out, "-sheet.png"), views)
            print(sibling(self.out, "-sheet.png"))
        if self.record:
            self._write_record(model, prior, paths, options)

    def _check_outputs(self, picture: "Picture", paths: list[Path]) -> None:
        from plugins.image2image.io.writing import check_writable

        outputs = written_paths(self.out, self.samples, record=self.record)
        check_no_overwrite(outputs, [self.file, self.region.mask])
        alpha, size = picture.alpha is not None, picture.pixels.shape[1:]
        for path in paths:
            check_writable(path, alpha=alpha, depth=picture.depth, size=size)

    def _write_record(
        self, model: "Model", prior: "Prior", paths: list[Path], options: dict[str, Any]
    ) -> None:
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
            sibling(self.out, ".json"), self.command, about,
            inputs=[self.file], checkpoint=model.checkpoint, results=[path.name for path in paths],
        )  # fmt: skip
