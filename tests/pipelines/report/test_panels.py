"""Which two images of a panel the slider stands between at first, and whole images beside crops."""

import numpy as np
import pytest
from PIL import Image

from core.results.panels import write_panels
from core.task import Panel
from pipelines.report.panels import panel_facts, read_panels

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


def whole(folder, label, size, kind="JPEG"):
    Image.new("L", size, 90).save(folder / f"{label}.jpg", kind)
    return {"label": label, "file": f"{label}.jpg", "width": size[0], "height": size[1],
            "full_width": 2 * size[0], "full_height": 2 * size[1]}  # fmt: skip


def test_whole_images_are_compared_if_they_have_one_size(tmp_path):
    same = [whole(tmp_path, name, (12, 8)) for name in ("input", "result")]
    wider = whole(tmp_path, "wider", (16, 8))
    panels = [{"title": "x", "whole": same}, {"title": "y", "whole": [same[0], wider]}]
    one, other = read_panels(tmp_path, panels)
    assert one["wholes"] == {"before": 0, "after": 1}
    assert other["wholes"] == {}
    assert all(view["source"].startswith("data:image/jpeg;base64,") for view in one["whole"])


def test_a_whole_image_that_is_no_jpeg_is_left_out(tmp_path):
    views = [whole(tmp_path, "a", (4, 4)), whole(tmp_path, "b", (4, 4), "PNG")]
    (read,) = read_panels(tmp_path, [{"title": "x", "whole": views}])
    assert ([view["label"] for view in read["whole"]], read["lost"]) == (["a"], 1)


def test_a_note_goes_from_the_task_to_the_page(tmp_path):
    view = np.zeros((4, 4), np.uint8)
    panels = [Panel("x", note="How to <read> it.", images={"a": view}), Panel("y", {"a": view})]
    (tmp_path / "panels").mkdir()
    one, other = read_panels(tmp_path, write_panels(panels, tmp_path / "panels"))
    assert (one["note"], other["note"]) == ("How to <read> it.", "")
    assert panel_facts(one)["note"] == "How to <read> it."
