"""Scores of a user's folders: the figures of papers, whatever the files are called."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data as photographs
from skimage import metrics
from typer.testing import CliRunner

from core.errors import InputError
from core.network.vision_transformer import Sizes, VisionTransformer
from core.results.distances import frechet, kernel_distance
from plugins.image2image.evaluation import lpips
from plugins.image2image.evaluation.distances import PATCH, Distances
from plugins.image2image.evaluation.score import score, studio_luma
from plugins.image2image.operators.bicubic import Bicubic
from plugins.image2image.request import ScoreOptions

TRUTH = photographs.coffee()[40:136, 60:188]  # 96 x 128


def noisy(pixels, std, seed=0):
    draw = np.random.default_rng(seed).normal(0, std, pixels.shape)
    return np.clip(np.rint(pixels + draw), 0, 255).astype(np.uint8)


def written(folder, **images):
    folder.mkdir(exist_ok=True)
    for name, pixels in images.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def run(*words):
    from plugins.image2image.__main__ import app

    return CliRunner().invoke(app, ["score", *map(str, words)], catch_exceptions=False)


def one(tmp_path, result, truth=TRUTH, **options):
    ours = written(tmp_path / "results", a=result)
    scores = score(ours, written(tmp_path / "truth", a=truth), ScoreOptions(**options))
    return scores.pictures[0].figures


# --- figures -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("border", [0, 4])
def test_colours_are_scored_as_scikit_image_does(tmp_path, border):
    result = noisy(TRUTH, 9)
    found = one(tmp_path, result, border=border)
    inner = [x[border : 96 - border, border : 128 - border] for x in (TRUTH, result)]
    assert found["psnr"] == pytest.approx(
        metrics.peak_signal_noise_ratio(*inner), abs=1e-6
    )  # float32
    expected = np.mean([window(a, b) for a, b in zip(*map(channels, inner), strict=True)])
    assert found["ssim"] == pytest.approx(expected, abs=1e-7)


def channels(pixels):
    return np.moveaxis(pixels.astype(np.float64), -1, 0)


def window(one, other):
    """SSIM of the valid part, by scikit-image with the options that its manual has for papers."""
    _, each = metrics.structural_similarity(
        one, other, data_range=255, full=True,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    return each[5:-5, 5:-5].mean()


def test_luma_is_that_of_papers(tmp_path):
    """The matrix of BT.601 as MATLAB's rgb2ycbcr has it; scikit-image has the same."""
    from skimage.color import rgb2ycbcr

    result = noisy(TRUTH, 9)
    found = one(tmp_path, result, luma=True, border=4)
    ours, theirs = (rgb2ycbcr(x)[4:-4, 4:-4, 0] for x in (result, TRUTH))
    expected = metrics.peak_signal_noise_ratio(theirs, ours, data_range=255)
    assert found["psnr"] == pytest.approx(expected, abs=1e-5)  # its matrix has six digits
    assert found["ssim"] == pytest.approx(window(theirs, ours), abs=1e-6)


def test_black_and_white_have_the_luma_of_the_standard():
    ends = studio_luma(torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 3, 1, 1))
    assert ((ends + 1) * 127.5).flatten().tolist() == pytest.approx([16, 235], abs=1e-4)


def test_a_constant_error_has_its_closed_form(tmp_path):
    """e levels everywhere: 20 log10(255 / e); in luma, 219/255 of it."""
    grey = np.full((40, 40, 3), 100, np.uint8)
    assert one(tmp_path, grey + 5, grey)["psnr"] == pytest.approx(20 * math.log10(255 / 5))
    luma = one(tmp_path, grey + 5, grey, luma=True)["psnr"]
    assert luma == pytest.approx(20 * math.log10(255 / (5 * 219 / 255)), abs=1e-4)
    assert one(tmp_path, grey, grey)["psnr"] == math.inf


def test_grey_counts_as_three_equal_channels_and_alpha_is_left_out(tmp_path):
    grey = TRUTH[..., 0]
    colour = np.repeat(grey[..., None], 3, 2)
    seen = np.dstack([noisy(colour, 4), np.full(grey.shape, 128, np.uint8)])
    found = score(
        written(tmp_path / "r", a=seen), written(tmp_path / "t", a=grey), ScoreOptions()
    ).pictures[0]
    expected = metrics.peak_signal_noise_ratio(colour, seen[..., :3])
    assert found.figures["psnr"] == pytest.approx(expected)
    assert found.notes == ("transparency was left out",)


def test_consistency_is_that_of_the_reduction(tmp_path):
    given = np.minimum(TRUTH, 250)
    x = torch.from_numpy(given).movedim(-1, 0)[None].double() / 127.5 - 1
    low = np.rint((Bicubic(factor=4).forward(x)[0].movedim(0, -1).numpy() + 1) * 127.5)
    low = np.clip(low, 0, 255).astype(np.uint8)
    folder = written(tmp_path / "low", ax4=low)
    exact = one(tmp_path, given, low=folder, scale=4)["consistency"]
    assert exact < 2e5 / 255**2 / 12  # what rounding to levels leaves, 1/12 of a level squared
    shifted = one(tmp_path, given + np.uint8(2), low=folder, scale=4)["consistency"]
    both = np.mean((2 / 255) ** 2) * 1e5  # the reduction of a constant is that constant
    assert shifted == pytest.approx(both + exact, rel=0.05)


def test_a_truth_is_cut_to_multiples_of_the_scale(tmp_path):
    found = score(
        written(tmp_path / "r", a=TRUTH[:92, :128]),
        written(tmp_path / "t", a=TRUTH[:95]),
        ScoreOptions(scale=4),
    )
    assert found.pictures[0].figures["psnr"] == math.inf
    assert "cut to 128x92 pixels" in found.pictures[0].notes[0]


def test_distances_are_of_patches_and_their_other_half(tmp_path):
    class Means:
        """Features in closed form: mean and contrast of each channel."""

        name = "means"

        def features(self, x):
            return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)

    truth = photographs.coffee()[:128, :192]
    result = noisy(truth, 20)
    found = score(
        written(tmp_path / "r", a=result),
        written(tmp_path / "t", a=truth),
        ScoreOptions(),
        distances=Distances(patches=Means()),
    )

    def features(pixels):
        x = torch.from_numpy(pixels.copy()).movedim(-1, 0) / 127.5 - 1
        rows = [[x[:, i : i + PATCH, j : j + PATCH] for j in range(0, 192, PATCH)]
                for i in range(0, 128, PATCH)]  # fmt: skip
        halves = [[], []]
        for i, row in enumerate(rows):
            for j, patch in enumerate(row):
                halves[(i + j) % 2].append(Means().features(patch[None])[0])
        return [torch.stack(half) for half in halves]

    ours, theirs = features(result), features(truth)
    apart = torch.cat([(a - b).norm(dim=1) for a, b in zip(ours, theirs, strict=True)]).mean()
    assert found.pictures[0].figures["distance"] == pytest.approx(float(apart), abs=1e-5)
    for name, measure in (("fid", frechet), ("kid", kernel_distance)):
        crossed = np.mean([measure(ours[k], theirs[1 - k]) for k in (0, 1)])
        assert found.sets[name] == pytest.approx(crossed, rel=1e-3, abs=1e-5)
        floor = np.mean([measure(theirs[k], theirs[1 - k]) for k in (0, 1)])
        assert found.sets[f"{name} floor"] == pytest.approx(floor, rel=1e-3, abs=1e-5)


def test_features_of_whole_images_are_compared_with_the_other_half_of_the_truth(tmp_path):
    class Means:
        name = "means"

        def features(self, x):
            return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)

    truths = {f"i{k}": TRUTH[k : k + 64, 8 * k : 8 * k + 64] for k in range(5)}
    results = {name: noisy(x, 20) for name, x in truths.items()}
    found = score(
        written(tmp_path / "r", **results),
        written(tmp_path / "t", **truths),
        ScoreOptions(),
        distances=Distances(dino=Means()),
    )
    ours, theirs = (
        [Means().features(torch.from_numpy(x.copy()).movedim(-1, 0)[None] / 127.5 - 1)[0]
         for x in images.values()]
        for images in (results, truths)
    )  # fmt: skip
    for one, a, b in zip(found.pictures, ours, theirs, strict=True):
        cosine = float(a @ b / (a.norm() * b.norm()))
        assert one.figures["dino"] == pytest.approx(1 - cosine, abs=1e-6)
    a, b = ([torch.stack(x[half::2]) for half in (0, 1)] for x in (ours, theirs))
    for name, measure in (("dino_fid", frechet), ("dino_kid", kernel_distance)):
        crossed = np.mean([measure(a[k], b[1 - k]) for k in (0, 1)])
        assert found.sets[name] == pytest.approx(crossed, rel=1e-4, abs=1e-6)
        floor = np.mean([measure(b[k], b[1 - k]) for k in (0, 1)])
        assert found.sets[f"{name} floor"] == pytest.approx(floor, rel=1e-4, abs=1e-6)
    few = score(tmp_path / "r" / "i0.png", tmp_path / "t" / "i0.png", ScoreOptions(),
                distances=Distances(dino=Means()))  # fmt: skip
    assert few.sets == {}


# --- names and the command -----------------------------------------------------------------------


def test_names_are_matched_by_their_beginning_and_others_are_named(tmp_path):
    small = TRUTH[:32, :32]
    truth = written(tmp_path / "t", a=small, a_b=small, img_1_SRF_4_HR=small, alone=small)
    names = ("a_x4", "a_b-model", "a.jpg", "img_1_SRF_4_SR", "ab", "c")
    ours = written(tmp_path / "r", **dict.fromkeys(names, small))
    found = score(ours, truth, ScoreOptions())
    assert {one.name: one.truth for one in found.pictures} == {
        "a_x4.png": "a.png",
        "a.jpg.png": "a.png",
        "a_b-model.png": "a_b.png",
        "img_1_SRF_4_SR.png": "img_1_SRF_4_HR.png",
    }
    assert found.unmatched == {"results": ["ab.png", "c.png"], "truth": ["alone.png"]}


def test_the_command_prints_a_table_and_writes_csv_and_json(tmp_path):
    results = written(tmp_path / "r", a_x4=noisy(TRUTH, 5), b_x4=TRUTH[:50], c=TRUTH)
    truth = written(tmp_path / "t", a=TRUTH, b=TRUTH)
    ended = run(results, truth, "--luma", "--border", 4, "-o", tmp_path / "s.csv")
    assert ended.exit_code == 1  # one was not scored
    assert "b_x4.png: not scored: has 128x50 pixels, the truth 128x96" in ended.output
    assert "c.png: no truth of that name" in ended.output
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert [row["name"] for row in rows] == ["a_x4.png", "b_x4.png", "mean"]
    assert rows[0]["psnr"] == rows[-1]["psnr"] != rows[1]["psnr"] == ""
    assert f"a_x4.png  {float(rows[0]['psnr']):14.2f}" in ended.output
    same = run(truth, truth, "-o", tmp_path / "s.json")
    assert same.exit_code == 0
    document = json.loads((tmp_path / "s.json").read_text())
    assert document["pictures"][0]["psnr"] is None  # equal: infinite, which JSON has not
    assert document["pictures"][0]["ssim"] == pytest.approx(1)
    assert "R, G and B, whole image" in document["convention"]["psnr"]


def test_the_command_measures_lpips_and_dino_by_files(tmp_path):
    draw = torch.Generator().manual_seed(0)
    shapes = lpips._shapes("alex")
    weights = {name: torch.rand(shape, generator=draw) / 99 for name, shape in shapes.items()}
    save_file({n: x for n, x in weights.items() if "lin" not in n}, tmp_path / "net.safetensors")
    save_file({n: x for n, x in weights.items() if "lin" in n}, tmp_path / "heads.safetensors")
    network = VisionTransformer(Sizes(patch=56, width=64, depth=1, heads=1, hidden=8, grid=4))
    vit = {n: 0.1 * torch.randn(x.shape, generator=draw) for n, x in network.state_dict().items()}
    save_file(vit, tmp_path / "vit.safetensors")
    long = np.repeat(TRUTH[:20, :1], 90, 1)  # too small for one, too long for the other
    results = written(tmp_path / "r", a_x4=noisy(TRUTH, 30), b=TRUTH, c=long)
    truth = written(tmp_path / "t", a=TRUTH, b=TRUTH, c=long)
    files = ["--lpips", tmp_path / "net.safetensors", "--lpips", tmp_path / "heads.safetensors",
             "--dino", tmp_path / "vit.safetensors"]  # fmt: skip
    ended = run(results, truth, *files, "-o", tmp_path / "s.json")
    assert ended.exit_code == 0
    document = json.loads((tmp_path / "s.json").read_text())
    noise, same, line = document["pictures"]
    assert noise["lpips"] > 0 < noise["dino"]
    assert same["lpips"] == same["dino"] == 0
    assert line["lpips"] is None is line["dino"]
    assert "no lpips: 90x20 pixels are too few" in ended.output
    assert "no dino: 90x20 pixels are more than 4 times as long as wide" in ended.output
    assert "LPIPS alex " in document["convention"]["lpips"]
    assert "DINO ViT 64/56 " in document["convention"]["dino"]


def test_bad_requests_are_one_sentence(tmp_path):
    results = written(tmp_path / "r", z=TRUTH, y=TRUTH)
    truth = written(tmp_path / "t", a=TRUTH, b=TRUTH)
    (tmp_path / "empty").mkdir()
    for words, message in (
        ([results, truth], "no image has a name that begins with one of"),
        ([results, tmp_path / "none"], "truth: .*no such folder or image"),
        ([tmp_path / "empty", truth], "results: .*no image in it"),
        ([truth, truth, "--low", results], "give --scale"),
        ([truth, truth, "-o", tmp_path / "s.txt"], r"ends in \.csv or \.json"),
        ([truth, truth, "--extractor", tmp_path / "f"], "add --distances"),
        ([truth, truth, "--lpips", truth / "a.png"], "not a safetensors file"),
        ([truth, truth, "--dino", tmp_path / "none"], "none: cannot be read: No such file"),
    ):
        with pytest.raises(InputError, match=message):
            run(*words)
    ended = run(truth, truth, "--border", 45)
    assert ended.exit_code == 1
    assert "give a smaller border" in ended.output
