"""Restorations of a user's files: what is known stays, whatever the size and the format."""

import json
import re
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import png
import pytest
from PIL import Image, ImageCms
from scipy.fft import dctn

from core.errors import InputError
from core.parts.registry import Spec
from core.request import TrainRequest
from plugins.image2image.operators import jpeg

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[3]))
from jpeg_coefficients import coefficients
from made_images import NETWORK, as_jpeg, hard, invoke, load, save
from pixels import pixels

# --- what JPEG files say -----------------------------------------------------------------------


# --- the command -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A network of two steps for all tasks: what it draws is poor, what is kept of it is not."""
    return trained(tmp_path_factory.mktemp("several"), "image2image/multitask")


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """One that was trained for one task alone."""
    return trained(tmp_path_factory.mktemp("colours"), "image2image/colourise")


def trained(folder, task):
    from core.runs import train

    request = TrainRequest(
        task=Spec(task),
        dataset=Spec("image2image/photos", {"size": 32, "patches": 8}),
        network=Spec("core/unet", NETWORK),
        steps=2,
        batch=2,
    )
    train(request, folder)
    return folder


def save_deep(place, values):
    grey: Any = values.ndim == 2
    with place.open("wb") as file:
        writer = png.Writer(values.shape[1], values.shape[0], greyscale=grey, bitdepth=16)
        writer.write(file, values.reshape(len(values), -1).tolist())
    return place


def deepened(values):
    """16 bits whose lower half says something."""
    low = np.arange(values.size).reshape(values.shape) * 37 % 256
    return values.astype(np.uint16) * 256 + low.astype(np.uint16)


@pytest.mark.parametrize(("height", "width"), [(17, 33), (23, 29)])
def test_known_pixels_are_the_files_own(several, tmp_path, height, width):
    rows, columns = np.ogrid[:height, :width]
    hole = ((rows - 9) / 5) ** 2 + ((columns - 14) / 8) ** 2 < 1
    save(tmp_path / "mask.png", hole.astype(np.uint8) * 255)
    shallow = pixels(height, width)
    save(tmp_path / "8.png", shallow)
    save_deep(tmp_path / "16.png", deepened(shallow))
    for bits, given in ((8, shallow), (16, deepened(shallow))):
        out = tmp_path / f"out-{bits}.png"
        invoke("restore", tmp_path / f"{bits}.png", "--mask", tmp_path / "mask.png", "-o", out,
               "--task", "inpaint", "--steps", 2, checkpoint=several)  # fmt: skip
        found, depth = load(out)
        assert depth == bits
        assert np.array_equal(found[~hole], given[~hole])
        assert (found[hole] != given[hole]).mean() > 0.8


def test_a_feather_blends_a_ring_and_changes_no_more(several, tmp_path):
    """Weights fall by a fifth a pixel, and with them how far the result is from the image."""
    given, apart = pixels(40, 40), {}
    save(tmp_path / "in.png", given)
    for feather in (0, 4):
        out = tmp_path / f"{feather}.png"
        invoke("restore", tmp_path / "in.png", "--box", "12,12,16,16", "--feather", feather,
               "-o", out, "--task", "inpaint", "--steps", 2, checkpoint=several)  # fmt: skip
        apart[feather] = np.abs(load(out)[0].astype(int) - given).mean(-1)
    assert (apart[0][12:28, 12:28] > 0).mean() > 0.9
    assert not apart[0][:, :12].any()
    rows = slice(12, 28)
    rings = [(apart[4][rows, 12 - d].mean() + apart[4][rows, 27 + d].mean()) / 2 for d in range(6)]
    assert rings[5] == 0
    assert 0 < rings[4] < rings[2] < rings[1]
    assert rings[4] < 0.45 * rings[1]  # a fifth against four


def test_a_canvas_grows_again_and_again(several, tmp_path):
    """A panorama: each run continues what the one before drew, and keeps all of it."""
    given = save(tmp_path / "0.png", pixels(20, 24))
    for turn in (1, 2, 3):
        out = tmp_path / f"{turn}.png"
        invoke("restore", given, "--extend", "right=50%", "--extend", "left=6", "-o", out,
               "--task", "uncrop", "--steps", 2, checkpoint=several)  # fmt: skip
        before, now = load(given)[0], load(out)[0]
        assert now.shape == (20, before.shape[1] + round(before.shape[1] / 2) + 6, 3)
        assert np.array_equal(now[:, 6 : 6 + before.shape[1]], before)
        assert now[:, :6].std() > 0
        given = out


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (37, 5)])
def test_the_luma_of_a_colouring_is_the_grey_file(colours, tmp_path, size):
    grey = np.asarray(Image.fromarray(pixels(*size)).convert("L"))
    save(tmp_path / "8.png", grey)
    invoke("restore", tmp_path / "8.png", "-o", tmp_path / "out.png", "--mean-of", 2, "--steps", 2,
           checkpoint=colours)  # fmt: skip
    with Image.open(tmp_path / "out.png") as found:
        assert found.mode == "RGB"
        assert np.array_equal(np.asarray(found.convert("L")), grey)
        if size != (1, 1):
            assert np.asarray(found).std(-1).mean() > 1
    save_deep(tmp_path / "16.png", deepened(grey))
    invoke("restore", tmp_path / "16.png", "-o", tmp_path / "out.png", "--steps", 2,
           checkpoint=colours)  # fmt: skip
    found, depth = load(tmp_path / "out.png")
    assert depth == 16
    assert np.abs(found @ [0.299, 0.587, 0.114] - deepened(grey)).max() <= 1


def test_colours_are_left_out_and_a_grey_profile_too(colours, tmp_path):
    given = np.dstack([pixels(12, 20), np.full((12, 20), 99, np.uint8)])
    save(tmp_path / "in.png", given)
    done = invoke("restore", tmp_path / "in.png", "-o", tmp_path / "out.png", "--steps", 2,
                  checkpoint=colours)  # fmt: skip
    assert "their luma is colourised" in done.stderr
    with Image.open(tmp_path / "out.png") as found:
        luma = np.asarray(Image.fromarray(given[..., :3]).convert("L"))
        assert np.array_equal(np.asarray(found.convert("RGB").convert("L")), luma)
        assert (np.asarray(found)[..., 3] == 99).all()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    save(tmp_path / "grey.png", luma, icc_profile=profile)
    done = invoke("restore", tmp_path / "grey.png", "-o", tmp_path / "out.png", "--steps", 2,
                  checkpoint=colours)  # fmt: skip
    assert "profile" in done.stderr
    assert "icc_profile" not in Image.open(tmp_path / "out.png").info


def beyond(found, data):
    """How far the coefficients of an image's luma and chroma lie outside what a file allows."""
    stored, tables = coefficients(data)
    turn = jpeg.TO_YCC.numpy()
    planes = np.einsum("ij,hwj->ihw", turn[: len(stored)], found.astype(float))
    planes[0] -= 128
    worst = []
    for plane, numbers, table in zip(planes, stored, tables, strict=True):
        half = len(numbers) <= -(-len(plane) // 16) * 8 < len(plane)
        if half:
            plane = plane[: len(plane) // 2 * 2, : plane.shape[1] // 2 * 2]
            plane = plane.reshape(len(plane) // 2, 2, -1, 2).mean((1, 3))
        for top in range(0, plane.shape[0] - 7, 8):
            for left in range(0, plane.shape[1] - 7, 8):
                block = (slice(top, top + 8), slice(left, left + 8))
                apart = dctn(plane[block], norm="ortho") - numbers[block] * table
                worst.append(np.abs(apart) - table / 2)
    return np.max(worst)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((33, 17), {"subsampling": "4:4:4"}),
        ((47, 61), {"subsampling": "4:2:0"}),
        ((40, 40), {"subsampling": "4:2:0", "optimize": True}),
        ((29, 31), {"grey": True}),
    ],
)
def test_a_restored_jpeg_has_the_coefficients_of_its_file(several, tmp_path, size, options):
    """Rounding to whole levels moves a coefficient by less than two."""
    options, given = dict(options), hard(*reversed(size))
    if options.pop("grey", False):
        given = np.asarray(Image.fromarray(given).convert("L"))
    data = as_jpeg(given, quality=15, **options)
    (tmp_path / "in.jpg").write_bytes(data)
    invoke("restore", tmp_path / "in.jpg", "-o", tmp_path / "out.png", "--task", "jpeg",
           "--steps", 3, checkpoint=several)  # fmt: skip
    found = load(tmp_path / "out.png")[0]
    found = np.repeat(found, 3, -1) if given.ndim == 2 else found
    decoded = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
    assert found.shape[:2] == given.shape[:2]
    assert np.abs(found.astype(int) - decoded).mean() > 1
    assert beyond(found, data) < 2
    noise = np.random.default_rng(0).normal(0, 20, found.shape)
    assert beyond(found + noise, data) > 10


@pytest.mark.slow
def test_blocks_lie_in_the_file_as_it_was_before_it_was_turned(several, tmp_path):
    given, exif, out = hard(45, 37), Image.Exif(), tmp_path / "out.png"
    transposes = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's names of them
    plain = Image.fromarray(given)
    for orientation, transpose in transposes.items():
        exif[0x0112] = orientation
        save(tmp_path / "in.jpg", given, quality=15, exif=exif)
        invoke("restore", tmp_path / "in.jpg", "-o", out, "--task", "jpeg", "--steps", 2,
               checkpoint=several)  # fmt: skip
        if transpose is None:
            plain = Image.fromarray(load(out)[0])
        else:
            turned = plain.transpose(Image.Transpose(transpose))
            assert np.array_equal(load(out)[0], np.asarray(turned)), orientation


def test_draws_their_mean_and_their_deviation(colours, tmp_path):
    given, out, residual_std = (
        save(tmp_path / "in.png", pixels(21, 18)),
        tmp_path / "out.png",
        "map.png",
    )
    arguments = ["restore", given, "-o", out, "--steps", 3, "--seed", 4]
    done = invoke(*arguments, "--samples", 3, "--deviation", tmp_path / residual_std, "--record",
                  checkpoint=colours)  # fmt: skip
    names = ["out-1.png", "out-2.png", "out-3.png", "out-sheet.png", residual_std]
    assert done.stdout.split() == [str(tmp_path / name) for name in names]
    draws = np.stack([load(tmp_path / name)[0] for name in names[:3]]).astype(float)
    assert (draws[0] != draws[1]).any()
    said = json.loads((tmp_path / "out.json").read_text())
    assert (said["task"], said["seed"], said["samples"]) == ("image2image/colourise", 4, 3)
    assert said["results"] == names[:3]
    expected = np.sqrt(draws.var(0, ddof=1).mean(-1)) / 64 * 255  # white is 64 levels
    assert np.abs(load(tmp_path / residual_std)[0][..., 0] - expected.clip(max=255)).max() < 4
    invoke(*arguments, checkpoint=colours)
    assert np.array_equal(load(out)[0], draws[0])
    invoke(*arguments, "--mean-of", 3, checkpoint=colours)
    assert np.abs(load(out)[0] - draws.mean(0)).max() < 3  # levels are moved to the luma
    invoke(*arguments[:-1], 5, checkpoint=colours)
    assert not np.array_equal(load(out)[0], draws[0])


def test_a_dry_run_says_what_it_takes_and_writes_nothing(colours, tmp_path):
    save(tmp_path / "in.png", pixels(70, 150))
    done = invoke("restore", tmp_path / "in.png", "-o", tmp_path / "out.png", "--tile", 64,
                  "--overlap", 16, "--steps", 7, "--samples", 2, "--dry-run",
                  checkpoint=colours)  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0] == "in.png: 150x70 pixels: 6 tiles of 64x64, overlap 16"
    assert lines[1] == "in.png: 7 evaluations for each tile of 2 draws: 84 network evaluations"
    assert {path.name for path in tmp_path.iterdir()} == {"in.png"}


@pytest.mark.slow
def test_bad_requests_are_one_sentence(several, colours, tmp_path):
    good, out = save(tmp_path / "good.png", pixels(20, 30)), tmp_path / "out.png"
    small = save(tmp_path / "small.png", pixels(20, 20)[..., 0])
    white = save(tmp_path / "white.png", np.full((20, 30), 255, np.uint8))
    black = save(tmp_path / "black.png", np.zeros((20, 30), np.uint8))
    one = save(tmp_path / "one.png", pixels(1, 1))
    save(tmp_path / "moving.png", pixels(9, 9), save_all=True,
         append_images=[Image.fromarray(pixels(9, 9, 60))])  # fmt: skip
    (tmp_path / "cut.jpg").write_bytes(as_jpeg(pixels(60, 60), quality=50)[:900])
    (tmp_path / "empty.png").touch()
    large = tmp_path / "large.png"
    Image.new("L", (20000, 14000)).save(large)  # more pixels than are read
    start, fill = ["restore", good, "-o", out], ["--task", "inpaint"]
    cases = [
        (start, "choose one of colourise, inpaint, uncrop, jpeg"),
        ([*start, *fill], "no region to fill"),
        ([*start, *fill, "--mask", small], "has 20x20 pixels, the image 30x20"),
        ([*start, *fill, "--mask", white], "no known pixel"),
        ([*start, *fill, "--mask", black], "nothing to fill"),
        ([*start, *fill, "--mask", tmp_path / "none.png"], "none.png"),
        ([*start, *fill, "--box", "1,1,2,2", "--feather", 60], "feather: reaches every pixel"),
        (["restore", one, "-o", out, *fill, "--box", "0,0,1,1"], "no known pixel"),
        (["restore", good, "-o", good, "--task", "colourise"], "would overwrite"),
        ([*start, *fill, "--mask", black, "-o", black], "would overwrite"),
        ([*start, "--task", "jpeg"], "a PNG file; JPEG restoration"),
        ([*start, "--task", "colourise", "--box", "1,1,2,2"], "leave these out"),
        ([*start, "--task", "colourise", "--tile", 64, "--overlap", 64], "overlap: expected"),
        ([*start, "--task", "colourise", "--samples", 2, "--mean-of", 2], "exclude each other"),
        ([*start, "--task", "colourise", "--deviation", out], "needs at least 2 draws"),
        ([*start, "--task", "colourise", "-o", tmp_path / "out.gif"], "suffix"),
        (["restore", large, "-o", out, "--task", "colourise"], "million pixels"),
        (["restore", tmp_path / "moving.png", "-o", out, "--task", "jpeg"], "holds 2 images"),
        (["restore", tmp_path / "cut.jpg", "-o", out, "--task", "jpeg"], "damaged or cut off"),
        (["restore", tmp_path / "empty.png", "-o", out, "--task", "jpeg"], "the file is empty"),
        (["restore", good, small, "-o", out, "--task", "colourise"], "need a folder"),
    ]  # fmt: skip
    for arguments, words in cases:
        with pytest.raises(InputError) as caught:
            invoke(*arguments, checkpoint=several)
        assert words in str(caught.value), (arguments, str(caught.value))
        assert not out.exists()
    with pytest.raises(InputError, match="expected image2image/colourise, which the model was"):
        invoke(*start, "--task", "jpeg", checkpoint=colours)


def test_tasks_are_listed_by_help_and_where_one_is_unknown(colours):
    unknown = invoke("restore", "in.png", "-o", "out.png", "--task", "jpg", checkpoint=colours)
    assert unknown.exit_code == 2
    for printed in (unknown.stderr, invoke("restore", "--help", checkpoint=colours).stdout):
        assert all(task in printed for task in ("colourise", "inpaint", "uncrop", "jpeg"))


def test_kinds_of_files_are_read_or_refused_before_anything_is_drawn(colours, tmp_path):
    """CMYK, palettes, single bits: right, with a note where something is lost."""
    image, out = Image.fromarray(pixels(14, 19)), tmp_path / "out.png"
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    image.quantize(9).save(tmp_path / "palette.png")
    image.convert("1").save(tmp_path / "bits.png")
    for name in ("cmyk.jpg", "palette.png", "bits.png"):
        done = invoke("restore", tmp_path / name, "-o", out, "--steps", 2, checkpoint=colours)
        assert done.exit_code == 0
        assert load(out)[0].shape == (14, 19, 3)
        assert ("CMYK" in done.stderr) == (name == "cmyk.jpg")


# --- upscale, and a folder ---------------------------------------------------------------------


@pytest.mark.slow
def test_a_folder_with_a_broken_file_is_done_but_for_that(several, tmp_path):
    """By `polymode apply`, twice: the second time nothing is drawn."""
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    save(folder / "a.jpg", pixels(30, 21), quality=20)
    save(folder / "b.jpeg", pixels(18, 40), quality=20)
    (folder / "broken.jpg").write_bytes(as_jpeg(pixels(60, 60), quality=50)[:700])
    save(folder / "other.png", pixels(18, 40))
    command = [
        Path(sys.executable).with_name("polymode"), "apply", "image2image/restore", folder,
        "-o", out, "--set", f"checkpoint={several}", "--set", "predictor.task=jpeg", "--set",
        "predictor.steps=2",
    ]  # fmt: skip
    before = {}
    for _ in range(2):
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        assert "damaged or cut off" in done.stderr
        assert "a PNG file; JPEG restoration" in done.stderr
        found = {place.name: place.stat().st_mtime_ns for place in (out / "results").iterdir()}
        assert sorted(found) == ["a.jpg.png", "b.jpeg.png"]
        assert before in ({}, found)
        before = found
        time.sleep(0.01)
    assert load(out / "results" / "b.jpeg.png")[0].shape == (18, 40, 3)


# --- a verb for each task ------------------------------------------------------------------------

VERBS = {
    "colourise": ["--samples", "2"],
    "colorize": ["--samples", "2"],
    "inpaint": ["--box", "3,4,9,7"],
    "uncrop": ["--extend", "right=25%"],
    "restore-jpeg": ["--mean-of", "2"],
}
TASKS = {"colorize": "colourise", "restore-jpeg": "jpeg"}


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_restore_with_its_task(several, tmp_path, verb):
    (tmp_path / "in.jpg").write_bytes(as_jpeg(pixels(33, 41), quality=20))
    for name, words in ((verb, []), ("restore", ["--task", TASKS.get(verb, verb)])):
        (tmp_path / name).mkdir()
        options = [*words, *VERBS[verb], "-o", tmp_path / name, "--record"]
        invoke(name, tmp_path / "in.jpg", *options, checkpoint=several)
    results = sorted(file.name for file in (tmp_path / "restore").iterdir())
    assert len(results) >= 2
    for name in results:
        one, other = ((tmp_path / folder / name).read_bytes() for folder in (verb, "restore"))
        assert one == other


def test_a_verb_has_the_options_of_its_task_alone(several, tmp_path):
    region = {"--mask", "--box", "--transparent", "--extend", "--grow", "--feather", "--invert"}
    has = {
        "colourise": set(),
        "inpaint": region - {"--extend"},
        "uncrop": {"--extend", "--feather"},
        "restore-jpeg": set(),
    }
    for verb, expected in has.items():
        text = invoke(verb, "--help", checkpoint=several).output
        words = set(text.replace(",", " ").split())
        options = {word for word in words if word.startswith("--")}
        assert "--task" not in options
        assert region & set(re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE)) == expected
        assert "Example" in text
    save(tmp_path / "in.png", pixels(20, 20))
    with pytest.raises(InputError, match="no region to fill; give extend, such as right=50%"):
        invoke("uncrop", tmp_path / "in.png", "-o", tmp_path / "o.png", checkpoint=several)


def test_a_verb_refuses_a_model_of_another_task(colours, tmp_path):
    save(tmp_path / "in.png", pixels(20, 20))
    words = [tmp_path / "in.png", "--box", "1,1,4,4", "-o", tmp_path / "o.png"]
    message = "expected image2image/colourise, which the model was trained for, got image2image/inp"
    with pytest.raises(InputError, match=message):
        invoke("inpaint", *words, checkpoint=colours)


@pytest.mark.slow
def test_a_batch_takes_each_mask_from_a_folder(several, tmp_path):
    (tmp_path / "masks").mkdir()
    for k in range(2):
        save(tmp_path / f"{k}.png", pixels(24, 24, at=50 + 30 * k))
        hole = np.zeros((24, 24, 3), np.uint8)
        hole[4 : 8 + 4 * k, 5:9] = (255, 0, 0)
        save(tmp_path / "masks" / f"{k}.png", hole)
    files = [tmp_path / "0.png", tmp_path / "1.png"]
    words = ["--mask", tmp_path / "masks", "-o", tmp_path / "filled"]
    invoke("inpaint", *files, *words, checkpoint=several)
    for k, file in enumerate(files):
        changed = (load(tmp_path / "filled" / file.name)[0] != load(file)[0]).any(-1)
        rows, columns = changed.nonzero()
        assert (rows.min(), rows.max()) == (4, 7 + 4 * k)
        assert (columns.min(), columns.max()) == (5, 8)
    (tmp_path / "masks" / "1.png").unlink()
    with pytest.raises(InputError, match=r"1\.png: no mask in the folder"):
        invoke("inpaint", *files, *words, checkpoint=several)
    with pytest.raises(InputError, match=r"0\.png: would overwrite the input"):
        invoke("inpaint", files[0], "--mask", tmp_path / "masks", "-o", tmp_path / "masks",
               checkpoint=several)  # fmt: skip
