"""Image files read exactly: depth, alpha, colour profile and EXIF survive.

Reads PNG, JPEG, TIFF, WebP, BMP, HEIC and AVIF; the content decides, not the name.  Not kept: XMP,
thumbnails, PNG's gAMA and cHRM, and the EXIF and GPS folders in a 16-bit colour TIFF (its profile
and descriptive tags are).  16-bit colour is decoded by imagecodecs, since Pillow would silently
return 8 bits.
"""

import io
import math
import os
import re
import stat
import struct
import threading
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms, TiffImagePlugin
from torch import Tensor

from core.errors import InputError
from core.images import exif, heif
from core.images.exif import ORIENTATION
from core.images.formats import DEVELOP, FORMATS, READ_ONLY, UNREAD
from core.images.pictures import DESCRIPTIVE, Picture, reason, upright
from core.storage import jpeg_scans, memory
from core.storage.limited_process import BYTES_PER_PIXEL

# Of an image of any size that the free memory holds: 3 GiB as float32 RGB, and a four-fold
# enlargement of a camera's 16 megapixels.
MAX_PIXELS = 2**28
_HEADER = threading.Lock()  # Pillow's own limit is a global variable


def read_picture(path: Path) -> Picture:
    """The image in a file, with its EXIF orientation applied.

    Palettes become RGB, 1-bit becomes grey, a transparent colour becomes alpha.  CMYK becomes sRGB,
    by the file's profile where there is one, and a note says so.  Of a JPEG that holds
    several images (MPO) the first is read; animations and TIFFs of several pages are refused.

    Raises:
        InputError: no such file, not an image in a known format, damaged, too large, or a JPEG of
            too many scans.
        NotEnough: the memory that is free now does not hold it.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a folder" if path.is_dir() else "not a file"
            raise InputError(f"{path}: {kind}; give the path of one image")
        with path.open("rb") as file:
            return _read(file, path)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error


def _read(file: BinaryIO, path: Path) -> Picture:
    if not file.read(1):
        raise InputError(f"{path}: the file is empty; copy or export the image again")
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            head = file.read(_HEAD)
            file.seek(0)
            if kind := heif.kind_of(head):
                return _boxed(file, path, kind)
            with opened(file) as image:
                _refuse(image, path)
                _refuse_scans(image, file, path)
                return _decode(image, file, path)
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: {_TOO_LARGE}") from error
    except Image.UnidentifiedImageError as error:
        if known := UNREAD.get(path.suffix.lower()):
            raise InputError(f"{path}: {known}") from error
        raise InputError(
            f"{path}: not an image that can be read; give a {', '.join((*FORMATS, *READ_ONLY))} "
            "file with 8 or 16 bits per channel"
        ) from error
    except Exception as error:  # decoders raise any exception on hostile bytes
        raise InputError(
            f"{path}: damaged or cut off ({reason(error)}); copy or export the image again"
        ) from error


def opened(file: BinaryIO) -> Image.Image:
    """The image with its header read, up to our limit instead of Pillow's of 89 million pixels."""
    with _HEADER:
        kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS
        try:
            return Image.open(file, formats=list(FORMATS))
        finally:
            Image.MAX_IMAGE_PIXELS = kept


def _boxed(file: BinaryIO, path: Path, kind: str) -> Picture:
    """The image in a HEIC or AVIF file."""
    size = os.fstat(file.fileno()).st_size
    most = min(MAX_PIXELS, max(0, memory.free() - 3 * size) // BYTES_PER_PIXEL)
    try:
        found = heif.decode(file.read(), kind, most)
    except heif.Refused as error:
        raise InputError(f"{path}: {error}") from error
    if math.prod(found.size) > MAX_PIXELS:
        raise InputError(f"{path}: {_TOO_LARGE}")
    if kind == "AVIF" and found.images > 1:
        raise InputError(_several(path, found.images))
    _check_memory(path, found.size, BYTES_PER_PIXEL)
    assert found.values is not None, "it fits into memory"
    notes = [f"the file holds {found.images} images; the first was read"] * (found.images > 1)
    orientation, entries = _upright_exif(found.exif, notes)
    # In HEIC the decoder has turned it, whatever EXIF says; in AVIF Pillow has made EXIF say it.
    orientation = orientation if kind == "AVIF" else 1
    values = upright(found.values, orientation)
    colours = 1 if values.shape[-1] < 3 else 3
    pixels = _scaled(values[..., :colours], found.bits)
    alpha = _scaled(values[..., colours:], found.bits) if found.alpha else None
    if alpha is not None and found.premultiplied:
        pixels = pixels.div_(alpha.clamp(min=1 / 65535)).clamp_(0, 1)
    return Picture(
        pixels=pixels.mul_(2).sub_(1),
        alpha=alpha,
        depth=8 if found.bits == 8 else 16,
        icc=found.icc or None,
        exif=entries,
        format=kind,
        orientation=orientation,
        notes=tuple(notes),
    )


_HEAD = 256  # bytes of a file by which it is told what it is
_TOO_LARGE = f"has more than {MAX_PIXELS / 1e6:.0f} million pixels; cut it into smaller images"
# None, LZW, deflate, PackBits, LZMA and Zstandard: streams of bytes, without a size of their own.
_TIFF_STREAMS = (1, 5, 8, 32773, 32946, 34925, 50000)
_TIFF_PIECE = 2048 * 2048  # pixels of a strip or tile, also of a smaller image
_KNOWN_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")


def _refuse(image: Image.Image, path: Path) -> None:
    """Refuse by the header, before any pixel is decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"{path}: {_TOO_LARGE}")
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and image.format != "MPO":
        raise InputError(_several(path, pages))
    if image.format == "TIFF":
        _refuse_raw(image, path)
    bits = _tiff_bits(image)
    if image.mode not in (*_KNOWN_MODES, "I;16", "I;16B", "I;16L") or bits not in (1, 2, 4, 8, 16):
        raise InputError(
            f"{path}: pixels of mode {image.mode} with {bits} bits are not supported;"
            " save it as grey or RGB with 8 or 16 bits per channel"
        )

    # Integers of the file and of Pillow's image, copies of them, and float32.
    channels = 4 if image.mode in ("P", "PA") else len(image.getbands())
    _check_memory(path, image.size, 8 + (bits > 8) * 8 + 5 * channels)


def _several(path: Path, images: int) -> str:
    return f"{path}: holds {images} images; save the one you want as its own file"


def _check_memory(path: Path, size: tuple[int, int], each: int) -> None:
    needed = math.prod(size) * each
    memory.check(
        needed,
        f"{path}: has {size[0]} x {size[1]} pixels, {needed / 2**30:.1f} GiB in memory",
        "cut it into smaller images, or use a machine with more memory",
        free=memory.free(),
    )


def _refuse_raw(image: Any, path: Path) -> None:
    """Refuse a TIFF whose first image is the preview of another, as in cameras' raw files.

    Source: TIFF 6.0, NewSubfileType and SubfileType; Adobe DNG 1.7, DNGVersion.
    """
    tags, size = image.tag_v2, f"{image.width} x {image.height}"
    larger = any(math.prod(inner) > math.prod(image.size) for inner in _inner_sizes(image))
    if larger or _DNG_VERSION in tags or tags.get(262) in (_COLOUR_FILTER, _LINEAR_RAW):
        raise InputError(f"{path}: {DEVELOP}; its first image, {size}, is a preview")
    if int(tags.get(_NEW_SUBFILE, 0)) & 1 or tags.get(_OLD_SUBFILE) == 2:
        raise InputError(
            f"{path}: its first image, {size}, is marked as a reduced copy of another; save that "
            "one as its own file"
        )


def _inner_sizes(image: Any) -> list[tuple[int, int]]:
    """Sizes of the images inside the first one; cameras' and pyramids' are few."""
    offsets, found = image.tag_v2.get(_SUB_IFDS, ()), []
    image.fp.seek(0)
    head = image.fp.read(16)
    head = head[: 16 if head[2] == 43 else 8]  # of BigTIFF it is longer
    for offset in (offsets if isinstance(offsets, tuple) else (offsets,))[:_MOST_INNER]:
        inner = TiffImagePlugin.ImageFileDirectory_v2(head)
        image.fp.seek(offset)
        inner.load(image.fp)
        found.append((int(inner.get(256, 0)), int(inner.get(257, 0))))
    return found


# Tags of TIFF, and photometric interpretations of raw files.
_NEW_SUBFILE, _OLD_SUBFILE, _SUB_IFDS, _DNG_VERSION = 254, 255, 330, 50706
_COLOUR_FILTER, _LINEAR_RAW = 32803, 34892
_MOST_INNER = 16


def _refuse_scans(image: Image.Image, file: BinaryIO, path: Path) -> None:
    if image.format not in ("JPEG", "MPO"):
        return
    at = file.tell()
    file.seek(0)
    problem = jpeg_scans.problem(file.read())
    file.seek(at)
    if problem:
        raise InputError(f"{path}: {problem}; save it again as a baseline JPEG, or as PNG")


def _tiff_bits(image: Image.Image) -> int:
    bits = getattr(image, "tag_v2", {}).get(258, (1,))
    return max(bits) if image.format == "TIFF" else 8


def _decode(image: Image.Image, file: BinaryIO, path: Path) -> Picture:
    form = "JPEG" if image.format == "MPO" else str(image.format)
    notes: list[str] = []
    if form != image.format:
        notes.append("the file holds several images; the first was read")
    orientation, entries = _exif_of(image, notes)
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
        values = (
            _deep_png(file, image.size) if form == "PNG" else _deep_tiff(file, path, image.size)
        )
    if form == "TIFF" and not (deep and values.ndim == 3):
        orientation = 1  # Pillow has turned it
    values = upright(values[..., None] if values.ndim == 2 else values, orientation)
    colours, bits = 1 if values.shape[-1] < 3 else 3, 16 if deep else 8
    return Picture(
        pixels=_scaled(values[..., :colours], bits).mul_(2).sub_(1),
        alpha=_scaled(values[..., colours:], bits) if values.shape[-1] > colours else None,
        depth=bits,
        icc=icc,
        exif=entries,
        dpi=dpi,
        text=text,
        format=form,
        orientation=orientation,
        notes=tuple(notes),
    )


def _scaled(values: np.ndarray, bits: int) -> Float[Tensor, " c h w"]:
    """Integers (h, w, c) of so many bits as float32 in [0, 1]; nothing else so large is made."""
    planes = np.empty((values.shape[-1], *values.shape[:-1]), np.float32)
    planes[...] = np.moveaxis(values, -1, 0)
    return torch.from_numpy(planes).div_(2**bits - 1)


def _exif_of(image: Image.Image, notes: list[str]) -> tuple[int, bytes | None]:
    """The orientation, and the EXIF entries of the upright image, all others byte for byte."""
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
        return orientation, _entries(raw)
    except Exception:  # noqa: BLE001  (an image is worth more than its damaged EXIF)
        notes.append(_DAMAGED_EXIF)
        return 1, None


def _upright_exif(raw: bytes, notes: list[str]) -> tuple[int, bytes | None]:
    """The orientation in EXIF entries, and the entries of the upright image."""
    try:
        found = Image.Exif()
        found.load(raw)
        return int(found.get(ORIENTATION, 1)), _entries(raw)
    except Exception:  # noqa: BLE001  (as above)
        notes.append(_DAMAGED_EXIF)
        return 1, None


def _entries(raw: bytes | None) -> bytes | None:
    """The EXIF entries of the upright image, all others byte for byte."""
    if not raw:
        return None
    found = exif.of_file(raw.removeprefix(b"Exif\0\0"))
    exif.of_result(found, (1, 1), without_place=True)  # what writing may do to them
    return found


_DAMAGED_EXIF = "the EXIF entries are damaged and were discarded"


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
    """8 bits as L, LA, RGB or RGBA, with the colour profile that applies to it."""
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


def _deep_png(file: BinaryIO, size: tuple[int, int]) -> np.ndarray:
    """Values of a 16-bit PNG (h, w) or (h, w, c), a transparent colour as alpha."""
    import imagecodecs

    file.seek(0)
    data = file.read(16 * math.prod(size) + (64 << 20))  # room for metadata
    if struct.unpack_from(">II", data, 16) != size:  # what the decoder allocates by
        raise ValueError("its header contradicts itself")
    return imagecodecs.png_decode(data)


def _deep_tiff(file: BinaryIO, path: Path, size: tuple[int, int]) -> np.ndarray:
    """Values of a 16-bit colour TIFF (h, w, c)."""
    import tifffile

    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page: Any = tiff.pages[0]
        samples = page.samplesperpixel
        if page.photometric != 2 or samples not in (3, 4) or 1 in page.extrasamples:
            raise InputError(
                f"{path}: 16-bit TIFF with {samples} channels, photometric {int(page.photometric)},"
                " is not supported; save it as RGB with at most one alpha, not premultiplied"
            )
        wide, high = page.imagewidth, page.imagelength
        if sorted((wide, high)) != sorted(size) or page.dtype != np.uint16:
            raise ValueError("its header contradicts itself")
        # Each piece is decoded into memory of the size that the header states, and no more.
        if page.compression not in _TIFF_STREAMS:
            raise ValueError(f"compression {int(page.compression)}")
        if math.prod(page.chunks) > samples * max(wide * high, _TIFF_PIECE):
            raise ValueError("pieces that are larger than the image")
        values = page.asarray(maxworkers=1)
    return np.moveaxis(values, 0, -1) if page.planarconfig == 2 else values
