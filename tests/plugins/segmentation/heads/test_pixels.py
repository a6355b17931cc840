"""Which labelled pixels are used, and which are held out."""

import pytest
import torch

from core.errors import InputError
from core.features import Maps
from plugins.segmentation.heads.pixels import BLOCK, places_of, with_features


def mask(height=64, width=48, rare=10):
    """Class 0, a few pixels of class 1, a strip of class 2 and one without labels."""
    found = torch.zeros(height, width, dtype=torch.uint8)
    found[:, -8:], found[:, :4] = 255, 2
    found[5, 10 : 10 + rare] = 1
    return found


def test_rare_classes_are_kept_whole_and_the_rest_is_even():
    places = places_of([mask(), mask()], 3, most=320)
    counts = torch.bincount(places.labels).tolist()
    assert counts == [150, 20, 150]
    masks = [mask(), mask()]
    told = [int(masks[i][y, x]) for i, y, x in zip(places.image, places.y, places.x, strict=True)]
    assert told == places.labels.tolist()
    key = (places.image * 64 + places.y) * 48 + places.x
    assert len(key.unique()) == 320


def test_all_labelled_pixels_are_used_where_they_are_few():
    places = places_of([mask()], 3)
    assert len(places.labels) == int((mask() != 255).sum())


def test_held_out_squares_of_few_images_are_whole_and_no_class_is_held_out_alone():
    places = places_of([mask(128, 128)], 3)
    squares = (places.y // BLOCK) * 100 + places.x // BLOCK
    folds = [{int(s) for s in squares[(places.fold == n) & (places.labels == 0)]} for n in range(5)]
    every = set().union(*folds)
    assert sum(map(len, folds)) == len(every) == len(squares[places.labels == 0].unique())
    assert max(map(len, folds)) - min(map(len, folds)) <= 5
    for seed in range(20):  # all pixels of class 1 lie in one square
        places = places_of([mask(128, 128, rare=6)], 3, seed=seed)
        assert (places.fold[places.labels == 1] == -1).all()


def test_of_five_images_whole_ones_are_held_out_with_all_their_tiles():
    places = places_of([mask()] * 12, 3, source=[n // 2 for n in range(12)])
    for number in range(6):
        assert len(places.fold[places.image // 2 == number].unique()) == 1
    assert sorted(places.fold.unique().tolist()) == [0, 1, 2, 3, 4]
    few = places_of([mask()] * 12, 3, source=[n // 3 for n in range(12)])
    assert len(few.fold[few.image // 3 == 0].unique()) == 5


def test_weights_make_classes_alike():
    pixels = with_features(
        places_of([mask()], 3), lambda _: Maps((torch.zeros(1, 2, 8, 6),), (64, 48), (64, 48))
    )
    assert pixels.features.shape == (len(pixels.labels), 2)
    sums = [float(pixels.weights[pixels.labels == one].sum()) for one in range(3)]
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-4)
    assert float(pixels.weights.mean()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (torch.full((4, 4), 255, dtype=torch.uint8), "no pixel has one"),
        (torch.ones(4, 4, dtype=torch.uint8), "all 16 labelled pixels are of class 1"),
    ],
)
def test_labels_that_teach_nothing_are_refused(made, message):
    with pytest.raises(InputError, match=message):
        places_of([made], 2)
