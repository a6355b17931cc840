"""Clips written as files that play: MP4, MOV, MKV, WebM, GIF, or a folder of PNG files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import InputError
from core.storage.files import replaced

Write = Callable[[np.ndarray, Fraction], None]
"""(uint8 (h, w, 3), seconds from the first frame) -> written as the next frame."""
CODECS = {
    ".mp4": "libx264",
    ".mov": "libx264",
    ".mkv": "libx264",
    ".webm": "libvpx-vp9",
    ".gif": "gif",
}
QUALITY = {"libx264": {"crf": "16"}, "libvpx-vp9": {"crf": "18", "b": "0"}}
BT709, LIMITED = 1, 1  # the numbers of ITU-T H.273, and FFmpeg's of the range
CLOCK = Fraction(1, 90_000)
CENTISECOND = Fraction(1, 100)  # in which GIF states durations


@dataclass(frozen=True)
class Written:
    """What a clip is written as.

    Args:
        height: of a frame in pixels.
        width: of a frame.
        rate: frames a second.
        aspect: width of a pixel over its height.
        lossless: every bit of RGB is kept; in Matroska (FFV1) and folders alone.
        audio: a file whose audio is copied, packet by packet.
        variable: frames have times of their own, not n / rate.
    """

    height: int
    width: int
    rate: Fraction
    aspect: Fraction = Fraction(1)
    lossless: bool = False
    audio: Path | None = None
    variable: bool = False


def check_output(path: Path, *, lossless: bool = False) -> None:
    """Refuse a name whose format cannot be written, before anything is computed.

    Raises:
        InputError: another suffix, or no such folder.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    if not path.suffix:
        return  # a folder of images
    if path.suffix.lower() not in CODECS:
        raise InputError(
            f"{path}: expected a name that ends in {', '.join(CODECS)}, or a folder's name, for PNG"
        )
    if lossless and path.suffix.lower() != ".mkv":
        raise InputError(f"{path}: lossless: expected a name that ends in .mkv, or a folder's name")


@contextmanager
def writer(path: Path, form: Written) -> Iterator[Write]:
    """Frames in the order of their times, as a file that replaces `path` when all are written.

    BT.709 limited range, as tagged; 4:2:0, or 4:4:4 where a side is odd.

    Raises:
        InputError: a format that cannot be written.
    """
    check_output(path, lossless=form.lossless)
    if not path.suffix:
        yield _images(path)
        return
    import av

    codec = "ffv1" if form.lossless else CODECS[path.suffix.lower()]
    with replaced(path, suffix=path.suffix) as waiting, av.open(str(waiting), "w") as container:
        stream: Any = container.add_stream(codec, rate=form.rate)
        stream.height, stream.width = form.height, form.width
        stream.pix_fmt = _pixel_format(codec, form)
        gif = CENTISECOND if form.variable else 1 / form.rate
        stream.codec_context.time_base = gif if codec == "gif" else CLOCK
        stream.options = QUALITY.get(codec, {})
        if form.aspect != 1:
            stream.codec_context.sample_aspect_ratio = form.aspect
        if stream.pix_fmt.startswith("yuv"):
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = LIMITED
        sound = _Audio(form.audio, container) if form.audio is not None else None

        def write(pixels: np.ndarray, time: Fraction) -> None:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if stream.pix_fmt.startswith("yuv"):
                frame = frame.reformat(
                    format=stream.pix_fmt, dst_colorspace=BT709, dst_color_range=LIMITED
                )
            else:
                frame = frame.reformat(format=stream.pix_fmt)
            clock = Fraction(stream.codec_context.time_base)
            frame.pts, frame.time_base = round(time / clock), clock
            container.mux(stream.encode(frame))
            if sound is not None:
                sound.write_until(time)

        yield write
        container.mux(stream.encode(None))
        if sound is not None:
            sound.write_until(None)


def _pixel_format(codec: str, form: Written) -> str:
    if codec == "ffv1":
        return "bgr0"
    if codec == "gif":
        return "rgb8"
    odd = form.height % 2 or form.width % 2
    return "yuv444p" if odd else "yuv420p"


def _images(folder: Path) -> Write:
    from PIL import Image

    folder.mkdir(exist_ok=True)
    count = 0

    def write(pixels: np.ndarray, time: Fraction) -> None:
        nonlocal count
        with replaced(folder / f"{count:06d}.png", suffix=".png") as waiting:
            Image.fromarray(pixels).save(waiting)
        count += 1

    return write


class _Audio:
    """Packets of a file's audio, copied between those of the frames."""

    def __init__(self, source: Path, output: Any) -> None:
        import av

        self._source = av.open(str(source), metadata_errors="ignore")
        (stream, *_) = self._source.streams.audio
        self._output, self._stream = output, output.add_stream_from_template(stream)
        self._packets = self._source.demux(stream)
        self._next: Any = next(self._packets, None)

    def write_until(self, time: Fraction | None) -> None:
        """Write the packets that begin until then; all of them where None."""
        while self._next is not None:
            packet = self._next
            if packet.dts is not None:
                if time is not None and packet.pts * packet.time_base > time:
                    return
                packet.stream = self._stream
                self._output.mux(packet)
            self._next = next(self._packets, None)
        self._source.close()
