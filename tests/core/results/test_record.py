"""The record of a result: digests that sha256sum gives, and names only where they may be."""

import hashlib
import json

import pytest

from core.errors import StorageError
from core.results import record
from core.storage.checkpoint import MANIFEST


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "step-00000004"
    folder.mkdir()
    (folder / MANIFEST).write_text("{}")
    return folder


def test_a_record_holds_digests_options_and_results(tmp_path, checkpoint):
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"abc")
    out = tmp_path / "out.json"
    about = {"seed": 3, "sampler": "core/ddim"}
    record.write(out, "upscale", about, inputs=[photo], checkpoint=checkpoint, results=["out.png"])
    found = json.loads(out.read_text())
    assert found["input"] == "photo.png"
    # FIPS 180-2, appendix B.1: the digest of "abc"
    assert found["input_sha256"].startswith("ba7816bf8f01cfea414140de5dae2223")
    assert found["checkpoint_sha256"] == hashlib.sha256(b"{}").hexdigest()
    assert (found["command"], found["seed"], found["results"]) == ("upscale", 3, ["out.png"])
    assert found["checkpoint"] == "step-00000004"


def test_names_of_inputs_can_be_left_out(tmp_path, checkpoint):
    scans = [tmp_path / "Doe^Jane-1.dcm", tmp_path / "Doe^Jane-2.dcm"]
    for scan, data in zip(scans, (b"abc", b""), strict=True):
        scan.write_bytes(data)
    out = tmp_path / "out.json"
    record.write(out, "ct", {}, inputs=scans, checkpoint=checkpoint, results=[], names=False)
    text = out.read_text()
    assert "Doe" not in text
    digests = "".join(hashlib.sha256(data).hexdigest() for data in (b"abc", b""))
    assert json.loads(text)["input_sha256"] == hashlib.sha256(digests.encode()).hexdigest()
    assert json.loads(text)["input_files"] == 2


def test_a_full_disk_is_one_sentence(tmp_path, checkpoint):
    with pytest.raises(StorageError, match=r"cannot be written.*the result beside it is whole"):
        record.write(
            tmp_path / "none/out.json", "ct", {}, inputs=[], checkpoint=checkpoint, results=[]
        )
