"""A function in a process of its own: what it gives, and each of its limits."""

import json
import os
from dataclasses import replace

import pytest

from core.storage.limited_process import BYTES_PER_PIXEL, Limits, NoAnswer, call

LIMITS = Limits(memory=256 << 20, seconds=20, written=1 << 20, wait=60.0)
SCRIPT = """
import os
from dataclasses import dataclass

@dataclass
class Pair:
    one: str
    other: int

def work(begin, *given):
    begin()
    {body}
"""


@pytest.fixture
def do(tmp_path):
    def done(body, *given, **limits):
        script, folder = tmp_path / "script.py", tmp_path / "work"
        script.write_text(SCRIPT.format(body=body))
        folder.mkdir(exist_ok=True)
        return call(script, *given, folder=folder, limits=replace(LIMITS, **limits))

    return done


def test_the_answer_is_plain_values_and_files_lie_in_its_folder(do, tmp_path):
    name = os.fsdecode(b"\xff\xc3\xa4")
    assert do("return vars(Pair(*given))", name, 3) == {"one": name, "other": 3}
    assert do("return open('made', 'w').write('abc')") == 3
    assert (tmp_path / "work" / "made").read_text() == "abc"


def test_no_package_of_ours_and_no_environment_reach_it(do, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "canary")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    found = do("return dict(os.environ)")
    assert found["LD_LIBRARY_PATH"] == "/nowhere"
    assert "SECRET_TOKEN" not in found
    assert do("return 'core' in __import__('sys').modules") is False


@pytest.mark.parametrize(
    ("body", "limits", "slow"),
    [
        ("return len(bytearray(300 << 20))", {}, False),
        ("return open('made', 'wb').write(bytes(2 << 20))", {}, False),
        ("while True: pass", {"seconds": 1}, True),
        ("return __import__('time').sleep(60)", {"wait": 1.0}, True),
        ("raise ValueError('no')", {}, False),
        ("os.abort()", {}, False),
    ],
)
def test_each_limit_ends_it(do, body, limits, slow):
    with pytest.raises(NoAnswer) as caught:
        do(body, **limits)
    assert caught.value.slow is slow


def test_within_the_limits_it_does_what_it_does_without(do):
    assert do("return len(bytearray(200 << 20))") == 200 << 20
    assert do("return open('made', 'wb').write(bytes(1 << 19))") == 1 << 19
    assert json.dumps(do("return [1, 2.5, None, 'x']")) == '[1, 2.5, null, "x"]'


def test_memory_is_lowered_to_what_a_file_needs_and_not_raised_again(do):
    """`bytearray` of 100 MiB fits into 256 MiB, and neither into 50 nor after them into 256."""
    take = "return len(bytearray(100 << 20))"
    assert do(take) == 100 << 20
    for lowered in ("begin(memory=50 << 20)", "begin(memory=50 << 20); begin()"):
        with pytest.raises(NoAnswer):
            do(f"{lowered}; {take}")


def test_limits_of_an_image_grow_with_its_pixels_and_its_file():
    small, large = (Limits.of_image(s, n, memory=1 << 20, seconds=20) for s, n in ((0, 0), (5, 9)))
    assert (small.memory, small.seconds, small.written, small.wait) == (1 << 20, 20, 1 << 20, 120)
    assert large.memory - small.memory == 9 * BYTES_PER_PIXEL + 4 * 5
    assert large.written - small.written == 5 + 9 * 4 * 2  # four channels of two bytes
    assert Limits.of_image(0, 10**7, memory=0, seconds=20).seconds == 30
