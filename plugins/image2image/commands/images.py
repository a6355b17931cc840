"""What commands on image files share: output paths and their checks, contact sheets, costs."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from core.errors import InputError
from core.parts.registry import Spec

if TYPE_CHECKING:
    from torch import Tensor

    from core.denoiser.tiles import Cost
    from core.request import Emit
    from core.sampler.draws import Summary
    from plugins.image2image.inference.input_image import InputImage
    from plugins.image2image.io.pictures import Picture

SHEET_SIDE = 512  # of an image on the contact sheet, in pixels
WHITE = 0.25  # standard deviation that is white on its image, as a fraction of the range


@runtime_checkable
class ImagePredictor(Protocol):
    """A predictor of images from images, called draw by draw."""

    about: dict[str, Any]
    checkpoint: Path

    @property
    def mean_of(self) -> int: ...

    @staticmethod
    def result_name(name: str) -> str: ...

    def prepare(self, path: Path, picture: "Picture") -> "InputImage": ...

    def draws(self, image: "InputImage", count: int, *, emit: "Emit") -> "Iterator[Tensor]": ...

    def costs(self, image: "InputImage", count: int) -> "list[Cost]": ...


@dataclass(frozen=True, kw_only=True)
class RestoreRun:
    """One run of `restore` or `upscale` on image files; fields are the options of that name."""

    command: str
    files: list[Path]
    out: Path
    samples: int
    mean_of: int | None
    deviation: Path | None
    dry_run: bool
    record: bool

    def run(
        self,
        load: Callable[[], ImagePredictor],
        *,
        name: Callable[[str], str] = str,
        reads: Sequence[Path | None] = (),
        exact: bool = False,
    ) -> None:
        """Draw, write the outputs and print their paths; or print the cost of a dry run.

        Args:
            load: loads the predictor.
            name: name of an input file -> name of its output in a folder.
            reads: other input files, which no output may replace.
            exact: print a note where the output's format does not keep known pixels exactly.

        Raises:
            InputError: options that exclude each other, an image that cannot be used, or an output
                that cannot be written; all are found before the first draw.
        """
        self._check()
        outputs = output_paths(self.files, self.out, name)
        written = [
            path
            for _, target in outputs
            for path in written_paths(target, self.samples, record=self.record)
        ]
        check_no_overwrite([*written, *filter(None, [self.deviation])], [*self.files, *reads])
        predictor, image = load(), None
        for file, target in outputs:
            image = self._prepare(predictor, file, target)
        for file, target in outputs:
            if image is None or len(outputs) > 1:
                image = self._prepare(predictor, file, target)
            for note in (*image.picture.notes, *(lossy(target) if exact else ())):
                print(f"{file.name}: {note}", file=sys.stderr)
            if self.dry_run:
                draws = self._draws(predictor)
                for cost in predictor.costs(image, draws):
                    print_cost(cost, draws)
            else:
                self._draw(predictor, image, file, target)

    def _draws(self, predictor: ImagePredictor) -> int:
        """Number of draws for each image."""
        return self.samples if self.samples > 1 else predictor.mean_of

    def _check(self) -> None:
        mean_of = self.mean_of or 1
        if self.samples > 1 and mean_of > 1:
            raise InputError("samples, mean_of: exclude each other; leave one of them out")
        if self.deviation is not None and max(self.samples, mean_of) < 2:
            raise InputError(
                "deviation: the standard deviation needs at least 2 draws; give --samples or "
                "--mean-of of at least 2"
            )
        if self.deviation is not None and len(self.files) > 1:
            raise InputError(
                f"deviation: one output file for {len(self.files)} images; run them one by one"
            )

    def _prepare(self, predictor: ImagePredictor, file: Path, target: Path) -> "InputImage":
        from plugins.image2image.io.reading import read_picture
        from plugins.image2image.io.writing import check_writable

        image = predictor.prepare(file, read_picture(file))
        image.check_writable(target)
        if self.deviation is not None:
            check_writable(self.deviation, size=image.result_size)
        return image

    def _draw(
        self, predictor: ImagePredictor, image: "InputImage", file: Path, target: Path
    ) -> None:
        from core.progress import listener
        from core.sampler.draws import summary
        from plugins.image2image.io.writing import write_picture

        paths, views = sample_paths(target, self.samples), {"given": thumbnail(image.preview)}
        with listener(f"{self.command} {file.name}") as emit:
            draws = predictor.draws(image, self._draws(predictor), emit=emit)
            if self.samples > 1:
                draws = self._write_each(draws, image, paths, views)
            found = summary(draws)
        if self.samples == 1:
            write_picture(target, image.finish(found.mean))
            print(target)
        else:
            write_sheet(sibling(target, "-sheet.png"), views)
            print(sibling(target, "-sheet.png"))
        if self.deviation is not None:
            write_picture(self.deviation, std_map(found))
            print(self.deviation)
        if self.record:
            self._write_record(predictor, file, target)

    def _write_each(
        self,
        draws: "Iterator[Tensor]",
        image: "InputImage",
        paths: list[Path],
        views: "dict[str, Tensor]",
    ) -> "Iterator[Tensor]":
        """Pass the draws on, each written to its path and added to the contact sheet."""
        from plugins.image2image.io.writing import write_picture

        for path, draw in zip(paths, draws, strict=True):
            write_picture(path, image.finish(draw))
            print(path)
            views[f"sample {len(views)}"] = thumbnail(draw)
            yield draw

    def _write_record(self, predictor: ImagePredictor, file: Path, target: Path) -> None:
        from core.results import record

        paths = sample_paths(target, self.samples)
        record.write(
            sibling(target, ".json"),
            self.command,
            {**predictor.about, "samples": self.samples},
            inputs=[file],
            checkpoint=predictor.checkpoint,
            results=[path.name for path in paths],
        )


def drawing_samples(predictor: Spec, samples: int) -> Spec:
    """The predictor's options where several samples are asked for: draws, not their mean."""
    if samples == 1 or predictor.options.get("mean_of") is not None:
        return predictor
    return replace(predictor, options={**predictor.options, "mean_of": 1})


# --- output paths ------------------------------------------------------------------------------


def output_paths(
    files: list[Path], out: Path, name: Callable[[str], str] = str
) -> list[tuple[Path, Path]]:
    """The output path of each input file.

    Args:
        files: input files.
        out: a file for one image, a folder for several.
        name: name of an input file -> name of its output in a folder.

    Raises:
        InputError: several images for one file, or two of one name.
    """
    folder = os.path.isdir(out)  # unlike pathlib's, false where no such name can be
    if len(files) == 1 and not folder:
        return [(files[0], out)]
    if not folder and (out.suffix or os.path.isfile(out)):
        raise InputError(f"{out}: {len(files)} images need a folder; give one with -o")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be created: {error.strerror}") from error
    targets = [out / name(file.name) for file in files]
    doubled = sorted({str(target) for target in targets if targets.count(target) > 1})
    if doubled:
        raise InputError(f"{doubled[0]}: output of two images; run them one by one")
    return list(zip(files, targets, strict=True))


def sample_paths(target: Path, samples: int) -> list[Path]:
    """The output file itself, or with several samples name-1, name-2, ..."""
    if samples == 1:
        return [target]
    return [sibling(target, f"-{k + 1}{target.suffix}") for k in range(samples)]


def written_paths(target: Path, samples: int, *, record: bool) -> list[Path]:
    """Every file that is written for one image."""
    sheet = [sibling(target, "-sheet.png")] if samples > 1 else []
    return [*sample_paths(target, samples), *sheet, *([sibling(target, ".json")] if record else [])]


def sibling(target: Path, end: str) -> Path:
    """The path with its suffix replaced by `end`."""
    return target.with_name(target.stem + end)


def check_no_overwrite(outputs: Sequence[Path], inputs: Sequence[Path | None]) -> None:
    """Refuse outputs that would replace an input or each other.

    Raises:
        InputError: an output is one of the inputs, or occurs twice.
    """
    for output in outputs:
        for source in filter(None, inputs):
            if _same(output, source):
                raise InputError(f"{output}: would overwrite the input {source}; choose another")
    real = [os.path.realpath(output) for output in outputs]
    doubled = [path for path, whole in zip(outputs, real, strict=True) if real.count(whole) > 1]
    if doubled:
        raise InputError(f"{doubled[0]}: would be written twice; choose other names")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist or cannot: reported where it is used
        return False


def lossy(out: Path) -> list[str]:
    """A note where the format that `out` names does not keep known pixels exactly."""
    from plugins.image2image.io.pictures import SUFFIXES

    if SUFFIXES.get(out.suffix.lower()) != "JPEG":
        return []
    return [
        "JPEG is lossy and changes every pixel a little; PNG and TIFF keep known pixels exactly"
    ]


# --- images and text ---------------------------------------------------------------------------


def thumbnail(x: "Tensor") -> "Tensor":
    """The image (c, h, w) reduced to at most 512 pixels a side."""
    from torch.nn import functional as F

    height, width = x.shape[-2:]
    scale = min(1.0, SHEET_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(x[None], size, mode="bicubic", antialias=True)[0]


def write_sheet(path: Path, views: "dict[str, Tensor]") -> None:
    """Write a contact sheet: small images in [-1, 1] side by side."""
    import torch

    from core.results.sheet import contact_sheet, to_bytes
    from core.task import Panel
    from plugins.image2image.io.pictures import Picture
    from plugins.image2image.io.writing import write_picture

    panels = [Panel(name, {name: to_bytes(x)}) for name, x in views.items()]
    pixels = torch.from_numpy(contact_sheet(panels)).movedim(-1, 0).float() / 127.5 - 1
    write_picture(path, Picture(pixels))


def std_map(found: "Summary") -> "Picture":
    """The standard deviation of draws as grey: black for 0, white for a quarter of the range."""
    from plugins.image2image.io.pictures import Picture

    level = found.std.square().mean(0, keepdim=True).sqrt() / 2 / WHITE
    return Picture(level.clamp(max=1) * 2 - 1)


def print_cost(cost: "Cost", draws: int) -> None:
    """Print what a run would cost, in three lines."""
    from core.progress import duration

    (height, width), tile, tiles = cost.size, cost.tile, cost.tiles
    print(f"{width}x{height} pixels: {tiles} tiles of {tile}x{tile}, overlap {cost.overlap}")
    print(
        f"{cost.calls} evaluations for each tile of {draws} draws: "
        f"{cost.calls * tiles * draws} network evaluations"
    )
    print(
        f"about {duration(cost.seconds)} here, and {cost.memory / 2**20:.0f} MiB beside "
        "the network and one tile"
    )
