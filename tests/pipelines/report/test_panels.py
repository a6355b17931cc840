"""Which two images of a panel the slider stands between at first."""

import pytest
from PIL import Image

from pipelines.report.panels import read_panels

FIVE = ["low-res", "bicubic", "one sample", "mean of 8", "truth"]


@pytest.mark.parametrize(
    ("labels", "reference", "pair"),
    [
        (FIVE, "bicubic", ("bicubic", "mean of 8")),  # the reference and the one before the truth
        (FIVE, "low-res", ("low-res", "mean of 8")),
        (FIVE, "mean of 8", ("mean of 8", "truth")),
        (FIVE, "truth", ("truth", "mean of 8")),
        (FIVE, "nowhere", ("low-res", "mean of 8")),
        (["FBP", "truth"], "FBP", ("FBP", "truth")),
        (["FBP", "truth"], "truth", ("truth", "FBP")),
        (["alone"], "alone", ("alone", "alone")),
    ],
)
def test_the_slider_compares_the_reference_with_the_last_before_the_truth(
    tmp_path, labels, reference, pair
):
    images = []
    for number, label in enumerate(labels):
        Image.new("L", (4, 4), 40 * number).save(tmp_path / f"{number}.png")
        images.append({"label": label, "file": f"{number}.png", "width": 4, "height": 4})
    (read,) = read_panels(tmp_path, [{"title": "x", "images": images}], reference)
    assert (labels[read["before"]], labels[read["after"]]) == pair
