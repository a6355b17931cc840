"""Options of the verbs: frozen values, no torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """How frames are drawn.

    Args:
        scheme: order of the frames of a long clip: autoregressive, long_range (half of the given
            frames are spread over the whole clip), hierarchy_2 and hierarchy_3 (spread frames
            first, then those between), keyframes.
        window: frames that the model sees at once; by default as many as it learned.
        step: frames drawn in a call; by default half of the window.
        every: distance of keyframes; by default half of the window.
        steps: of the sampler, for each call.
        history: scale of guidance by the given frames; 1 for none.
        history_noise: noise of the frames that guide, 0 to 1; the model must have learned such.
        stabilise: noise of generated frames that are given in turn, 0 to below 1, of which the
            model is told; against drift in long clips.
        short: the shorter side of the frames is reduced to so many pixels; by default they keep
            their size, and frames larger than the model learned are drawn in tiles.
        overlap: of tiles, in pixels; by default a quarter of their side.
        seed: the same seed gives the same frames.
    """

    scheme: Literal["autoregressive", "long_range", "hierarchy_2", "hierarchy_3", "keyframes"] = (
        "autoregressive"
    )
    window: Annotated[int, Ge(2)] | None = None
    step: Annotated[int, Ge(1)] | None = None
    every: Annotated[int, Ge(1)] | None = None
    steps: Annotated[int, Ge(1)] = 25
    history: float = 1.0
    history_noise: Annotated[float, Ge(0), Le(1)] = 0.0
    stabilise: Annotated[float, Ge(0), Le(1)] = 0.0
    short: Annotated[int, Ge(8)] | None = None
    overlap: Annotated[int, Ge(0)] | None = None
    seed: Annotated[int, Ge(0)] = 0
