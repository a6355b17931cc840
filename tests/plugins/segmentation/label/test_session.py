"""Labels painted without a browser: what is on disk, and what is predicted from it."""

import json
import time

import numpy as np
import pytest
from made_sessions import SIZE, disc, images, session_of
from PIL import Image

from core.errors import InputError
from core.images.labels import read_labels
from plugins.segmentation.data.labelled import pairs_of, read_labelled
from plugins.segmentation.inference.fit import read
from plugins.segmentation.io.classes import IGNORE
from plugins.segmentation.label.session import Waiting
from plugins.segmentation.request import Labels

# Left, top and labels: across the disc, and from the edge of the image nearly to it.
DISC = (20, 22, np.full((4, 24), 1, np.uint8))
GROUND = (2, 16, np.zeros((20, 12), np.uint8))


def overlap(found):
    """Intersection over union with the disc."""
    labels = found.labels.numpy().astype(bool)
    return (labels & disc()).sum() / (labels | disc()).sum()


def predicted(session, number):
    for _ in range(400):
        found = session.predict(number)
        if not isinstance(found, Waiting) or found.why != "features":
            return found
        time.sleep(0.02)
    raise AssertionError("no features after 8 s")


def test_every_stroke_is_on_disk_at_the_images_size_and_is_continued(tmp_path):
    session = session_of(images(tmp_path / "in"))
    session.paint(0, 5, 7, np.full((2, 3), 1, np.uint8))
    expected = np.full(SIZE, IGNORE)
    expected[7:9, 5:8] = 1
    assert np.array_equal(read_labels(tmp_path / "in" / "a_mask.png"), expected)
    again = session_of(tmp_path / "in")
    assert [item.name for item in again.items] == ["a", "b"]
    again.paint(0, 0, 0, np.zeros((1, 2), np.uint8))
    again.paint(0, 6, 7, np.full((1, 1), IGNORE, np.uint8))
    expected[0, :2], expected[7, 6] = 0, IGNORE
    with Image.open(tmp_path / "in" / "a_mask.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), expected)
    labelled = read_labelled(pairs_of(tmp_path / "in"), classes=("ground", "disc"))
    assert labelled.names == ("a",)


def test_classes_are_stored_with_the_masks_and_need_no_second_naming(tmp_path):
    session = session_of(images(tmp_path / "in"), tmp_path / "masks")
    assert not (tmp_path / "masks" / "classes.json").exists()  # nothing is painted yet
    session.paint(0, *DISC)
    stored = json.loads((tmp_path / "masks" / "classes.json").read_text())
    assert stored == [{"name": "ground", "value": 0}, {"name": "disc", "value": 1}]
    again = session_of(tmp_path / "in", tmp_path / "masks", classes=())
    assert again.classes.names == ("ground", "disc")
    assert read(tmp_path / "in", Labels(masks=tmp_path / "masks")).classes == session.classes
    assert (
        session_of(tmp_path / "in", tmp_path / "masks", classes=("a", "b")).classes.names[0] == "a"
    )
    (tmp_path / "masks" / "classes.json").write_text('[{"name": "one"}]')
    with pytest.raises(InputError, match="expected a list of"):
        session_of(tmp_path / "in", tmp_path / "masks", classes=())


def test_masks_of_a_folder_keep_their_numbers(tmp_path):
    folder, masks = images(tmp_path / "in"), tmp_path / "in" / "masks"
    masks.mkdir()
    numbers = np.where(disc(), 128, 7).astype(np.uint8)
    Image.fromarray(numbers).save(masks / "b.png")
    session = session_of(folder, masks, classes=())
    assert [item.name for item in session.items] == ["a", "b"]  # and no mask
    assert session.classes.values == (7, 128)
    session.paint(1, 0, 0, np.full((1, 1), 1, np.uint8))
    session.paint(0, 0, 0, np.full((1, 1), 0, np.uint8))
    numbers[0, 0] = 128
    assert np.array_equal(read_labels(masks / "b.png"), numbers)
    assert read_labels(masks / "a_mask.png")[0, 0] == 7
    assert not list(folder.glob("*_mask.png"))


def test_two_strokes_find_the_disc_in_both_images(tmp_path):
    session = session_of(images(tmp_path))
    session.start()
    assert predicted(session, 0).why == "classes"
    session.paint(0, *DISC)
    assert predicted(session, 0).why == "classes"  # of one class alone
    session.paint(0, *GROUND)
    for number in (0, 1):
        found = predicted(session, number)
        assert overlap(found) > 0.7
    # It is least certain where one class meets the other.
    sure, labels = found.uncertainty.numpy().astype(float), found.labels.numpy()
    edge = labels != np.roll(labels, 1, 1)
    assert sure[edge].mean() > 1.5 * sure[~edge].mean()
    session.end()


def test_labels_of_other_images_count_without_being_opened(tmp_path):
    session = session_of(images(tmp_path))
    session.paint(1, *DISC)
    session.paint(1, *GROUND)
    again = session_of(tmp_path)
    again.start()
    for _ in range(400):  # it is read after the image that is shown
        if 1 in again._samples:
            break
        time.sleep(0.02)
    found = predicted(again, 0)
    assert overlap(found) > 0.7
    again.end()


def test_images_are_suggested_by_their_score_until_they_have_labels(tmp_path):
    scores = {"a": 0.1, "b": 0.5, "c": 0.3}
    folder = images(tmp_path, tuple(scores))
    session = session_of(folder, score=lambda path: scores[path.stem])
    session.start()
    for _ in range(400):
        if session.suggested()[1] == 3:
            break
        time.sleep(0.02)
    assert session.suggested() == ([1, 2, 0], 3)
    session.paint(1, 0, 0, np.zeros((1, 1), np.uint8))
    assert session.suggested() == ([2, 0], 3)
    session.end()


@pytest.mark.parametrize(
    ("left", "top", "labels", "problem"),
    [
        (60, 0, np.zeros((2, 5), np.uint8), "inside"),
        (0, -1, np.zeros((2, 5), np.uint8), "inside"),
        (0, 0, np.full((2, 5), 2, np.uint8), "classes below 2"),
    ],
)
def test_labels_that_do_not_fit_change_nothing(tmp_path, left, top, labels, problem):
    session = session_of(images(tmp_path))
    with pytest.raises(InputError, match=problem):
        session.paint(0, left, top, labels)
    assert not (tmp_path / "a_mask.png").exists()


def test_what_cannot_be_continued_is_refused(tmp_path):
    folder = images(tmp_path)
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(folder / "a_mask.png")
    with pytest.raises(InputError, match="4 x 3 pixels, its image has 64 x 48"):
        session_of(folder).mask(0)
    (folder / "a_mask.png").unlink()
    Image.fromarray(np.full(SIZE, 9, np.uint8)).save(folder / "a_mask.png")
    with pytest.raises(InputError, match="expected two or more"):
        session_of(folder, classes=())
    with pytest.raises(InputError, match="have the label 9"):
        session_of(folder).mask(0)
    (folder / "a_mask.png").rename(folder / "b_label.png")
    Image.open(folder / "b_label.png").point(lambda _: 0).save(folder / "b_label.tif")
    (folder / "b_label.png").unlink()
    with pytest.raises(InputError, match="the page writes PNG alone"):
        session_of(folder).paint(1, 0, 0, np.zeros((1, 1), np.uint8))
