"""JSON that somebody else wrote is read within bounds, or refused as any other text is."""

import json
import os

import pytest

from core.storage import json_file
from core.storage.json_file import DEEPEST, NotJson, parse, read


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":['])
def test_deep_documents_are_refused_and_those_at_the_bound_read(opening):
    levels = opening.count("[") + opening.count("{")
    closing = {"[": "]", "{": "}"}
    close = "".join(closing[c] for c in reversed(opening) if c in closing)
    count = DEEPEST // levels
    whole = opening * count + "0" + close * count
    assert json.dumps(parse(whole)) == json.dumps(json.loads(whole))
    for text in (opening * (count + 1) + "0" + close * (count + 1), opening * 100_000):
        with pytest.raises(NotJson, match=f"deeper than {DEEPEST} levels"):
            parse(text)


def test_brackets_in_texts_and_side_by_side_are_not_deep():
    for value in (['["[{' * 200], [r"\"[[" * 200], [[[]]] * 400, {"[" * 300: {"{" * 300: "\\"}}):
        assert parse(json.dumps(value).encode()) == value


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"\xff\xfe[\x00]\x00", b"[" + b"9" * 5000])
def test_what_is_no_json_is_one_error(data):
    with pytest.raises(NotJson):
        parse(data)


def test_files_are_regular_and_of_a_bounded_size(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert read(path) == {"a": 1}
    assert read(path, largest=8) == {"a": 1}
    with pytest.raises(NotJson, match="more than 7 bytes"):
        read(path, largest=7)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):  # neither ends
        with pytest.raises(NotJson, match="not a regular file"):
            json_file.read(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")
