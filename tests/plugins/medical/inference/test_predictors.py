"""Predictors of scans and raw data: a folder of them through `polymode apply`."""

import hashlib
import json
from dataclasses import replace
from functools import partial

import nibabel
import numpy as np
import pytest
import torch
from commands import call
from made_scans import NAME, NUMBER, write_series

from core import runs
from core.commands import run_app
from core.errors import InputError
from core.parts.config import bind
from core.parts.registry import Spec
from core.parts.signature import part_options
from core.request import Machine, TrainRequest
from core.scans import nifti
from core.scans.request import ScanOptions
from core.scans.scan import Scan
from pipelines import cli
from pipelines.apply.listing import find
from plugins.medical.__main__ import app
from plugins.medical.inference.predictors import ReconstructCt, ReconstructMri
from plugins.medical.inference.reconstruct import prior_of
from plugins.medical.io import raw
from plugins.medical.io.acquisition import KSpace
from plugins.medical.operators.ellipses import rasterised, shepp_logan
from plugins.medical.operators.fourier import fourier
from plugins.medical.request import CtOptions, MriOptions, PosteriorOptions

main, medical = partial(run_app, cli.app), partial(run_app, app)
FAST = PosteriorOptions(draws=2, steps=2)
QUICK = ("--set", "predictor.draws=2", "--set", "predictor.steps=2", "--cpus", 1)


def head(d=2, size=16):
    """Slices of a head in Hounsfield units."""
    slice_ = rasterised(shepp_logan(size * 2.0), size, size, 2.0).numpy()
    slices = [slice_ * (60 + 20 * k) - 1000 * (slice_ <= 0) for k in range(d)]
    return np.stack(slices).round().astype(np.float32)


def volume(path, voxels):
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti.write(path, voxels, Scan(voxels, np.diag([2.0, 2.0, 3.0, 1.0])), description="")
    return path


def kspace(folder, mask=None):
    """K-space of the head in a .npy with its JSON, and where it says so, a mask's .npy."""
    k = fourier(torch.from_numpy(np.maximum(head(), 0)).to(torch.complex64))[:, None]
    folder.mkdir(parents=True, exist_ok=True)
    raw.write_kspace(folder / "k.npy", KSpace(k.numpy(), np.ones((16, 16), bool), 0.1))
    if mask is not None:
        about = json.loads((folder / "k.json").read_text())
        (folder / "k.json").write_text(json.dumps(about | {"mask": "lines.npy"}))
        np.save(folder / "lines.npy", mask)
    return folder / "k.npy"


# --- what is read, and how results are named -----------------------------------------------------


@pytest.mark.parametrize("build", [ReconstructCt, ReconstructMri])
@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("a.nii", "a.nii.gz"),
        ("a.NII.GZ", "a.nii.gz"),
        ("a.b.npy", "a.b.nii.gz"),
        ("a.dcm", "a.nii.gz"),
        ("1.2.840", "1.2.840.nii.gz"),
    ],
)
def test_a_result_is_named_as_its_scan(build, name, result):
    assert build.result_name(name) == result
    stem = result.removesuffix(".nii.gz")
    assert build.beside(result) == tuple(
        f"{stem}-{end}" for end in ("std.nii.gz", "sheet.png", "record.json")
    )


def test_a_series_is_one_input_and_a_mask_none(tmp_path):
    write_series(tmp_path / "patient" / "ct", head())
    (tmp_path / "patient" / "ct" / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    kspace(tmp_path / "raw", mask=np.arange(16) % 2)
    volume(tmp_path / "a.nii.gz", head())
    names, refused, _ = find(tmp_path, ReconstructMri, {})
    assert (names, refused) == (["a.nii.gz", "patient/ct", "raw/k.npy"], [])
    read = {path.name for path in ReconstructMri.reads(tmp_path / "raw" / "k.npy")}
    assert read == {"k.npy", "k.json", "lines.npy"}
    assert len(ReconstructMri.reads(tmp_path / "patient" / "ct")) == 3
    (tmp_path / "raw" / "k.json").write_text("no JSON")
    assert ReconstructMri.reads(tmp_path / "raw" / "k.npy") == (tmp_path / "raw" / "k.npy",)


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("reconstruct_ct", (PosteriorOptions(), CtOptions(), ScanOptions())),
        ("reconstruct_mri", (PosteriorOptions(), MriOptions(), ScanOptions())),
    ],
)
def test_options_and_defaults_are_those_of_the_groups_and_of_the_command(name, groups):
    """Stated once: the registered part's are the groups' fields, and the command's are the part's.

    They are read from the text of the module: it is not imported to show them.
    """
    options = {option.name: option for option in part_options("predictor", f"medical/{name}")}
    for group in groups:
        for field, value in vars(group).items():
            assert options[field].default == value
            assert options[field].meaning
    shown = call(medical, name.replace("_", "-"), "--help").stdout
    for option in options:
        assert f"--{option.replace('_', '-')}" in shown


# --- what is written -----------------------------------------------------------------------------


def test_a_predictor_gives_the_same_bytes_whatever_came_before(tmp_path, priors):
    """Mean, standard deviation, sheet and record; the second of two as the only one."""
    scan, series = volume(tmp_path / "b.nii.gz", head()), write_series(tmp_path / "a", head())
    machine = Machine(threads=1)
    written = []
    for sources in ((series, scan), (scan,)):
        posterior = replace(FAST, spacing="ignore")  # of the series, whose pixels are of 0.7 mm
        predict = ReconstructCt(machine, priors / "ct", posterior=posterior, ct=CtOptions(views=5))
        out = tmp_path / f"out{len(written)}"
        out.mkdir()
        facts = [predict(source, out / predict.result_name(source.name)) for source in sources]
        written.append({path.name: path.read_bytes() for path in out.glob("b*")})
    assert written[0] == written[1]
    assert set(written[0]) == {"b.nii.gz", "b-std.nii.gz", "b-sheet.png", "b-record.json"}
    assert facts[0]["slices"] == 2
    assert facts[0]["misfit"]["worst"] >= facts[0]["misfit"]["mean"] > 0
    assert nibabel.load(out / "b.nii.gz").shape == (16, 16, 2)
    record = json.loads((out / "b-record.json").read_text())
    assert record["input_sha256"] == hashlib.sha256(scan.read_bytes()).hexdigest()
    assert record["results"] == ["b.nii.gz", "b-std.nii.gz", "b-sheet.png"]
    assert (record["command"], record["measurement"]["views"]) == ("reconstruct-ct", 5)


@pytest.mark.slow
def test_held_out_measurements_decide_unless_told_otherwise(tmp_path, priors):
    """Of 24 views three are left out; the record says what they chose, and the choice stated as
    options gives the same voxels; without, the mean of draws from TV."""
    scan, out = volume(tmp_path / "a.nii.gz", head()), tmp_path / "out.nii.gz"

    def reconstruct(**options):
        posterior = PosteriorOptions(draws=2, steps=2, **options)
        predict = ReconstructCt(
            Machine(threads=1), priors / "ct", posterior=posterior, ct=CtOptions(views=24)
        )
        facts = predict(scan, out)
        return facts, json.loads((tmp_path / "out-record.json").read_text()), out.read_bytes()

    facts, record, chosen = reconstruct()
    found = record["held_out"]
    assert found["start"] in ("FBP", "CGLS", "TV")
    assert facts["held_out"] == found
    assert found["left_out"] == "3 of 24 views"
    assert sum(found["weights"].values()) == pytest.approx(1, abs=1e-3)
    assert {f"posterior mean from {at}" for at in ("0.5", "0.25", "1")} < set(found["misfit"])
    assert (record["start"], record["grid"]["sigma_max"]) == (found["start"], found["level"])
    assert reconstruct(level=found["level"], start=found["start"])[2] == chosen
    panel = ReconstructCt.show(scan, out, facts)
    assert panel is not None
    assert set(panel.images) == {"contact sheet", "held-out misfit"}
    facts, record, plainly = reconstruct(choose="none")
    assert "held_out" not in facts
    assert record["held_out"] is None
    assert (record["start"], record["grid"]["sigma_max"]) == ("TV", 0.5)
    assert plainly != chosen


def test_a_start_that_no_method_has_is_refused_before_a_scan_is_read(priors):
    with pytest.raises(InputError, match="start: expected noise, FBP, CGLS, TV, got 'wavelets'"):
        ReconstructCt(
            Machine(threads=1), priors / "ct", posterior=PosteriorOptions(start="wavelets")
        )


def test_a_prior_of_ct_for_mri_is_refused_by_its_channels(priors):
    """Its request states no modality: phantoms are neither."""
    expected = "a prior of images of 1 channels, expected 2 for MR; train one with .* --kind mri"
    with pytest.raises(InputError, match=expected):
        ReconstructMri(Machine(threads=1), priors / "ct")


@pytest.mark.slow
def test_a_folder_of_scans_goes_through_apply_as_through_the_command(tmp_path, priors):
    """A DICOM series, NIfTI and a sinogram; the same voxels as the command's; nothing twice."""
    scans, out = tmp_path / "scans", tmp_path / "out"
    write_series(scans / f"{NAME} {NUMBER}" / "ct", head())
    volume(scans / "head.nii.gz", head())
    said = call(medical, "simulate", scans / "head.nii.gz", "--kind", "ct", "--views", 9, "-o",
                scans / "sino.npy")  # fmt: skip
    assert said.returncode == 0, said.stderr
    (scans / "damaged.nii").write_bytes(b"no scan")
    words = ("apply", "medical/reconstruct_ct", scans, "-o", out, "--set",
             f"checkpoint={priors / 'ct'}", "--set", "predictor.views=9",
             "--set", "predictor.spacing=ignore", *QUICK)  # fmt: skip
    said = call(main, *words)
    assert said.returncode == 1
    assert "3 done, 1 bad" in said.stderr, said.stderr
    results = out / "results"
    patient = f"{NAME} {NUMBER}/ct"
    expected = {
        f"{name}{end}"
        for name in (patient, "head", "sino")
        for end in (".nii.gz", "-std.nii.gz", "-sheet.png", "-record.json")
    }
    found = {p.relative_to(results).as_posix() for p in results.rglob("*") if p.is_file()}
    assert found == expected
    for command, name in (("ct", patient), ("head.nii.gz", "head"), ("sino.npy", "sino")):
        source = scans / (patient if command == "ct" else command)
        alone = tmp_path / f"{command}-alone.nii.gz"
        views = () if command == "sino.npy" else ("--views", 9)  # it states them itself
        said = call(medical, "reconstruct-ct", source, "--checkpoint", priors / "ct", *views,
                    "--spacing", "ignore", "--draws", 2, "--steps", 2, "--threads", 1,
                    "-o", alone)  # fmt: skip
        assert said.returncode == 0, said.stderr
        assert alone.read_bytes() == (results / f"{name}.nii.gz").read_bytes()
    lines = [json.loads(line) for line in (out / "files.jsonl").read_text().splitlines()]
    notes = {line["name"]: " ".join(line["facts"].get("notes", ())) for line in lines}
    assert [name for name in notes if "not used: views" in notes[name]] == ["sino.npy"]
    for path in [p for p in results.rglob("*") if p.is_file()]:
        data = path.read_bytes()
        assert NAME.encode() not in data, path.name
        assert NUMBER.encode() not in data, path.name
    before = {p: p.stat().st_mtime_ns for p in results.rglob("*")}
    said = call(main, *words)
    assert {p: p.stat().st_mtime_ns for p in results.rglob("*")} == before
    about = json.loads((scans / "sino.json").read_text())
    (scans / "sino.json").write_text(json.dumps(about | {"photons": 0.99 * about["photons"]}))
    said = call(main, *words)
    assert "3 done, 1 bad" in said.stderr, said.stderr
    after = {p: p.stat().st_mtime_ns for p in results.rglob("*")}
    assert {p.name for p in after if p.is_file() and after[p] != before.get(p)} == {
        "sino.nii.gz", "sino-std.nii.gz", "sino-sheet.png", "sino-record.json",
    }  # fmt: skip


@pytest.mark.slow
def test_kspace_with_a_mask_goes_through_apply(tmp_path, priors):
    kspace(tmp_path / "scans", mask=np.arange(16) % 2)
    said = call(main, "apply", "medical/reconstruct_mri", tmp_path / "scans", "-o",
                tmp_path / "out", "--set", f"checkpoint={priors / 'mri'}", *QUICK)  # fmt: skip
    assert said.returncode == 0, said.stderr
    (line,) = (tmp_path / "out" / "files.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["state"], record["result"]) == ("done", "k.nii.gz")
    assert record["facts"]["notes"] == [
        "raw data have no slice spacing: it was set to the pixel spacing"
    ]
    about = json.loads((tmp_path / "out" / "results" / "k-record.json").read_text())
    assert about["input_files"] == 3


@pytest.mark.slow
def test_a_prior_is_used_with_its_checkpoints_default_guidance(tmp_path, small_training):
    """Of eps on a level of 50 an untrained network's estimate is far outside [-1, 1]."""
    request = {
        **small_training,
        "task": {"name": "core/generate", "channels": 1}, "parameterization": "core/eps",
        "dataset": {"name": "medical/phantoms", "size": 16}, "guidance": "core/clip", "steps": 1,
    }  # fmt: skip
    runs.train(bind(TrainRequest, request), tmp_path)
    prior = prior_of(tmp_path, Spec("medical/ct"), Machine(threads=1))
    x = 50 * torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert float(prior.denoise(x, torch.full((1,), 50.0)).x0.abs().max()) <= 1
