"""Output paths of the commands, and what is refused before anything is sampled."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from core.errors import InputError
from core.images.pictures import Picture
from core.images.writing import write_picture
from core.parts.registry import Spec
from plugins.image2image.__main__ import app
from plugins.image2image.commands.images import RestoreRun
from plugins.image2image.inference.input_image import InputImage


class Doubled:
    """Draws of an image twice as large, grey; refuses images of one pixel and counts draws."""

    def __init__(self):
        self.about, self.drawn, self.checkpoint = {}, 0, Path("step")

    @staticmethod
    def result_name(name):
        return name

    def costs(self, image, count):
        raise AssertionError("no cost was requested")

    def prepare(self, path, picture):
        high, wide = picture.pixels.shape[1:]
        if high == wide == 1:
            raise InputError(f"{path}: one pixel")
        size = (2 * high, 2 * wide)

        def finish(drawn):
            return Picture(drawn)

        return InputImage(picture, {}, size, size, picture.pixels, lambda drawn: drawn, finish)

    def write_in_stripes(self, image, target, *, emit):
        return False

    def draws(self, image, count, *, emit):
        for _ in range(count):
            self.drawn += 1
            yield torch.zeros(3, *image.model_size)


def picture(path, height=4, width=5):
    write_picture(path, Picture(torch.ones(3, height, width)))
    return path


def run(predictor, files, out, samples=1, deviation=None, record=False, reads=(), **options):
    mean_of = predictor.mean_of = 2 if deviation and samples == 1 else 1
    fields = {name: options.pop(name, False) for name in ("overwrite", "dry_run")}
    command = RestoreRun(
        command="upscale", part=Spec("image2image/upscale", options), checkpoint=Path("runs/sr3"),
        files=files, out=out, samples=samples, mean_of=mean_of, deviation=deviation,
        record=record, **fields,
    )  # fmt: skip
    command.run(lambda: predictor, reads=reads)


def contents(folder):
    return {place.name: place.read_bytes() for place in folder.iterdir() if place.is_file()}


def test_what_is_read_is_never_replaced_by_anything_that_is_written(tmp_path):
    for name in ("a-sheet.png", "a-1.png", "a.png", "mask.png"):
        picture(tmp_path / name)
    (tmp_path / "a.json").write_text("{}")
    before, out = contents(tmp_path), tmp_path / "a.png"
    cases = [
        ("a-sheet.png", {"samples": 2}),
        ("a-1.png", {"samples": 2}),
        ("a.png", {}),
        ("mask.png", {"deviation": tmp_path / "mask.png"}),
        ("mask.png", {"record": True, "reads": [tmp_path / "a.json"]}),
    ]
    for name, options in cases:
        predictor = Doubled()
        with pytest.raises(InputError, match="would overwrite"):
            run(predictor, [tmp_path / name], out, **options)
        assert predictor.drawn == 0
        assert contents(tmp_path) == before
    for name in ("a-sheet.png", "a-1.png", "a.png"):
        samples = ["--samples", "1" if name == "a.png" else "2"]
        arguments = ["edit", tmp_path / name, "-o", out, *samples, "--checkpoint", tmp_path]
        done = CliRunner().invoke(app, [*map(str, arguments)])
        assert "would overwrite" in str(done.exception)
        assert contents(tmp_path) == before


def test_two_outputs_of_one_run_never_share_a_name(tmp_path):
    photos, out = [picture(tmp_path / "a.png"), picture(tmp_path / "a.tif")], tmp_path / "out"
    cases = [
        (photos, out, {"samples": 2}),
        (photos, out, {"record": True}),
        (photos[:1], tmp_path / "o.png", {"deviation": tmp_path / "out" / ".." / "o.png"}),
        (photos[:1], tmp_path / "o.png", {"samples": 2, "deviation": tmp_path / "o-2.png"}),
        (photos[:1], tmp_path / "o.png", {"samples": 2, "deviation": tmp_path / "o-sheet.png"}),
    ]
    for read, target, options in cases:
        predictor = Doubled()
        with pytest.raises(InputError, match="would be written twice"):
            run(predictor, read, target, **options)
        assert predictor.drawn == 0
    run(Doubled(), photos, out)
    assert sorted(contents(out)) == ["a.png", "a.tif"]


def test_all_images_are_prepared_before_the_first_is_sampled(tmp_path):
    good, one = picture(tmp_path / "good.png"), picture(tmp_path / "one.png", 1, 1)
    out, predictor = tmp_path / "out", Doubled()
    with pytest.raises(InputError, match=r"one\.png: one pixel"):
        run(predictor, [good, one], out)
    assert predictor.drawn == 0
    assert not out.exists()


def test_a_result_too_large_for_its_format_is_refused_before_it_is_drawn(tmp_path):
    wide, predictor = picture(tmp_path / "wide.png", 1, 8192), Doubled()
    with pytest.raises(InputError, match="WEBP cannot hold a side of 16384 pixels"):
        run(predictor, [wide], tmp_path / "wide.webp")
    assert predictor.drawn == 0


def test_names_that_cannot_be_are_refused_in_one_sentence(tmp_path):
    good, long = picture(tmp_path / "good.png"), tmp_path / f"{'x' * 300}.png"
    for arguments in (["edit", good], ["purify", good]):
        command = [*map(str, [*arguments, "-o", long, "--checkpoint", tmp_path])]
        done = CliRunner().invoke(app, command)
        assert isinstance(done.exception, InputError)
        assert "name too long" in str(done.exception)
    with pytest.raises(InputError, match="name too long"):
        run(Doubled(), [good], long)


def test_several_images_require_a_folder_and_no_file(tmp_path):
    photos = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png")]
    (tmp_path / "file").write_text("kept")
    for name in ("file", "none.png"):
        with pytest.raises(InputError, match="2 images need a folder"):
            run(Doubled(), photos, tmp_path / name)
    assert (tmp_path / "file").read_text() == "kept"
