"""Motion with bounces against a simulation in small steps; images against their sums."""

import numpy as np
import pytest

from plugins.video.data.motion import elastic, placed, random_bounces


def simulated(start, velocity, frames, room, parts=20_000):
    """Reflection step by step."""
    at, velocity, found = start.copy(), velocity.copy(), [start.copy()]
    for _ in range(frames - 1):
        for _ in range(parts):
            at += velocity / parts
            out = (at < 0) | (at > room)
            velocity[out] *= -1
            at = np.where(at < 0, -at, np.where(at > room, 2 * room - at, at))
        found.append(at.copy())
    return np.stack(found)


def test_elastic_bounces_are_those_of_a_simulation():
    start, velocity, room = np.array([3.0, 5.5]), np.array([2.3, -1.1]), np.array([7.0, 6.0])
    found = elastic(start, velocity, np.arange(6.0), room)
    np.testing.assert_allclose(found, simulated(start, velocity, 6, room), atol=1e-6)


def test_random_bounces_are_straight_between_walls_and_within_them():
    random, room = np.random.default_rng(0), np.array([9.0, 9.0])
    path = random_bounces(
        random, np.array([4.0, 4.0]), np.array([0.1, 0.27]), 400, room, (0.2, 0.3)
    )
    # The rest of a frame is spent behind the bounce, so that no frame ends on a wall.
    assert path.min() > 1e-9
    assert (path < room - 1e-9).all()
    steps = np.diff(path, axis=0)
    bends = np.abs(np.diff(steps, axis=0)).max(1) > 1e-9
    near = ((path < 0.3) | (path > 8.7)).any(1)[1:-1]
    assert bends.sum() > 10
    assert not (bends & ~near).any()  # it bends at walls alone
    speeds = np.linalg.norm(steps, axis=1)
    assert speeds.max() <= 0.3 + 1e-9


@pytest.mark.parametrize("corner", [(0.0, 0.0), (2.25, 3.5), (6.0, 6.0)])
def test_a_placed_patch_keeps_its_sum_and_its_centre_moves_with_it(corner):
    patch = np.random.default_rng(0).random((4, 4))
    (frame,) = placed(patch, np.array([corner]), 10)
    assert np.isclose(frame.sum(), patch.sum())
    places, own = np.arange(10), np.arange(4)
    centre = np.array([(frame.sum(1) @ places), (frame.sum(0) @ places)]) / frame.sum()
    inner = np.array([(patch.sum(1) @ own), (patch.sum(0) @ own)]) / patch.sum()
    np.testing.assert_allclose(centre, inner + corner)
