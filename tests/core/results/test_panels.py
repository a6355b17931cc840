"""What is written of a panel is what was shown, read back by another program's eyes."""

import numpy as np
import pytest
from PIL import Image

from core.results.panels import PIXELS, POINTS, write_panels
from core.task import Clip, Cloud, Panel, Volume


def written(tmp_path, **views):
    folder = tmp_path / "pictures"
    folder.mkdir(exist_ok=True)
    (panel,) = write_panels([Panel("a title", **views)], folder)
    assert panel["title"] == "a title"
    kind = next(iter(views))
    return panel[kind], [np.asarray(Image.open(tmp_path / v["file"])) for v in panel[kind]
                         if v["file"].endswith("png")]  # fmt: skip


def tiles(sheet, height, width, across, count):
    """The pictures of a sprite, cut out one by one."""
    for at in range(count):
        top, left = at // across * height, at % across * width
        yield sheet[top : top + height, left : left + width]


def test_pictures(tmp_path):
    generator = np.random.default_rng(0)
    colour = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    grey = generator.integers(0, 256, (4, 6, 1), dtype=np.uint8)
    said, (first, second) = written(tmp_path, images={"colour": colour, "grey": grey})
    assert np.array_equal(first, colour)
    assert np.array_equal(second, grey[..., 0])
    assert [(v["label"], v["width"], v["height"]) for v in said] == [
        ("colour", 7, 5),
        ("grey", 6, 4),
    ]


def test_whole_images_are_reduced_and_say_so(tmp_path):
    """A ramp is a ramp at any size; JPEG of quality 88 is within a few levels of it."""
    ramp = np.broadcast_to(np.linspace(0, 255, 2000), (1000, 2000)).astype(np.uint8)
    small = np.stack([ramp[:30, ::50]] * 3, -1)
    said, _ = written(tmp_path, whole={"large": ramp, "small": small})
    for view, (width, height), full in zip(
        said, [(1280, 640), (40, 30)], [(2000, 1000), (40, 30)], strict=True
    ):
        assert (view["width"], view["height"]) == (width, height)
        assert (view["full_width"], view["full_height"]) == full
        with Image.open(tmp_path / view["file"]) as image:
            assert (image.format, image.size) == ("JPEG", (width, height))
            across = np.asarray(image.convert("L")).astype(float).mean(0)
        np.testing.assert_allclose(across, np.linspace(0, 255, width), atol=8)


@pytest.mark.parametrize("shape", [(1, 4, 6), (7, 4, 6, 3), (12, 30, 5), (3, 2, 40, 3)])
def test_frames_of_a_clip(tmp_path, shape):
    frames = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    (said,), (sheet,) = written(tmp_path, clips={"x": Clip(frames, 24.0)})
    found = list(tiles(sheet, shape[1], shape[2], said["across"], shape[0]))
    assert np.array_equal(np.stack(found), frames)
    assert (said["frames"], said["rate"]) == (shape[0], 24.0)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_voxels_of_a_volume_lose_no_bit(tmp_path, kind):
    top = np.iinfo(kind).max
    voxels = np.random.default_rng(2).integers(0, top, (5, 6, 9), dtype=kind, endpoint=True)
    volume = Volume(voxels, -1000.0, 3000.0, "HU", (3.0, 1.0, 0.5))
    (said,), (sheet,) = written(tmp_path, volumes={"x": volume})
    found = np.stack(list(tiles(sheet, 6, 9, said["across"], 5))).astype(int)
    assert np.array_equal(
        found if kind is np.uint8 else found[..., 0] * 256 + found[..., 1], voxels
    )
    assert (said["depth"], said["bits"]) == (5, 8 * np.dtype(kind).itemsize)
    assert (said["centre"], said["window"], said["spacing"]) == (1000.0, 4000.0, [3.0, 1.0, 0.5])


def test_points_of_a_cloud(tmp_path):
    generator = np.random.default_rng(3)
    points = generator.normal(size=(500, 3)) * (1, 4, 2) + 100
    colours = generator.integers(0, 256, (500, 3), dtype=np.uint8)
    (said,), _ = written(tmp_path, clouds={"x": Cloud(points, colours)})
    held = (tmp_path / said["file"]).read_bytes()
    found = np.frombuffer(held[:3000], "<u2").reshape(500, 3) / 65535 - 0.5
    middle = (points.max(0) + points.min(0)) / 2
    assert np.abs(found * said["side"] + middle - points).max() <= said["side"] / 65535  # 16 bits
    assert held[3000:] == colours.tobytes()
    bad = points.copy()
    bad[::2, 1] = np.nan
    (said,), _ = written(tmp_path, clouds={"x": Cloud(bad, colours)})
    assert said["points"] == 250
    assert (tmp_path / said["file"]).read_bytes()[1500:] == colours[1::2].tobytes()
    (said,), _ = written(tmp_path, clouds={"x": Cloud(bad * np.nan)})  # nothing to place
    assert said["points"] == 1


def test_what_is_too_much_for_a_page_is_thinned_evenly(tmp_path):
    voxels = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None], (200, 200, 200))
    (said,), (sheet,) = written(tmp_path, volumes={"x": Volume(voxels)})
    assert said["depth"] * said["height"] * said["width"] <= PIXELS
    firsts = [tile[0, 0] for tile in tiles(sheet, 100, 100, said["across"], said["depth"])]
    assert firsts == list(range(0, 200, 2))
    many = np.arange(3.0 * 50_000).reshape(-1, 3)
    (said,), _ = written(tmp_path, clouds={"x": Cloud(many)})
    assert (said["points"], said["of"]) == (POINTS, 50_000)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ({"images": {"x": np.zeros((3, 4))}}, "a picture: expected uint8"),
        ({"images": {"x": np.zeros((3, 4, 2), np.uint8)}}, r"h w 3.*got uint8 \(3, 4, 2\)"),
        ({"clips": {"x": Clip(np.zeros((0, 4, 4), np.uint8))}}, "a clip"),
        ({"volumes": {"x": Volume(np.zeros((3, 4), np.uint8))}}, "a volume"),
        ({"volumes": {"x": Volume(np.zeros((2, 3, 4), np.int16))}}, "uint8 or uint16"),
        ({"clouds": {"x": Cloud(np.zeros((3, 2)))}}, "a cloud"),
        ({"clouds": {"x": Cloud(np.zeros((3, 3)), np.zeros((2, 3), np.uint8))}}, "colours"),
    ],
)
def test_other_arrays_are_refused_by_name(tmp_path, views, message):
    with pytest.raises(ValueError, match=message):
        written(tmp_path, **views)
