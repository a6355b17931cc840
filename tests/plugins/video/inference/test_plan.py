"""Plans of long clips: every frame once, few at a time, from finished frames alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InputError
from plugins.video.inference.plan import planned

SCHEMES = ("autoregressive", "long_range", "hierarchy_2", "hierarchy_3", "keyframes")


def check(calls, total, observed, window, step):
    done = set(observed)
    for number, call in enumerate(calls):
        assert call.wanted
        assert len(call.frames) == len(set(call.frames)) <= window
        assert set(call.given) <= done
        assert not set(call.wanted) & done
        assert call.given or not done
        assert len(call.wanted) <= (step if number or observed else window)
        done |= set(call.wanted)
    assert done == set(range(total))


@settings(max_examples=300, deadline=None)
@given(
    scheme=st.sampled_from(SCHEMES),
    total=st.integers(0, 70),
    window=st.integers(2, 20),
    step=st.integers(1, 24),
    every=st.none() | st.integers(1, 12),
    data=st.data(),
)
def test_every_frame_is_drawn_once_from_finished_ones(scheme, total, window, step, every, data):
    """Observed frames anywhere: none, the first, the last, every second, scattered."""
    frames = st.sets(st.integers(0, max(0, total - 1)), max_size=total) if total else st.just(set())
    observed = data.draw(frames)
    calls = planned(scheme, total, observed, window=window, step=step, every=every)
    check(calls, total, observed, window, step)
    assert len(calls) <= total


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("total", "seen", "window", "step"), [(11, 8, 10, 8), (30, 0, 4, 1)])
def test_cases_in_which_the_papers_code_fails(scheme, total, seen, window, step):
    """Frames drawn again although observed, and a division by zero for steps of one frame."""
    calls = planned(scheme, total, range(seen), window=window, step=step)
    check(calls, total, range(seen), window, step)


def test_autoregression_by_hand():
    calls = planned("autoregressive", 10, range(3), window=5, step=3)
    assert [(c.given, c.wanted) for c in calls] == [
        ((1, 2), (3, 4, 5)), ((4, 5), (6, 7, 8)), ((5, 6, 7, 8), (9,)),
    ]  # fmt: skip


def test_the_number_of_calls_is_that_of_the_papers_schemes():
    """Autoregression of 300 frames from 36, 10 a call: 27 calls; hierarchies cut groups short."""
    for scheme, most in (("autoregressive", 27), ("long_range", 27), ("hierarchy_2", 36)):
        calls = planned(scheme, 300, range(36), window=20, step=10)
        assert 27 <= len(calls) <= most


def test_long_range_sees_the_beginning_and_hierarchies_see_both_sides():
    last = planned("long_range", 100, range(4), window=8, step=4)[-1]
    assert last.given[0] == 0
    assert last.given[-1] == 95
    fill = planned("hierarchy_2", 64, range(4), window=8, step=4)[1:]
    assert all(min(c.given) < c.wanted[0] for c in fill)
    assert sum(max(c.given) > c.wanted[-1] for c in fill) >= len(fill) - 2
    keys = planned("keyframes", 65, [0], window=8, step=4, every=16)
    assert keys[0].wanted == (16, 32, 48, 64)
    assert all(c.given[0] < c.wanted[0] and c.given[-1] > c.wanted[-1] for c in keys[1:])


def test_holes_are_seen_from_both_sides():
    (call,) = planned("autoregressive", 12, [*range(5), *range(9, 12)], window=8, step=6)
    assert call.wanted == (5, 6, 7, 8)
    assert call.given == (3, 4, 9, 10)


def test_frames_between_given_ones_are_drawn_together():
    """Twice the frame rate: a window of 9 holds four new frames and the five around them."""
    calls = planned("autoregressive", 21, range(0, 21, 2), window=9, step=4)
    assert [c.wanted for c in calls] == [(1, 3, 5, 7), (9, 11, 13, 15), (17, 19)]
    assert calls[1].given == (8, 10, 12, 14, 16)


def test_numbers_out_of_range_are_refused_together():
    with pytest.raises(InputError, match=r"window: expected at least 2.*\nstep.*\nobserved"):
        planned("long_range", 4, [4], window=1, step=0)
