"""A submitted job's log, followed: each piece once, whole, until the job has ended."""

import io
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from core.errors import InputError
from pipelines.cluster import submit
from pipelines.run.display import Display


def job_that_writes(monkeypatch, texts):
    """A job whose log is each of the texts in turn; it has ended at the last."""
    looks = iter(range(len(texts)))
    at = -1

    def find(client, name):
        nonlocal at
        at = next(looks)
        return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: at == len(texts) - 1))

    @contextmanager
    def client(address):
        yield None

    monkeypatch.setattr(submit, "_client", client)
    monkeypatch.setattr(submit, "_find", find)
    monkeypatch.setattr(submit, "log", lambda *given: texts[at])
    monkeypatch.setattr(submit, "FOLLOW_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("texts", "pieces"),
    [
        (["a\n", "a\n", "a\nb\n", "a\nb\nc\n"], ["a\n", "b\n", "c\n"]),
        (["", "", "a\n"], ["a\n"]),
        (["one\ntwo\n", "on", "one\nthree\n"], ["one\ntwo\n", "on", "e\nthree\n"]),  # again
        (["whole\n"], ["whole\n"]),
        ([""], []),
    ],
)
def test_each_piece_is_given_once_and_what_is_begun_again_from_its_beginning(
    monkeypatch, texts, pieces
):
    job_that_writes(monkeypatch, texts)
    assert list(submit.follow("head:1", "tiny", "train")) == pieces


def test_a_job_that_is_not_there_is_refused(monkeypatch):
    def none(client, name):
        raise InputError("no job 'x' on this cluster; it has: none")

    job_that_writes(monkeypatch, ["a"])
    monkeypatch.setattr(submit, "_find", none)
    with pytest.raises(InputError, match="no job 'x'"):
        next(submit.follow("head:1", "x"))


def test_every_step_is_found_in_what_a_job_prints_however_long_its_name(monkeypatch):
    printed = io.StringIO()
    display = Display(["train", "sample-of-many"], stream=printed)
    display.started("train", 1)
    display.say("made whole", step="train")
    display.ended("train", "done", "31s")
    display.started("sample-of-many", 1)
    job = SimpleNamespace(
        submission_id="tiny-1", metadata={submit.JOB: "tiny", "out": "/runs"}, status="RUNNING",
        start_time=None, message="",
    )  # fmt: skip
    found = submit._submitted(SimpleNamespace(get_job_logs=lambda _: printed.getvalue()), job)
    assert found.steps == {"train": "done", "sample-of-many": "started"}
