"""Damaged checkpoints: every truncation and every flipped bit is noticed, named and passed over.

And whatever bytes stand in a checkpoint's files, sealed as if they were meant or not, the reader
answers with an older checkpoint or with one sentence.
"""

import hashlib
import json
import os
import random
import shutil
import struct
import time

import pytest
import torch
from battery import FULL, count

from core.storage.checkpoint import CheckpointError, load, save

FILES = ["model.safetensors", "ema.safetensors", "state.json", "README.md", "MANIFEST.json"]


def put(folder, step):
    tensors = {
        "model": {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(step)},
        "ema": {"a": torch.full((2, 3), float(step))},
    }
    return save(
        folder, step, tensors, {"note": "x"}, documents={"README.md": "a card of the model"}
    )


@pytest.fixture
def newest(tmp_path):
    """The newer of two checkpoints."""
    put(tmp_path, 1)
    return put(tmp_path, 2)


def seal(folder):
    """List and seal whatever stands in the files, as one would who means harm."""
    listed = {
        p.name: [p.stat().st_size, hashlib.sha256(p.read_bytes()).hexdigest()]
        for p in folder.iterdir()
        if p.name != "MANIFEST.json"
    }
    seal_manifest(folder, {"format": 2, "step": 2, "files": listed})


def seal_manifest(folder, contents):
    digest = hashlib.sha256(json.dumps(contents).encode()).hexdigest()
    (folder / "MANIFEST.json").write_text(json.dumps({**contents, "sha256": digest}))


def assert_passed_over(newest, *words):
    """The older one is read, whole, and the reason names what is wrong with the newer."""
    found = load(newest.parent)
    assert found.step == 1
    assert torch.equal(found.tensors["ema"]["a"], torch.ones(2, 3))
    assert len(found.passed_over) == 1
    for word in ("step-00000002", *words):
        assert word in found.passed_over[0]


# --- accidents (R9) ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", [0, 1, "half", "all but one"])
def test_a_truncated_file_is_noticed_and_named_with_its_size(newest, name, left):
    file = newest / name
    data = file.read_bytes()
    size = {"half": len(data) // 2, "all but one": len(data) - 1}.get(left, left)
    file.write_bytes(data[:size])
    told = f"({size} bytes)" if name == "MANIFEST.json" else f"{size} bytes instead of {len(data)}"
    assert_passed_over(newest, name, told)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_noticed_and_named(newest, name, note):
    file = newest / name
    data = file.read_bytes()
    bits = range(8 * len(data))
    chosen = bits if FULL else sorted(random.Random(name).sample(bits, min(64, len(bits))))
    right = hashlib.sha256(data).hexdigest()[:12]
    for bit in chosen:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        wrong = hashlib.sha256(flipped).hexdigest()[:12]
        told = f"({len(data)} bytes)" if name == "MANIFEST.json" else f"{wrong}, not {right}"
        assert_passed_over(newest, name, told)
    file.write_bytes(data)
    assert load(newest.parent).step == 2
    note(f"{len(chosen)} of {len(bits)} bits")


def test_a_step_under_another_number_is_noticed(newest):
    moved = newest.rename(newest.with_name("step-00000003"))
    found = load(newest.parent)
    assert found.step == 1
    assert found.passed_over == ("step-00000003: MANIFEST.json is of step 2",)
    assert moved.exists()


# --- any bytes --------------------------------------------------------------------------------


def mutated(data, draw):
    """Bytes cut out, doubled, exchanged, overwritten, or others altogether."""
    a, b = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    noise = draw.randbytes(draw.choice([1, 8, 100]))
    return draw.choice(
        [data[:a] + data[b:], data[:b] + data[a:], data[b:] + data[:b], noise, data + noise,
         data[:a] + noise + data[a + len(noise) :], data[:a] + noise + data[a:]]
    )  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("sealed", [False, True])
def test_any_bytes_end_in_an_answer(newest, name, sealed):
    """Sealed, the bytes pass the checksums, and the readers of JSON and safetensors see them."""
    file = newest / name
    data, draw = file.read_bytes(), random.Random(f"{name} {sealed}")
    for _ in range(count(60, 2000)):
        other = mutated(data, draw)
        file.write_bytes(other)
        if sealed and name != "MANIFEST.json":
            seal(newest)
        found = load(newest.parent)
        if other == data or (sealed and name == "README.md"):
            assert found.step == 2
        elif not sealed or name == "MANIFEST.json":
            assert found.step == 1
            assert name in found.passed_over[0]


DEEP = "[" * 100_000
HOSTILE = ["null", "true", "3", "-1", "1e999", "NaN", '"x"', "[]", "{}", "[[]]", "9" * 5000, DEEP,
           "[1, 2, 3]", '{"format": 2}', '"' + "x" * 5000 + '"', '"\\ud800"', ""]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=[text[:12] for text in HOSTILE])
@pytest.mark.parametrize("name", ["state.json", "MANIFEST.json", "step", "ema.safetensors"])
def test_any_json_ends_in_an_answer(newest, name, text):
    if name == "step":
        (newest / "state.json").write_text('{"step": ' + text + "}")
        seal(newest)
    else:
        (newest / name).write_text(text)
        if name != "MANIFEST.json":
            seal(newest)
    assert_passed_over(newest)


VALUES = [None, True, -1, 2.5, "x", [], {}, [[]], {"a": 1}, 10**30, float("nan"), "\ud800"]
NAMES = ["..", ".", "", "/etc/hostname", "a/b", "../step-00000001/state.json", "a\0b", "x" * 5000,
         "\ud800", "none"]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=[ascii(value)[:12] for value in VALUES])
@pytest.mark.parametrize("field", ["format", "step", "files", "entry", "size", "digest"])
def test_a_sealed_manifest_of_any_values_ends_in_an_answer(newest, field, value):
    said = json.loads((newest / "MANIFEST.json").read_text())
    said.pop("sha256")
    files = said["files"]
    if field == "entry":
        files["state.json"] = value
    elif field in ("size", "digest"):
        files["state.json"][field == "digest"] = value
    else:
        said[field] = value
    seal_manifest(newest, said)
    if field == "format":  # written by a version that is not known
        with pytest.raises(CheckpointError, match="this version of polymode reads up to 2"):
            load(newest.parent)
    else:
        assert_passed_over(newest)


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name)[:20] for name in NAMES])
def test_a_sealed_manifest_with_any_name_ends_in_an_answer(newest, name):
    """Also where the name leads to a file whose size and digest are those that are listed."""
    said = json.loads((newest / "MANIFEST.json").read_text())
    said.pop("sha256")
    said["files"][name] = [3, "0" * 64]
    if name.startswith(("/", "../")):
        data = (newest / name).read_bytes()
        said["files"][name] = [len(data), hashlib.sha256(data).hexdigest()]
    seal_manifest(newest, said)
    assert_passed_over(newest)


def header(text, data=b""):
    return struct.pack("<Q", len(text)) + text.encode() + data


TENSORS = {
    "longer than the file": struct.pack("<Q", 2**62) + b"{}",
    "no object": header("[1, 2]"),
    "unknown type": header('{"a": {"dtype": "F7", "shape": [1], "data_offsets": [0, 4]}}', b"1234"),
    "type that torch lacks": header(
        '{"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}', b"1"
    ),
    "huge shape": header(
        '{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 4]}}',
        b"1234",
    ),
    "overlap": header(
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
        ' "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}}',
        b"123456",
    ),
    "a pickle": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.",
}


@pytest.mark.parametrize("kind", list(TENSORS))
def test_sealed_tensors_of_any_kind_end_in_an_answer(newest, kind):
    (newest / "model.safetensors").write_bytes(TENSORS[kind])
    seal(newest)
    try:
        found = load(newest.parent)
    except CheckpointError:
        pytest.fail("the older one is whole")
    if kind != "type that torch lacks":  # a later torch may have it
        assert found.step == 1


def fifo(place):
    place.unlink()
    os.mkfifo(place)


def linked(target):
    def act(place):
        place.unlink()
        place.symlink_to(target)

    return act


def folder(place):
    place.unlink()
    place.mkdir()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "become",
    [fifo, folder, linked("/dev/zero"), linked("itself"), linked("MANIFEST.json"), linked("/proc")],
    ids=["pipe", "folder", "endless", "nothing", "loop or manifest", "folder elsewhere"],
)
def test_what_is_no_file_ends_in_an_answer(newest, name, become):
    start = time.monotonic()
    become(newest / name)
    assert_passed_over(newest, name)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("become", [fifo, folder, linked("/dev/zero"), linked("step-00000002")])
def test_what_is_no_folder_is_no_checkpoint(newest, become):
    shutil.rmtree(newest)
    newest.touch()
    become(newest)
    assert_passed_over(newest)
    put(newest.parent, 2)  # and it is replaced
    assert load(newest.parent).step == 2
    assert sorted(os.listdir(newest.parent)) == ["step-00000001", "step-00000002"]


def test_what_may_not_be_read_is_passed_over(newest, tmp_path, humbly):
    newest.chmod(0)
    said = humbly(lambda: load(tmp_path).passed_over[0])
    newest.chmod(0o700)
    assert said == "step-00000002: cannot be read: Permission denied"
    (newest / "ema.safetensors").chmod(0)
    said = humbly(lambda: load(tmp_path).passed_over[0])
    assert said == "step-00000002: cannot be read: Permission denied"
    tmp_path.chmod(0)
    said = humbly(lambda: load(tmp_path))
    tmp_path.chmod(0o700)
    assert said.startswith(f"CheckpointError: {tmp_path}: cannot be read: Permission denied")


# --- no damage (R16) --------------------------------------------------------------------------


def test_times_and_places_do_not_matter(newest, tmp_path):
    """Touched in any order, and copied to another path without times, it loads the same."""
    for number, file in enumerate(sorted(tmp_path.rglob("*"), reverse=True)):
        os.utime(file, (number, 10**9 - number))
    copied = shutil.copytree(tmp_path, tmp_path.parent / "elsewhere", copy_function=shutil.copyfile)
    for place in (tmp_path, copied):
        found = load(place)
        assert found.step == 2
        assert not found.passed_over
        for name, value in load(newest).tensors["model"].items():
            assert torch.equal(found.tensors["model"][name], value)
