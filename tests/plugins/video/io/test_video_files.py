"""Video files written by FFmpeg and read again: counts, times, turns, sizes, damage."""

import struct
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from core.errors import InputError

pytest.importorskip("av")

from plugins.video.io.reading import decoded, natural, read_index
from plugins.video.io.writing import Written, writer


def gradient(count, height=48, width=64):
    """Smooth frames that differ: codecs keep them well."""
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [
            np.stack([3 * y, 3 * x, np.full_like(x, 10 * (t % 25))], -1).clip(0, 255)
            for t in range(count)
        ]
    ).astype(np.uint8)


def written(path, frames, rate=Fraction(30000, 1001), times=None, lossless=False):
    form = Written(*frames.shape[1:3], rate, lossless=lossless)
    with writer(path, form) as write:
        for number, pixels in enumerate(frames):
            write(pixels, times[number] if times else number / rate)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_what_is_written_is_found_again(tmp_path, suffix):
    frames = gradient(9)
    clip = read_index(written(tmp_path / f"clip{suffix}", frames))
    assert (len(clip), clip.height, clip.width, clip.turns) == (9, 48, 64, 0)
    assert not clip.variable
    assert abs(clip.rate - Fraction(30000, 1001)) < Fraction(1, 1000)
    assert clip.audio is None
    found = list(decoded(clip, [0, 4, 8]))
    assert [frame.number for frame in found] == [0, 4, 8]
    for number, pixels in found:
        assert np.abs(pixels.astype(int) - frames[number]).mean() < 4  # 4:2:0 and its rounding


def test_seeking_gives_the_frames_of_decoding_in_order(tmp_path):
    clip = read_index(written(tmp_path / "clip.mp4", gradient(300, 32, 32)))
    assert len(clip.keys) > 1
    every = dict(decoded(clip, range(300)))
    for wanted in ([270], [3, 299], [255, 256, 257]):
        for number, pixels in decoded(clip, wanted):
            np.testing.assert_array_equal(pixels, every[number])


def test_lossless_files_keep_every_bit_and_folders_too(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 31, 45, 3), dtype=np.uint8)
    for name in ("clip.mkv", "folder"):
        path = written(tmp_path / name, frames, lossless=True)
        found = np.stack([pixels for _, pixels in decoded(read_index(path), range(3))])
        np.testing.assert_array_equal(found, frames)


def test_odd_sizes_are_written(tmp_path):
    clip = read_index(written(tmp_path / "clip.mp4", gradient(2, 33, 47)))
    assert (clip.height, clip.width, clip.pixel_format) == (33, 47, "yuv444p")


@pytest.mark.parametrize(
    ("matrix", "turns"), [((0, 1, -1, 0), 3), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2)]
)
def test_turned_files_are_read_upright(tmp_path, matrix, turns):
    """The matrix of ISO 14496-12, section 8.3.2: a display turned by it, clockwise first."""
    frames = gradient(2)
    path = written(tmp_path / "clip.mov", frames)
    content = path.read_bytes()
    place = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (n * 65536 for n in matrix)
    turned = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:place] + turned + content[place + 36 :])
    clip = read_index(path)
    assert clip.turns == turns
    (one,) = decoded(clip, [0])
    expected = np.rot90(frames[0].astype(int), turns)
    assert np.abs(one.pixels - expected).mean() < 4
    assert (clip.height, clip.width) == expected.shape[:2]


def test_a_variable_rate_is_seen_and_its_times_are_kept(tmp_path):
    times = [Fraction(n, 100) for n in (0, 10, 20, 30, 90, 100)]
    clip = read_index(written(tmp_path / "clip.mp4", gradient(6), Fraction(10), times))
    assert clip.variable
    assert clip.times == tuple(times)
    assert clip.rate == 10


def test_folders_are_read_in_natural_order_with_their_gaps(tmp_path):
    for number in (2, 10, 9, 4):
        Image.new("RGB", (12, 8), (number, 0, 0)).save(tmp_path / f"frame{number}.png")
    clip = read_index(tmp_path)
    assert clip.stamps == ("frame2.png", "frame4.png", "frame9.png", "frame10.png")
    assert [round(t * clip.rate) for t in clip.times] == [0, 2, 7, 8]
    assert clip.missing == (1, 3, 4, 5, 6)
    assert [int(p[0, 0, 0]) for _, p in decoded(clip, range(4))] == [2, 4, 9, 10]
    assert sorted(["b10", "b9", "a"], key=natural) == ["a", "b9", "b10"]


def test_damaged_and_other_files_are_refused_by_name(tmp_path):
    path = written(tmp_path / "clip.mp4", gradient(30))
    whole = path.read_bytes()
    for content in (whole[:400], b"", b"not a video" * 40, bytes(9000)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"clip\.mp4: "):
            read_index(path)
    with pytest.raises(InputError, match="no such file"):
        read_index(tmp_path / "none.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images in it"):
        read_index(tmp_path / "empty")


def test_frames_that_depend_on_a_damaged_one_are_refused(tmp_path):
    """A packet in the middle states a length that it has not; those before it are read."""
    import av

    path = written(tmp_path / "clip.mp4", gradient(30))
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        damaged = packets[15].pos
        number = sorted(p.pts for p in packets).index(packets[15].pts)
    content = bytearray(path.read_bytes())
    content[damaged : damaged + 4] = b"\x7f\xff\xff\xff"
    path.write_bytes(content)
    clip = read_index(path)
    assert len(clip) == 30
    assert [n for n, _ in decoded(clip, [0, 3])] == [0, 3]
    with pytest.raises(InputError, match=f"frame {number} of 30 cannot be decoded"):
        list(decoded(clip, [20]))


def test_names_that_cannot_be_written_are_refused(tmp_path):
    for name, says in (("a.txt", r"ends in \.mp4"), ("none/a.mp4", "there is no folder")):
        with (
            pytest.raises(InputError, match=says),
            writer(tmp_path / name, Written(8, 8, Fraction(5))),
        ):
            pass
    with pytest.raises(InputError, match="lossless"):
        written(tmp_path / "a.mp4", gradient(1), lossless=True)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".gif"])
def test_mutated_files_give_clear_errors_or_frames(tmp_path, suffix):
    """Bytes of a file changed at random: an `InputError`, or frames of the size that it states."""
    random = np.random.default_rng(0)
    path = written(tmp_path / f"clip{suffix}", gradient(12, 32, 32))
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    refused = 0
    for _ in range(500):
        content = whole.copy()
        places = random.integers(0, len(content), random.integers(1, 12))
        content[places] = random.integers(0, 256, len(places))
        path.write_bytes(content[: random.integers(len(content) // 2, len(content) + 1)].tobytes())
        try:
            clip = read_index(path)
            for _, pixels in decoded(clip, range(min(len(clip), 20))):
                assert pixels.shape == (clip.height, clip.width, 3)
        except InputError:
            refused += 1
    assert 0 < refused < 500
