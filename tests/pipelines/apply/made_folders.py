"""Folders of texts, and what applying the toy predictor makes of them."""

import json

from toy_predictor import toys

from core.parts.registry import Spec
from core.request import Machine, Note
from pipelines.apply import batch
from pipelines.apply.listing import prepared
from pipelines.apply.request import ApplyRequest

TEXTS = {"a.txt": "one", "b.md": "two", "in/c.TXT": "three", "in/deep er/d.txt": "four"}


LOUD = {
    "a.loud": "well ONE!", "b.loud": "well TWO!", "in/c.loud": "well THREE!",
    "in/deep er/d.loud": "well FOUR!",
}  # fmt: skip


def put(place, name, text):
    path = place / "texts" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def begun(place):
    """The names of files that were begun, in that order."""
    lines = (place / "log").read_text().splitlines() if (place / "log").exists() else []
    return [line.split(maxsplit=1)[1] for line in lines]


def written(place, out="out"):
    at = place / out / "results"
    return {p.relative_to(at).as_posix(): p.read_text() for p in at.rglob("*") if p.is_file()}


def listed(place, out="out"):
    lines = (place / out / "files.jsonl").read_text().splitlines()
    return {record["name"]: record for record in map(json.loads, lines)}


def request(place, **options):
    spec = Spec("toy/shout", {"log": str(place / "log"), **options})
    return ApplyRequest(predictor=spec, checkpoint=place / "word", folder=place / "texts")


def run(place, *, version="1", retry=False, share=batch.here, out="out", **options):
    """The result, what was told, and the names of the files that were begun."""
    told = []
    (place / "log").write_text("")
    with prepared(
        request(place, **options), place / out, machine=Machine(threads=1), emit=told.append,
        retry=retry, registry=toys(version),
    ) as work:  # fmt: skip
        result = batch.finish(work, share, told.append)
    return result, told, begun(place)


def notes(told):
    return [event.text for event in told if isinstance(event, Note)]
