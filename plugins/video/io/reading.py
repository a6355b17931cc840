"""Clips of files: an index of their frames without decoding, and any of them decoded by seeking."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from core.errors import InputError

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif")
FRAMES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
MOST_FRAMES = 2_000_000
MOST_PIXELS = 1 << 26  # of a frame
RATE = Fraction(25)  # of a folder of frames


class Frame(NamedTuple):
    """A decoded frame.

    Args:
        number: in its clip, from 0.
        pixels: uint8 (h, w, 3), upright.
    """

    number: int
    pixels: np.ndarray


@dataclass(frozen=True)
class ClipFile:
    """A clip on disk: what its frames are and when they are shown; nothing of it is decoded yet.

    Args:
        path: a video file, or a folder of images.
        times: of each frame in seconds from the first, rising.
        rate: frames a second; of a variable rate the usual one.
        variable: whether frames have different durations, beyond the clock's rounding.
        height: of the upright frame in pixels.
        width: of the upright frame.
        turns: quarter turns counterclockwise that make a stored frame upright.
        aspect: width of a pixel over its height.
        codec: name, such as h264; image for a folder.
        pixel_format: as FFmpeg names it, such as yuv420p.
        keys: numbers of frames that can be decoded alone.
        missing: numbers that are not there between the first and the last image of a folder.
        audio: codec of the audio; None without.
        stamps: time stamps of the frames in the file's clock; file names of a folder.
    """

    path: Path
    times: tuple[Fraction, ...]
    rate: Fraction
    variable: bool
    height: int
    width: int
    turns: int
    aspect: Fraction
    codec: str
    pixel_format: str
    keys: tuple[int, ...]
    missing: tuple[int, ...]
    audio: str | None
    stamps: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.times)

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame to the end of the last."""
        return self.times[-1] + 1 / self.rate


def read_index(path: Path) -> ClipFile:
    """The index of a video file or of a folder of images.

    Raises:
        InputError: no such file, no video in it, one that cannot be read, or frames too large.
    """
    if path.is_dir():
        return _folder_index(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a video, or a folder of images")
    with _opened(path) as (container, stream):
        packets = [
            (stamp, packet.is_keyframe)
            for packet in _packets(container, stream, path)
            if (stamp := packet.pts if packet.pts is not None else packet.dts) is not None
            and packet.size
            and not packet.is_discard
        ]
        # Of two packets with one time stamp, as fields are, one is a frame.
        stamped = sorted(dict(packets).items())
        if not stamped:
            raise InputError(f"{path}: there is no frame in it that has a time")
        first = _first_frame(container, stream, path)
        clock = Fraction(stream.time_base)
        stamps = tuple(stamp for stamp, _ in stamped)
        times = tuple(clock * (stamp - stamps[0]) for stamp in stamps)
        rate, variable = _rate(times, clock, stream.average_rate or stream.guessed_rate)
        turns = (round(first.rotation / 90) if first.rotation else 0) % 4
        size = (first.height, first.width) if turns % 2 == 0 else (first.width, first.height)
        shape = stream.codec_context.sample_aspect_ratio
        aspect = Fraction(shape) if shape else Fraction(1)
        sound = container.streams.audio[0].codec_context if container.streams.audio else None
        return ClipFile(
            path, times, rate, variable, size[0], size[1], turns,
            1 / aspect if turns % 2 else aspect, stream.codec_context.name, first.format.name,
            tuple(i for i, (_, key) in enumerate(stamped) if key), (),
            sound.name if sound else None, stamps,
        )  # fmt: skip


def decoded(clip: ClipFile, wanted: Sequence[int]) -> Iterator[Frame]:
    """The frames of rising numbers `wanted`, decoded from the key frame before each gap.

    Raises:
        InputError: one that cannot be decoded, also since one that it may depend on cannot be, or
            one of another size than the first.
    """
    if clip.path.is_dir():
        yield from _images(clip, wanted)
        return
    places = {stamp: number for number, stamp in enumerate(clip.stamps)}
    left = sorted(set(wanted))
    with _opened(clip.path) as (container, stream):
        while left:
            start = max((key for key in clip.keys if key <= left[0]), default=0)
            _seek(container, stream, clip, start)
            found = False
            for frame in _frames(container, stream, clip.path, places):
                number = places.get(frame.pts)
                if number is None or number < left[0]:
                    continue
                if number > left[0]:
                    break  # passed over: it cannot be decoded
                yield Frame(number, _upright(frame, clip))
                found, left = True, left[1:]
                if not left or _another_key(clip, number, left[0]):
                    break
            if not found:
                raise InputError(
                    f"{clip.path}: frame {left[0]} of {len(clip)} cannot be decoded; the file is "
                    "damaged or cut off there"
                )


def _another_key(clip: ClipFile, now: int, then: int) -> bool:
    """Whether seeking saves decoding: a key frame lies between two frames that are far apart."""
    return then > now + 1 and any(now < key <= then for key in clip.keys)


def _seek(container: Any, stream: Any, clip: ClipFile, start: int) -> None:
    try:
        container.seek(clip.stamps[start], stream=stream, backward=True)
    except (OSError, ValueError, OverflowError):  # a file that cannot seek begins anew
        container.seek(0)


def _upright(frame: Any, clip: ClipFile) -> np.ndarray:
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), clip.turns)
    if pixels.shape[:2] != (clip.height, clip.width):
        raise InputError(
            f"{clip.path}: frames change their size, from {clip.width}x{clip.height} to "
            f"{pixels.shape[1]}x{pixels.shape[0]}; convert it to one size"
        )
    return np.ascontiguousarray(pixels)


# --- PyAV ----------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A container and its video stream; errors of FFmpeg become the user's."""
    try:
        import av
        from av import logging
        from av.error import FFmpegError
    except ImportError as error:
        raise InputError(
            f"{path}: reading video needs PyAV, which is not installed here\n"
            "  install with: pip install 'polymode[video]'"
        ) from error

    logging.set_level(logging.PANIC)
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise InputError(f"{path}: there is no video in it")
            stream = container.streams.video[0]
            if stream.codec_context is None or stream.time_base is None:
                raise InputError(f"{path}: its video has no codec that is known; convert it first")
            height, width = stream.codec_context.height, stream.codec_context.width
            if not 0 < height * width <= MOST_PIXELS:
                raise InputError(
                    f"{path}: expected frames of at most {MOST_PIXELS} pixels, got {width}x{height}"
                )
            stream.thread_type = "SLICE"
            yield container, stream
    except (FFmpegError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        cause = str(error).partition("\n")[0].strip("[] ")
        raise InputError(f"{path}: cannot be read as video: {cause}") from error


def _packets(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    for number, packet in enumerate(container.demux(stream)):
        if number > MOST_FRAMES:
            raise InputError(f"{path}: more than {MOST_FRAMES} frames; cut it into parts")
        yield packet


def _frames(
    container: Any, stream: Any, path: Path, numbers: Mapping[Any, int] | None = None
) -> Iterator[Any]:
    """Decoded frames; damaged packets are passed over, as players do, where there are no `numbers`.

    Raises:
        InputError: a damaged packet, where the frames of time stamps have `numbers`: those behind
            it up to a key frame would be drawn from what is not there.
    """
    from av.error import FFmpegError

    for packet in _packets(container, stream, path):
        try:
            yield from packet.decode()
        except FFmpegError as error:
            if numbers is None:
                continue
            number = numbers.get(packet.pts, "of no time stamp")
            raise InputError(
                f"{path}: frame {number} of {len(numbers)} cannot be decoded; the file is damaged "
                "or cut off there"
            ) from error


def _first_frame(container: Any, stream: Any, path: Path) -> Any:
    container.seek(0)
    for frame in _frames(container, stream, path):
        if frame.height * frame.width > MOST_PIXELS:
            break
        return frame
    raise InputError(f"{path}: no frame can be decoded; the file is damaged or cut off")


def _rate(times: Sequence[Fraction], clock: Fraction, stated: Any) -> tuple[Fraction, bool]:
    """Frames a second, and whether durations differ by more than the clock rounds."""
    if len(times) < 2:
        return (Fraction(stated) if stated else RATE), False
    gaps = [b - a for a, b in pairwise(times)]
    usual = median(gaps)
    mean = times[-1] / (len(times) - 1)
    variable = any(abs(gap - usual) > clock + usual / 100 for gap in gaps)
    if variable:
        near = stated and abs(1 / Fraction(stated) - usual) <= clock
        return (Fraction(stated) if near else 1 / usual), True
    if stated and abs(1 / Fraction(stated) - mean) <= clock:  # 30000/1001, not 29.97 in a clock
        return Fraction(stated), False
    return (1 / mean).limit_denominator(1001), False


# --- folders of images ---------------------------------------------------------------------------


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """A key by which frame2 comes before frame10."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((int(part), "") if part.isdigit() else (0, part) for part in parts)


def _folder_index(path: Path) -> ClipFile:
    """Images of a folder as frames, those whose numbers are missing as gaps in time."""
    found = [p for p in path.iterdir() if p.suffix.lower() in FRAMES and not p.name.startswith(".")]
    names = sorted((p.name for p in found), key=natural)
    if not names:
        raise InputError(f"{path}: no images in it; expected {', '.join(FRAMES)}")
    numbers = [int((re.findall(r"\d+", Path(name).stem) or ["-1"])[-1]) for name in names]
    numbered = all(b > a >= 0 for a, b in pairwise(numbers))
    places = [n - numbers[0] for n in numbers] if numbered else list(range(len(names)))
    if places[-1] > MOST_FRAMES:
        raise InputError(f"{path}: numbers of images span more than {MOST_FRAMES} frames")
    there = set(places)
    first = _image(path / names[0])
    times = tuple(place / RATE for place in places)
    missing = tuple(n for n in range(places[-1] + 1) if n not in there)
    return ClipFile(
        path, times, RATE, bool(missing), first.shape[0], first.shape[1], 0,
        Fraction(1), "image", "rgb24", tuple(range(len(names))), missing, None, tuple(names),
    )  # fmt: skip


def _images(clip: ClipFile, wanted: Sequence[int]) -> Iterator[Frame]:
    for number in sorted(set(wanted)):
        name = clip.stamps[number]
        pixels = _image(clip.path / name)
        if pixels.shape[:2] != (clip.height, clip.width):
            raise InputError(
                f"{clip.path / name}: expected {clip.width}x{clip.height} pixels as the first "
                f"image has, got {pixels.shape[1]}x{pixels.shape[0]}"
            )
        yield Frame(number, pixels)


def _image(path: Path) -> np.ndarray:
    from core.images.reading import read_picture

    pixels = read_picture(path).pixels
    values = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values
