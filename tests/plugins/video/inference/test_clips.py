"""Clips completed from the command line: given frames, rates, scenes, and what a stop leaves."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from core import runs
from core.errors import InputError
from core.parts.config import bind, configure
from core.parts.registry import Spec, installed
from core.request import Machine, Note, TrainRequest
from core.testing.contract import check_part

pytest.importorskip("av")

from plugins.video.inference.clips import filled, interpolated, make_clip, predicted
from plugins.video.io.reading import decoded, read_index
from plugins.video.io.writing import Written, writer
from plugins.video.request import DrawOptions

pytestmark = pytest.mark.slow
SILENT = {"emit": lambda event: None}
QUICK = DrawOptions(steps=2, step=2)
NETWORK = {"name": "video/unet3d", "width": 8, "multipliers": [1, 2], "attention": [],
           "head_channels": 8, "patch": 2}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model of two steps, of 6 frames of 16x16 pixels in colour."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(2):
        write_clip(root / f"{number}.mkv", seed=number)
    request = {
        "task": {"name": "video/complete", "noisy_history": 0.5},
        "dataset": {"name": "video/folder", "root": str(root), "size": 16, "frames": 6},
        "network": NETWORK, "parameterization": "core/x0", "steps": 2, "batch": 2, "warmup": 0,
    }  # fmt: skip
    out = tmp_path_factory.mktemp("run")
    runs.train(bind(TrainRequest, request), out)
    return out


def write_clip(path, count=8, size=(20, 28), seed=0, jump=None):
    """A block that moves over a still ground; another ground from frame `jump` on."""
    random = np.random.default_rng(seed)
    ground = random.integers(0, 100, (*size, 3), dtype=np.uint8)
    with writer(path, Written(*size, Fraction(25, 2), lossless=path.suffix == ".mkv")) as write:
        for t in range(count):
            frame = (255 - ground if jump is not None and t >= jump else ground).copy()
            frame[t : t + 5, t : t + 5] = 200
            write(frame, t / Fraction(25, 2))
    return path


def pixels_of(path):
    clip = read_index(path)
    return np.stack([pixels for _, pixels in decoded(clip, range(len(clip)))])


def test_predicted_clips_keep_the_given_frames_to_the_bit(checkpoint, tmp_path):
    source = write_clip(tmp_path / "clip.mkv")
    for backward in (False, True):
        out = tmp_path / f"{backward}.mkv"
        wanted = predicted(read_index(source), 3, 5, backward=backward)
        make_clip(wanted, checkpoint, out, QUICK, lossless=True, **SILENT)
        found, given = pixels_of(out), pixels_of(source)
        assert found.shape == (8, 20, 28, 3)
        kept = (found[5:], given[:3]) if backward else (found[:3], given[-3:])
        np.testing.assert_array_equal(*kept)


def test_interpolation_doubles_the_rate_and_keeps_the_duration(checkpoint, tmp_path):
    source = write_clip(tmp_path / "clip.mkv", count=5)
    clip = read_index(source)
    out = tmp_path / "twice.mkv"
    make_clip(interpolated(clip, 2, scenes=True), checkpoint, out, QUICK, lossless=True, **SILENT)
    made = read_index(out)
    assert (made.rate, len(made)) == (2 * clip.rate, 2 * len(clip))
    assert abs(made.duration - clip.duration) <= Fraction(1, 1000)
    np.testing.assert_array_equal(pixels_of(out)[::2], pixels_of(source))
    np.testing.assert_array_equal(pixels_of(out)[-1], pixels_of(source)[-1])


def test_frames_of_different_durations_are_divided_each(checkpoint, tmp_path):
    """At 0, 0.1, 0.2, 0.9 and 1 s: new frames lie in the middles, and the last ends as it did."""
    moments = [Fraction(n, 100) for n in (0, 10, 20, 90, 100)]
    source = tmp_path / "clip.mkv"
    with writer(source, Written(16, 16, Fraction(10), lossless=True)) as write:
        for number, moment in enumerate(moments):
            write(np.full((16, 16, 3), 40 + 5 * number, np.uint8), moment)
    wanted = interpolated(read_index(source), 2, scenes=True)
    for name in ("twice.mkv", "twice.gif"):
        made = read_index(make_clip(wanted, checkpoint, tmp_path / name, QUICK, **SILENT))
        expected = [Fraction(n, 100) for n in (0, 5, 10, 15, 20, 55, 90, 95, 100, 105)]
        assert list(made.times) == expected
    rate = 20 / float(wanted.rate)  # the usual distance of the new frames is one
    assert [rate * float(wanted.time(i) * wanted.rate) for i in (1, 5, 6)] == [1, 11, 18]


def test_predictors_make_what_the_commands_make(checkpoint, tmp_path):
    (tmp_path / "in").mkdir()
    source = write_clip(tmp_path / "in" / "clip.mkv")
    folder = write_clip(tmp_path / "in" / "frames", size=(16, 16))
    (folder / "000003.png").unlink()
    index = read_index(source)
    cases = {
        "predict": (source, predicted(index, 3, 4, backward=True),
                    {"context": 3, "frames": 4, "backward": True}),
        "interpolate": (source, interpolated(index, 2, scenes=False), {"cuts": False}),
        "fill": (folder, filled(read_index(folder)), {}),
    }  # fmt: skip
    for name, (path, wanted, options) in cases.items():
        check_part(installed(), "predictor", f"video/{name}")
        chosen = Spec(f"video/{name}", {**options, "lossless": True, "steps": 2})
        made = configure("predictor", chosen)(Machine(threads=1), checkpoint)
        target, expected = tmp_path / f"{name}.mkv", tmp_path / f"{name}-expected.mkv"
        facts = made(path, target)
        make_clip(wanted, checkpoint, expected, DrawOptions(steps=2), lossless=True, **SILENT)
        np.testing.assert_array_equal(pixels_of(target), pixels_of(expected))
        assert facts["frames"] == len(pixels_of(target))
    assert made.result_names({"lossless": True})("frames") == "frames.mkv"
    assert [made.result_name(name) for name in ("a.avi", "b.MP4")] == ["a.avi.mp4", "b.MP4"]
    with pytest.raises(InputError, match="expected a folder of numbered images"):
        made(folder / "000001.png", tmp_path / "one.mkv")


def test_nothing_is_drawn_across_a_cut(checkpoint, tmp_path):
    source = write_clip(tmp_path / "clip.mkv", count=6, jump=3)
    out = tmp_path / "twice.mkv"
    wanted = interpolated(read_index(source), 2, scenes=True)
    make_clip(wanted, checkpoint, out, QUICK, lossless=True, **SILENT)
    found, given = pixels_of(out), pixels_of(source)
    np.testing.assert_array_equal(found[5], given[3])  # between 2 and 3, the middle goes to 3
    assert (found[3] != given[1]).any()
    assert (found[3] != given[2]).any()


def test_a_stopped_run_resumes_to_the_same_bytes(checkpoint, tmp_path):
    source = write_clip(tmp_path / "clip.mkv")
    wanted = predicted(read_index(source), 2, 9, backward=False)
    options = DrawOptions(steps=2, step=2, stabilise=0.1, history=1.5, history_noise=0.3)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    make_clip(wanted, checkpoint, whole, options, **SILENT)
    calls = []

    def stop(event):
        if not isinstance(event, Note):
            calls.append(event.done)
            if len(calls) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_clip(wanted, checkpoint, stopped, options, emit=stop)
    assert not stopped.exists()
    again = []
    make_clip(
        wanted, checkpoint, stopped, options,
        emit=lambda e: None if isinstance(e, Note) else again.append(e.done),
    )  # fmt: skip
    assert again[0] == calls[1] + 2  # the third call, the first two are on disk
    assert not list(tmp_path.glob(".*"))
    files = sorted(path.name for path in whole.iterdir())
    assert len(files) == 11
    assert all((whole / n).read_bytes() == (stopped / n).read_bytes() for n in files)


def test_missing_numbers_of_a_folder_are_filled(checkpoint, tmp_path):
    clip = write_clip(tmp_path / "frames", size=(16, 16))
    for number in (2, 5):
        (clip / f"{number:06d}.png").unlink()
    given = {p.name: p.read_bytes() for p in clip.iterdir()}
    make_clip(filled(read_index(clip)), checkpoint, tmp_path / "out", QUICK, **SILENT)
    found = pixels_of(tmp_path / "out")
    assert len(found) == 8
    for name in given:
        np.testing.assert_array_equal(
            found[int(Path(name).stem)], pixels_of(clip)[sorted(given).index(name)]
        )


def test_clips_that_do_not_fit_are_refused(checkpoint, tmp_path):
    clip = read_index(write_clip(tmp_path / "clip.mkv"))
    with pytest.raises(InputError, match="context: 9 frames are more than its 8"):
        predicted(clip, 9, 1, backward=False)
    with pytest.raises(InputError, match="no number is missing"):
        filled(clip)
    with pytest.raises(InputError, match="expected a name that ends in"):
        make_clip(
            predicted(clip, 2, 2, backward=False), checkpoint, tmp_path / "a.txt", QUICK, **SILENT
        )
