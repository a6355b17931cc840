"""Progress counted and text in columns, against lines written by hand."""

import pytest

from core import progress
from core.request import Progress


def test_a_counter_reports_units_a_second_since_it_was_made(monkeypatch):
    clock = iter([100.0, 102.0, 110.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    seen = []
    count = progress.counter(seen.append, 40, "step")
    count(4)
    count(30, loss=0.5)
    assert seen == [
        Progress(done=4, total=40, unit="step", rate=2.0, figures={}),
        Progress(done=30, total=40, unit="step", rate=3.0, figures={"loss": 0.5}),
    ]


def test_the_rate_is_unknown_where_no_time_has_passed(monkeypatch):
    monkeypatch.setattr(progress.time, "monotonic", lambda: 5.0)
    seen = []
    progress.counter(seen.append, 2, "item")(1)
    assert seen[0].rate == 0.0
    assert seen[0].seconds_left is None


def test_columns_are_aligned_and_the_last_is_not_padded():
    rows = [("a", "long one", "x"), ("longer", "b", "the last"), ("", "", "")]
    assert progress.columns(rows) == [
        "a       long one  x",
        "longer  b         the last",
        "                  ",
    ]
    assert progress.columns([]) == []
    with pytest.raises(ValueError, match=r"shorter|longer"):
        progress.columns([("a", "b"), ("c",)])
