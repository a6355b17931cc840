"""Damaged images by the thousand, read in one process of bounded memory, and what came of them.

The last line has how many were refused and how many gave an image; lines before it what else
happened, with the seed that makes it again.  ``python mutants.py COUNT FOLDER [boxed]``
"""

import io as memory
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, features

from core.errors import InputError
from core.images.pictures import as_stored
from core.images.reading import read_picture
from plugins.image2image.operators import jpeg

sys.path.insert(0, str(Path(__file__).parents[2]))
from mutated import mutated

LIMIT = 20.0  # seconds for one file
SPACE = 3 * 2**30  # bytes of addresses beyond what the imports take


def seeds():
    """A whole file of each kind, by name."""
    draw = np.random.Generator(np.random.PCG64(0))
    smooth = draw.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(smooth).resize((61, 47), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[315] = "someone"
    kinds = {
        "a.png": {"format": "PNG"},
        "b.jpg": {"format": "JPEG", "quality": 30, "exif": exif},
        "c.jpg": {"format": "JPEG", "quality": 80, "progressive": True, "subsampling": "4:4:4"},
        "d.tif": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
        "e.tif": {"format": "TIFF"},
    }
    if features.check("webp"):
        kinds["f.webp"] = {"format": "WEBP", "lossless": True}
    found = {}
    for name, options in kinds.items():
        buffer = memory.BytesIO()
        picture.save(buffer, **options)
        found[name] = buffer.getvalue()
    import png
    import tifffile

    deep = memory.BytesIO()
    rows = draw.integers(0, 65536, (23, 19 * 3))
    colour = {"greyscale": False, "bitdepth": 16}
    png.Writer(19, 23, **colour).write(deep, rows.tolist())
    found["g.png"] = deep.getvalue()
    for name, compression in (("h.tif", "lzw"), ("i.tif", "zstd")):
        deep = memory.BytesIO()
        values = rows.astype(np.uint16).reshape(23, 19, 3)
        tifffile.imwrite(deep, values, photometric="rgb", compression=compression)
        found[name] = deep.getvalue()
    return found


def boxed():
    """The same of HEIC and AVIF, decoded in a process each; HEIC where there is an encoder."""
    draw = np.random.Generator(np.random.PCG64(0))
    smooth = Image.fromarray(draw.integers(0, 256, (5, 7, 4), dtype=np.uint8))
    picture = smooth.resize((61, 47), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = {}
    for name, image, options in (
        ("j.avif", picture.convert("RGB"), {"quality": 60, "exif": exif}),
        ("k.avif", picture, {"quality": 90, "subsampling": "4:4:4"}),
    ):
        buffer = memory.BytesIO()
        image.save(buffer, "AVIF", **options)
        found[name] = buffer.getvalue()
    import imagecodecs

    deep = draw.integers(0, 1024, (23, 19, 3), dtype=np.uint16)
    found["l.avif"] = imagecodecs.avif_encode(deep, level=90, bitspersample=10)
    if find_spec("pillow_heif"):
        import pillow_heif

        for name, image in (("m.heic", picture.convert("RGB")), ("n.heic", picture)):
            buffer = memory.BytesIO()
            pillow_heif.from_pillow(image).save(buffer, quality=60, exif=exif.tobytes())
            found[name] = buffer.getvalue()
    return found


def tried(place, *, coefficients=True):
    """``refused``, or ``read`` where all that is promised of an image, or of its file, holds."""
    try:
        picture = read_picture(place)
    except InputError as error:
        said = str(error)
        return "refused" if said and "\n" not in said else "not a sentence"
    pixels = picture.pixels
    assert pixels.shape[0] in (1, 3), "channels"
    assert bool(pixels.isfinite().all()), "numbers"
    assert -1 <= float(pixels.min()) <= float(pixels.max()) <= 1, "range"
    if picture.format == "JPEG" and coefficients:
        stored = as_stored(picture).expand(3, -1, -1)
        file = jpeg.understood(place.read_bytes(), stored)
        told = file.tables[None], file.luma[None], file.chroma[None]
        held = jpeg.project(file.decoded[None], *told)
        assert bool(held.isfinite().all()), "projected numbers"
        assert held.shape[-1] - pixels.shape[-1] < 16 or picture.orientation > 4, "size"
    return "read"


def slow(*_):
    raise TimeoutError(f"more than {LIMIT} seconds")


def main(count, folder, kinds="seeds"):
    """Try so many files, evenly of each kind."""
    warnings.simplefilter("ignore")
    whole = {"seeds": seeds, "boxed": boxed}[kinds]()
    for name, data in whole.items():
        (folder / name).write_bytes(data)
        print(name, "whole", tried(folder / name))
    with open("/proc/self/statm") as status:
        now = int(status.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + SPACE, now + SPACE))
    signal.signal(signal.SIGALRM, slow)
    counts, begun = Counter(), time.monotonic()
    names = sorted(whole)
    for seed in range(count):
        name = names[seed % len(names)]
        place = folder / name
        data = whole[name]
        # Half of those in boxes keep them and are damaged in the stream: else few are decoded.
        kept = data.find(b"mdat") + 4 if kinds == "boxed" and seed % 2 else 0
        place.write_bytes(data[:kept] + mutated(data[kept:], seed))
        signal.setitimer(signal.ITIMER_REAL, LIMIT)
        try:
            counts[tried(place, coefficients=seed % 5 == 0)] += 1  # a process each
        except BaseException as error:  # noqa: BLE001  (whatever it is, it is a fault)
            counts["fault"] += 1
            print("fault", name, seed, type(error).__name__, error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    print(dict(counts), f"{time.monotonic() - begun:.1f} s")
    return sum(counts.values()) - counts["refused"] - counts["read"]


if __name__ == "__main__":
    sys.exit(min(1, main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])))
