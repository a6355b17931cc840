"""HEIC and AVIF images, decoded by libheif and libavif in a process of its own.

A stream may state a larger image than the file's header, and libheif's decoders have ended their
process on damaged streams, so memory and time are limited by the header.  Beside the decoders that
process imports numpy only.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BRANDS = {
    "AVIF": (b"avif", b"avis"),
    "HEIC": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1",
             b"msf1"),
}  # fmt: skip
Begin = Callable[..., None]
PACKAGE, EXTRA = "pillow-heif", "polymode[heic]"
SOURCE, PIXELS, PROFILE, ENTRIES = "source", "pixels", "profile", "entries"  # files of the process
MEMORY = 768 << 20  # bytes beside what the pixels take; arenas of threads count in full
SECONDS = 30  # of processor time beside that of the pixels


class Refused(ValueError):
    """The file cannot be decoded, or its package is not installed: a clause for the user."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """An image as its file stores it.

    Args:
        size: width and height.
        images: number of images in the file.
        values: integers (h, w, c); None where there are more pixels than asked for.
        bits: of each value.
        alpha: whether the last channel is opacity.
        premultiplied: whether it is multiplied into the others.
        icc: the colour profile; empty without one.
        exif: EXIF entries; empty without any.
    """

    size: tuple[int, int]
    images: int
    values: np.ndarray | None
    bits: int = 8
    alpha: bool = False
    premultiplied: bool = False
    icc: bytes = b""
    exif: bytes = b""


def kind_of(head: bytes) -> str | None:
    """``HEIC`` or ``AVIF`` by the first bytes of a file; None of another format.

    Source: ISO/IEC 14496-12, 4.3 (file type box); 23008-12, 10.2 (brands).
    """
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
    return next((kind for kind, known in BRANDS.items() if brands & set(known)), None)


def decode(data: bytes, kind: str, most: int) -> Decoded:
    """The image in the bytes of a file.

    Args:
        data: the whole file.
        kind: as `kind_of` gives it.
        most: pixels; of a larger image the size alone is returned.

    Raises:
        Refused: a damaged file, or a package that is not installed.
    """
    from core.storage.limited_process import BYTES_PER_PIXEL, Limits, NoAnswer, call

    if kind == "HEIC":
        _require_package()
    # Threads are of libde265, which starts one even for a single image.
    limits = Limits.of_image(len(data), most, memory=MEMORY, seconds=SECONDS, threads=True)
    beside = limits.memory - BYTES_PER_PIXEL * most
    with tempfile.TemporaryDirectory(prefix="polymode-image-") as name:
        folder = Path(name)
        (folder / SOURCE).write_bytes(data)
        try:
            header = call(
                Path(__file__), kind, most, beside, BYTES_PER_PIXEL,
                folder=folder, limits=limits,
            )  # fmt: skip
        except NoAnswer as none:
            slow = "it took too long to decode"
            raise Refused(slow if none.slow else "its decoder does not read it") from none
        about = {name: header[name] for name in ("images", "bits", "alpha", "premultiplied")}
        width, height = (int(side) for side in header["size"])
        if not header["channels"]:
            return Decoded(size=(width, height), values=None, **about)
        values = np.fromfile(folder / PIXELS, np.uint8 if header["bits"] == 8 else np.uint16)
        if values.size != width * height * header["channels"]:
            raise Refused("its pixels are incomplete")
        return Decoded(
            size=(width, height),
            values=values.reshape(height, width, header["channels"]),
            icc=(folder / PROFILE).read_bytes(),
            exif=(folder / ENTRIES).read_bytes(),
            **about,
        )


def _require_package() -> None:
    from importlib.util import find_spec

    if find_spec("pillow_heif") is None:
        raise Refused(
            f"HEIC needs {PACKAGE}, not installed here; pip install '{EXTRA}', or convert it to "
            "PNG or JPEG"
        )


# --- the process -----------------------------------------------------------------------------


def work(begin: Begin, kind: str, most: int, beside: int, each: int) -> dict[str, Any]:
    """Write pixels, profile and EXIF entries; what they are.

    Args:
        begin: sets the limits of an image of `most` pixels, or of less memory.
        kind: as `kind_of` gives it.
        most: pixels; a larger image is not decoded.
        beside: bytes of memory that the decoder takes beside the pixels'.
        each: bytes that a pixel takes.
    """

    def limit(pixels: int) -> None:
        begin(memory=beside + each * pixels)  # a stream may hold more than its header states

    return (_heic if kind == "HEIC" else _avif)(begin, limit, most)


def _answer(size: tuple[int, int], images: int, bits: int, mode: str) -> dict[str, Any]:
    return {
        "size": size,
        "images": images,
        "bits": bits,
        "alpha": mode[-1] in "Aa",
        "premultiplied": mode[-1] == "a",
        "channels": 0,
    }


def _heic(begin: Begin, limit: Callable[[int], None], most: int) -> dict[str, Any]:
    import pillow_heif  # pyright: ignore[reportMissingImports]  (of an extra)

    pillow_heif.options.DECODE_THREADS = 1
    begin()
    file = pillow_heif.open_heif(SOURCE, convert_hdr_to_8bit=False, hdr_to_16bit=True)
    image: Any = file[file.primary_index]
    (width, height), mode = image.size, image.mode.partition(";")[0]
    depth = int(image.info["bit_depth"])
    answer = _answer((width, height), len(file), 8 if depth <= 8 else depth, mode)
    if width * height > most:
        return answer
    limit(width * height)
    data = image.data
    if image.size != (width, height):
        raise ValueError("its header contradicts itself")
    values = np.frombuffer(data, np.uint8 if depth <= 8 else np.uint16)
    if depth > 8:
        values = values >> (16 - depth)  # as it is stored; libheif has shifted it
    _write(values.reshape(height, width, -1), image.info.get("icc_profile"), image.info["exif"])
    return answer | {"channels": values.size // (width * height)}


def _avif(begin: Begin, limit: Callable[[int], None], most: int) -> dict[str, Any]:
    import imagecodecs
    from PIL import AvifImagePlugin, Image

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    begin()
    with Image.open(SOURCE, formats=["AVIF"]) as image:
        data, pixels = Path(SOURCE).read_bytes(), image.width * image.height
        bits = _avif_bits(data)
        frames = getattr(image, "n_frames", 1)
        answer = _answer(image.size, frames, bits, image.mode)
        if pixels > most or frames > 1:
            return answer
        limit(pixels)
        # Of more bits Pillow would return 8.
        deep = bits > 8
        values = imagecodecs.avif_decode(data, numthreads=1) if deep else np.asarray(image)
        values = values.reshape(image.height, image.width, -1)
        _write(values, image.info.get("icc_profile"), image.info.get("exif"))
    channels = values.shape[-1]
    return answer | {"channels": channels, "alpha": channels in (2, 4)}


def _avif_bits(data: bytes) -> int:
    """Bits of a channel, by the first configuration record.

    Source: AV1 Codec ISO Media File Format Binding, 2.3.3.
    """
    at = data.find(b"av1C")
    flags = data[at + 6] if 0 <= at < len(data) - 6 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def _write(values: np.ndarray, profile: bytes | None, entries: bytes | None) -> None:
    values.tofile(PIXELS)
    Path(PROFILE).write_bytes(profile or b"")
    Path(ENTRIES).write_bytes(entries or b"")
