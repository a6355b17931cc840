"""YAML files that are made to do harm, or to take for ever, are one sentence."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.errors import InputError
from core.parts.yaml_file import parse_yaml, read_yaml

POLYMODE = Path(sys.executable).with_name("polymode")
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "a million laughs": (LAUGHS, "anchors and aliases are not read"),
    "a loop": ("a: &a [*a]", "anchors and aliases are not read"),
    "a merge": ("a: {b: 1}\nc: {<<: {b: 2}}", "not YAML"),
    "a call": ("a: !!python/object/apply:os.system ['touch owned']", "tags such as"),
    "a call by a short name": (
        "%TAG ! tag:yaml.org,2002:python/\n---\na: !object/apply:os.system [x]", "tags such as"
    ),
    "a set": ("a: !!set {x}", "tags such as"),
    "bytes": ('a: !!binary "###"', "tags such as"),
    "a boolean that is none": ("a: !!bool x", "tags such as"),
    "a mapping that is none": ("a: !!map [1]", "tags such as"),
    "a key twice": ("a: {b: 1, b: 2}", "'b' is given twice"),
    "a key that is a list": ("? [1, 2]\n: 3", "is not text"),
    "brackets": ("[" * 500_000, "nested more than 32"),
    "braces": ("{a: " * 200_000, "nested more than 32"),
    "many lists": ("a: [" + ",".join(["[]"] * 150_000) + "]", "more than 20000 values"),
    "many keys": ("\n".join(f"k{i}: 1" for i in range(90_000)), "more than 20000 values"),
    "too large": ("a: " + "x" * (1 << 20), "more than 1048576 bytes"),
    "a number of 5000 digits": ("a: " + "9" * 5000, "the integer is too long"),
    "a number of 200,000 digits": ("a: 0x" + "f" * 200_000, "the integer is too long"),
    "half a letter": (r'a: "\ud800"', "unpaired surrogate"),
    "a zero": ("a: \0", "not YAML"),
    "two documents": ("a: 1\n---\nb: 2", "not YAML"),
    "another version": ("%YAML 9.9\n---\na: 1", "not YAML"),
    "a tab": ("a:\n\t- 1", "not YAML"),
    "half": ("a: [1,\n", "not YAML"),
    "nothing": ("", "expected a mapping"),
    "one word": ("x", "expected a mapping"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_sentence_and_takes_no_time(tmp_path, name):
    text, words = HOSTILE[name]
    file = tmp_path / "file.yaml"
    file.write_text(text)
    began = time.process_time()
    with pytest.raises(InputError, match=r"file\.yaml") as caught:
        read_yaml(file)
    assert time.process_time() - began < 5
    said = str(caught.value)
    assert words in said
    assert len(said.splitlines()) == 1
    assert len(said) < 400


# YAML 1.2.2, section 10.3.2, but for `0o7` and `010`: text, as versions differ in them.
@pytest.mark.parametrize(
    "text", ["1:30", "1:30.5", "-1:30", "1_0", "1_000.5", "0x1_f", "010", "2026-11-27"]
)
def test_what_versions_of_yaml_read_differently_is_text(text):
    assert parse_yaml(f"[{text}]", "here") == [text]


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("-12", -12), ("+7", 7), ("0x1f", 31), ("1.", 1.0), (".5", 0.5), ("-0.25", -0.25),
     ("1e-4", 1e-4), ("1.5E3", 1500.0), ("00.5", 0.5), ("-.inf", float("-inf"))],
)  # fmt: skip
def test_numbers_are_numbers(text, number):
    (read,) = parse_yaml(f"[{text}]", "here")
    assert (type(read), read) == (type(number), number)


@pytest.mark.parametrize("place", ["/dev/zero", "/dev/full", ".", "none/none.yaml", "\0"])
def test_what_is_no_file_is_one_sentence(place):
    with pytest.raises(InputError):
        read_yaml(Path(place))


@pytest.mark.slow
def test_the_commands_say_it_and_end_with_2(tmp_path):
    for number, (text, _) in enumerate(HOSTILE.values()):
        (tmp_path / f"{number}.yaml").write_text(text)
    script = (
        "import sys\nfrom pipelines.cli import main\n"
        f"for number in range({len(HOSTILE)}):\n"
        "    sys.argv = ['polymode', 'plan', f'{number}.yaml']\n"
        "    try:\n        main()\n"
        "    except SystemExit as end:\n        assert end.code == 2, (number, end.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(HOSTILE)
    assert all(line.startswith("error: ") for line in lines)
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "runs").exists()


def test_what_people_write_is_read():
    text = "a: 1e-4\nb: -2.5E+3\nc: [1, 0x1f, true, null]\nd: 2026-01-31\ne: 2026-99-99\nf: '1'\n"
    assert parse_yaml(text, "x") == {
        "a": 1e-4, "b": -2500.0, "c": [1, 31, True, None], "d": "2026-01-31", "e": "2026-99-99",
        "f": "1",
    }  # fmt: skip
    many = "\n".join(f"k{i}: {i}" for i in range(5000))
    assert len(parse_yaml(many, "x")) == 5000
