"""Which frames are drawn in which call of a model that sees few at once: plans of long clips.

Plans are lists of indices; nothing here knows of tensors.
"""

import math
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from core.errors import InputError

Scheme = Literal["autoregressive", "long_range", "hierarchy_2", "hierarchy_3", "keyframes"]


@dataclass(frozen=True)
class Call:
    """One call of the model.

    Args:
        given: frames that are finished before it, rising.
        wanted: frames that it draws, rising.
    """

    given: tuple[int, ...]
    wanted: tuple[int, ...]

    @property
    def frames(self) -> tuple[int, ...]:
        """All of them, rising."""
        return tuple(sorted((*self.given, *self.wanted)))


def planned(
    scheme: Scheme,
    total: int,
    observed: Collection[int],
    *,
    window: int,
    step: int,
    every: int | None = None,
) -> list[Call]:
    """Calls that together draw every frame that is not observed once.

    A call sees at most `window` frames and draws at most `step` of them, given finished ones alone;
    where nothing is finished, the first draws a whole window.  autoregressive: in order, given the
    nearest finished frames.  long_range: half of the given are spread over all that is finished.
    hierarchy_2: first frames spread evenly over the whole clip, then those between; hierarchy_3:
    twice.  keyframes: every `every`-th frame in order, then those between.
    Source: Harvey et al. 2022, arXiv:2205.11495, section 3.3; keyframes, Song et al. 2025,
    arXiv:2502.06764, section 5.

    Args:
        scheme: the order.
        total: frames of the clip.
        observed: those that are there.
        window: frames that the model sees at once, at least 2.
        step: frames drawn in a call, at least 1; at most `window` - 1 are.
        every: distance of keyframes; by default half of the window.

    Raises:
        InputError: numbers out of range.
    """
    done = set(observed)
    _check(total, done, window, step, every)
    calls: list[Call] = []
    if not done and total:
        calls.append(_first(scheme, total, window, step, every))
        done |= set(calls[0].wanted)
    step = min(step, window - 1)
    for level in _levels(scheme, total, done, window, step, every):
        wanted = [frame for frame in level if frame not in done]
        for group in _groups(wanted, step, window, sorted(done)):
            given = _chosen(sorted(done), group, window - len(group), scheme == "long_range")
            calls.append(Call(given, group))
            done |= set(group)
    return calls


def _check(total: int, done: set[int], window: int, step: int, every: int | None) -> None:
    problems = []
    if total < 0:
        problems.append(f"frames: expected 0 or more, got {total}")
    if window < 2:
        problems.append(f"window: expected at least 2, one frame given and one drawn, got {window}")
    if step < 1:
        problems.append(f"step: expected at least 1, got {step}")
    if every is not None and every < 1:
        problems.append(f"every: expected at least 1, got {every}")
    if outside := sorted(frame for frame in done if not 0 <= frame < total):
        problems.append(f"observed: expected frames 0 to {total - 1}, got {outside[0]}")
    if problems:
        raise InputError("\n".join(problems))


def _first(scheme: Scheme, total: int, window: int, step: int, every: int | None) -> Call:
    """The call that has nothing to go by: the beginning, or frames spread as its scheme does."""
    count = min(window, total)
    if scheme in ("hierarchy_2", "hierarchy_3") and count > 1:
        return Call((), tuple(round(i * (total - 1) / (count - 1)) for i in range(count)))
    apart = (every or max(1, window // 2)) if scheme == "keyframes" else 1
    return Call((), tuple(range(0, total, apart))[:count])


def _levels(
    scheme: Scheme, total: int, done: set[int], window: int, step: int, every: int | None
) -> list[Sequence[int]]:
    """Frames to draw, level by level; the last level holds all."""
    everything = range(total)
    left = [frame for frame in everything if frame not in done]
    if scheme in ("autoregressive", "long_range") or not left:
        return [everything]
    if scheme == "keyframes":
        return [everything[:: every or max(1, window // 2)], everything]
    stride = math.ceil(len(left) / step)  # the first level is one call
    strides = [stride] if scheme == "hierarchy_2" else [stride, max(1, math.isqrt(stride))]
    return [*(left[s - 1 :: s] for s in strides), everything]


def _groups(
    wanted: Sequence[int], step: int, window: int, done: Sequence[int]
) -> list[tuple[int, ...]]:
    """At most `step` frames each, in order.

    Finished frames among those of a group, and one on each side, fit into the window with them.
    """
    groups: list[list[int]] = []
    for frame in wanted:
        last = groups[-1] if groups else None
        if last is None or len(last) == step:
            groups.append([frame])
            continue
        among = bisect_left(done, frame) - bisect_left(done, last[0])
        if among and len(last) + 1 + among + 2 > window:
            groups.append([frame])
        else:
            last.append(frame)
    return [tuple(group) for group in groups]


def _chosen(done: Sequence[int], wanted: Sequence[int], room: int, spread: bool) -> tuple[int, ...]:
    """Finished frames that a call is given: one on each side, then the nearest, or half spread."""
    before = [frame for frame in done if frame < wanted[0]]
    behind = [frame for frame in done if frame > wanted[-1]]
    sides = [side for side in (before[-1:], behind[:1]) if side]
    nearest = sorted(done, key=lambda frame: (min(abs(frame - one) for one in wanted), frame))
    chosen = [frame for side in sides for frame in side]
    chosen.sort(key=nearest.index)
    if spread and room > 1 and len(done) > room:
        count = room // 2
        far = [done[round(i * (len(done) - 1) / max(1, count))] for i in range(count)]
        nearest = [*nearest[: room - count], *far, *nearest]
    return tuple(sorted(list(dict.fromkeys([*chosen, *nearest]))[:room]))
