"""The ledger of a folder: records that hold, marks that count the dead, a listing in order."""

import json

from pipelines.apply.ledger import LISTING, Ledger, Record


def record(name, **changes):
    return Record(name=name, state="done", key="k", source="s", result=name, **changes)


def test_the_listing_is_sorted_and_nothing_else_is_left(tmp_path):
    book = Ledger(tmp_path)
    book.open()
    names = ["b.png", "a/z.png", "a.png", "c.png"]
    for name in names:
        book.add(record(name))
    lines = Ledger(tmp_path).open()  # as after a death: the records become the listing
    assert set(lines) == set(names)
    book.close({name: lines[name] for name in names})
    listed = [json.loads(line)["name"] for line in (tmp_path / LISTING).read_text().splitlines()]
    assert listed == sorted(names)
    assert [path.name for path in tmp_path.iterdir()] == [LISTING]


def test_a_mark_counts_those_that_died_and_a_record_takes_it_away(tmp_path):
    book = Ledger(tmp_path)
    book.open()
    for deaths in (1, 2):
        book.begin("a.png")
        assert book.deaths("a.png") == deaths
    assert book.begun() == {book.mark("a.png")}
    book.add(record("a.png", deaths=2))
    assert (book.deaths("a.png"), book.begun()) == (0, set())
    assert book.find("a.png").deaths == 2
    book.begin("b.png")
    book.forgive()
    assert book.deaths("b.png") == 0


def test_a_line_that_is_not_whole_is_no_record(tmp_path):
    whole = record("a.png").line()
    (tmp_path / LISTING).write_text(f"{whole}\n{whole[:-9]}\n")
    assert list(Ledger(tmp_path).open().values()) == [whole]
