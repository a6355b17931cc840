"""What the commands share: options, names of results, contact sheets, estimates, and their run."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from core.denoiser.tiles import Estimate
    from core.request import Emit
    from plugins.image2image.inference.draws import Summary
    from plugins.image2image.inference.subject import Subject
    from plugins.image2image.io.pictures import Picture

SHEET_SIDE = 512  # of a picture on the contact sheet, in pixels
UNSURE = 0.25  # share of the range whose deviation is white on a map


@runtime_checkable
class Restorer(Protocol):
    """What draws pictures of pictures: a predictor, asked draw by draw."""

    about: dict[str, Any]

    @staticmethod
    def result_name(name: str) -> str: ...

    def subject(self, photo: Path, picture: "Picture") -> "Subject": ...

    def draws(self, subject: "Subject", count: int, *, emit: "Emit") -> "Iterator[Tensor]": ...

    def takes(self, subject: "Subject", count: int) -> "list[Estimate]": ...


@dataclass(frozen=True)
class Order:
    """One command on some pictures; the fields are the options of that name."""

    command: str
    photos: list[Path]
    out: Path
    samples: int
    mean_of: int
    deviation: Path | None
    dry_run: bool
    record: bool

    @property
    def draws(self) -> int:
        """How many of each picture."""
        return max(self.samples, self.mean_of)

    def run(
        self,
        load: Callable[[], Restorer],
        *,
        name: Callable[[str], str] = str,
        reads: Sequence[Path | None] = (),
        exact: bool = False,
    ) -> None:
        """Draw, write and say where; or say what that would take.

        Args:
            load: the model.
            name: of a picture's result in a folder.
            reads: other files that are read, which no result may replace.
            exact: say so where a format does not keep what is known of a picture.

        Raises:
            InputError: what was asked does not fit together, a picture that cannot be used, or no
                place to write; all is found before the first draw.
        """
        self._check()
        jobs = targets(self.photos, self.out, name)
        places = [
            place
            for _, target in jobs
            for place in written(target, self.samples, record=self.record)
        ]
        check_kept([*places, *filter(None, [self.deviation])], [*self.photos, *reads])
        restorer, subject = load(), None
        for photo, target in jobs:
            subject = self._subject(restorer, photo, target)
        for photo, target in jobs:
            if subject is None or len(jobs) > 1:
                subject = self._subject(restorer, photo, target)
            for note in (*subject.picture.notes, *(lossy(target) if exact else ())):
                print(f"{photo.name}: {note}", file=sys.stderr)
            if self.dry_run:
                for takes in restorer.takes(subject, self.draws):
                    say(takes, self.draws)
            else:
                self._draw(restorer, subject, photo, target)

    def _check(self) -> None:
        if self.samples > 1 and self.mean_of > 1:
            raise InputError("samples, mean_of: draws are written or averaged; leave one of them")
        if self.deviation is not None and self.draws < 2:
            raise InputError(
                "deviation: one draw says nothing of what is not certain; give --samples or "
                "--mean-of of at least 2"
            )
        if self.deviation is not None and len(self.photos) > 1:
            raise InputError("deviation: names one map, for one picture; restore them one by one")

    def _subject(self, restorer: Restorer, photo: Path, target: Path) -> "Subject":
        from plugins.image2image.io.reading import read_picture
        from plugins.image2image.io.writing import check_writable

        subject = restorer.subject(photo, read_picture(photo))
        subject.check_writable(target)
        if self.deviation is not None:
            check_writable(self.deviation, size=subject.result)
        return subject

    def _draw(self, restorer: Restorer, subject: "Subject", photo: Path, target: Path) -> None:
        from core.progress import listener
        from plugins.image2image.inference.draws import summary
        from plugins.image2image.io.writing import write_picture

        places, views = numbered(target, self.samples), {"given": thumbnail(subject.shown)}
        with listener(f"{self.command} {photo.name}") as emit:
            draws = restorer.draws(subject, self.draws, emit=emit)
            if self.samples > 1:
                draws = self._each(draws, subject, places, views)
            found = summary(draws)
        if self.samples == 1:
            write_picture(target, subject.finish(found.mean))
            print(target)
        else:
            write_sheet(beside(target, "-sheet.png"), views)
            print(beside(target, "-sheet.png"))
        if self.deviation is not None:
            write_picture(self.deviation, deviation_map(found))
            print(self.deviation)
        if self.record:
            self._write_record(restorer, photo, target)

    def _each(
        self,
        draws: "Iterator[Tensor]",
        subject: "Subject",
        places: list[Path],
        views: "dict[str, Tensor]",
    ) -> "Iterator[Tensor]":
        """The draws, each written on its way."""
        from plugins.image2image.io.writing import write_picture

        for place, found in zip(places, draws, strict=True):
            write_picture(place, subject.finish(found))
            print(place)
            views[f"sample {len(views)}"] = thumbnail(found)
            yield found

    def _write_record(self, restorer: Restorer, photo: Path, target: Path) -> None:
        from core.storage.files import digest, write_json

        said = {
            "command": self.command,
            "input": photo.name,
            "input_sha256": digest(photo),
            "results": [place.name for place in numbered(target, self.samples)],
            **restorer.about,
            "samples": self.samples,
            "mean_of": self.mean_of,
        }
        write_json(beside(target, ".json"), said)


# --- names -------------------------------------------------------------------------------------


def targets(
    photos: list[Path], out: Path, name: Callable[[str], str] = str
) -> list[tuple[Path, Path]]:
    """Which file each picture is written to.

    Args:
        photos: what is read.
        out: a file for one picture, a folder for several.
        name: of a picture's result in a folder.

    Raises:
        InputError: several pictures for one file.
    """
    folder = os.path.isdir(out)  # unlike pathlib's, false where no such name can be
    if len(photos) == 1 and not folder:
        return [(photos[0], out)]
    if not folder and (out.suffix or os.path.isfile(out)):
        raise InputError(f"{out}: {len(photos)} pictures need a folder; give one with -o")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made: {error.strerror}") from error
    found = [out / name(photo.name) for photo in photos]
    doubled = sorted({str(target) for target in found if found.count(target) > 1})
    if doubled:
        raise InputError(f"{doubled[0]}: two pictures of that name; do them one by one")
    return list(zip(photos, found, strict=True))


def numbered(target: Path, samples: int) -> list[Path]:
    """The file itself, or with several samples name-1, name-2 ..."""
    if samples == 1:
        return [target]
    return [beside(target, f"-{k + 1}{target.suffix}") for k in range(samples)]


def written(target: Path, samples: int, *, record: bool) -> list[Path]:
    """Every file that comes of one picture."""
    sheet = [beside(target, "-sheet.png")] if samples > 1 else []
    return [*numbered(target, samples), *sheet, *([beside(target, ".json")] if record else [])]


def beside(target: Path, end: str) -> Path:
    """A file of the same name with another end."""
    return target.with_name(target.stem + end)


def check_kept(places: Sequence[Path], read: Sequence[Path | None]) -> None:
    """Refuse to write over what is read, or twice to one place.

    Raises:
        InputError: a place is one of the files, or named twice.
    """
    for place in places:
        for source in filter(None, read):
            if _same(place, source):
                raise InputError(f"{place}: would replace {source} itself; choose another name")
    found = [os.path.realpath(place) for place in places]
    doubled = [place for place, whole in zip(places, found, strict=True) if found.count(whole) > 1]
    if doubled:
        raise InputError(f"{doubled[0]}: would be written twice; choose other names")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there, or is no possible name: said where it is used
        return False


def lossy(out: Path) -> list[str]:
    """A sentence where the format that `out` names does not keep what is known."""
    from plugins.image2image.io.pictures import SUFFIXES

    if SUFFIXES.get(out.suffix.lower()) != "JPEG":
        return []
    return ["JPEG changes every pixel a little; PNG and TIFF keep what is known exactly"]


# --- pictures and words ------------------------------------------------------------------------


def thumbnail(x: "Tensor") -> "Tensor":
    """A picture (c, h, w) reduced to at most 512 pixels a side."""
    from torch.nn import functional as F

    height, width = x.shape[-2:]
    share = min(1.0, SHEET_SIDE / max(height, width))
    size = (max(1, round(height * share)), max(1, round(width * share)))
    return F.interpolate(x[None], size, mode="bicubic", antialias=True)[0]


def write_sheet(path: Path, views: "dict[str, Tensor]") -> None:
    """Small pictures in [-1, 1] side by side."""
    import torch

    from core.results.sheet import contact_sheet, to_bytes
    from core.task import Panel
    from plugins.image2image.io.pictures import Picture
    from plugins.image2image.io.writing import write_picture

    panels = [Panel(name, {name: to_bytes(x)}) for name, x in views.items()]
    pixels = torch.from_numpy(contact_sheet(panels)).movedim(-1, 0).float() / 127.5 - 1
    write_picture(path, Picture(pixels))


def deviation_map(found: "Summary") -> "Picture":
    """The deviation of draws as grey: black for none, white for a quarter of the range or more."""
    from plugins.image2image.io.pictures import Picture

    share = found.deviation.square().mean(0, keepdim=True).sqrt() / 2 / UNSURE
    return Picture(share.clamp(max=1) * 2 - 1)


def say(takes: "Estimate", draws: int) -> None:
    """What a command would take, in three lines."""
    from core.progress import duration

    (height, width), tile, tiles = takes.size, takes.tile, takes.tiles
    print(f"{width}x{height} pixels: {tiles} tiles of {tile}x{tile} that share {takes.overlap}")
    print(
        f"{takes.calls} evaluations for each of {draws} draws: "
        f"{takes.calls * tiles * draws} of the network"
    )
    print(
        f"about {duration(takes.seconds)} here, and {takes.memory / 2**20:.0f} MiB beside "
        "the network and one tile"
    )
