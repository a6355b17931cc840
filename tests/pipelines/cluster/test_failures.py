"""Ray's errors as sentences."""

import pytest

from pipelines.cluster import failures

BEGINS = "\x1b[36mray::a()\x1b[39m (pid=7, ip=127.0.0.1)\n  At least one of the input arguments\n"


class OfATask(Exception):
    def as_instanceof_cause(self):
        return self


@pytest.mark.parametrize(
    ("last", "lack"),
    [
        ("ModuleNotFoundError: No module named 'toys'", "No module named 'toys'"),
        ("ImportError: cannot import name 'a' from 'toys' (/toys.py)", "cannot import name 'a'"),
        ("AttributeError: Can't get attribute 'Make' on <module 'toys'>", "attribute 'Make' on"),
        ("AttributeError: module 'toys' has no attribute 'make'", "no attribute 'make'"),
    ],
)
def test_what_a_worker_cannot_import_is_named_with_what_to_do(last, lack):
    error = OfATask(f"{BEGINS}ray.exceptions.RaySystemError: System error\ntraceback: ...\n{last}")
    sentence = failures.not_imported(error)
    assert lack in sentence
    assert "install the package that holds it" in sentence
    assert "\x1b" not in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("last", ["ValueError: 13", "AttributeError: 'int' has no attribute 'x'"])
def test_another_error_of_a_task_is_no_lack_and_said_by_its_last_line(last):
    error = OfATask(f"{BEGINS}{last}")
    assert failures.not_imported(error) == ""
    assert failures.last_words(error) == f"OfATask: {last}"


def test_a_lost_worker_is_said_by_its_first_sentence_without_colours():
    error = RuntimeError("\x1b[31mThe worker died unexpectedly. Check the logs.\x1b[0m\nMore.")
    assert failures.last_words(error) == "RuntimeError: The worker died unexpectedly"
    assert failures.last_words(RuntimeError()) == "RuntimeError"
