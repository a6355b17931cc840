"""Features that are learned here, and distances between sets of images that rest on them."""

import json

import numpy as np
import pytest
import torch

from core.data import collate, open_dataset
from core.errors import InputError
from core.parts.config import configure, plain
from core.parts.registry import Spec
from core.request import Machine, Note, Progress
from core.results import samples
from core.results.distances import frechet
from plugins.image2image.evaluation.compare import FLOOR, compare
from plugins.image2image.evaluation.features import learned, load
from plugins.image2image.operators.bicubic import Bicubic
from plugins.image2image.request import CompareRequest

CROPS = Spec("image2image/photos", {"size": 32, "per_photo": 6})


def crops(split, spec=CROPS):
    dataset = configure("dataset", spec)(split)
    return collate(dataset, list(range(len(dataset))))["image"]


# --- sets of images ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(extractor, tmp_path_factory):
    """judged(inputs, **options): metrics.json of a comparison with the small extractor."""
    file = tmp_path_factory.mktemp("features") / "features.safetensors"
    extractor.save(file)

    def run(inputs, **options):
        request = CompareRequest(**{"extractor": file, "patch": 16, **options})
        result = compare(request, inputs, tmp_path_factory.mktemp("out"))
        return json.loads(result.metrics.read_text())

    return run


@pytest.fixture
def drawn(tmp_path):
    """drawn(name, make): a folder of samples, `make` of the real images, for a task."""

    def write(name, make, task=Spec("image2image/jpeg"), spec=CROPS):
        built = configure("task", task)()
        dataset = open_dataset(spec, "test", built)
        real = collate(dataset, list(range(len(dataset))))["image"]
        about = {
            "format": 1, "task": plain(task), "dataset": plain(spec), "data": dataset.digest(),
            "split": "test", "items": [
                {"name": dataset.name(i), "source": dataset.source(i)} for i in range(len(dataset))
            ],
        }  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        samples.write(folder, make(real).flatten(0, 1), about, built, dataset)
        return folder

    return write


def cell(metrics, method, figure):
    return metrics["methods"][method][figure]["mean"]


def test_the_truth_itself_has_the_floor(judged, drawn):
    """Draws that are the real images: figures are the floor's, distances 0, all are right."""
    metrics = judged({"truth": drawn("truth", lambda x: torch.stack([x, x], 1))})
    row, floor = metrics["methods"]["one sample"], metrics["methods"][FLOOR]
    for figure in ("kid", "fid", "precision", "recall", "coverage"):
        assert row[figure]["mean"] == pytest.approx(floor[figure]["mean"], abs=1e-6)
    assert (row["distance"]["mean"], row["diversity"]["mean"]) == pytest.approx((0, 0), abs=1e-5)
    assert row["accuracy"]["mean"] == 1
    assert (row["kid"]["n"], row["fid"]["n"], row["precision"]["n"]) == (36, 36, 18)
    assert row["fid"]["low"] is None
    assert abs(floor["kid"]["mean"]) < floor["kid"]["high"] - floor["kid"]["low"]
    assert metrics["reference"] == "JPEG file"
    better = metrics["differences"]["one sample"]
    assert better["kid"]["mean"] == pytest.approx(
        floor["kid"]["mean"] - cell(metrics, "JPEG file", "kid"), abs=1e-6
    )
    assert better["distance"]["high"] < 0 < better["accuracy"]["mean"]
    name = metrics["metrics"]["fid"]["label"]
    assert name.startswith("FID (given features ")


def test_figures_are_those_counted_by_hand(judged, drawn, extractor):
    """Patches one by one: those of one colour against the real ones of the other, both ways."""
    noise = 0.3 * torch.randn(18, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    metrics = judged({"noisy": drawn("noisy", lambda x: (x[:, None] + noise).clamp(-1, 1))})
    real = crops("test")
    mine = ((real + noise[:, 0]).clamp(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1

    def dealt(pictures, colour):
        chosen = [
            (i, pictures[i, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16])
            for i in range(18) for row in range(2) for column in range(2)
            if (i + row + column) % 2 == colour
        ]  # fmt: skip
        return [i for i, _ in chosen], extractor.features(torch.stack([x for _, x in chosen]))

    def kernel(x, y):
        return ((x.double() @ y.double().T / x.shape[1]) + 1) ** 3

    kids, fids, precise = [], [], []
    for colour in (0, 1):
        (of, x), (to, y) = dealt(mine, colour), dealt(real, 1 - colour)
        i, j = np.array(of), np.array(to)
        means = [
            float(kernel(p, q)[torch.from_numpy(a[:, None] != b)].mean())
            for p, q, a, b in ((x, x, i, i), (y, y, j, j), (x, y, i, j))
        ]
        kids.append(means[0] + means[1] - 2 * means[2])
        fids.append(frechet(x, y))
        for patch in x:
            reach = [sorted((y - one).norm(dim=1).tolist())[3] for one in y]  # itself is first
            precise.append(any((one - patch).norm() <= r for one, r in zip(y, reach, strict=True)))
    assert cell(metrics, "one sample", "kid") == pytest.approx(np.mean(kids), rel=1e-5)
    assert cell(metrics, "one sample", "fid") == pytest.approx(np.mean(fids), rel=1e-5)
    assert cell(metrics, "one sample", "diversity") > 0.1
    mean = ((real[:, None] + noise).clamp(-1, 1).mean(1) * 127.5 + 127.5).round() / 127.5 - 1
    apart = [
        (dealt(mean, colour)[1] - dealt(real, colour)[1]).norm(dim=1).double() for colour in (0, 1)
    ]
    assert cell(metrics, "mean of all", "distance") == pytest.approx(
        float(torch.cat(apart).mean()), rel=1e-4
    )
    assert "diversity" not in metrics["methods"]["mean of all"]
    assert cell(metrics, "one sample", "precision") == pytest.approx(np.mean(precise))


def test_an_interval_of_a_kernel_distance_holds_its_probability(judged, drawn, monkeypatch):
    """Of redrawn distances that lie evenly in [0, 1], 90 % lie from 0.05 to 0.95."""
    evenly = np.concatenate([[0.5], np.linspace(0, 1, 1001)])
    module = "plugins.image2image.evaluation.compare.redrawn_kernel_distances"
    monkeypatch.setattr(module, lambda *_, **__: evenly)
    metrics = judged({"truth": drawn("truth", lambda x: x[:, None])}, confidence=0.9)
    found = metrics["methods"]["one sample"]["kid"]
    assert found["mean"] == 0.5
    assert (found["low"], found["high"]) == pytest.approx((0.05, 0.95), abs=1e-9)


@pytest.mark.slow
def test_more_noise_and_more_blur_are_further_away(judged, drawn):
    noise = torch.randn(18, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def blurred(x, factor):
        return Bicubic(factor=factor).up(Bicubic(factor=factor).forward(x))

    made = {
        "noise 0.1": lambda x: x + 0.1 * noise,
        "noise 0.4": lambda x: x + 0.4 * noise,
        "blur 2": lambda x: blurred(x, 2),
        "blur 8": lambda x: blurred(x, 8),
    }
    folders = {
        name: drawn(name, lambda x, make=make: make(x).clamp(-1, 1)[:, None])
        for name, make in made.items()
    }
    metrics = judged(folders)
    for figure in ("kid", "fid", "distance"):
        found = {name: cell(metrics, f"{name}: one sample", figure) for name in made}
        assert found["noise 0.1"] < found["noise 0.4"]
        assert found["blur 2"] < found["blur 8"]
    for name in ("noise 0.4", "blur 8"):
        for figure in ("kid", "fid"):
            assert cell(metrics, f"{name}: one sample", figure) > cell(metrics, FLOOR, figure)


def test_samples_that_restore_nothing_are_compared_with_any_real_set(judged, drawn):
    """Generated images are no one's restoration: real ones of another number, no pairs."""
    generate, blank = Spec("core/generate"), Spec("core/blank", {"shape": [3, 32, 32], "count": 24})
    other = crops("test", Spec("image2image/photos", {"size": 32, "per_photo": 8}))
    folder = drawn("made", lambda x: other[:, None], generate, blank)
    metrics = judged({"made": folder}, real=CROPS)
    row = metrics["methods"]["one sample"]
    assert metrics["reference"] == FLOOR
    assert not {"distance", "accuracy", "diversity"} & row.keys()
    assert row["kid"]["low"] < 0.05  # crops of the same photographs
    grey = drawn("grey", lambda x: torch.zeros(24, 1, 3, 32, 32), generate, blank)
    worse = judged({"grey": grey}, real=CROPS)["methods"]["one sample"]
    assert worse["kid"]["low"] > row["kid"]["mean"]
    assert worse["fid"]["mean"] > 2 * row["fid"]["mean"]
    assert worse["recall"]["mean"] == 0


@pytest.mark.slow
def test_where_items_have_classes_their_own_are_what_is_right(judged, drawn, place):
    """Digits drawn for one digit after the other: right where the classifier says the digit's own.

    An image is one patch here: the halves are every other image.
    """
    digits = Spec("image2image/digits")
    found = learned(digits, steps=80, seed=0)
    dataset = configure("dataset", digits)("test")
    batch = collate(dataset, list(range(len(dataset))))
    others = batch["image"].roll(1, 0)
    folder = drawn(
        "other", lambda x: others[:, None], Spec("core/generate", {"channels": 1}), digits
    )
    options = {"extractor": None, "learned_from": digits, "steps": 80, "patch": 8}
    metrics = judged({"other": folder}, **options)
    for method, pictures in ((FLOOR, batch["image"]), ("one sample", others)):
        known = float((found.classes(pictures) == batch["class"]).double().mean())
        assert cell(metrics, method, "accuracy") == pytest.approx(known, abs=1e-9)
    assert cell(metrics, "one sample", "accuracy") < 0.3 < cell(metrics, FLOOR, "accuracy")
    assert metrics["metrics"]["accuracy"]["label"] == "classifier accuracy"
    assert metrics["methods"]["one sample"]["kid"]["n"] == 250


@pytest.mark.slow
def test_a_job_and_the_command_write_the_same(judged, drawn, extractor, tmp_path):
    from typer.testing import CliRunner

    from core.parts.registry import installed
    from plugins.image2image.__main__ import app

    folder, file = drawn("truth", lambda x: x[:, None]), tmp_path / "features.safetensors"
    extractor.save(file)
    known = judged({"truth": folder})
    assert installed().find_verb("image2image/compare").folders
    request = CompareRequest(extractor=file, patch=16)
    events: list[Progress | Note] = []
    machine = Machine(threads=1)
    result = compare(
        request, {"truth": folder}, tmp_path / "job", machine=machine, emit=events.append
    )
    counted = [(e.done, e.total, e.unit) for e in events if isinstance(e, Progress)]
    methods = len(known["methods"]) - 1  # without the floor
    assert counted == [(i + 1, methods, "method") for i in range(methods)]
    assert json.loads(result.metrics.read_text()) == known
    assert load(result.extractor).name == load(file).name
    words = [str(folder), "-o", str(tmp_path / "command"), "--set", f"extractor={file}"]
    done = CliRunner().invoke(app, ["compare", *words, "--set", "patch=16"])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "command" / "metrics.json")
    assert json.loads((tmp_path / "command" / "metrics.json").read_text()) == known
    floor = known["methods"][FLOOR]["fid"]
    assert f"{floor['mean']:8.3g}  n = 36  {FLOOR}" in done.stderr
    assert known["metrics"]["fid"]["label"] in done.stderr


@pytest.mark.slow
def test_what_cannot_be_compared_is_refused(judged, drawn, tmp_path):
    def same(x):
        return x[:, None]

    truth = drawn("truth", same)
    cases = [
        ({}, {}, "expected one folder of samples"),
        ({"a": tmp_path}, {}, "no samples that `sample` wrote"),
        ({"a": truth}, {"patch": 33}, "patch: expected at most 32"),
        ({"a": truth}, {"neighbours": 36}, "neighbours: expected 1 to 35"),
        ({"a": truth}, {"patch": 32, "count": 2, "neighbours": 1}, "two items or more|too few"),
        ({"a": truth, "b": drawn("b", same, spec=Spec("image2image/photos", {"size": 16}))}, {},
         "different data"),
        ({"a": truth, "b": drawn("q", same, Spec("image2image/jpeg", {"quality": 5}))}, {},
         "JPEG file is not the same image"),
        ({"a": truth}, {"extractor": None, "steps": 1, "learned_from": Spec("image2image/digits")},
         "the features have 1 channels"),
    ]  # fmt: skip
    for inputs, options, words in cases:
        with pytest.raises(InputError, match=words):
            judged(inputs, **options)
