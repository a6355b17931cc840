"""Outputs of the commands: folders, names, formats, and what is there already."""

import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from core.errors import InputError

sys.path.insert(0, str(Path(__file__).parent))
from test_images import Doubled, contents, picture, run


def test_one_image_goes_into_a_folder_that_is_there_or_not(tmp_path):
    good = picture(tmp_path / "good.png")
    for out in (f"{tmp_path}/new.v2/", f"{tmp_path}/plain", f"{tmp_path}/new.v2"):
        run(Doubled(), [good], out, overwrite=True)
        assert list(contents(Path(out))) == ["good.png"]


def test_a_dry_run_makes_no_folder_and_names_each_image(tmp_path, capsys):
    from core.denoiser.tiles import Cost

    class Costly(Doubled):
        def costs(self, image, count):
            fields = dict.fromkeys(Cost._fields, 1) | {"size": (8, 10), "seconds": 1.0}
            return [Cost(**fields)]

    photos = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png")]
    run(Costly(), photos, tmp_path / "out", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["a.png"] * 3 + ["b.png"] * 3
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_replaced_only_when_asked(tmp_path):
    good, out = picture(tmp_path / "good.png"), tmp_path / "out.png"
    out.write_text("hours of work")
    predictor = Doubled()
    with pytest.raises(InputError, match=r"already there; .* --overwrite"):
        run(predictor, [good], out)
    assert predictor.drawn == 0
    assert out.read_text() == "hours of work"
    (tmp_path / "new.json").write_text("{}")
    with pytest.raises(InputError, match=r"new\.json: already there"):
        run(predictor, [good], tmp_path / "new.png", record=True)
    run(predictor, [good], out, overwrite=True)
    assert Image.open(out).size == (10, 8)


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (("score", "none", "none", "-o", "kept.csv"), "kept.csv"),
        (("compare", "none", "-o", "kept"), "kept/metrics.json"),
        (("choose", "none", "-o", "kept"), "kept/checkpoints/step-00000002/state.json"),
    ],
)
def test_figures_and_checkpoints_are_replaced_only_when_asked(tmp_path, monkeypatch, words, file):
    """Before anything is read: the inputs do not exist."""
    from plugins.image2image.__main__ import app

    monkeypatch.chdir(tmp_path)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text("hours of work")
    with pytest.raises(InputError, match=r"^kept.*already there; .* --overwrite"):
        CliRunner().invoke(app, [*words], catch_exceptions=False)
    assert Path(file).read_text() == "hours of work"
    with pytest.raises(InputError, match="none"):
        CliRunner().invoke(app, [*words, "--overwrite"], catch_exceptions=False)


def test_a_link_is_written_through(tmp_path):
    good = picture(tmp_path / "good.png")
    (tmp_path / "there").mkdir()
    for name in ("whole.png", "none.png"):
        target, link = tmp_path / "there" / name, tmp_path / name
        if name == "whole.png":
            target.write_text("old")
        link.symlink_to(target)
        run(Doubled(), [good], link, overwrite=True)
        assert link.is_symlink()
        assert Image.open(target).size == (10, 8)


def test_a_folder_as_input_names_the_command_for_folders(tmp_path):
    photos = tmp_path / "my photos"
    photos.mkdir()
    with pytest.raises(InputError) as caught:
        run(Doubled(), [photos], "large/", quality=80)
    words = shlex.split(str(caught.value).split("run: ")[1])
    assert words[:6] == ["polymode", "apply", "image2image/upscale", str(photos), "-o", "large"]
    assert words[6:] == ["--set", "checkpoint=runs/sr3", "--set", "predictor.quality=80"]


def test_formats_and_names_of_results(tmp_path):
    photos = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png")]
    run(Doubled(), photos, tmp_path / "out", format="jpeg", file_name="{stem}_x2", quality=30)
    assert sorted(contents(tmp_path / "out")) == ["a_x2.jpg", "b_x2.jpg"]
    small = (tmp_path / "out" / "a_x2.jpg").stat().st_size
    run(Doubled(), photos[:1], tmp_path / "best.jpg", quality=100)
    assert (tmp_path / "best.jpg").stat().st_size >= small
    cases = [
        (photos, tmp_path / "o/", {"file_name": "one"}, "output of two images"),
        (photos[:1], tmp_path / "o.png", {"file_name": "{stem}"}, "names the file"),
        (photos[:1], tmp_path / "o.png", {"format": "jpeg"}, "leave one of them out"),
        (photos[:1], tmp_path / "o.png", {"quality": 9}, r"o\.png has none"),
    ]
    for files, out, options, words in cases:
        with pytest.raises(InputError, match=words):
            run(Doubled(), files, out if len(files) == 1 else f"{out}/", **options)
    assert not (tmp_path / "o").exists()
