"""SR3's operator, task and entry script against answers from outside the code."""

import json
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from commands import call
from PIL import Image
from skimage import data as photographs
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from core.cli import run_app
from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.denoiser.tiles import starts, tiled
from core.errors import InputError
from core.process.schedules import vp_cosine
from core.results.metrics import interval, psnr, ssim
from core.results.sheet import to_bytes
from plugins.image2image.__main__ import app
from plugins.image2image.operators.bicubic import Bicubic
from plugins.image2image.tasks.restoration import to_levels
from plugins.image2image.tasks.super_resolution import SR3, residual_spread


def picture(size=96):
    pixels = photographs.coffee()[100 : 100 + size, 200 : 200 + size]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_reduction_and_enlargement_are_pillows_bicubic(factor):
    """Pillow in 32-bit float, an implementation of its own; both renormalise at the border."""
    image, operator = picture(), Bicubic(factor=factor)
    small = operator.forward(image)
    large = operator.up(small)
    for channel in range(3):
        plane = Image.fromarray(image[0, channel].numpy(), mode="F")
        side = 96 // factor
        reduced = plane.resize((side, side), Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(reduced) - small[0, channel].numpy()).max() < 1e-5
        again = reduced.resize((96, 96), Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(again) - large[0, channel].numpy()).max() < 1e-5


def test_a_picture_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match="97x96 pixels has no 4-fold reduction"):
        Bicubic(factor=4).forward(torch.zeros(1, 3, 96, 97))


def test_metrics_are_scikit_images():
    image = picture()
    noisy = (image + 0.2 * torch.randn(image.shape, generator=torch.Generator())).clamp(-1, 1)
    first, second = ((x[0].permute(1, 2, 0).double().numpy() + 1) / 2 for x in (noisy, image))
    assert float(psnr(noisy, image)) == pytest.approx(
        peak_signal_noise_ratio(second, first, data_range=1), abs=1e-9
    )
    _, local = structural_similarity(
        first, second, data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    assert float(ssim(noisy, image)) == pytest.approx(local[5:-5, 5:-5].mean(), abs=1e-6)


def test_interval_of_independent_values_is_the_textbook_one():
    """One value per source: the bootstrap interval is mean +- 1.96 s / sqrt(n), to 10 %."""
    values = np.random.Generator(np.random.PCG64(1)).normal(5, 2, 400)
    found = interval(list(values), [str(i) for i in range(400)], confidence=0.95)
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_interval_of_copies_is_that_of_their_sources():
    """Ten copies of each value carry no more information than one."""
    values = np.random.Generator(np.random.PCG64(1)).normal(5, 2, 40)
    names = [str(i) for i in range(40)]
    once = interval(list(values), names, confidence=0.95)
    copies = interval([v for v in values for _ in range(10)], [n for n in names for _ in range(10)],
                      confidence=0.95)  # fmt: skip
    assert copies.high - copies.low == pytest.approx(once.high - once.low, rel=0.1)


@pytest.mark.parametrize("target", ["residual", "image"])
def test_the_true_target_restores_the_picture(target):
    task, batch = SR3(scale=4, target=target), {"image": picture()}
    example = task.prepare(batch)
    assert (task.finish(example.x0, batch) - batch["image"]).abs().max() < 1e-5
    small = Image.fromarray(to_bytes(batch["image"][0])).resize((24, 24), Image.Resampling.BICUBIC)
    apart = to_bytes(task.low(batch)[0]).astype(int) - np.asarray(small).astype(int)
    assert np.abs(apart).max() <= 1  # Pillow rounds between its two passes


def test_the_expected_spread_follows_local_contrast():
    """The deviation over 3x3 pixels by SciPy; a grey picture has the floor everywhere."""
    from scipy.ndimage import uniform_filter

    low = SR3().low({"image": picture()})
    grey = low[0].mean(0).double().numpy()
    mean = uniform_filter(grey, 3, mode="nearest")
    contrast = np.sqrt(np.maximum(uniform_filter(grey**2, 3, mode="nearest") - mean**2, 0))
    expected = 0.006 + 1.7 * contrast / (1 + 5.5 * contrast)
    assert np.abs(residual_spread(low)[0, 0].numpy() - expected).max() < 1e-3
    assert (residual_spread(torch.zeros(1, 3, 5, 5)) - 0.006).abs().max() < 1e-6


def test_residuals_of_photographs_not_fitted_to_have_about_unit_deviation():
    from skimage import data as photographs

    for photo in (photographs.cat(), photographs.coffee(), photographs.rocket()):
        pixels = torch.from_numpy(photo[:288, :416].copy()).permute(2, 0, 1)[None]
        x0 = SR3().prepare({"image": pixels.float() / 127.5 - 1}).x0
        assert 0.4 < float(x0.std()) < 1.6


def test_back_projection_brings_bicubic_to_its_input():
    """Zero residual is plain bicubic: ten rounds must take 90 % of its inconsistency away."""
    image = picture()
    plain, projected = SR3(), SR3(back_projections=10)
    zero = torch.zeros(1, 1, 3, 96, 96)
    before = plain.score(plain.finish(zero[0], {"image": image})[None], {"image": image})
    after = projected.score(projected.finish(zero[0], {"image": image})[None], {"image": image})
    name = "consistency"
    assert after["one sample"][name] < 0.1 * before["one sample"][name]
    assert torch.allclose(before["one sample"][name], before["bicubic"][name])
    assert after["one sample"]["psnr"] > before["one sample"]["psnr"]


def test_a_black_picture_has_finite_scores():
    image = -torch.ones(1, 3, 32, 32)
    for figures in SR3().score(image[:, None], {"image": image}).values():
        assert all(value.isfinite().all() for value in figures.values())


def test_levels_are_those_of_a_file():
    values = torch.linspace(-1.2, 1.2, 999)
    through = torch.from_numpy(to_bytes(values[None, None].expand(3, 1, -1))).float() / 127.5 - 1
    assert torch.equal(through[0, :, 0], to_levels(values))


@partial(FunctionDenoiser, vp_cosine())
def pointwise(x, t, condition=None):
    return Prediction(x.tanh() + condition["image"])


def test_tiles_of_a_pointwise_denoiser_change_nothing():
    x = torch.randn(1, 3, 150, 97, generator=torch.Generator())
    condition, t = {"image": x.flip(-1)}, torch.zeros(1)
    whole = pointwise(x, t, condition).x0
    for tile, overlap in ((64, 16), (40, 0), (97, 30), (500, 64)):
        found = tiled(pointwise, tile=tile, overlap=overlap)(x, t, condition).x0
        assert (found - whole).abs().max() < 1e-5


def test_tiles_cover_an_axis_and_overlap():
    for length in (64, 65, 100, 128, 1000):
        begins = starts(length, 64, 16)
        covered = sorted({i for b in begins for i in range(b, min(b + 64, length))})
        assert covered == list(range(length))
        assert all(b - a <= 48 for a, b in pairwise(begins))
    with pytest.raises(InputError, match="overlap"):
        tiled(pointwise, tile=64, overlap=64)


# --- the entry script --------------------------------------------------------------------------


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
    from PIL import ImageCms, PngImagePlugin

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
    upscale(*arguments)
    assert np.array_equal(np.asarray(Image.open(out)), first)
    upscale(*arguments, "--seed", 1)
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


def test_bad_input_is_one_sentence_and_exit_code_2(model, tmp_path):
    good, out = tmp_path / "good.png", tmp_path / "out.png"
    Image.fromarray(photographs.coffee()[:20, :20]).save(good)
    (tmp_path / "text.png").write_text("I am not a picture")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (tmp_path / "empty").mkdir()
    cases = [
        ([tmp_path / "none.png", "--checkpoint", model, "-o", out], "none.png"),
        ([tmp_path / "text.png", "--checkpoint", model, "-o", out], "not a picture"),
        ([tmp_path / "cut.png", "--checkpoint", model, "-o", out], "damaged or cut off"),
        ([good, "--checkpoint", tmp_path / "empty", "-o", out], "no checkpoint in this folder"),
        ([good, "--checkpoint", model, "-o", "/proc/out.png"], "/proc"),
        ([good, "--checkpoint", model, "-o", tmp_path / "out.xyz"], "suffix"),
        ([good, "--checkpoint", model, "-o", out, "--scale", 4], "trained for 2, 4 was asked"),
        ([good, "--checkpoint", model, "-o", out, "--sampler", "core/hoin"], "did you mean"),
        ([good, "--checkpoint", model, "-o", good], f"would replace {good} itself"),
        ([good, "--checkpoint", model, "-o", out, "--device", "cuda:7"], "0 usable GPUs"),
        ([good, "--checkpoint", model, "-o", out, "--stepz", 4], "No such option"),
    ]
    for arguments, words in cases:
        done = upscale(*arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert words in done.stderr, (words, done.stderr)
        assert done.stderr.startswith("error: ")
        assert not out.exists()


def test_the_predictor_writes_what_upscale_writes(model, tmp_path):
    """Byte for byte, at the defaults of both and at others, whatever was done before."""
    from core.parts.config import configure
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
    from core.parts.config import ConfigError, configure
    from core.parts.registry import Spec
    from core.request import Machine

    def built(**options):
        return configure("predictor", Spec("image2image/upscale", options))(Machine(), model)

    with pytest.raises(InputError, match="trained for 2, 4 was asked"):
        built(scale=4)
    with pytest.raises(InputError, match="overlap"):
        built(tile=64, overlap=64)
    with pytest.raises(ConfigError, match="steps: expected at least 2, got 1"):
        built(steps=1)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match="not a picture"):
        built()(tmp_path / "text.png", tmp_path / "out.png")
    transparent = np.full((8, 8, 4), 99, np.uint8)
    Image.fromarray(transparent).save(tmp_path / "clear.png")
    (tmp_path / "clear.png").rename(tmp_path / "clear.jpg")  # a PNG, whatever its name says
    with pytest.raises(InputError, match="JPEG cannot hold transparency"):
        built()(tmp_path / "clear.jpg", tmp_path / "out.jpg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clear.jpg", "text.png"]
