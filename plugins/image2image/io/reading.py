"""Pictures as files: depth, alpha, colour profile and EXIF survive reading and writing.

Reads and writes PNG, JPEG, TIFF, WebP and BMP; the content decides, not the name.  Not kept: XMP,
PNG's gAMA and cHRM, and the EXIF and GPS folders in a 16-bit colour TIFF (its profile and
descriptive tags are).  16-bit colour PNG is decoded in Python, a second or more per megapixel:
Pillow, which is fast, would silently return 8 bits.
"""

import io
import math
import os
import re
import secrets
import stat
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms, PngImagePlugin
from torch import Tensor

from core.errors import InputError

# Where Pillow begins to warn of decompression bombs; as float32 RGB this is 1 GiB.
MAX_PIXELS = 89_478_485
ORIENTATION = 0x0112
# Make, model, date, artist and the like: what EXIF may take from a TIFF's own table of tags.
DESCRIPTIVE = (270, 271, 272, 305, 306, 315, 33432)


@dataclass(frozen=True, slots=True)
class Format:
    """What a file format can hold.

    Args:
        suffixes: of its files, in lower case.
        alpha: holds transparency.
        deep: holds 16 bits per channel.
        side: the most pixels of a side.
    """

    suffixes: tuple[str, ...]
    alpha: bool
    deep: bool
    side: int = 2**31 - 1


FORMATS = {
    "PNG": Format((".png",), alpha=True, deep=True),
    "TIFF": Format((".tif", ".tiff"), alpha=True, deep=True),
    "WEBP": Format((".webp",), alpha=True, deep=False, side=16383),
    "JPEG": Format((".jpg", ".jpeg", ".jfif"), alpha=False, deep=False, side=65500),
    "BMP": Format((".bmp",), alpha=False, deep=False),
}
SUFFIXES = {suffix: name for name, form in FORMATS.items() for suffix in form.suffixes}


@dataclass(frozen=True)
class Picture:
    """A picture, upright, with what its file said about it.

    Args:
        pixels: in [-1, 1], float32; one channel (grey) or three (RGB).
        alpha: opacity in [0, 1], not multiplied into `pixels`; None if the file has none.
        depth: bits per channel in the file, 8 or 16.
        icc: the colour profile of `pixels`, as bytes.
        exif: a TIFF structure without the ``Exif`` mark, whose orientation is 1.
        dpi: dots per inch, across and down.
        text: PNG's text entries and JPEG's comment, key and value.
        format: a key of `FORMATS`.
        orientation: EXIF's, by which `pixels` were turned from how they lie in the file.
        notes: what reading changed or left out, one sentence each, for the user.
    """

    pixels: Float[Tensor, " c h w"]
    alpha: Float[Tensor, " 1 h w"] | None = None
    depth: int = 8
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: tuple[tuple[str, str], ...] = ()
    format: str = "PNG"
    orientation: int = 1
    notes: tuple[str, ...] = ()


# --- reading ---------------------------------------------------------------------------------


def read(path: Path) -> Picture:
    """The picture in a file, turned upright as its EXIF orientation asks.

    Palettes become RGB, 1-bit becomes grey, a transparent colour becomes alpha.  CMYK becomes sRGB,
    by the file's profile where there is one, and a note says so.  Of a JPEG that holds
    several pictures (MPO) the first is read; animations and TIFFs of several pages are refused.

    Raises:
        InputError: no such file, not a picture in a known format, damaged, or too large.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            what = "a folder" if path.is_dir() else "not a file"
            raise InputError(f"{path}: {what}; give the path of one picture")
        with path.open("rb") as file:
            return _read(file, path)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0]


def _read(file: BinaryIO, path: Path) -> Picture:
    if not file.read(1):
        raise InputError(f"{path}: the file is empty; copy or export the picture again")
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=list(FORMATS)) as image:
                _refuse(image, path)
                return _decode(image, file, path)
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: {_TOO_LARGE}") from error
    except Image.UnidentifiedImageError as error:
        raise InputError(
            f"{path}: not a picture that can be read; give a {', '.join(FORMATS)} file"
            " with 8 or 16 bits per channel"
        ) from error
    except Exception as error:  # decoders meet hostile bytes with any exception there is
        raise InputError(
            f"{path}: damaged or cut off ({_reason(error)}); copy or export the picture again"
        ) from error


_TOO_LARGE = f"has more than {MAX_PIXELS / 1e6:.0f} million pixels; cut it into smaller pictures"
_KNOWN_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")


def _refuse(image: Image.Image, path: Path) -> None:
    """Everything the header is enough to refuse, before any pixel is decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"{path}: {_TOO_LARGE}")
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and image.format != "MPO":
        raise InputError(f"{path}: holds {pages} pictures; save the one you want as its own file")
    bits = _tiff_bits(image)
    if image.mode not in (*_KNOWN_MODES, "I;16", "I;16B", "I;16L") or bits not in (1, 2, 4, 8, 16):
        raise InputError(
            f"{path}: pixels of kind {image.mode}, {bits} bits, cannot be used;"
            " save it as grey or RGB with 8 or 16 bits per channel"
        )


def _tiff_bits(image: Image.Image) -> int:
    bits = getattr(image, "tag_v2", {}).get(258, (1,))
    return max(bits) if image.format == "TIFF" else 8


def _decode(image: Image.Image, file: BinaryIO, path: Path) -> Picture:
    form = "JPEG" if image.format == "MPO" else str(image.format)
    notes: list[str] = []
    if form != image.format:
        notes.append("the file holds several pictures; the first was read")
    orientation, exif = _exif_of(image, notes)
    image.load()
    icc = image.info.get("icc_profile") or None
    dpi, text = _dpi(image.info.get("dpi")), _text(image)  # conversions below drop both
    file.seek(24)
    deep = file.read(1) == b"\x10" if form == "PNG" else _tiff_bits(image) == 16
    if not deep:
        image, icc = _plain(image, icc, notes)
        values = np.asarray(image)
    elif image.mode.startswith("I;16") and "transparency" not in image.info:
        values = np.asarray(image).astype(np.uint16)
        if getattr(image, "tag_v2", {}).get(262) == 0:
            values = 65535 - values  # Pillow leaves "white is zero" as it is at 16 bits
    else:
        values = _deep_png(file, path) if form == "PNG" else _deep_tiff(file, path, image.size)
    if form == "TIFF" and not (deep and values.ndim == 3):
        orientation = 1  # Pillow has turned it
    values = upright(values[..., None] if values.ndim == 2 else values, orientation)
    scaled = torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, -1, 0)).astype(np.float32))
    scaled.div_(65535 if deep else 255)
    colours = 1 if len(scaled) < 3 else 3
    return Picture(
        pixels=scaled[:colours].mul(2).sub_(1),
        alpha=scaled[colours:].clone() if len(scaled) > colours else None,
        depth=16 if deep else 8,
        icc=icc,
        exif=exif,
        dpi=dpi,
        text=text,
        format=form,
        orientation=orientation,
        notes=tuple(notes),
    )


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Rows and columns (h, w, ...) turned as EXIF's orientation 1 to 8 asks; else unchanged."""
    match orientation:
        case 2:
            return values[:, ::-1]
        case 3:
            return values[::-1, ::-1]
        case 4:
            return values[::-1]
        case 5:
            return values.swapaxes(0, 1)
        case 6:
            return np.rot90(values, -1)
        case 7:
            return values[::-1, ::-1].swapaxes(0, 1)
        case 8:
            return np.rot90(values)
    return values


def turned(x: Float[Tensor, " c h w"], orientation: int) -> Float[Tensor, " c y x"]:
    """A picture turned upright, as EXIF's orientation asks."""
    rows = upright(x.movedim(0, -1).numpy(), orientation)
    return torch.from_numpy(np.ascontiguousarray(rows)).movedim(-1, 0)


def as_stored(picture: Picture) -> Float[Tensor, " c h w"]:
    """The picture's pixels as they lie in its file."""
    return turned(picture.pixels, {6: 8, 8: 6}.get(picture.orientation, picture.orientation))


def _exif_of(image: Image.Image, notes: list[str]) -> tuple[int, bytes | None]:
    """The orientation, and EXIF that says 1.  Everything else in it stays byte for byte."""
    try:
        found = image.getexif()
        orientation = int(found.get(ORIENTATION, 1))
        raw = image.info.get("exif")
        if raw is None and len(found):
            kept = Image.Exif()
            for tag in DESCRIPTIVE if image.format == "TIFF" else list(found):
                if tag in found:
                    kept[tag] = found[tag]
            for folder in (0x8769, 0x8825):
                if entries := found.get_ifd(folder):
                    kept.get_ifd(folder).update(entries)
            raw = kept.tobytes() if len(kept) or kept.get_ifd(0x8769) else None
        return orientation, _reset(raw.removeprefix(b"Exif\0\0")) if raw else None
    except Exception:  # noqa: BLE001  (a picture is worth more than its damaged EXIF)
        notes.append("the EXIF entries are damaged and were left out")
        return 1, None


def _reset(exif: bytes) -> bytes:
    """The TIFF structure with its orientation set to 1 in place."""
    order = {b"II": "<", b"MM": ">"}[exif[:2]]
    (start,) = struct.unpack_from(order + "I", exif, 4)
    (count,) = struct.unpack_from(order + "H", exif, start)
    changed = bytearray(exif)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from(order + "H", exif, entry)[0] == ORIENTATION:
            struct.pack_into(order + "HIHH", changed, entry + 2, 3, 1, 1, 0)
    return bytes(changed)


def _dpi(said: Any) -> tuple[float, float] | None:
    try:
        across, down = map(float, said)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    known = all(math.isfinite(value) and 0 < value < 65536 for value in (across, down))
    return (across, down) if known else None


def _text(image: Image.Image) -> tuple[tuple[str, str], ...]:
    if "comment" in image.info and isinstance(image.info["comment"], bytes):
        return (("Comment", image.info["comment"].decode("utf-8", "replace")),)
    # "Raw profile type exif" and XMP would bring an old orientation back.
    return tuple(
        (key, str(value))
        for key, value in getattr(image, "text", {}).items()
        if not re.match(r"Raw profile|XML:com\.adobe", key)
    )


def _plain(
    image: Image.Image, icc: bytes | None, notes: list[str]
) -> tuple[Image.Image, bytes | None]:
    """8 bits as L, LA, RGB or RGBA, with the profile that now holds."""
    if image.mode == "CMYK":
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc or b""))
            turned = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
            notes.append("converted from CMYK to sRGB by the file's colour profile")
            return turned or image, srgb.tobytes()
        except (ImageCms.PyCMSError, OSError):
            notes.append("converted from CMYK without a colour profile; colours are approximate")
            return image.convert("RGB"), None
    clear = "transparency" in image.info
    if image.mode in ("1", "L"):
        return image.convert("LA" if clear else "L"), icc
    if image.mode in ("LA", "La"):
        return image.convert("LA"), icc
    return image.convert("RGBA" if clear or image.mode in ("PA", "RGBA", "RGBa") else "RGB"), icc


def _bounded(pieces: Iterable[bytes], limit: int) -> None:
    """Refuse deflated data that swells past `limit` bytes; the decoders would swallow all of it."""
    inflate, total = zlib.decompressobj(), 0
    for piece in pieces:
        while piece and not inflate.eof:
            total += len(inflate.decompress(piece, 1 << 20))
            piece = inflate.unconsumed_tail
            if total > limit:
                raise ValueError("more pixels than the header says")


def _deep_png(file: BinaryIO, path: Path) -> np.ndarray:
    import png

    file.seek(0)
    reader = png.Reader(file=file)
    reader.preamble()
    row = reader.width * reader.planes * 2
    file.seek(0)
    data = (body for kind, body in png.Reader(file=file).chunks() if kind == b"IDAT")
    _bounded(data, 2 * reader.height * (row + 1) + 4096)
    file.seek(0)
    width, height, rows, info = png.Reader(file=file).read()
    values = np.stack([np.asarray(line, np.uint16) for line in rows])
    values = values.reshape(height, width, info["planes"])
    if "transparent" in info:
        hidden = (values == np.asarray(info["transparent"], np.uint16)).all(-1, keepdims=True)
        values = np.concatenate([values, np.where(hidden, 0, 65535).astype(np.uint16)], -1)
    return values


def _deep_tiff(file: BinaryIO, path: Path, size: tuple[int, int]) -> np.ndarray:
    import tifffile

    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page: Any = tiff.pages[0]
        samples = page.samplesperpixel
        if page.compression not in (1, 8, 32946):
            raise InputError(
                f"{path}: 16-bit TIFF compressed in way {int(page.compression)} cannot be read;"
                " save it uncompressed or with ZIP (deflate)"
            )
        if page.photometric != 2 or samples not in (3, 4) or 1 in page.extrasamples:
            raise InputError(
                f"{path}: 16-bit TIFF with {samples} channels of kind {int(page.photometric)}"
                " cannot be used; save it as RGB with at most one alpha, not premultiplied"
            )
        wide, high = page.imagewidth, page.imagelength
        if sorted((wide, high)) != sorted(size) or page.dtype != np.uint16:
            raise ValueError("its header contradicts itself")
        if page.compression != 1:
            piece = math.prod(page.chunks) * 2 * samples
            for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                file.seek(start)
                _bounded([file.read(count)], piece)
        values = page.asarray()
    return np.moveaxis(values, 0, -1) if page.planarconfig == 2 else values


# --- writing ---------------------------------------------------------------------------------


def check_writable(
    path: Path, *, alpha: bool = False, depth: int = 8, size: tuple[int, ...] = ()
) -> str:
    """The format that `path` names, if a picture of that kind and size can be written there.

    Call it before long work; `write` calls it again.

    Raises:
        InputError: unknown suffix, a format that cannot hold the picture, or no place to write.
    """
    _check_place(path)
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


def _check_place(path: Path) -> None:
    try:
        if path.is_dir():
            raise InputError(f"{path}: a folder; give the path of a file")
        if not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.parent}; make it first")
        # Permissions alone do not tell: a disk may be read-only or full.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written to {path.parent} ({_reason(error)}); choose another "
            "folder or name"
        ) from error


def write(path: Path, picture: Picture) -> None:
    """Write the picture in the format that the suffix of `path` names: whole, or not at all.

    Exact for 8 and 16 bits but in JPEG, which is written with quality 95 and full chroma.
    WebP, and TIFF at 16 bits with alpha, return grey as RGB.  BMP holds pixels only; a warning
    says what was left out.

    Raises:
        InputError: as `check_writable`, or the disk refuses, or values are not finite.
    """
    form = check_writable(
        path, alpha=picture.alpha is not None, depth=picture.depth, size=picture.pixels.shape[1:]
    )
    if not picture.pixels.isfinite().all():
        raise InputError(f"{path}: not written, as some of its pixels are not finite numbers")
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(part, "xb") as file:
            _encode(file, form, picture, path)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, ValueError, OverflowError, RuntimeError, struct.error) as error:
        raise InputError(f"{path}: cannot be written: {_reason(error)}") from error
    finally:
        part.unlink(missing_ok=True)


def _integers(picture: Picture) -> np.ndarray:
    """(h, w, c) in the picture's depth, alpha last."""
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


_SAVE: dict[str, dict[str, Any]] = {
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True, "exact": True},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "BMP": {},
}


def _encode(file: BinaryIO, form: str, picture: Picture, path: Path) -> None:
    values, metadata = _integers(picture), _metadata(form, picture)
    if form == "BMP" and (picture.icc or picture.exif):
        warnings.warn(f"{path}: BMP holds no colour profile or EXIF; left out", stacklevel=3)
    if picture.depth == 8:
        image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
        image.save(file, form, **_SAVE[form], **metadata)
    elif form == "PNG":
        _encode_deep_png(file, values, metadata)
    elif values.shape[-1] == 1:
        Image.fromarray(values[..., 0]).save(file, form, **_SAVE[form], **metadata)
    else:
        _encode_deep_tiff(file, values, picture)


def _encode_deep_png(file: BinaryIO, values: np.ndarray, metadata: dict[str, Any]) -> None:
    import png

    height, width, planes = values.shape
    plain, marked = io.BytesIO(), io.BytesIO()
    writer = png.Writer(width, height, greyscale=planes < 3, alpha=planes in (2, 4), bitdepth=16)
    writer.write_packed(plain, (row.astype(">u2").tobytes() for row in values))
    # Pillow writes the metadata, onto one pixel of the same kind: a profile must fit the colours.
    Image.new("L" if planes < 3 else "RGB", (1, 1)).save(marked, "PNG", **metadata)
    ours, theirs = (list(png.Reader(bytes=b.getvalue()).chunks()) for b in (plain, marked))
    extra = [chunk for chunk in theirs if chunk[0] not in (b"IHDR", b"PLTE", b"IDAT", b"IEND")]
    png.write_chunks(file, [ours[0], *extra, *ours[1:]])


def _encode_deep_tiff(file: BinaryIO, values: np.ndarray, picture: Picture) -> None:
    import tifffile

    if values.shape[-1] == 2:  # Pillow identifies no 16-bit grey with alpha
        values = values[..., [0, 0, 0, 1]]
    tags, exif = [], Image.Exif()
    if picture.exif:
        exif.load(b"Exif\0\0" + picture.exif)
        tags = [(t, "s", 0, str(exif[t]), True) for t in DESCRIPTIVE if t in exif and t != 305]
        if exif.get_ifd(0x8769) or exif.get_ifd(0x8825):
            warnings.warn(
                "a 16-bit colour TIFF keeps the profile and the descriptive tags, but not the"
                " EXIF and GPS folders; write PNG to keep them",
                stacklevel=4,
            )
    tifffile.imwrite(
        file,
        values,
        photometric="rgb",
        compression="adobe_deflate",
        extrasamples=["unassalpha"] if values.shape[-1] == 4 else None,
        iccprofile=picture.icc,
        resolution=picture.dpi,
        resolutionunit=2 if picture.dpi else None,
        software=str(exif[305]) if 305 in exif else False,
        extratags=tags,
        metadata=None,
    )
