"""Images for tests: photographs, JPEG bytes, 16-bit pixels; and the commands on them."""

from io import BytesIO

import numpy as np
import png
import torch
from PIL import Image
from skimage import data as photographs

NETWORK = {
    "width": 8,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention": [],
    "middle_attention": False,
}


def picture(size=64, top=100, left=200):
    pixels = photographs.coffee()[top : top + size, left : left + size]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1


def batch_of(task, count=3):
    items = [task.degrade({"image": picture(top=60 * i)}, i) for i in range(count)]
    return stacked(items)


def stacked(items):
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def noise(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hard(width, height):
    """Text in pure black on pure white, where a decoder cuts values off, beside a photograph."""
    page = np.clip(photographs.page()[20:, 10:].astype(int) * 3 - 250, 0, 255).astype(np.uint8)
    whole = photographs.coffee()[150:, 60:].copy()
    whole[:, : width // 2] = page[: whole.shape[0], : width // 2, None][: whole.shape[0]][
        [i % 150 for i in range(whole.shape[0])]
    ]
    return whole[:height, :width]


def as_jpeg(pixels, **options):
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def occurrences(patch, photo):
    """Where the (h, w, 3) patch lies in the photograph, by exact comparison."""
    patch, photo = (pixels.astype(int) @ [65536, 256, 1] for pixels in (patch, photo))
    high, wide = (n - m + 1 for n, m in zip(photo.shape, patch.shape, strict=True))
    rows, columns = np.nonzero(photo[:high, :wide] == patch[0, 0])
    for y, x in np.ndindex(patch.shape):
        if not len(rows):
            break
        same = photo[rows + y, columns + x] == patch[y, x]
        rows, columns = rows[same], columns[same]
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def bytes_of(item):
    return (
        np.rint((item["image"].double().numpy() + 1) / 2 * 255).astype(np.uint8).transpose(1, 2, 0)
    )


def flipped(patch, mirrored):
    return patch[:, ::-1] if mirrored else patch


def ellipse(height, width):
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    return ((rows - height / 2) / height) ** 2 + ((columns - width / 3) / width) ** 2 < 0.08


def uniform(*shape, seed=0, reach=1.0):
    draw = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(shape, generator=draw, dtype=torch.float64) - 1) * reach


def invoke(command, *arguments, checkpoint):
    """The command in this process, over its own outputs, bad input raising what it would print."""
    from typer.testing import CliRunner

    from plugins.image2image.__main__ import app

    words = [command, *map(str, arguments), "--checkpoint", str(checkpoint), "--threads", "1"]
    words.append("--overwrite")
    return CliRunner().invoke(app, words, catch_exceptions=False)


def save(place, values, **options):
    Image.fromarray(values).save(place, **options)
    return place


def load(place):
    width, height, rows, info = png.Reader(filename=str(place)).read()
    values = np.vstack(list(map(np.asarray, rows))).reshape(height, width, info["planes"])
    return values, info["bitdepth"]
