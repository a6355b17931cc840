"""`upscale` on files, and the predictor that it runs."""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import call
from PIL import Image, ImageCms
from skimage import data as photographs

from core.commands import run_app
from core.errors import InputError
from core.parts.config import configure
from core.parts.registry import Spec
from core.request import TrainRequest
from core.runs import train
from plugins.image2image.__main__ import app

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[3]))
from made_images import NETWORK, invoke, load, save
from pixels import pixels


def upscale(*arguments):
    done = call(partial(run_app, app), "upscale", *arguments)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network of a few steps: what it draws is poor, what the script does with it is not."""
    from core.parts.registry import Spec
    from core.request import TrainRequest
    from core.runs import train

    request = TrainRequest(
        task=Spec("image2image/sr3", {"scale": 2}),
        dataset=Spec("image2image/photos", {"size": 32, "patches": 64}),
        network=Spec(
            "core/unet",
            {"width": 8, "multipliers": [1, 2], "blocks": 1, "attention": []},
        ),
        steps=4,
        batch=2,
    )
    folder = tmp_path_factory.mktemp("model")
    train(request, folder)
    return folder


def test_upscale_keeps_size_depth_alpha_profile_and_metadata(model, tmp_path):
    from PIL import PngImagePlugin

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    note = PngImagePlugin.PngInfo()
    note.add_text("Author", "someone")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be shown turned by 90 degrees
    pixels = np.dstack([photographs.coffee()[:21, :34], np.full((21, 34), 77, np.uint8)])
    Image.fromarray(pixels).save(tmp_path / "in.png", icc_profile=profile, pnginfo=note, exif=exif)
    out = tmp_path / "out.png"
    arguments = [tmp_path / "in.png", "--checkpoint", model, "--scale", 2, "--steps", 3, "-o", out]
    done = upscale(*arguments, "--record")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    with Image.open(out) as result:
        assert result.size == (42, 68)
        assert result.mode == "RGBA"
        assert result.info["icc_profile"] == profile
        assert result.text["Author"] == "someone"
        assert result.getexif().get(0x0112, 1) == 1
        assert np.abs(np.asarray(result)[..., 3].astype(int) - 77).max() <= 1
        first = np.asarray(result).copy()
    assert json.loads(out.with_suffix(".json").read_text())["seed"] == 0
    upscale(*arguments, "--overwrite")
    assert np.array_equal(np.asarray(Image.open(out)), first)
    upscale(*arguments, "--seed", 1, "--overwrite")
    assert not np.array_equal(np.asarray(Image.open(out)), first)


def test_upscale_keeps_grey_and_sixteen_bits_and_takes_several(model, tmp_path):
    deep = (photographs.camera()[:16, :18].astype(np.uint16) << 8) + 55
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(photographs.camera()[:9, :7]).save(tmp_path / "grey.jpg")
    out = tmp_path / "results"
    done = upscale(
        tmp_path / "deep.png", tmp_path / "grey.jpg", "--checkpoint", model, "--steps", 2, "-o", out
    )
    assert done.returncode == 0, done.stderr
    with Image.open(out / "deep.png") as result:
        assert result.mode.startswith("I;16")
        assert result.size == (36, 32)
    with Image.open(out / "grey.jpg") as result:
        assert (result.mode, result.size) == ("L", (14, 18))


def test_a_white_shape_on_transparency_has_no_dark_outline(model, tmp_path):
    """Laid over white it was as dark as 130, since what the file hides is black."""
    rows, columns = np.mgrid[:24, :24]
    shape = np.zeros((24, 24, 4), np.uint8)
    shape[(rows - 11) ** 2 + (columns - 12) ** 2 < 64] = 255
    Image.fromarray(shape).save(tmp_path / "in.png")
    out = tmp_path / "out.png"
    done = upscale(tmp_path / "in.png", "--checkpoint", model, "--steps", 2, "-o", out)
    assert done.returncode == 0, done.stderr
    whole = Image.new("RGBA", (48, 48), "white")
    whole.alpha_composite(Image.open(out))
    assert np.asarray(whole)[..., :3].min() >= 222  # premultiplied bicubic has that


def test_grey_stored_as_colour_stays_grey(model, tmp_path):
    grey = photographs.camera()[100:124, 100:130]
    Image.fromarray(np.dstack([grey] * 3)).save(tmp_path / "in.png")
    out = tmp_path / "out.png"
    done = upscale(tmp_path / "in.png", "--checkpoint", model, "--steps", 2, "-o", out)
    assert done.returncode == 0, done.stderr
    found = np.asarray(Image.open(out))
    assert found.shape == (48, 60, 3)
    assert np.ptp(found, axis=-1).max() == 0


def test_a_jpeg_file_is_enlarged_from_its_smoothest_decoding_and_a_note_says_so(model, tmp_path):
    """However it is turned; the reduction of the result is in the file's quantisation cells."""
    source = tmp_path / "in.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photographs.coffee()[60:93, 100:150]).save(source, quality=50, exif=exif)
    out = tmp_path / "out.png"
    done = upscale(source, "--checkpoint", model, "--steps", 2, "-o", out)
    assert done.returncode == 0, done.stderr
    assert "a JPEG file, and the model learned from clean images" in done.stderr
    with Image.open(out) as result:
        assert result.size == (66, 100)


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["--scale", 1.5], (45, 36)),
        (["--scale", 2.7], (81, 65)),  # twice through a model of 2
        (["--width", 50], (50, 40)),
        (["--height", 41, "--width", 50], (50, 41)),
    ],
)
def test_any_size_is_reached_and_reduces_to_the_image(model, tmp_path, words, size):
    """By Pillow's reduction; 8 bits leave an error of less than 1e-5."""
    given = photographs.coffee()[100:124, 100:130]
    Image.fromarray(given).save(tmp_path / "in.png")
    out = tmp_path / "out.png"
    done = upscale(tmp_path / "in.png", "--checkpoint", model, "--steps", 2, "-o", out, *words)
    assert done.returncode == 0, done.stderr
    with Image.open(out) as result:
        assert result.size == size
        back = np.asarray(result.resize((30, 24), Image.Resampling.BICUBIC)).astype(float)
    assert np.square((back - given) / 255).mean() <= 1e-5


@pytest.mark.parametrize(
    ("words", "size"),
    [([], (120, 96)), (["--scale", 2.7], (81, 65)), (["--width", 50], (50, 40))],
)
def test_a_model_of_several_factors_draws_at_each(tmp_path, words, size):
    """Untrained and without back-projection it draws Pillow's enlargement, and nothing between."""
    request = TrainRequest(
        task=Spec("image2image/multiscale", {"back_projections": 0}),
        dataset=Spec("image2image/photos", {"size": 32, "patches": 64}),
        network=Spec("core/predict_refine", {"width": 4, "blocks": 1, "refiner": NETWORK}),
        objective=Spec("core/predict_refine"), steps=1, batch=2, lr=1e-12,
    )  # fmt: skip
    train(request, tmp_path / "run")
    given = Image.fromarray(photographs.coffee()[100:124, 100:130])
    given.save(tmp_path / "in.png")
    out, model = tmp_path / "out.png", ["--checkpoint", tmp_path / "run", "--detail", 0]
    done = upscale(tmp_path / "in.png", *model, "-o", out, *words)
    assert done.returncode == 0, done.stderr
    with Image.open(out) as result:
        assert result.size == size
        apart = np.abs(np.asarray(result, int) - given.resize(size, Image.Resampling.BICUBIC))
    assert apart.max() <= 1
    then = ["--then", tmp_path / "run", "-o", tmp_path / "other.png"]
    done = upscale(tmp_path / "in.png", *model, *then)
    assert done.returncode == 2
    assert "then: expected two models of one factor each" in done.stderr


def test_little_memory_writes_the_same_file_in_stripes(model, tmp_path):
    """Within a level, by rounding; tiles that are smaller than a stripe, and an odd alpha."""
    given = np.dstack([photographs.coffee()[:200, 100:140], np.full((200, 40), 99, np.uint8)])
    Image.fromarray(given).save(tmp_path / "in.png")
    words = ["--checkpoint", model, "--detail", 0, "--tile", 64, "--overlap", 16]
    for name, more in (("whole", []), ("stripes", ["--memory", "3MiB"])):
        done = upscale(tmp_path / "in.png", *words, "-o", tmp_path / f"{name}.png", *more)
        assert done.returncode == 0, done.stderr
    assert "stripe" in done.stderr
    one, other = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("whole", "stripes"))
    assert one.shape == other.shape == (400, 80, 4)
    assert np.abs(one.astype(int) - other).max() <= 1
    done = upscale(tmp_path / "in.png", *words, "-o", tmp_path / "a.webp", "--memory", "3MiB")
    assert done.returncode == 2
    assert "only PNG and TIFF are written in stripes" in done.stderr


def test_bad_input_is_one_sentence_and_exit_code_2(model, tmp_path):
    good, out = tmp_path / "good.png", tmp_path / "out.png"
    Image.fromarray(photographs.coffee()[:20, :20]).save(good)
    (tmp_path / "text.png").write_text("I am not an image")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (tmp_path / "empty").mkdir()
    cases = [
        ([tmp_path / "none.png", "--checkpoint", model, "-o", out], "none.png"),
        ([tmp_path / "text.png", "--checkpoint", model, "-o", out], "not an image"),
        ([tmp_path / "cut.png", "--checkpoint", model, "-o", out], "damaged or cut off"),
        ([good, "--checkpoint", tmp_path / "empty", "-o", out], "no checkpoint in this folder"),
        ([good, "--checkpoint", model, "-o", "/proc/out.png"], "/proc"),
        ([good, "--checkpoint", model, "-o", tmp_path / "out.xyz"], "suffix"),
        (
            [good, "--checkpoint", model, "-o", out, "--width", 19],
            "expected at least 20x20, the image's, got 19x19",
        ),
        ([good, "--checkpoint", model, "-o", out, "--sampler", "core/hoin"], "did you mean"),
        ([good, "--checkpoint", model, "-o", good], f"would overwrite the input {good}"),
        ([good, "--checkpoint", model, "-o", out, "--device", "cuda:7"], "0 usable GPUs"),
        ([good, "--checkpoint", model, "-o", out, "--stepz", 4], "No such option"),
    ]
    for arguments, words in cases:
        done = upscale(*arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert words in done.stderr, (words, done.stderr)
        assert done.stderr.startswith("error: ")
        assert not out.exists()


@pytest.mark.slow
def test_the_predictor_writes_what_upscale_writes(model, tmp_path):
    """Byte for byte, at the defaults of both and at others, whatever was done before."""
    from core.parts.registry import Spec
    from core.request import Machine

    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(photographs.coffee()[:20, :31]).save(photos / "a.png")
    Image.fromarray(photographs.camera()[:17, :12]).save(photos / "b.jpg")
    cases = {
        "defaults": ({}, []),
        "others": (
            {"steps": 3, "seed": 5, "mean_of": 2, "sampler": "core/ddim", "tile": 64, "overlap": 8},
            ["--steps", 3, "--seed", 5, "--mean-of", 2, "--sampler", "core/ddim", "--tile", 64,
             "--overlap", 8],
        ),
    }  # fmt: skip
    for name, (options, words) in cases.items():
        theirs, ours = tmp_path / f"{name}-upscale", tmp_path / f"{name}-predictor"
        ours.mkdir()
        done = upscale(
            *photos.iterdir(), "--checkpoint", model, "-o", f"{theirs}/", "--threads", 1, *words
        )
        assert done.returncode == 0, done.stderr
        predict = configure("predictor", Spec("image2image/upscale", options))(
            Machine(threads=1), model
        )
        for photo in sorted(photos.iterdir(), reverse=True):
            facts = predict(photo, ours / predict.result_name(photo.name))
            with Image.open(ours / photo.name) as result:
                assert facts["size"] == list(result.size)
            assert (ours / photo.name).read_bytes() == (theirs / photo.name).read_bytes()


def test_the_predictor_refuses_what_upscale_refuses(model, tmp_path):
    from core.parts.config import ConfigError
    from core.parts.registry import Spec
    from core.request import Machine

    def built(**options):
        return configure("predictor", Spec("image2image/upscale", options))(Machine(), model)

    with pytest.raises(InputError, match="scale: excludes width and height"):
        built(scale=2.5, width=40)
    with pytest.raises(ConfigError, match="scale: expected more than 1"):
        built(scale=1)
    with pytest.raises(InputError, match="overlap"):
        built(tile=64, overlap=64)
    with pytest.raises(ConfigError, match="steps: expected at least 2, got 1"):
        built(steps=1)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match="not an image"):
        built()(tmp_path / "text.png", tmp_path / "out.png")
    transparent = np.full((8, 8, 4), 99, np.uint8)
    Image.fromarray(transparent).save(tmp_path / "clear.png")
    (tmp_path / "clear.png").rename(tmp_path / "clear.jpg")  # a PNG, whatever its name says
    with pytest.raises(InputError, match="JPEG cannot hold transparency"):
        built()(tmp_path / "clear.jpg", tmp_path / "out.jpg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clear.jpg", "text.png"]


@pytest.mark.slow
def test_upscale_draws_several_maps_them_and_goes_on_with_a_second_model(tmp_path):
    first = trained_sr3(tmp_path / "first")
    second = trained_sr3(tmp_path / "second", augment=0.2)
    given = save(tmp_path / "in.png", pixels(9, 13))
    arguments = ["upscale", given, "-o", tmp_path / "out.png", "--steps", 2]
    cascaded = [*arguments, "--then", second, "--level", 0.1]
    done = invoke(*cascaded, "--samples", 2, "--deviation", tmp_path / "map.png", checkpoint=first)
    assert len(done.stdout.split()) == 4
    draws = [load(tmp_path / f"out-{k}.png")[0] for k in (1, 2)]
    assert draws[0].shape == (36, 52, 3)
    assert (draws[0] != draws[1]).any()
    assert load(tmp_path / "map.png")[0].shape == (36, 52, 1)
    lines = invoke(*cascaded, "--dry-run", checkpoint=first).stdout.splitlines()
    assert [line.split(": ")[1] for line in lines[::3]] == ["26x18 pixels", "52x36 pixels"]
    save(tmp_path / "one.png", pixels(1, 1))
    invoke("upscale", tmp_path / "one.png", "-o", tmp_path / "two.png", checkpoint=first)
    assert load(tmp_path / "two.png")[0].shape == (2, 2, 3)
    with pytest.raises(InputError, match=r"level: expected 0 to 0\.2, .* got 0\.5"):
        invoke(*arguments, "--then", second, "--level", 0.5, checkpoint=first)
    with pytest.raises(InputError, match="name one with then"):
        invoke(*arguments, "--level", 0.1, checkpoint=first)


def trained_sr3(folder, augment=0.0):
    from core.runs import train

    request = TrainRequest(
        task=Spec("image2image/sr3", {"scale": 2, "augment": augment}),
        dataset=Spec("image2image/photos", {"size": 16, "patches": 4}),
        network=Spec("core/unet", NETWORK),
        steps=1,
        batch=1,
    )
    train(request, folder)
    return folder
