"""Blocks and steps compared: on features whose worth is known."""

import json

import pytest
import torch
from typer.testing import CliRunner

from core.errors import InputError
from plugins.segmentation.__main__ import app
from plugins.segmentation.evaluation.choose import choices_of, confusions
from plugins.segmentation.heads.pixels import Pixels


def test_choices_are_every_block_and_step_and_all_of_them():
    found = choices_of(("a", "b"), (10, 20), (1, 2, 1, 2))
    columns = {(one.block, one.step): one.columns.tolist() for one in found}
    assert columns == {
        ("a", "10"): [0], ("a", "20"): [3], ("a", "all"): [0, 3],
        ("b", "10"): [1, 2], ("b", "20"): [4, 5], ("b", "all"): [1, 2, 4, 5],
        ("all", "10"): [0, 1, 2], ("all", "20"): [3, 4, 5], ("all", "all"): [0, 1, 2, 3, 4, 5],
    }  # fmt: skip
    assert [(one.block, one.step) for one in choices_of(("a",), (10,), (4,))] == [("a", "10")]


def test_an_image_is_segmented_by_the_others_and_classes_count_as_often_as_they_are():
    """In image 2 the feature means the opposite: no classifier of the others can know."""
    labels = torch.tensor([0, 1] * 30)
    image = torch.arange(3).repeat_interleave(20)
    sign = torch.where(image == 2, -1.0, 1.0)
    features = torch.stack([sign * (2.0 * labels - 1), torch.zeros(60)], 1)
    pixels = Pixels(features, labels, torch.full((60,), -1), 2)
    found = confusions(pixels, image, torch.tensor([0]), torch.tensor([9.0, 2.0]), 3, 3)
    right = [[90, 0], [0, 20]]
    assert found[2].tolist() == [[0, 90], [20, 0]]
    # Of images 0 and 1 the classifier has one image that agrees and one that does not: no slope.
    none = confusions(pixels, image, torch.tensor([1]), torch.tensor([9.0, 2.0]), 3, 3)
    assert none.sum((1, 2)).tolist() == [110, 110, 110]
    first = confusions(
        pixels._replace(features=features * sign[:, None]), image, torch.tensor([0]),
        torch.tensor([9.0, 2.0]), 3, 2,
    )  # fmt: skip
    assert first.tolist() == [right] * 3


@pytest.mark.slow
def test_the_command_prints_what_it_wrote(prior, tmp_path, monkeypatch):
    from PIL import Image

    draw = torch.Generator().manual_seed(0)
    for name in "abc":
        mask = torch.zeros(32, 32, dtype=torch.uint8)
        mask[8:20, 6 + 4 * "abc".index(name) :] = 1
        grey = (60 + 120 * mask + 8 * torch.randn(32, 32, generator=draw)).to(torch.uint8)
        Image.fromarray(grey.numpy()).save(tmp_path / f"{name}.png")
        Image.fromarray(mask.numpy()).save(tmp_path / f"{name}_mask.png")
    words = ("choose", tmp_path, "--checkpoint", prior, "--steps", 20, "--steps", 400, "-o")
    done = CliRunner().invoke(
        app, [*map(str, words), str(tmp_path / "out")], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    methods = json.loads((tmp_path / "out" / "metrics.json").read_text())["methods"]
    means = {name: row["miou"]["mean"] for name, row in methods.items()}
    best = max(means, key=means.__getitem__)
    assert f"{means[best]:6.4f}" in done.output
    step = best.split(" at ")[1]
    assert f"steps: [{'20, 400' if step == 'all' else step}]" in done.output
    assert means["all at 20"] > 0.8 > 0.6 > means["up.0 at 400"] - 0.2
    (tmp_path / "b_mask.png").unlink()
    (tmp_path / "c_mask.png").unlink()
    with pytest.raises(InputError, match="expected two at least"):
        CliRunner().invoke(app, [*map(str, words), str(tmp_path / "more")], catch_exceptions=False)
