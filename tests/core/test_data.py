"""Splits by content, and a cache by bytes, against counts made by hand."""

import hashlib

import pytest

from core.data import Cache, check_split, place_of, split_of
from core.errors import InputError


def test_the_place_of_a_digest_is_its_fraction_of_the_greatest():
    assert place_of("0" * 64) == 0.0
    assert place_of("8" + "0" * 63) == 0.5
    assert place_of("4" + "0" * 63) == 0.25
    assert place_of("f" * 64) == 1 - 2**-52


def digest(item):
    return hashlib.sha256(str(item).encode()).hexdigest()


def test_a_split_holds_its_fraction_and_no_item_moves_when_others_come():
    items = list(range(2000))
    train, test = (split_of(items, split, 0.2, key=digest) for split in ("train", "test"))
    assert sorted(train + test) == items
    assert abs(len(test) - 400) < 5 * (2000 * 0.2 * 0.8) ** 0.5  # five standard deviations
    fewer = split_of(items[::3], "test", 0.2, key=digest)
    assert set(fewer) == set(test) & set(items[::3])
    assert split_of(items, "test", 0.0, key=digest) == []
    assert split_of(items, "test", 1.0, key=digest) == items
    larger = split_of(items, "test", 0.3, key=digest)
    assert set(test) < set(larger)


def test_items_of_one_key_are_on_one_side():
    slices = [(patient, n) for patient in range(50) for n in range(4)]
    test = split_of(slices, "test", 0.5, key=lambda one: digest(one[0]))
    assert {patient for patient, _ in test}.isdisjoint(
        patient for patient, _ in set(slices) - set(test)
    )


@pytest.mark.parametrize("split", ["val", "", "Train"])
def test_a_word_that_is_no_split_is_refused(split):
    with pytest.raises(InputError, match="split: expected train or test, got"):
        check_split(split)
    check_split("train")


def test_a_cache_keeps_its_bytes_and_drops_what_was_used_longest_ago():
    cache = Cache[str](100)
    for key in "abc":
        cache.keep(key, key.upper(), 40)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (None, "B", "C")
    assert cache.get("b") == "B"  # used now, so that c is the oldest
    cache.keep("d", "D", 40)
    assert (cache.get("b"), cache.get("c"), cache.get("d")) == ("B", None, "D")
    cache.keep("d", "again", 20)  # in place of itself: 40 + 20
    cache.keep("e", "E", 40)
    assert (len(cache), cache.held) == (3, 100)
    assert cache.keep("large", "L", 1000) == "L"
    assert (len(cache), cache.get("large")) == (1, "L")
