"""From a user's clip to a completed one: predicted, interpolated, filled or generated."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np

from core.errors import InputError
from core.model import Model, load_model
from core.parts.config import bind, plain
from core.progress import counter
from core.request import Emit, Machine, Note, SampleRequest
from core.storage.files import digest
from plugins.video.inference.plan import Call, planned
from plugins.video.inference.rollout import Spool, complete, prepared
from plugins.video.io.reading import ClipFile, decoded
from plugins.video.io.resizing import resized
from plugins.video.io.writing import Written, check_output, writer
from plugins.video.request import DrawOptions

CUT = 30.0  # mean difference of neighbouring frames of 255, from which it may be a cut
OVER = 4.0  # times the median difference
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Wanted:
    """A clip to be made.

    Args:
        clip: frames that are given come from it; None where none are.
        observed: number in the new clip -> number in `clip`.
        total: frames of the new clip.
        rate: its frames a second.
        held: how often its last frame is shown once more.
        audio: whether that of `clip` fits it.
        scenes: whether frames that differ wholly are of two scenes, between which nothing is drawn.
        moments: of each frame, in seconds from the first; None where they are n / rate.
    """

    clip: ClipFile | None
    observed: Mapping[int, int]
    total: int
    rate: Fraction
    held: int = 0
    audio: bool = False
    scenes: bool = False
    moments: tuple[Fraction, ...] | None = None

    def time(self, number: int) -> Fraction:
        """Seconds from the first frame to one, or to a copy of the last that is held."""
        if self.moments is None:
            return number / self.rate
        held = max(0, number - self.total + 1)
        return self.moments[number - held] + held / self.rate


def predicted(clip: ClipFile, context: int, frames: int, *, backward: bool) -> Wanted:
    """The last `context` frames and `frames` more; backward, those before the first ones.

    Raises:
        InputError: the clip has fewer frames.
    """
    if len(clip) < context:
        raise InputError(
            f"{clip.path}: context: {context} frames are more than its {len(clip)}; give fewer"
        )
    first = 0 if backward else len(clip) - context
    places = range(frames, frames + context) if backward else range(context)
    observed = {place: first + i for i, place in enumerate(places)}
    return Wanted(clip, observed, context + frames, clip.rate)


def interpolated(clip: ClipFile, factor: int, *, scenes: bool) -> Wanted:
    """`factor` times as many frames in the same time; the last is held to its end.

    Where frames have different durations, each is divided into `factor` equal parts, and the model
    is told the times.

    Raises:
        InputError: a single frame.
    """
    if len(clip) < 2:
        raise InputError(f"{clip.path}: expected two frames at least, got {len(clip)}")
    observed = {i * factor: i for i in range(len(clip))}
    total = (len(clip) - 1) * factor + 1
    moments = None
    if clip.variable:
        parts = [
            a + (b - a) * Fraction(k, factor)
            for a, b in pairwise(clip.times)
            for k in range(factor)
        ]
        moments = (*parts, clip.times[-1])
    return Wanted(clip, observed, total, clip.rate * factor, factor - 1, True, scenes, moments)


def filled(clip: ClipFile) -> Wanted:
    """All numbers from a folder's first image to its last.

    Raises:
        InputError: no folder, or none is missing.
    """
    if not clip.missing:
        raise InputError(f"{clip.path}: no number is missing between its first and its last image")
    observed = {round(time * clip.rate): i for i, time in enumerate(clip.times)}
    return Wanted(clip, observed, max(observed) + 1, clip.rate)


def make_clip(
    wanted: Wanted,
    checkpoint: Path,
    out: Path,
    options: DrawOptions,
    *,
    lossless: bool = False,
    machine: Machine | None = None,
    emit: Emit,
) -> Path:
    """Draw the missing frames and write the clip; what was drawn before a stop is used again.

    Given frames are those of the file, bit for bit, in lossless outputs.

    Args:
        wanted: the clip.
        checkpoint: of a model trained for `video/complete`.
        out: a video file or a folder of PNG files.
        options: how frames are drawn.
        lossless: every bit of RGB is kept.
        machine: where to run.
        emit: called with progress.

    Raises:
        InputError: of outputs, models and options that do not fit.
    """
    check_output(out, lossless=lossless)
    model = load_model(checkpoint, machine=machine, task="video/complete", emit=emit)
    return complete_clip(model, wanted, out, options, lossless=lossless, emit=emit)


def complete_clip(
    model: Model,
    wanted: Wanted,
    out: Path,
    options: DrawOptions,
    *,
    lossless: bool = False,
    emit: Emit,
) -> Path:
    """As `make_clip`, with a model that is loaded.

    Raises:
        InputError: of outputs, models and options that do not fit.
    """
    check_output(out, lossless=lossless)
    request = sample_request(model.checkpoint, options)
    roll = prepared(model, request, stabilise=options.stabilise, overlap=options.overlap, emit=emit)
    height, width = _size(wanted, model, options)
    source = None if wanted.clip is None else _digest_of(wanted.clip)
    identity = {
        "source": source, "model": str(model.checkpoint), "step": model.step,
        "wanted": [wanted.total, sorted(wanted.observed.items()), wanted.scenes],
        "moments": None if wanted.moments is None else [str(time) for time in wanted.moments],
        "options": plain(options),
    }  # fmt: skip
    shape = (height, width, model.task.channels)
    spool = Spool(out.with_name(f".{out.name}.part"), shape, identity)
    _fill(spool, wanted)
    calls, given = _plan(spool, wanted, model, options, emit)
    count = sum(len(call.wanted) for call in calls)
    emit(Note(text=f"{count} frames of {width}x{height} in {len(calls)} calls"))
    times = [float(wanted.time(i) * wanted.rate) for i in range(wanted.total)]
    complete(roll, calls, times, given, spool, emit)
    _write(spool, wanted, out, shape, lossless, emit)
    spool.remove()
    return out


def sample_request(checkpoint: Path, options: DrawOptions) -> SampleRequest:
    """Grid and guidance of each call of a model, as the options state them."""
    guidance: list[dict[str, object]] = []
    if options.history != 1:
        guidance.append(
            {"name": "video/history", "scale": options.history, "noise": options.history_noise}
        )
    return bind(
        SampleRequest,
        {
            "checkpoint": str(checkpoint), "seed": options.seed, "guidance": guidance,
            "grid": {"name": "core/uniform_log_snr", "steps": options.steps},
        },
    )  # fmt: skip


def _digest_of(clip: ClipFile) -> list[str]:
    if clip.path.is_dir():
        return [digest(clip.path / name) for name in clip.stamps]
    return [digest(clip.path)]


def _size(wanted: Wanted, model: Model, options: DrawOptions) -> tuple[int, int]:
    """Height and width of the frames."""
    if wanted.clip is None:
        height, width = model.shape[2:]
        return int(height), int(width)
    height, width = wanted.clip.height, wanted.clip.width
    if options.short is None or options.short >= min(height, width):
        return height, width
    scale = Fraction(options.short, min(height, width))
    return round(height * scale), round(width * scale)


def _fill(spool: Spool, wanted: Wanted) -> None:
    """The given frames, written to their places."""
    if wanted.clip is None:
        return
    place_of = {source: place for place, source in wanted.observed.items()}
    for frame in decoded(wanted.clip, sorted(place_of)):
        pixels = _fitted(frame.pixels, spool.shape)
        spool.write([place_of[frame.number]], pixels[None])


def _fitted(pixels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """A frame in the size and the channels of the model."""
    pixels = resized(pixels, shape[:2])
    if shape[2] == 1:
        pixels = (pixels @ LUMA).round().astype(np.uint8)[..., None]
    return pixels


def _plan(
    spool: Spool, wanted: Wanted, model: Model, options: DrawOptions, emit: Emit
) -> tuple[list[Call], frozenset[int]]:
    """Calls of every scene, and the frames that are there; between scenes frames are copies."""
    window = options.window or model.shape[1]
    step = options.step or max(1, window // 2)
    if window > model.shape[1]:
        emit(Note(text=f"window {window}: the model learned clips of {model.shape[1]} frames"))
    seen = sorted(wanted.observed)
    there = set(seen)
    scenes, first = [], 0
    for before, behind in _cuts(spool, seen) if wanted.scenes else []:
        middle = (before + behind + 1) // 2
        copies = [before if i < middle else behind for i in range(before + 1, behind)]
        if copies:
            spool.write(range(before + 1, behind), spool.read(copies))
            there |= set(range(before + 1, behind))
        scenes.append((first, before + 1))
        first = behind
    scenes.append((first, wanted.total))
    calls = []
    for start, end in scenes:
        own = [frame - start for frame in sorted(there) if start <= frame < end]
        for call in planned(
            options.scheme, end - start, own, window=window, step=step, every=options.every
        ):
            given, drawn = (tuple(i + start for i in part) for part in (call.given, call.wanted))
            calls.append(Call(given, drawn))
    return calls, frozenset(there)


def _cuts(spool: Spool, seen: list[int]) -> list[tuple[int, int]]:
    """Neighbouring given frames that are of two scenes."""
    differences, last = [], None
    for frame in seen:
        now = spool.read([frame])[0].astype(np.float32)
        if last is not None:
            differences.append(float(np.abs(now - last).mean()))
        last = now
    usual = float(np.median(differences)) if differences else 0.0
    return [
        (seen[i], seen[i + 1])
        for i, difference in enumerate(differences)
        if difference > max(CUT, OVER * usual)
    ]


def _write(
    spool: Spool,
    wanted: Wanted,
    out: Path,
    shape: tuple[int, int, int],
    lossless: bool,
    emit: Emit,
) -> None:
    clip = wanted.clip
    audio = clip.path if clip is not None and clip.audio and wanted.audio else None
    if clip is not None and clip.audio and not (audio and out.suffix in (".mp4", ".mov", ".mkv")):
        audio = None
        emit(Note(text=f"{clip.path.name}: its audio is left out"))
    aspect = Fraction(1) if clip is None else clip.aspect
    variable = wanted.moments is not None
    form = Written(shape[0], shape[1], wanted.rate, aspect, lossless, audio, variable)
    progress = counter(emit, wanted.total + wanted.held, "frame")
    with writer(out, form) as write:
        for number in range(wanted.total + wanted.held):
            pixels = spool.read([min(number, wanted.total - 1)])[0]
            colour = np.repeat(pixels, 3, axis=2) if shape[2] == 1 else pixels
            write(colour, wanted.time(number))
            progress(number + 1)
