"""The task and the dataset that need no data: figures by hand, what is given, what is refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from core.errors import InputError
from core.generate import Blank, Generate
from core.parts.registry import installed
from core.results.sheet import contact_sheet, to_bytes, write_sheet
from core.task import Panel
from core.testing.contract import check_part

LABELLED = {"class": torch.tensor([1, 0])}


def test_the_distance_is_the_area_between_the_distributions():
    """Of cumulative shares, the other formula of the Wasserstein distance; mean over channels."""
    draw = torch.Generator().manual_seed(0)
    truth, results = (
        torch.rand(2, 3, 4, 5, generator=draw),
        torch.randn(2, 3, 3, 4, 5, generator=draw),
    )
    found = Generate().score(results, {"image": truth})["samples"].figures["values"]
    for i in range(2):
        channels = []
        for c in range(3):
            a, b = results[i, :, c].flatten().tolist(), truth[i, c].flatten().tolist()
            places = sorted(a + b)
            area = 0.0
            for low, high in pairwise(places):
                share = sum(v <= low for v in a) / len(a) - sum(v <= low for v in b) / len(b)
                area += abs(share) * (high - low)
            channels.append(area)
        # float32 values, summed in float64 in another order
        assert float(found[i]) == pytest.approx(sum(channels) / 3, rel=1e-6)


def test_values_outside_are_counted_in_percent():
    results = torch.tensor([[[[-1.0, 1.0, 1.01, -2.0, 0.0]]]])
    said = Generate(channels=1).score(results, {"image": torch.zeros(1, 1, 5)})
    assert float(said["samples"].figures["outside"]) == pytest.approx(40)
    assert float(said["samples"].figures["values"]) == pytest.approx((1 + 1 + 1.01 + 2) / 5)
    assert float(said["mid-grey"].figures["values"]) == 0


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"classes": 7}, {"class": torch.tensor([0, 6])}),
        ({"image": 3, "factor": 2}, {}),
        (
            {"image": 3, "classes": 2},
            LABELLED | {"low": torch.zeros(2, 3, 2, 2)},
        ),
    ],
)
def test_it_keeps_the_contract_of_a_task_with_every_condition(options, more):
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) - 0.5
    check_part(
        installed(), "task", "core/generate", batch={"image": image, **more}, options=options
    )


def test_the_contract_notices_a_class_out_of_range():
    image = torch.zeros(2, 3, 8, 8)
    with pytest.raises(AssertionError, match="out of range"):
        check_part(
            installed(), "task", "core/generate",
            batch={"image": image, "class": torch.tensor([0, 7])}, options={"classes": 7},
        )  # fmt: skip


def test_what_is_given_is_the_enlarged_mean_of_blocks():
    """Constant blocks: their means are their values, and centres of an enlargement keep them."""
    low = torch.arange(16.0).reshape(1, 1, 4, 4) / 16
    x0 = low.repeat_interleave(3, 2).repeat_interleave(3, 3)
    given = Generate(channels=1, image=1, factor=3).prepare({"image": x0}).condition["image"]
    assert given.shape == x0.shape
    assert torch.allclose(given[..., 1::3, 1::3], low, atol=1e-6)
    other = Generate(channels=1, image=1).prepare({"image": x0, "low": low}).condition["image"]
    assert torch.equal(other, given)


def test_what_does_not_fit_is_said():
    with pytest.raises(InputError, match="expected 3 channels, got 1"):
        Generate().prepare({"image": torch.zeros(1, 1, 4)})
    with pytest.raises(InputError, match="one of 5 classes"):
        Generate(classes=5).prepare({"image": torch.zeros(1, 3, 4)})
    for options in ({"channels": 0}, {"factor": 1}, {"image": 2}, {"classes": -1}):
        with pytest.raises(InputError):
            Generate(**options)
    for options in ({"shape": (3,)}, {"count": 0}, {"classes": 3, "first": 3}, {"first": 1}):
        with pytest.raises(InputError):
            Blank("test", **options)


def test_blank_items_tell_their_class_and_differ_in_digest():
    data = Blank("test", shape=(1, 2), count=5, classes=3, first=2)
    assert [int(data[i]["class"]) for i in range(5)] == [2, 0, 1, 2, 0]
    assert data.name(1) == "blank 1, class 0"
    digests = {Blank(s, count=c).digest() for s in ("train", "test") for c in (3, 4)}
    assert len(digests) == 4


def test_pictures_are_shown_as_bytes_and_other_samples_are_not():
    x = torch.tensor([-1.0, 0.0, 1.0, 3.0]).reshape(1, 2, 2)
    assert to_bytes(x).tolist() == [[0, 128], [255, 255]]
    assert to_bytes(x.expand(3, 2, 2)).shape == (2, 2, 3)
    volume = torch.zeros(1, 1, 3, 2, 2, 2)
    assert Generate().show(volume, {"image": volume[:, 0]}, ["a"]) == []


def test_a_sheet_puts_single_pictures_in_a_square_and_rows_side_by_side(tmp_path):
    grey = lambda value, size: np.full(size, value, dtype=np.uint8)  # noqa: E731
    single = [Panel("", {"x": grey(10 * i, (4, 6))}) for i in range(5)]
    sheet = contact_sheet(single)
    assert sheet.shape == (2 + 2 * 6, 2 + 3 * 8, 3)
    assert sheet[3, 3].tolist() == [0, 0, 0]
    assert sheet[9, 11].tolist() == [40, 40, 40]
    rows = contact_sheet([Panel("", {"a": grey(1, (4, 6, 3)), "b": grey(2, (2, 3))})])
    assert rows.shape == (8, 18, 3)
    assert rows[2, 10].tolist() == [2, 2, 2]
    assert rows[5, 10].tolist() == [128, 128, 128]


def test_a_sheet_is_written_where_there_are_pictures(tmp_path):
    from PIL import Image

    data = Blank("test", shape=(3, 4, 4), count=20)
    results = torch.linspace(-1, 1, 20).reshape(20, 1, 1, 1, 1).expand(20, 1, 3, 4, 4)
    assert write_sheet(Generate(), results, data, tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert pixels.shape == (2 + 4 * 6, 2 + 4 * 6, 3)  # sixteen of the twenty
    assert pixels[2, 2].tolist() == [0, 0, 0]
    signal = Blank("test", shape=(3, 4), count=2)
    assert not write_sheet(Generate(), torch.zeros(2, 1, 3, 4), signal, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
