"""Image files written whole, with depth, alpha, colour profile and EXIF."""

import io
import os
import struct
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from core.errors import InputError
from core.images import exif
from core.images.formats import FORMATS, SUFFIXES
from core.images.pictures import DESCRIPTIVE, Picture, reason
from core.storage import files


def check_writable(
    path: Path, *, alpha: bool = False, depth: int = 8, size: tuple[int, ...] = ()
) -> str:
    """The format of the suffix of `path`, if it can hold such an image and be written.

    For a check before long work; `write_picture` calls it again.

    Raises:
        InputError: as `check_format`, or a path not writable.
    """
    _check_path(path)
    return check_format(path, alpha=alpha, depth=depth, size=size)


def check_format(
    path: Path, *, alpha: bool = False, depth: int = 8, size: tuple[int, ...] = ()
) -> str:
    """The format of the suffix of `path`, if it can hold such an image; nothing is touched.

    Raises:
        InputError: unknown suffix, or a format that cannot hold the image.
    """
    form = SUFFIXES.get(path.suffix.lower())
    if form is None:
        known = ", ".join(SUFFIXES)
        raise InputError(f"{path}: no format has the suffix {path.suffix!r}; use one of {known}")
    side = max(size, default=0)

    def lacks(name: str) -> list[str]:
        kind = FORMATS[name]
        wanted = (
            ("transparency", alpha and not kind.alpha),
            ("16 bits per channel", depth == 16 and not kind.deep),
            (f"a side of {side} pixels", side > kind.side),
        )
        return [what for what, missing in wanted if missing]

    if lacks(form):
        able = " or ".join(name for name in FORMATS if not lacks(name))
        raise InputError(
            f"{path}: {form} cannot hold {' or '.join(lacks(form))}; write {able} instead"
        )
    return form


def _check_path(path: Path) -> None:
    try:
        if path.is_dir():
            raise InputError(f"{path}: a folder; give the path of a file")
        folder = behind_links(path).parent
        if not folder.is_dir():
            raise InputError(f"{path}: no folder {folder}; create it first")
        # Permissions alone do not tell: a disk may be read-only or full.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written to {path.parent} ({reason(error)}); choose another "
            "folder or name"
        ) from error


def behind_links(path: Path) -> Path:
    """The file that is written for `path`: where it is a link, what it leads to."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def write_picture(
    path: Path, picture: Picture, *, quality: int | None = None, strip: str | None = None
) -> None:
    """Write the image in the format of the suffix of `path`, atomically.

    Lossless for 8 and 16 bits but in JPEG, which has 4:4:4 chroma, and in WebP of a quality.
    WebP, and TIFF at 16 bits with alpha, return grey as RGB.  BMP holds pixels only; a warning
    names what was discarded.  Where `path` is a link, the file that it leads to is written.

    Args:
        path: of the file.
        picture: the image.
        quality: of JPEG, 95 by default, and WebP, lossless by default; others have none.
        strip: ``gps`` leaves out the place, ``all`` all EXIF entries, texts and comments.

    Raises:
        InputError: as `check_writable`, the disk fails, or values are not finite.
    """
    form = check_writable(
        path, alpha=picture.alpha is not None, depth=picture.depth, size=picture.pixels.shape[1:]
    )
    if not picture.pixels.isfinite().all():
        raise InputError(f"{path}: not written; some pixels are NaN or infinite")
    picture = with_metadata(picture, strip)
    graded = FORMATS[form].graded and quality is not None
    saving = _SAVE[form] | (_GRADED[form] | {"quality": quality} if graded else {})
    try:
        with files.replaced(behind_links(path)) as waiting, waiting.open("xb") as file:
            _encode(file, form, picture, path, saving)
    except (OSError, ValueError, OverflowError, RuntimeError, struct.error) as error:
        raise InputError(f"{path}: cannot be written: {reason(error)}") from error


def integers(picture: Picture) -> np.ndarray:
    """(h, w, c) in the image's depth, alpha last."""
    top = 2**picture.depth - 1
    planes = [picture.pixels.clamp(-1, 1).add(1).mul(top / 2)]
    if picture.alpha is not None:
        planes.append(picture.alpha.clamp(0, 1).mul(top))
    values = torch.cat(planes).round().to(torch.int32).movedim(0, -1).cpu().numpy()
    return np.ascontiguousarray(values.astype(np.uint16 if picture.depth == 16 else np.uint8))


def _metadata(form: str, picture: Picture) -> dict[str, Any]:
    """Pillow's arguments for what the format can hold."""
    if form == "BMP":
        return {}
    found: dict[str, Any] = {}
    if picture.icc:
        found["icc_profile"] = picture.icc
    if picture.exif:
        found["exif"] = b"Exif\0\0" + picture.exif
    if picture.dpi:
        found["dpi"] = picture.dpi
    if form == "TIFF" and not picture.exif:  # libtiff, which compresses, takes no EXIF folder
        found["compression"] = "tiff_adobe_deflate"
    if form == "PNG" and picture.text:
        found["pnginfo"] = PngImagePlugin.PngInfo()
        for key, value in picture.text:
            found["pnginfo"].add_text(key, value)
    if form == "JPEG" and (comment := dict(picture.text).get("Comment")):
        found["comment"] = comment
    return found


def with_metadata(picture: Picture, strip: str | None) -> Picture:
    """The image with the EXIF entries and texts of its result."""
    if strip == "all":
        return replace(picture, exif=None, text=())
    height, width = picture.pixels.shape[1:]
    kept = exif.of_result(picture.exif, (width, height), without_place=strip == "gps")
    return replace(picture, exif=kept)


_GRADED: dict[str, dict[str, Any]] = {"JPEG": {}, "WEBP": {"lossless": False}}
_SAVE: dict[str, dict[str, Any]] = {
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True, "exact": True},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "BMP": {},
}


def _encode(
    file: BinaryIO, form: str, picture: Picture, path: Path, saving: dict[str, Any]
) -> None:
    values, metadata = integers(picture), _metadata(form, picture)
    if form == "BMP" and (picture.icc or picture.exif):
        warnings.warn(f"{path}: BMP holds no colour profile or EXIF; discarded", stacklevel=3)
    if picture.depth == 8:
        image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
        image.save(file, form, **saving, **metadata)
    elif form == "PNG":
        _encode_deep_png(file, values, metadata)
    elif values.shape[-1] == 1:
        Image.fromarray(values[..., 0]).save(file, form, **saving, **metadata)
    else:
        _encode_deep_tiff(file, values, picture)


def _encode_deep_png(file: BinaryIO, values: np.ndarray, metadata: dict[str, Any]) -> None:
    import imagecodecs

    planes = values.shape[-1]
    plain = imagecodecs.png_encode(
        np.ascontiguousarray(values[..., 0] if planes == 1 else values),
        level=2,  # on a photograph 1 % larger than level 6, in half the time
        filter=imagecodecs.PNG.FILTER.PAETH,
    )
    signature, header, *pixels = _chunks(bytes(plain))
    file.writelines([signature, header, *_metadata_chunks(planes, metadata), *pixels])


def png_chunks_of(picture: Picture, planes: int) -> list[bytes]:
    """PNG's chunks of an image's metadata, for a file of so many channels."""
    return _metadata_chunks(planes, _metadata("PNG", picture))


def _metadata_chunks(planes: int, metadata: dict[str, Any]) -> list[bytes]:
    # Pillow writes the metadata, onto one pixel of the same kind: a profile must fit the colours.
    marked = io.BytesIO()
    Image.new("L" if planes < 3 else "RGB", (1, 1)).save(marked, "PNG", **metadata)
    own = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
    return [chunk for chunk in _chunks(marked.getvalue())[1:] if chunk[4:8] not in own]


def _chunks(data: bytes) -> list[bytes]:
    """The signature of a PNG, then its chunks: length, kind, body and checksum."""
    pieces, at = [data[:8]], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        pieces.append(data[at:end])
        at = end
    return pieces


def _encode_deep_tiff(file: BinaryIO, values: np.ndarray, picture: Picture) -> None:
    import tifffile

    if values.shape[-1] == 2:  # Pillow identifies no 16-bit grey with alpha
        values = values[..., [0, 0, 0, 1]]
    tifffile.imwrite(file, values, **tiff_tags(picture, values.shape[-1]))


def tiff_tags(picture: Picture, planes: int) -> dict[str, Any]:
    """tifffile's arguments for a deflated image of so many channels and its metadata."""
    tags, found = [], Image.Exif()
    if picture.exif:
        found.load(b"Exif\0\0" + picture.exif)
        tags = [(t, "s", 0, str(found[t]), True) for t in DESCRIPTIVE if t in found and t != 305]
        if found.get_ifd(0x8769) or found.get_ifd(0x8825):
            warnings.warn(
                "a TIFF of 16 bits with colour, or written in stripes, keeps the profile and the "
                "descriptive tags, but not the EXIF and GPS folders; write PNG to keep them",
                stacklevel=5,
            )
    return {
        "photometric": "rgb" if planes > 2 else "minisblack",
        "planarconfig": "contig",
        "compression": "adobe_deflate",
        "extrasamples": ["unassalpha"] if planes in (2, 4) else None,
        "iccprofile": picture.icc,
        "resolution": picture.dpi,
        "resolutionunit": 2 if picture.dpi else None,
        "software": str(found[305]) if 305 in found else False,
        "extratags": tags,
        "metadata": None,
    }
