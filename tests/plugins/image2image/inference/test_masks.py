"""Masks: what a user draws, what grows, and what is drawn at random for training."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage import data as photographs

from core.errors import InputError
from core.images.pictures import Picture
from core.images.reading import read_picture
from plugins.image2image.inference.masks import (
    Margins,
    box,
    check_mask,
    extended,
    feathered,
    grown,
    margins,
    read_mask,
    transparent,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
from mutants import mutated, seeds


def saved(path, values, mode):
    Image.fromarray(np.asarray(values, np.uint8), mode).save(path)
    return path


IMAGE = torch.zeros(3, 2, 3)


def test_white_is_filled_from_half_way_on_and_invert_turns_it_round(tmp_path):
    path = saved(tmp_path / "m.png", [[0, 127, 128], [255, 1, 254]], "L")
    expected = torch.tensor([[False, False, True], [True, False, True]])
    assert torch.equal(read_mask(path, IMAGE)[0], expected)
    assert torch.equal(read_mask(path, IMAGE, invert=True)[0], ~expected)


def test_what_is_transparent_in_a_mask_is_black(tmp_path):
    path = saved(tmp_path / "m.png", [[[255] * 4, [255, 255, 255, 0], [0, 0, 0, 255]]], "RGBA")
    assert read_mask(path, IMAGE[:, :1])[0].tolist() == [[True, False, False]]


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path):
    path = saved(tmp_path / "m.png", np.zeros((4, 6)), "L")
    with pytest.raises(InputError, match=r"the mask has 6x4 pixels, the image 4x6"):
        read_mask(path, torch.zeros(3, 6, 4))
    with pytest.raises(InputError, match="another shape, so that no resizing fits"):
        read_mask(path, torch.zeros(3, 6, 4), resize=True)


ROWS, COLUMNS = np.ogrid[:48, :64]
HOLE = ((ROWS - 20) / 9) ** 2 + ((COLUMNS - 30) / 14) ** 2 < 1
PHOTO = photographs.coffee()[50:98, 50:114]
PICTURE = torch.from_numpy(PHOTO.copy()).movedim(-1, 0) / 127.5 - 1


def strokes(ground, colour):
    """The ground, an image or one colour, with the hole painted over."""
    made = np.broadcast_to(np.asarray(ground, np.uint8), (48, 64, len(colour))).copy()
    made[HOLE] = colour
    return made


def alpha_of(image, where):
    return np.dstack([image, np.where(where, 255, 0).astype(np.uint8)])


MADE = {
    "white on black": strokes([0] * 3, [255] * 3),
    "red on black": strokes([0] * 3, [255, 0, 0]),
    "red on white": strokes([255] * 3, [255, 0, 0]),
    "blue on grey": strokes([128] * 3, [0, 0, 255]),
    "red on a copy": strokes(PHOTO, [255, 0, 0]),
    "black on a copy": strokes(PHOTO, [0, 0, 0]),
    "black on transparent": strokes([0] * 4, [0, 0, 0, 255]),
    "white on transparent": strokes([255, 255, 255, 0], [255] * 4),
    "blue on transparent": strokes([0] * 4, [0, 0, 255, 255]),
    "alpha alone": alpha_of(np.full((48, 64, 3), 90, np.uint8), HOLE),
    "erased out of a copy": alpha_of(PHOTO, ~HOLE),
}


@pytest.mark.parametrize("made", MADE)
def test_what_is_painted_is_filled_whatever_its_colour(tmp_path, made):
    """A dark colour is below 50 % grey, and a mean with alpha is black for black strokes."""
    Image.fromarray(MADE[made]).save(tmp_path / "m.png")
    found, notes = read_mask(tmp_path / "m.png", PICTURE)
    assert np.array_equal(found.numpy(), HOLE)
    inverted, _ = read_mask(tmp_path / "m.png", PICTURE, invert=True)
    assert torch.equal(inverted, ~found)
    assert bool(notes) == (made != "white on black")


def test_a_copy_may_be_compressed_and_a_page_black_and_white(tmp_path):
    Image.fromarray(MADE["red on a copy"]).save(tmp_path / "m.jpg", quality=85, subsampling=0)
    found, _ = read_mask(tmp_path / "m.jpg", PICTURE)
    assert (found.numpy() != HOLE).mean() < 0.02  # the rim of the stroke rings
    page = np.where(photographs.page()[20:68, 10:74, None] > 128, 255, 0).astype(np.uint8)
    page = np.repeat(page, 3, 2)
    thin = np.zeros((48, 64), bool)
    thin[30, 4:20] = True  # below a fiftieth of the page
    drawn = np.where(thin[..., None], np.uint8([255, 0, 0]), page)
    Image.fromarray(drawn).save(tmp_path / "m.png")
    image = torch.from_numpy(page).movedim(-1, 0) / 127.5 - 1
    assert np.array_equal(read_mask(tmp_path / "m.png", image)[0].numpy(), thin)
    Image.fromarray(alpha_of(page, ~thin)).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png", image)[0].numpy(), thin)


def test_a_night_and_a_black_mask_are_no_copies_of_each_other(tmp_path):
    Image.fromarray(MADE["red on black"]).save(tmp_path / "m.png")
    found, _ = read_mask(tmp_path / "m.png", torch.full((3, 48, 64), -0.98))
    assert np.array_equal(found.numpy(), HOLE)


def test_another_photograph_is_no_mask(tmp_path):
    Image.fromarray(photographs.chelsea()[100:148, 100:164]).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=r"m\.png: not a mask: neither a copy of the image"):
        read_mask(tmp_path / "m.png", PICTURE)


def test_a_mask_of_another_size_is_resized_when_asked(tmp_path):
    large = Image.fromarray(np.where(HOLE, 255, 0).astype(np.uint8)).resize((256, 192))
    large.save(tmp_path / "m.png")
    found, _ = read_mask(tmp_path / "m.png", PICTURE, resize=True)
    assert (found.numpy() != HOLE).mean() < 0.005


def test_transparency_is_a_mask_where_there_is_some():
    picture = Picture(torch.zeros(3, 1, 3), torch.tensor([[[0.0, 0.49, 0.5]]]))
    assert transparent(picture).tolist() == [[True, True, False]]
    with pytest.raises(InputError, match="no alpha channel"):
        transparent(Picture(torch.zeros(3, 1, 3)))


def test_a_box_is_x_y_width_height():
    mask = box("2, 1,3,2", 5, 7)
    rows, columns = mask.nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 2, 2, 4)
    assert mask.sum() == 6
    for text in ("2,1,3", "2,1,0,2", "5,1,3,2", "0,4,1,2", "a,b,c,d", "-1,0,2,2"):
        with pytest.raises(InputError, match=r"^box: "):
            box(text, 5, 7)


def test_margins_are_shares_of_their_own_axis():
    wanted = Margins(left=64, right=50, top=100, bottom=0)
    assert margins(["right=25%", "left=64", "top=100%"], 100, 200) == wanted
    for text in ("right", "up=3", "left=-3", "left=0", "left=2.5", "left=401%", "left=801"):
        with pytest.raises(InputError, match=r"^extend: "):
            margins([text], 100, 200)
    with pytest.raises(InputError, match="left is given twice"):
        margins(["left=1", "left=2"], 100, 200)


def test_a_larger_canvas_holds_the_picture_where_it_was_put():
    pixels = torch.rand(3, 5, 7, generator=torch.Generator()) * 2 - 1
    picture = Picture(pixels, torch.full((1, 5, 7), 0.25), dpi=(72.0, 72.0))
    larger, new = extended(picture, Margins(left=3, right=1, top=2, bottom=9))
    assert larger.pixels.shape == (3, 16, 11)
    assert torch.equal(larger.pixels[:, 2:7, 3:10], pixels)
    assert torch.equal(larger.pixels[:, 0, 0], pixels[:, 0, 0])
    assert not new[2:7, 3:10].any()
    assert new.sum() == 16 * 11 - 35
    assert larger.alpha is not None
    assert torch.equal(larger.alpha[0], torch.where(new, 1.0, 0.25))
    assert larger.dpi == (72.0, 72.0)


def test_masks_without_anything_to_fill_or_to_keep_are_refused():
    black, white = torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)
    with pytest.raises(InputError, match="nothing to fill"):
        check_mask(black, some_known=False)
    with pytest.raises(InputError, match="no known pixel"):
        check_mask(white, some_known=True)
    check_mask(white, some_known=False)


@pytest.mark.parametrize("pixels", [1, 2, 5, 12])
def test_a_mask_grows_as_scipys_does_and_nearly_round(pixels):
    """SciPy's morphology, an implementation of its own; a disc within a tenth and half a pixel."""
    mask = torch.zeros(41, 53, dtype=torch.bool)
    mask[20, 30] = True
    found = grown(mask, pixels).numpy()
    expected = mask.numpy()
    for turn in range(pixels):
        expected = ndimage.binary_dilation(
            expected, ndimage.generate_binary_structure(2, 1 + turn % 2)
        )
    assert np.array_equal(found, expected)
    away = np.asarray(ndimage.distance_transform_edt(~mask.numpy()))
    assert away[found].max() < 1.13 * pixels + 0.5
    assert away[~found].min() > 0.94 * pixels
    assert away[20][found[20]].max() == pixels


def test_feathers_fall_evenly_from_one_to_nothing():
    mask = torch.zeros(9, 20, dtype=torch.bool)
    mask[:, :6] = True
    weights = feathered(mask, 4)
    assert torch.allclose(weights[4, 5:11], torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2, 0.0]))
    assert (weights[mask] == 1).all()
    assert torch.equal(feathered(mask, 0), mask.float())
    with pytest.raises(InputError, match="around a mask"):
        feathered(mask, -1)


@pytest.mark.slow
def test_growing_takes_the_memory_of_a_few_masks_however_far():
    """300 rings of a MiB kept would be 300; as the kernel counts, of a process of its own."""
    code = """
import resource, torch
from plugins.image2image.inference.masks import feathered, grown
mask = torch.zeros(512, 512, dtype=torch.bool)
mask[256, 256] = True
feathered(mask, 2), grown(mask, 2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
feathered(mask, 300), grown(mask, 300)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 50


def test_a_canvas_that_does_not_fit_into_memory_is_refused():
    picture = Picture(torch.zeros(1, 1, 1).expand(3, 100_000, 100_000))
    with pytest.raises(InputError, match="a result of 500000x100001 pixels needs about"):
        extended(picture, Margins(right=400_000, top=1))


# --- damaged files -----------------------------------------------------------------------------

TORTURE = os.environ.get("POLYMODE_TORTURE", "") not in ("", "0")


def test_damaged_masks_are_refused_or_read_and_nothing_else(tmp_path):
    """140 mutants of seven files, 2,100 under POLYMODE_TORTURE, each as a mask of its own size."""
    whole, counts = seeds(), Counter()
    for name, data in whole.items():
        (tmp_path / name).write_bytes(data)
    images = {name: read_picture(tmp_path / name).pixels for name in whole}
    for seed in range(2100 if TORTURE else 140):
        name = sorted(whole)[seed % len(whole)]
        (tmp_path / name).write_bytes(mutated(whole[name], seed))
        try:
            found, _ = read_mask(tmp_path / name, images[name])  # a copy
        except InputError as error:
            counts["refused" if str(error) and "\n" not in str(error) else "badly"] += 1
        else:
            assert found.dtype == torch.bool, (name, seed)
            assert found.shape == images[name].shape[1:], (name, seed)
            counts["read"] += 1
    assert min(counts["refused"], counts["read"]) > 0.1 * counts.total()
    assert not counts["badly"]
