"""Every registered dataset has one card of the one form."""

import re
from pathlib import Path

import pytest
import yaml

from core.parts.registry import installed

FOLDER = Path(__file__).parents[1] / "data_cards"
CARDS = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")
KEYS = {
    *("pretty_name", "license", "size_categories", "tags", "dataset", "version", "origin"),
    *("splits", "personal_data"),
}
HEADINGS = [
    "Source and licence",
    "Composition",
    "Collection and processing",
    "Intended use",
    "Limits and risks",
    "Maintenance",
]


def parts_of(card):
    """Front matter and body."""
    _, matter, body = re.split(
        r"^---$\n?", card.read_text(encoding="utf-8"), maxsplit=2, flags=re.M
    )
    return yaml.safe_load(matter), body


def test_cards_and_registered_datasets_match_one_to_one():
    registered = {name for name, _ in installed().names("dataset")}
    assert sorted(parts_of(card)[0]["dataset"] for card in CARDS) == sorted(registered)
    assert {card.stem for card in CARDS} == {name.replace("/", "-") for name in registered}
    assert not installed().broken


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_front_matter_is_complete_and_agrees_with_the_registry(card):
    matter, _ = parts_of(card)
    assert set(matter) - {"license_name"} == KEYS
    assert all(value not in (None, "", [], {}) for value in matter.values())
    assert card.stem == matter["dataset"].replace("/", "-")
    assert re.fullmatch(r"[a-z0-9.-]+", matter["license"])
    assert ("license_name" in matter) == (matter["license"] == "other")
    assert all(re.fullmatch(r"n<1K|\d+K<n<\d+[KM]|\d+M<n<\d+[MB]|\d+<n<\d+K?", size) for size in matter["size_categories"])  # fmt: skip  # noqa: E501
    assert matter["tags"][0] == matter["dataset"].split("/")[0]
    assert matter["origin"] in ("generated", "photographed", "measured", "yours")
    assert set(matter["splits"]) == {"train", "test"}
    registered = dict(installed().names("dataset"))[matter["dataset"]]
    assert str(matter["version"]) == registered.version


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_headings_are_the_six_in_order_and_none_is_empty(card):
    matter, body = parts_of(card)
    assert re.findall(r"^# (.+)$", body, re.M) == [matter["pretty_name"]]
    pieces = re.split(r"^## (.+)$", body, flags=re.M)
    assert pieces[1::2] == HEADINGS
    assert not re.search(r"^###", body, re.M)
    assert all(len(text.split()) > 5 for text in pieces[2::2])


@pytest.mark.parametrize(
    "card",
    [card for card in CARDS if parts_of(card)[0]["origin"] != "yours"],
    ids=lambda card: card.stem,
)
def test_the_splits_are_those_of_the_default_options(card):
    matter, _ = parts_of(card)
    build = installed().load("dataset", matter["dataset"])
    assert matter["splits"] == {split: len(build(split)) for split in ("train", "test")}


def test_the_photographs_card_lists_what_the_code_uses():
    from plugins.image2image.data.photos import TEST_PHOTOS, TRAIN_PHOTOS, photograph

    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \| (\d+) x (\d+), (\w+) \|",
        (FOLDER / "image2image-photos.md").read_text(encoding="utf-8"),
        re.M,
    )
    split_of = {name: split for name, split, *_ in rows}
    assert split_of == {
        **dict.fromkeys(TRAIN_PHOTOS, "train"),
        **dict.fromkeys(TEST_PHOTOS, "test"),
    }
    for name, _, wide, high, colour in rows:
        pixels = photograph(name)
        assert pixels.shape == (3, int(high), int(wide))
        assert ((pixels[0] == pixels[1]).all() and (pixels[1] == pixels[2]).all()) == (
            colour == "grey"
        )
