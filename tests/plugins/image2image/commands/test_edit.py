"""`edit`, `guide` and `repaint` on files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from core.errors import InputError
from plugins.image2image.inference.editing import (
    trained_side,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_images import ellipse


def run_script(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "plugins.image2image", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network of two steps: what it draws is poor, what the script does with it is not."""
    from core.parts.registry import Spec
    from core.request import TrainRequest
    from core.runs import train

    request = TrainRequest(
        task=Spec("core/generate"),
        dataset=Spec("image2image/photos", {"size": 24, "patches": 8}),
        network=Spec(
            "core/unet", {"width": 8, "multipliers": [1, 2], "blocks": 1, "attention": []}
        ),
        steps=2,
        batch=2,
    )
    assert trained_side(request) == 24
    folder = tmp_path_factory.mktemp("model")
    train(request, folder)
    return folder


def invoke(checkpoint, *arguments):
    """The command in this process: what `run_script` does, without another second of imports."""
    from typer.testing import CliRunner

    from plugins.image2image.__main__ import app

    words = [*map(str, arguments), "--checkpoint", str(checkpoint), "--threads", "1"]
    words += [] if arguments[-1] == "--help" else ["--overwrite"]
    return CliRunner().invoke(app, words, catch_exceptions=False)


def test_known_pixels_keep_their_bits_at_eight_and_sixteen(checkpoint, tmp_path):
    """Written and read again by Pillow and pypng; the hole is an irregular mask in a file."""
    import png

    fill = ellipse(23, 29).numpy()
    Image.fromarray(fill.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    shallow = photographs.coffee()[50:73, 60:89]
    Image.fromarray(shallow).save(tmp_path / "8.png")
    deep = shallow.astype(np.uint16) * 257 - np.arange(23 * 29 * 3).reshape(23, 29, 3) % 11
    deep = deep.clip(0, 65535).astype(np.uint16)
    with (tmp_path / "16.png").open("wb") as file:
        colours: Any = False
        png.Writer(29, 23, greyscale=colours, bitdepth=16).write(
            file, deep.reshape(23, -1).tolist()
        )
    for name, given in (("8", shallow), ("16", deep)):
        out = tmp_path / f"out-{name}.png"
        invoke(checkpoint, "repaint", tmp_path / f"{name}.png", "--mask", tmp_path / "mask.png",
               "-o", out, "--steps", 3, "--method", "dps")  # fmt: skip
        width, height, rows, info = png.Reader(filename=str(out)).read()
        found = np.vstack(list(map(np.asarray, rows))).reshape(height, width, 3)
        assert info["bitdepth"] == int(name)
        assert np.array_equal(found[~fill], given[~fill])
        assert (found[fill] != given[fill]).mean() > 0.8


def test_samples_a_sheet_and_a_record(checkpoint, tmp_path):
    Image.fromarray(photographs.coffee()[:20, :30]).save(tmp_path / "in.png")
    arguments = ["edit", tmp_path / "in.png", "-o", tmp_path / "out.png", "--box", "3,4,5,6",
                 "--steps", 4, "--samples", 2, "--record", "--feather", 2]  # fmt: skip
    done = invoke(checkpoint, *arguments)
    names = ["out-1.png", "out-2.png", "out-sheet.png"]
    assert done.stdout.split() == [str(tmp_path / name) for name in names]
    first = {name: (tmp_path / name).read_bytes() for name in names}
    assert first["out-1.png"] != first["out-2.png"]
    said = json.loads((tmp_path / "out.json").read_text())
    assert (said["box"], said["strength"], said["tile"]) == (["3,4,5,6"], 0.5, 24)
    assert said["results"] == names[:2]
    invoke(checkpoint, *arguments)
    assert {name: (tmp_path / name).read_bytes() for name in names} == first
    pixels = np.asarray(Image.open(tmp_path / "out-1.png"))
    changed = (pixels != photographs.coffee()[:20, :30]).any(-1)
    assert changed[4:10, 3:8].mean() > 0.9
    changed[3:11, 2:9] = False  # a feather of 2 weighs nothing from the second ring on
    assert not changed.any()


def test_a_larger_canvas_holds_the_picture_and_guide_keeps_the_reduction(checkpoint, tmp_path):
    given = photographs.coffee()[:20, :30]
    Image.fromarray(np.dstack([given, np.full((20, 30), 99, np.uint8)])).save(tmp_path / "in.png")
    out = tmp_path / "out.png"
    invoke(checkpoint, "repaint", tmp_path / "in.png", "-o", out, "--extend", "right=50%",
           "--extend", "top=7", "--steps", 3, "--method", "ddnm")  # fmt: skip
    found = np.asarray(Image.open(out))
    assert found.shape == (27, 45, 4)
    assert np.array_equal(found[7:, :30, :3], given)
    assert (found[7:, :30, 3] == 99).all()
    assert (found[:7, :, 3] == 255).all()
    Image.fromarray(given).save(tmp_path / "plain.png")
    invoke(checkpoint, "guide", tmp_path / "plain.png", "-o", out, "--factor", 5, "--steps", 6)
    found = np.asarray(Image.open(out))
    assert found.shape == given.shape
    reduced = [np.asarray(Image.fromarray(x).resize((6, 4))).ravel() for x in (found, given)]
    # The network's draws are noise that is clipped when written: alone they would not correlate.
    assert np.corrcoef(reduced)[0, 1] > 0.4
    assert np.abs(found.astype(int) - given).mean() > 10


def test_a_dry_run_says_what_it_takes_and_writes_nothing(checkpoint, tmp_path):
    Image.fromarray(photographs.coffee()[:40, :30]).save(tmp_path / "in.png")
    done = invoke(
        checkpoint, "repaint", tmp_path / "in.png", "-o", tmp_path / "out.png", "--box", "1,1,9,9",
        "--steps", 10, "--method", "ddnm", "--samples", 3, "--dry-run",
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0] == "in.png: 30x40 pixels: 4 tiles of 24x24, overlap 6"
    assert lines[1] == ("in.png: 10 evaluations for each tile of 3 draws: 120 network evaluations")
    assert lines[2].startswith("in.png: about ")
    assert {path.name for path in tmp_path.iterdir()} == {"in.png"}


def test_bad_requests_are_one_sentence(checkpoint, tmp_path):
    good, mask, out = (tmp_path / name for name in ("good.png", "mask.png", "out.png"))
    Image.fromarray(photographs.coffee()[:20, :30]).save(good)
    Image.fromarray(np.zeros((30, 20), np.uint8)).save(mask)
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "black.png")
    black, hole = tmp_path / "black.png", ["--box", "1,1,2,2"]
    start = ["repaint", good, "-o", out]
    cases = [
        (start, "no region to fill"),
        ([*start, "--mask", mask], "has 20x30 pixels, the image 30x20"),
        ([*start, "--mask", black], "nothing to fill"),
        ([*start, "--mask", black, "--invert"], "no known pixel"),
        (["repaint", good, "-o", good, "--box", "1,1,2,2"], "would overwrite"),
        ([*start, *hole, "--method", "ddmn"], "did you mean"),
        ([*start, *hole, "--set", "jumps=2"], "did you mean 'jump'"),
        ([*start, *hole, "--method", "ilvr", "--sampler", "core/unipc"], "core/multistep"),
        ([*start, "--transparent"], "no alpha channel"),
        ([*start, "--extend", "up=3"], "extend: expected SIDE=N"),
        (["edit", good, "-o", out, "--invert"], "give --mask"),
        (["edit", good, "-o", out, "--grow", "3"], "require a region"),
        (["guide", good, "-o", tmp_path / "out.xyz"], "suffix"),
        (["guide", good, "-o", out, "--tile", 32, "--overlap", 32], "overlap: expected"),
    ]  # fmt: skip
    for arguments, words in cases:
        with pytest.raises(InputError) as caught:
            invoke(checkpoint, *arguments)
        assert words in str(caught.value), (arguments, str(caught.value))
        assert not out.exists()


@pytest.mark.slow
def test_the_script_ends_with_2_and_its_help_teaches(checkpoint, tmp_path):
    out = tmp_path / "out.png"
    done = run_script("repaint", tmp_path / "none.png", "-o", out, "--checkpoint", checkpoint)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "none.png" in done.stderr
    told = run_script("repaint", "--help").stdout
    assert all(words in told for words in ("--extend", "--invert", "Example", "--dry-run"))


def test_a_model_of_another_task_is_refused(tmp_path):
    from core.parts.registry import Spec
    from core.request import TrainRequest
    from core.runs import train

    network = {"width": 8, "multipliers": [1], "blocks": 1, "attention": []}
    request = TrainRequest(
        task=Spec("image2image/sr3", {"scale": 2}),
        dataset=Spec("image2image/photos", {"size": 16, "patches": 4}),
        network=Spec("core/unet", network),
        steps=1,
        batch=1,
    )
    train(request, tmp_path / "sr3")
    Image.fromarray(photographs.coffee()[:20, :30]).save(tmp_path / "in.png")
    with pytest.raises(InputError, match=r"trained for image2image/sr3.*expected a model of task"):
        invoke(tmp_path / "sr3", "edit", tmp_path / "in.png", "-o", tmp_path / "out.png")
