"""What commands on image files share: output paths and their checks, contact sheets, costs."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from core.commands import check_new
from core.errors import InputError, printable
from core.images import formats
from core.parts.registry import Spec
from core.storage import files as storage

if TYPE_CHECKING:
    from torch import Tensor

    from core.denoiser.tiles import Cost
    from core.images.pictures import Picture
    from core.request import Emit
    from core.sampler.draws import Summary
    from plugins.image2image.inference.input_image import InputImage

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

    def write_in_stripes(self, image: "InputImage", target: Path, *, emit: "Emit") -> bool: ...


@dataclass(frozen=True, kw_only=True)
class RestoreRun:
    """One run of `restore` or `upscale` on image files; fields are the options of that name.

    Args:
        part: the predictor, whose options say how results are named and written.
    """

    command: str
    part: Spec
    checkpoint: Path
    files: list[Path]
    out: str | Path
    samples: int
    mean_of: int | None
    deviation: Path | None
    dry_run: bool
    record: bool
    overwrite: bool = False

    def run(
        self,
        load: Callable[[], ImagePredictor],
        *,
        reads: Sequence[Path | None] = (),
        exact: bool = False,
    ) -> None:
        """Draw, write the outputs and print their paths; or print the cost of a dry run.

        Args:
            load: loads the predictor.
            reads: other input files, which no output may replace.
            exact: known pixels are kept: in a folder in a lossless format, or a note is printed.

        Raises:
            InputError: options that exclude each other, an image that cannot be used, or an output
                that cannot be written; all are found before the first draw.
        """
        self._check()
        options = self.part.options
        outputs = output_paths(self.files, self.out, options, lossless=exact)
        self._check_outputs([target for _, target in outputs], reads)
        predictor, image = load(), None
        with made(outputs[0][1].parent, self.out, dry_run=self.dry_run):
            for file, target in outputs:
                image = self._prepare(predictor, file, target)
            for file, target in outputs:
                if image is None or len(outputs) > 1:
                    image = self._prepare(predictor, file, target)
                notes = lossy(target, options.get("quality")) if exact else []
                for note in (*image.picture.notes, *notes):
                    print(f"{one_line(file.name)}: {note}", file=sys.stderr)
                if self.dry_run:
                    draws = self._draws(predictor)
                    for cost in predictor.costs(image, draws):
                        print_cost(cost, draws, file)
                else:
                    self._draw(predictor, image, file, target)

    def _check_outputs(self, targets: Sequence[Path], reads: Sequence[Path | None]) -> None:
        """Refuse outputs that would replace an input, each other, or what is there already."""
        written = [
            path
            for target in targets
            for path in written_paths(target, self.samples, record=self.record)
        ]
        written += [] if self.deviation is None else [self.deviation]
        check_no_overwrite(written, [*self.files, *reads])
        check_new(written, overwrite=self.overwrite)
        check_quality(self.part.options.get("quality"), targets)

    def _draws(self, predictor: ImagePredictor) -> int:
        """Number of draws for each image."""
        return self.samples if self.samples > 1 else predictor.mean_of

    def _check(self) -> None:
        for folder in filter(os.path.isdir, self.files):
            raise InputError(folder_sentence(folder, self.part, self.checkpoint, self.out))
        formats.check_options(self.part.options)
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
        from core.images.reading import read_picture
        from core.images.writing import check_format, check_writable

        image = predictor.prepare(file, read_picture(file))
        if self.dry_run:  # its folder need not be there
            alpha, depth = image.picture.alpha is not None, image.picture.depth
            check_format(target, alpha=alpha, depth=depth, size=image.result_size)
            return image
        image.check_writable(target)
        if self.deviation is not None:
            check_writable(self.deviation, size=image.result_size)
        return image

    def _draw(
        self, predictor: ImagePredictor, image: "InputImage", file: Path, target: Path
    ) -> None:
        from core.images.writing import write_picture
        from core.progress import listener
        from core.sampler.draws import summary

        if self._written_in_stripes(predictor, image, file, target):
            return
        paths, views = sample_paths(target, self.samples), {"given": thumbnail(image.preview)}
        with listener(f"{self.command} {one_line(file.name)}") as emit:
            draws = predictor.draws(image, self._draws(predictor), emit=emit)
            if self.samples > 1:
                draws = self._write_each(draws, image, paths, views)
            found = summary(draws)
        if self.samples == 1:
            write_picture(target, image.finish(found.mean), **self._written_as)
            print_path(target)
        else:
            write_sheet(sibling(target, "-sheet.png"), views)
            print_path(sibling(target, "-sheet.png"))
        if self.deviation is not None:
            write_picture(self.deviation, std_map(found))
            print_path(self.deviation)
        if self.record:
            self._write_record(predictor, file, target)

    def _written_in_stripes(
        self, predictor: ImagePredictor, image: "InputImage", file: Path, target: Path
    ) -> bool:
        """Whether the result does not fit into memory and is there, written in stripes."""
        from core.progress import listener

        if self.samples > 1 or self.deviation is not None:
            return False
        with listener(f"{self.command} {printable(file.name)}") as emit:
            if not predictor.write_in_stripes(image, target, emit=emit):
                return False
        print_path(target)
        if self.record:
            self._write_record(predictor, file, target)
        return True

    def _write_each(
        self,
        draws: "Iterator[Tensor]",
        image: "InputImage",
        paths: list[Path],
        views: "dict[str, Tensor]",
    ) -> "Iterator[Tensor]":
        """Pass the draws on, each written to its path and added to the contact sheet."""
        from core.images.writing import write_picture

        for path, draw in zip(paths, draws, strict=True):
            write_picture(path, image.finish(draw), **self._written_as)
            print_path(path)
            views[f"sample {len(views)}"] = thumbnail(draw)
            yield draw

    @property
    def _written_as(self) -> dict[str, Any]:
        return {name: self.part.options.get(name) for name in ("quality", "strip")}

    def _write_record(self, predictor: ImagePredictor, file: Path, target: Path) -> None:
        from core.images.writing import behind_links
        from core.results import record

        paths = sample_paths(target, self.samples)
        record.write(
            behind_links(sibling(target, ".json")),
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


def folder_sentence(folder: Path, part: Spec, checkpoint: Path, out: str | Path) -> str:
    """The message for a folder in the place of an image: the command that takes one."""
    from core.parts.config import plain, resolve

    defaults = resolve("predictor", Spec(part.name), "predictor")[0].options
    changed = {name: v for name, v in part.options.items() if v != defaults.get(name)}
    settings = [f"checkpoint={checkpoint}"]
    settings += [f"predictor.{name}={json.dumps(plain(v))}" for name, v in changed.items()]
    place = f"{out}".rstrip("/") or "/"
    words = ["polymode", "apply", part.name, str(folder), "-o", place]
    words += [word for setting in settings for word in ("--set", setting)]
    return f"{folder}: a folder; for every image in it run: {shlex.join(words)}"


# --- output paths ------------------------------------------------------------------------------


def output_paths(
    files: Sequence[Path], out: str | Path, options: Mapping[str, Any], *, lossless: bool = False
) -> list[tuple[Path, Path]]:
    """The output path of each input file; nothing is created.

    Args:
        files: input files.
        out: a folder, or a file for one image.
        options: as in `formats.output_name`.
        lossless: as in `formats.output_name`.

    Raises:
        InputError: several images for one file, or two of one name; options of names for one file.
    """
    place = Path(out)
    if not is_folder(out):
        if len(files) > 1:
            raise InputError(
                f"{out}: {len(files)} images need a folder; end its name with a slash: -o {out}/"
            )
        if options.get("file_name") is not None:
            raise InputError(f"name: -o names the file, {out}; give a folder, or leave it out")
        chosen = options.get("format")
        if chosen and place.suffix.lower() not in formats.FORMATS[chosen.upper()].suffixes:
            raise InputError(f"format: {chosen}, but -o names {out}; leave one of them out")
        return [(files[0], place)]
    names = [formats.output_name(file.name, options, lossless=lossless) for file in files]
    targets = [place / name for name in names]
    doubled = sorted({str(target) for target in targets if targets.count(target) > 1})
    if doubled:
        raise InputError(f"{doubled[0]}: output of two images; run them one by one")
    return list(zip(files, targets, strict=True))


def is_folder(out: str | Path) -> bool:
    """Whether an output path is a folder: it is there, ends in a slash, or has no suffix."""
    if os.path.isdir(out) or os.fspath(out).endswith("/"):
        return True
    return not Path(out).suffix and not os.path.lexists(out)


@contextmanager
def made(folder: Path, out: str | Path, *, dry_run: bool = False) -> Iterator[None]:
    """`folder` made where `out` is one, and removed again if nothing was written to it."""
    if dry_run or not is_folder(out):
        yield
        return
    with storage.output_folder(folder):
        yield


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


def check_quality(quality: int | None, targets: Sequence[Path]) -> None:
    """Refuse a quality where no output has one.

    Raises:
        InputError: the formats of all outputs are lossless.
    """
    graded = [suffix for suffix, name in formats.SUFFIXES.items() if formats.FORMATS[name].graded]
    if quality is not None and not any(path.suffix.lower() in graded for path in targets):
        raise InputError(
            f"quality: {targets[0].name} has none; write a file of {', '.join(graded)}, or leave "
            "it out"
        )


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist or cannot: reported where it is used
        return False


def lossy(out: Path, quality: int | None = None) -> list[str]:
    """A note where the format that `out` names does not keep known pixels exactly."""
    name = formats.SUFFIXES.get(out.suffix.lower())
    if name != "JPEG" and not (name == "WEBP" and quality is not None):
        return []
    return [
        f"{name} is lossy and changes every pixel a little; PNG and TIFF keep known pixels exactly"
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

    from core.images.pictures import Picture
    from core.images.writing import write_picture
    from core.results.sheet import contact_sheet, to_bytes
    from core.task import Panel

    panels = [Panel(name, {name: to_bytes(x)}) for name, x in views.items()]
    pixels = torch.from_numpy(contact_sheet(panels)).movedim(-1, 0).float() / 127.5 - 1
    write_picture(path, Picture(pixels))


def std_map(found: "Summary") -> "Picture":
    """The standard deviation of draws as grey: black for 0, white for a quarter of the range."""
    from core.images.pictures import Picture

    level = found.std.square().mean(0, keepdim=True).sqrt() / 2 / WHITE
    return Picture(level.clamp(max=1) * 2 - 1)


def print_path(path: Path) -> None:
    """Print the path of a result, one line whatever its name holds."""
    print(one_line(path))


def one_line(path: Path | str) -> str:
    """A path or a name for messages, one line whatever it holds."""
    return printable(f"{path}").replace("\n", "\\n").replace("\t", "\\t")


def print_cost(cost: "Cost", draws: int, file: Path) -> None:
    """Print what a run on a file would cost, in three lines."""
    from core.progress import duration

    (height, width), tile, tiles, name = cost.size, cost.tile, cost.tiles, one_line(file.name)
    print(
        f"{name}: {width}x{height} pixels: {tiles} tiles of {tile}x{tile}, overlap {cost.overlap}"
    )
    print(
        f"{name}: {cost.calls} evaluations for each tile of {draws} draws: "
        f"{cost.calls * tiles * draws} network evaluations"
    )
    print(
        f"{name}: about {duration(cost.seconds)} here, and {cost.memory / 2**20:.0f} MiB beside "
        "the network and one tile"
    )
