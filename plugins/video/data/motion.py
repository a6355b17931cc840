"""Objects that move in a box and bounce at its walls: positions and images, frame by frame."""

from typing import Literal

import numpy as np

Bounces = Literal["elastic", "random"]


def elastic(
    start: np.ndarray, velocity: np.ndarray, times: np.ndarray, room: np.ndarray
) -> np.ndarray:
    """Positions (t, 2) in [0, room] at `times`, reflected at the walls.

    In closed form: the free path folded into the box, a triangle wave of period 2 room.

    Args:
        start: position (2,) at time 0.
        velocity: (2,), in pixels a frame.
        times: (t,) in frames.
        room: (2,) pixels between the walls that the position can take, positive.
    """
    free = (start + velocity * times[:, None]) % (2 * room)
    return np.minimum(free, 2 * room - free)


def random_bounces(
    random: np.random.Generator,
    start: np.ndarray,
    velocity: np.ndarray,
    frames: int,
    room: np.ndarray,
    speeds: tuple[float, float],
) -> np.ndarray:
    """Positions (t, 2) of frames 0, 1, ...; a wall throws back at a new speed and direction.

    Source: the stochastic version of moving digits, Denton and Fergus 2018, arXiv:1802.07687,
    section 5.1.

    Args:
        random: draws of new speeds and directions.
        start: position (2,).
        velocity: (2,), in pixels a frame, until the first wall.
        frames: number of positions.
        room: (2,) pixels between the walls that the position can take, positive.
        speeds: least and most, in pixels a frame.
    """
    found, at = [start], start
    for _ in range(frames - 1):
        left = 1.0  # of the frame's time
        while left > 1e-9:
            wall = np.where(velocity > 0, room, 0.0)
            with np.errstate(divide="ignore", invalid="ignore"):
                reached = np.where(velocity == 0, np.inf, (wall - at) / velocity)
            axis = int(reached.argmin())
            step = min(left, max(float(reached[axis]), 0.0))
            at = np.clip(at + step * velocity, 0, room)
            if step < left:  # at the wall: away from it, in any direction
                away = -np.sign(velocity[axis])
                velocity = drawn_velocity(random, speeds)
                velocity[axis] = away * max(abs(velocity[axis]), 1e-3)
            left -= step
        found.append(at)
    return np.stack(found)


def drawn_velocity(random: np.random.Generator, speeds: tuple[float, float]) -> np.ndarray:
    """A velocity (2,) of uniform direction and uniform speed."""
    angle, speed = random.uniform(0, 2 * np.pi), random.uniform(*speeds)
    return speed * np.array([np.sin(angle), np.cos(angle)])


def moving(
    random: np.random.Generator,
    frames: int,
    room: np.ndarray,
    speeds: tuple[float, float],
    bounces: Bounces,
) -> np.ndarray:
    """Positions (t, 2) of a random object: where it starts, how fast and which way it moves."""
    start, velocity = random.uniform(0, room), drawn_velocity(random, speeds)
    if bounces == "random":
        return random_bounces(random, start, velocity, frames, room, speeds)
    return elastic(start, velocity, np.arange(frames, dtype=np.float64), room)


def placed(patch: np.ndarray, corners: np.ndarray, size: int) -> np.ndarray:
    """Frames (t, size, size) of a patch (s, s) whose corner is at `corners` (t, 2), bilinear.

    Sums over pixels are those of the patch, and its centroid moves exactly with the corner.

    Args:
        patch: values of the object, 0 outside it.
        corners: top left, in pixels from the frame's, any real numbers within the frame.
        size: side of the frames.
    """
    side = len(patch)
    found = np.zeros((len(corners), size + 1, size + 1))
    for frame, corner in zip(found, corners, strict=True):
        top, left = np.floor(corner).astype(int)
        down, right = corner - (top, left)
        for i, row_weight in ((0, 1 - down), (1, down)):
            for j, column_weight in ((0, 1 - right), (1, right)):
                rows, columns = slice(top + i, top + i + side), slice(left + j, left + j + side)
                frame[rows, columns] += row_weight * column_weight * patch
    return found[:, :size, :size]
