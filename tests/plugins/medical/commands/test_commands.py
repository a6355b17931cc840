"""Commands on scans: results lie where scans lie, say not whose they are, and refuse clearly."""

import hashlib
import json
from functools import partial

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from commands import call
from made_scans import NAME, NUMBER, every, turned, write_series

from core import runs
from core.commands import run_app
from core.errors import InputError
from core.model import load_model
from core.parts.registry import Spec
from core.request import EvaluateRequest
from core.scans import nifti
from core.scans.identity import VARIABLE
from core.scans.scan import Scan
from plugins.medical.__main__ import app
from plugins.medical.data.phantoms import Phantoms
from plugins.medical.evaluation import memorisation, samplers
from plugins.medical.inference import reconstruct
from plugins.medical.io import raw
from plugins.medical.operators.ellipses import rasterised, shepp_logan
from plugins.medical.request import MemorisationRequest, ReconstructRequest, SamplersRequest

main = partial(run_app, app)


def head(d=4, size=24):
    """A few slices of a head in Hounsfield units, no two alike."""
    slice_ = rasterised(shepp_logan(size * 2.0), size, size, 2.0).numpy()
    return np.stack([slice_ * (60 + 20 * k) - 1000 * (slice_ <= 0) for k in range(d)]).round()


def series(folder, **options):
    return write_series(folder, head().astype(np.float32), spacing=(3.0, 2.0, 2.0), **options)


@pytest.mark.parametrize("ways", [((1.0, 0, 0), (0, 1.0, 0)), turned()])
def test_ct_of_a_dicom_folder_lies_where_it_lay(tmp_path, priors, ways):
    source = series(tmp_path / "scan", ways=ways)
    said = call(main, "reconstruct-ct", source, "--checkpoint", priors / "ct", "-o",
                tmp_path / "out", "--deviation", tmp_path / "dev.nii.gz", "--draws", 2,
                "--steps", 2, "--views", 9, "--threads", 1)  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert "Not for diagnosis" in said.stdout
    by_place = {
        tuple(map(float, header.ImagePositionPatient)): header
        for header in map(pydicom.dcmread, source.iterdir())
    }
    found = [pydicom.dcmread(path) for path in (tmp_path / "out").iterdir()]
    assert len(found) == 4
    for header in found:
        known = next(
            value for place, value in by_place.items()
            if np.allclose(place, np.array(header.ImagePositionPatient, float), atol=1e-6)
        )  # fmt: skip
        assert np.allclose(header.ImageOrientationPatient, known.ImageOrientationPatient)
        assert np.allclose(header.PixelSpacing, known.PixelSpacing)
        assert header.FrameOfReferenceUID == known.FrameOfReferenceUID
        assert (header.Rows, header.Columns) == (known.Rows, known.Columns)
    deviation = nibabel.load(tmp_path / "dev.nii.gz")
    corner = deviation.affine @ [0, 0, 0, 1]
    places = [np.array([-x, -y, z]) for x, y, z in by_place]
    assert min(np.abs(corner[:3] - place).max() for place in places) < 1e-3
    assert np.asarray(deviation.dataobj).min() >= 0


@pytest.mark.slow
def test_a_standard_deviation_in_a_dcm_is_a_parametric_map_of_the_nifti_values(tmp_path, priors):
    """Through the command, read by pydicom: float32 in HU, on the source's frames."""
    source = series(tmp_path / "scan")
    known = [pydicom.dcmread(path) for path in source.iterdir()]
    options = ("--checkpoint", priors / "ct", "--draws", 2, "--steps", 2, "--views", 9,
               "--threads", 1)  # fmt: skip
    for end in ("dcm", "nii"):
        said = call(main, "reconstruct-ct", source, *options, "-o", tmp_path / f"{end}-mean.nii",
                    "--deviation", tmp_path / f"std.{end}")  # fmt: skip
        assert said.returncode == 0, said.stderr
        assert str(tmp_path / f"std.{end}") in said.stdout.splitlines()
    found = pydicom.dcmread(tmp_path / "std.dcm")
    assert found.SOPClassUID.name == "Parametric Map Storage"
    assert found.StudyInstanceUID == known[0].StudyInstanceUID
    assert found.FrameOfReferenceUID == known[0].FrameOfReferenceUID
    shared = found.SharedFunctionalGroupsSequence[0]
    (mapping,) = (
        shared.RealWorldValueMappingSequence
        if "RealWorldValueMappingSequence" in shared
        else found.PerFrameFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    )
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "[hnsf'U]"
    maps = np.frombuffer(found.FloatPixelData, "<f4").reshape(-1, found.Rows, found.Columns)
    frames = {
        round(float(group.PlanePositionSequence[0].ImagePositionPatient[2]), 3): frame
        for group, frame in zip(found.PerFrameFunctionalGroupsSequence, maps, strict=True)
    }
    std = nifti.read(tmp_path / "std.nii")
    assert std.voxels.max() > 0
    for number, values in enumerate(std.voxels):
        place = round(float(std.affine[2, 3] + number * std.affine[2, 2]), 3)
        assert np.allclose(frames[place], values, atol=1e-3)


@pytest.mark.slow
def test_a_scan_measured_and_read_again_is_reconstructed_the_same(tmp_path, priors):
    source = series(tmp_path / "scan")
    options = ("--draws", 1, "--steps", 2, "--threads", 1, "--checkpoint", priors / "ct")
    for words in (
        ("simulate", source, "--kind", "ct", "--views", 9, "-o", tmp_path / "s.npy"),
        ("reconstruct-ct", tmp_path / "s.npy", *options, "-o", tmp_path / "a.nii.gz"),
        ("reconstruct-ct", source, "--views", 9, *options, "-o", tmp_path / "b.nii.gz"),
        ("info", tmp_path / "s.npy"),
    ):
        said = call(main, *words)
        assert said.returncode == 0, said.stderr
    a, b = (nifti.read(tmp_path / f"{name}.nii.gz").voxels for name in "ab")
    assert np.array_equal(a, b)
    assert said.stdout.startswith("sinogram: 4 x 9 x")


@pytest.mark.slow
def test_a_record_is_enough_to_make_the_result_again(tmp_path, priors):
    """Digests as sha256sum gives them; the record's options, given again, make the same voxels."""
    source = series(tmp_path / "scan")
    prior = ("--checkpoint", priors / "ct", "--threads", 1)
    options = ("--draws", 1, "--steps", 3, "--level", 0.4, "--views", 9, "--seed", 7)
    for words in (
        ("reconstruct-ct", source, *prior, *options, "-o", tmp_path / "a.nii.gz"),
        ("simulate", source, "--kind", "ct", "--views", 9, "-o", tmp_path / "s.npy"),
        ("reconstruct-ct", tmp_path / "s.npy", *prior, "--draws", 1, "--steps", 2, "-o",
         tmp_path / "raw.nii"),
    ):  # fmt: skip
        said = call(main, *words)
        assert said.returncode == 0, said.stderr
    record = json.loads((tmp_path / "a-record.json").read_text())
    by_place = sorted(source.iterdir(), key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])
    each = [hashlib.sha256(path.read_bytes()).hexdigest() for path in by_place]
    assert record["input_sha256"] == hashlib.sha256("".join(each).encode()).hexdigest()
    assert record["input_files"] == 4
    assert record["results"] == ["a.nii.gz", "a-sheet.png"]
    (manifest,) = (priors / "ct" / "checkpoints" / record["checkpoint"]).glob("MANIFEST.json")
    assert record["checkpoint_sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert record["posterior"]["name"] == "core/diffpir"
    raw_record = json.loads((tmp_path / "raw-record.json").read_text())
    assert (raw_record["input_files"], raw_record["measurement"]) == (2, {})
    grid, measurement = record["grid"], record["measurement"]
    again = ("--draws", record["draws"], "--steps", grid["steps"], "--level", grid["sigma_max"],
             "--seed", record["seed"], "--views", measurement["views"], "--photons",
             measurement["photons"], "--along", record["along"])  # fmt: skip
    said = call(main, "reconstruct-ct", source, *prior, *again, "-o", tmp_path / "b.nii.gz")
    assert said.returncode == 0, said.stderr
    a, b = (nifti.read(tmp_path / f"{name}.nii.gz").voxels for name in "ab")
    assert np.array_equal(a, b)


@pytest.mark.slow
def test_mri_of_nifti_and_of_kspace(tmp_path, priors):
    voxels = np.maximum(head() + 5, 0).astype(np.float32)
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    nifti.write(tmp_path / "brain.nii.gz", voxels, Scan(voxels, affine), description="")
    options = ("--draws", 2, "--steps", 2, "--threads", 1, "--checkpoint", priors / "mri")
    for words in (
        ("reconstruct-mri", tmp_path / "brain.nii.gz", *options, "-o", tmp_path / "a.nii.gz"),
        ("simulate", tmp_path / "brain.nii.gz", "--kind", "mri", "-o", tmp_path / "k.npy"),
        ("reconstruct-mri", tmp_path / "k.npy", *options, "-o", tmp_path / "b.nii"),
        ("info", tmp_path / "k.npy"),
    ):
        said = call(main, *words)
        assert said.returncode == 0, said.stderr
    assert np.allclose(
        nibabel.load(tmp_path / "a.nii.gz").affine, nibabel.load(tmp_path / "brain.nii.gz").affine
    )
    found = nifti.read(tmp_path / "b.nii").voxels
    assert np.corrcoef(found.ravel(), raw_magnitude(tmp_path / "k.npy").ravel())[0, 1] > 0.8


def raw_magnitude(path):
    from plugins.medical.operators.fourier import inverse_fourier

    values = torch.from_numpy(raw.read_kspace(path).values)
    return inverse_fourier(values)[:, 0].abs().numpy()


@pytest.mark.slow
def test_samples_are_drawn_scored_and_looked_up_in_training(tmp_path, priors):
    dataset = Spec("medical/phantoms", {"size": 16, "count": 3})
    task = Spec("medical/ct", {"views": 9, "side": 64.0})
    grid = Spec("core/karras", {"steps": 2, "sigma_max": 0.3})
    request = ReconstructRequest(
        checkpoint=priors / "ct", task=task, dataset=dataset, samples=3, grid=grid, batch=2
    )
    reconstruct.sample(request, tmp_path / "s")
    result = runs.evaluate(EvaluateRequest(samples=tmp_path / "s"), tmp_path / "e")
    assert {"FBP", "CGLS", "TV", "one sample", "mean of 3"} == set(result.scores)
    assert set(result.scores["mean of 3"]) == {"psnr", "ssim", "residual", "rank", "coverage"}
    written = json.loads((tmp_path / "e" / "metrics.json").read_text())
    kinds = dict.fromkeys(("FBP", "CGLS", "TV"), "baseline")
    assert written["kinds"] == {**kinds, "one sample": "draw", "mean of 3": "mean"}
    assert written["panels"][0]["volumes"][0]["unit"] == "HU"
    # The same slices as trained on: what is looked for is found.
    again = Spec("medical/phantoms", {"size": 16, "count": 20})
    near = memorisation.evaluate(
        MemorisationRequest(samples=tmp_path / "s", learned_from=again, count=20), tmp_path / "m"
    )
    learned = Phantoms("train", size=16, count=20)
    pictures = torch.stack([learned[i]["image"] for i in range(20)])
    best, where = memorisation.nearest(pictures[[3, 7]], iter([pictures[:5], pictures[5:]]))
    assert where.tolist() == [3, 7]
    assert float(best.max()) < 1e-12
    assert near.truth < 100


@pytest.mark.slow
def test_samplers_are_compared_in_one_table_and_chart(tmp_path, priors):
    request = SamplersRequest(
        checkpoint=priors / "ct",
        task=Spec("medical/ct", {"views": 9, "side": 64.0}),
        dataset=Spec("medical/phantoms", {"size": 16, "count": 2}),
        count=2,
        steps=(3, 4),
        batch=2,
    )
    found = samplers.compare(request, tmp_path)
    written = json.loads((tmp_path / "metrics.json").read_text())
    (chart,) = written["charts"]
    assert {one["label"] for one in chart["series"]} == set(samplers.RULES)
    points = {one["label"]: [x for x, _ in one["points"]] for one in chart["series"]}
    assert points["DDS"] == [3, 4]  # a call a step
    assert points["score-MRI"][0] > 3  # corrections ask once more
    assert found.best.split(",")[0] in samplers.RULES


@pytest.mark.slow
def test_training_goes_through_the_command(tmp_path):
    for patient in "ab":
        series(tmp_path / "scans" / patient)
    said = call(main, "train-prior", tmp_path / "scans", "--kind", "ct", "-o", tmp_path / "run",
                "--steps", 1, "--test-share", 0, "--threads", 1)  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "run" / "checkpoints").is_dir()
    listed = said.stderr[: said.stderr.index("step 1/1")]
    assert "2 scans of 1 patient, 8 slices" in listed
    assert all(str(tmp_path / "scans" / patient) in listed for patient in "ab")


@pytest.mark.slow
def test_a_prior_of_one_spacing_is_given_none(tmp_path):
    series(tmp_path / "scans" / "a")
    words = ("train-prior", tmp_path / "scans", "--kind", "ct", "-o", tmp_path / "run",
             "--steps", 1, "--test-share", 0, "--threads", 1, "--pixel", 2)  # fmt: skip
    said = call(main, *words, "--pixel-range", 1, 3)
    assert (said.returncode, "pixel, pixel_range: expected one" in said.stderr) == (2, True)
    assert call(main, *words).returncode == 0
    trained = load_model(tmp_path / "run").request
    assert trained.dataset.options["pixel"] == 2
    assert trained.dataset.options["pixel_range"] is None
    assert not trained.task.options["condition_on_pixel"]


@pytest.mark.slow
def test_a_prior_of_stacks_goes_through_the_command(tmp_path):
    series(tmp_path / "scans" / "a")
    words = ("train-prior", tmp_path / "scans", "--kind", "ct", "-o", tmp_path / "run",
             "--steps", 1, "--test-share", 0, "--threads", 1, "--stacks")  # fmt: skip
    said = call(main, *words, "--pixel-range", 1, 3)
    assert said.returncode == 0, said.stderr
    model = load_model(tmp_path / "run")
    options = model.request.dataset.options
    assert (options["slices"], tuple(options["gap_range"])) == (3, (1.0, 3.0))
    assert (model.task.channels, model.task.conditions) == (3, {"vector": 2})


def test_a_dry_run_of_training_lists_every_scan_and_what_is_left_out(tmp_path):
    for number in range(25):
        series(tmp_path / "scans" / f"p{number:02d}")
    series(tmp_path / "scans" / "pt", change=every(Modality="PT"))
    (tmp_path / "scans" / "cut.nii.gz").write_bytes(b"")
    said = call(main, "train-prior", tmp_path / "scans", "--kind", "ct", "-o", tmp_path / "run",
                "--exclude", "p03", "--dry-run")  # fmt: skip
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert "24 scans of 1 patient, 96 slices" in lines[0]
    assert sum(str(tmp_path / "scans" / "p") in line for line in lines[1:]) == 24
    assert "left out, modality PT; CT is expected: 1 (pt)" in lines
    assert (
        "left out, excluded by 'p03': 4 (p03/02.dcm, p03/03.dcm, p03/06.dcm, p03/10.dcm)" in lines
    )
    assert [line for line in lines if "header cannot be read" in line and "cut.nii.gz" in line]
    assert not (tmp_path / "run").exists()


# --- whose it is ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_name_planted_everywhere_comes_out_nowhere(tmp_path, priors, monkeypatch):
    """In tags, file names and folder names; looked for in all that is printed and written."""
    monkeypatch.setenv(VARIABLE, "a key for this test")
    place = series(tmp_path / "in" / f"{NAME} {NUMBER}")
    for path in place.iterdir():
        path.rename(path.with_name(f"{NAME}-{path.name}"))
    data = {"name": "medical/dicom_folder", "root": str(tmp_path / "in"), "size": 16,
            "test_share": 1.0}  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    printed = []
    for words in (
        ("info", place),
        ("simulate", place, "--kind", "ct", "-o", out / "s.npy"),
        ("reconstruct-ct", place, "--checkpoint", priors / "ct", "-o", out / "dicom",
         "--deviation", out / "d.nii.gz", "--draws", 2, "--steps", 2, "--threads", 1),
    ):  # fmt: skip
        said = call(main, *words)
        assert said.returncode == 0, said.stderr
        printed += [said.stdout, said.stderr]
    request = ReconstructRequest(
        checkpoint=priors / "ct", task=Spec("medical/ct", {"views": 9}), dataset=Spec.parse(data),
        samples=2, count=2, grid=Spec("core/karras", {"steps": 2, "sigma_max": 0.3}),
    )  # fmt: skip
    reconstruct.sample(request, out / "samples")
    runs.evaluate(EvaluateRequest(samples=out / "samples"), out / "evaluated")
    canaries = [NAME, NUMBER, NAME.split("^")[0], NUMBER.split("-")[1]]
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert (out / "dicom-record.json") in files
    for canary in canaries:
        assert not [text for text in printed if canary in text]
        for path in files:
            assert canary not in path.name
            assert canary.encode() not in path.read_bytes(), path.name


# --- refusals ------------------------------------------------------------------------------------


def refused(tmp_path, priors):
    source = series(tmp_path / "scan")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    model = ("--checkpoint", priors / "ct", "--threads", 1)
    here = ("-o", tmp_path / "x.nii")
    return {
        "no place": ((tmp_path / "none", *model, *here), "no such file or folder"),
        "plane": ((source, *model, *here, "--plane", "oblique"), "'oblique' is not one of"),
        "full": ((source, *model, "-o", tmp_path / "full"), "is not an empty folder"),
        "same": (
            (source, *model, *here, "--deviation", tmp_path / "x.nii"),
            "expected different paths",
        ),
        "suffix": ((source, *model, "-o", tmp_path / "x.npy"), "expected a .nii or .nii.gz"),
        "no folder": ((source, *model, "-o", tmp_path / "n" / "x.nii"), "does not exist"),
        "checkpoint": ((source, "--checkpoint", tmp_path, *here), "checkpoint"),
        "other": (
            (source, "--checkpoint", priors / "mri", *here),
            "task of its training says MR, expected a prior of CT images",
        ),
        "geometry": ((source, *model, *here, "--geometry", "cone"), "'cone' is not one of"),
        "reduce": (
            (source, *model, *here, "--reduce", 99),
            "reduce: expected at most the 24x24 pixels",
        ),
        "keep": (
            (source, *model, *here, "--keep", "PatientName"),
            "keep: NIfTI and Parametric Maps take no",
        ),
        "no field": (
            (source, *model, "-o", tmp_path / "y", "--keep", "Nme"),
            "'Nme' is not a DICOM keyword",
        ),
    }


KINDS = ["no place", "plane", "full", "same", "suffix", "no folder", "checkpoint", "other",
         "geometry", "reduce", "keep", "no field"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(tmp_path, priors, kind):
    words, reason = refused(tmp_path, priors)[kind]
    before = sorted(tmp_path.rglob("*"))
    said = call(main, "reconstruct-ct", *words)
    assert said.returncode == 2
    assert said.stderr.startswith("error: ")
    assert reason in said.stderr
    assert "Traceback" not in said.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_unknown_kinds_and_methods_are_refused(tmp_path, priors):
    source = series(tmp_path / "scan")
    said = call(main, "simulate", source, "--kind", "pet", "-o", tmp_path / "s.npy")
    assert (said.returncode, "not one of 'ct', 'mri'" in said.stderr) == (2, True)
    said = call(main, "simulate", source, "--kind", "mri", "--mask", "spiral", "-o",
                tmp_path / "s.npy")  # fmt: skip
    assert (said.returncode, "'spiral' is not one of" in said.stderr) == (2, True)
    for place in (tmp_path / "none" / "s.npy", tmp_path / "s.txt"):
        said = call(main, "simulate", source, "--kind", "ct", "-o", place)
        assert said.returncode == 2
        assert said.stderr.startswith(f"error: {place}: ")
    with pytest.raises(InputError, match="got 'DPSS'"):
        samplers.compare(SamplersRequest(checkpoint=priors / "ct", methods=("DPSS",)), tmp_path)


def test_help_teaches_and_lists_choices():
    said = call(main, "reconstruct-ct", "--help")
    for choices in ("parallel|fan", "acquired|axial|coronal|sagittal"):
        assert choices in said.stdout
    assert "Not a medical device" in said.stdout
    assert "Example:" in said.stdout
