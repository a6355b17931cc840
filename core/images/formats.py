"""Formats of image files by suffix: which are read and written, and names of results."""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from core.errors import InputError


@dataclass(frozen=True, slots=True)
class Format:
    """Capabilities of a file format that is written.

    Args:
        suffixes: its file suffixes, in lower case; the first is that of new names.
        alpha: whether it holds transparency.
        deep: whether it holds 16 bits per channel.
        graded: whether it has a quality.
        side: largest side in pixels.
    """

    suffixes: tuple[str, ...]
    alpha: bool
    deep: bool
    graded: bool = False
    side: int = 2**31 - 1


FORMATS = {
    "PNG": Format((".png",), alpha=True, deep=True),
    "TIFF": Format((".tif", ".tiff"), alpha=True, deep=True),
    "WEBP": Format((".webp",), alpha=True, deep=False, graded=True, side=16383),
    "JPEG": Format((".jpg", ".jpeg", ".jfif"), alpha=False, deep=False, graded=True, side=65500),
    "BMP": Format((".bmp",), alpha=False, deep=False),
}
SUFFIXES = {suffix: name for name, form in FORMATS.items() for suffix in form.suffixes}
READ_ONLY = {"HEIC": (".heic", ".heif", ".hif"), "AVIF": (".avif",)}
READ = (*SUFFIXES, *(suffix for suffixes in READ_ONLY.values() for suffix in suffixes))
"""Suffixes of files that are read."""
LOSSLESS = tuple(suffix for name in ("PNG", "TIFF", "WEBP") for suffix in FORMATS[name].suffixes)
_RAW = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef"),
    *(".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".sr2", ".srf"),
    *(".srw", ".x3f"),
)
DEVELOP = "a camera's raw file; develop it in a raw converter to 16-bit TIFF or PNG"
UNREAD = {
    **{
        suffix: f"{suffix} is not read; convert it to PNG or JPEG"
        for suffix in (".gif", ".jp2", ".jxl", ".psd", ".svg", ".exr", ".hdr", ".tga", ".ppm",
                       ".xcf", ".apng")
    },
    **{suffix: f"{suffix} is {DEVELOP}" for suffix in _RAW},
}  # fmt: skip
"""Suffixes of image files that are not read, with the reason."""


# --- names of results ----------------------------------------------------------------------------


def check_template(template: str | None) -> None:
    """Refuse a template that names no file in a folder.

    Raises:
        InputError: a field other than ``{stem}`` and ``{name}``, or a text that is no file name.
    """
    if template is None:
        return
    try:
        fields = [
            (field, spec, conversion)
            for _, field, spec, conversion in string.Formatter().parse(template)
            if field is not None
        ]
    except ValueError as error:
        raise InputError(f"name: {template!r}: {error}; write {_EXAMPLE}") from error
    if any(field not in ("stem", "name") or spec or turned for field, spec, turned in fields):
        raise InputError(
            f"name: {template!r}: expected the fields {{stem}} and {{name}} only; write {_EXAMPLE}"
        )
    filled = template.format(stem="a", name="a.png")
    if "/" in filled or not filled.isprintable() or not filled.strip() or filled[0] == ".":
        raise InputError(
            f"name: {template!r}: expected a visible file name without folders; write {_EXAMPLE}"
        )


_EXAMPLE = "{stem}_x4, where {stem} is the input's name without its suffix"


def output_name(name: str, options: Mapping[str, Any], *, lossless: bool = False) -> str:
    """The name of a result in a folder.

    By default the input's name.  Where its format is not written, or is lossy and `lossless` is
    asked for, ``.png`` is appended, so that a.jpg and a.png do not meet.

    Args:
        name: of the input file.
        options: ``format`` and ``file_name`` of `plugins.image2image.request.OutputOptions`.
        lossless: whether JPEG and BMP become PNG.

    Raises:
        InputError: as `check_template`.
    """
    template, chosen = options.get("file_name"), options.get("format")
    check_template(template)
    path = PurePath(name)
    stem, suffix = path.stem, path.suffix
    kept = LOSSLESS if lossless else SUFFIXES
    if chosen is not None:
        suffixes = FORMATS[chosen.upper()].suffixes
        ending, base = (suffix if suffix.lower() in suffixes else suffixes[0]), stem
    elif suffix.lower() in kept:
        ending, base = suffix, stem
    else:
        ending, base = ".png", name
    return (base if template is None else template.format(stem=stem, name=name)) + ending


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options of results that exclude each other.

    Raises:
        InputError: a quality for a format that has none, or as `check_template`.
    """
    check_template(options.get("file_name"))
    chosen = options.get("format")
    if options.get("quality") is not None and chosen and not FORMATS[chosen.upper()].graded:
        raise InputError(f"quality: {chosen} has none; leave it out, or set format to jpeg or webp")
