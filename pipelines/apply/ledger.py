"""What became of each file of a folder: one record a file, written after its result.

While files are done each record is a file of its own, so that many processes may write them; a
listing of all of them, one JSON line a file, takes their place at the end and at the next start.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from core.storage import files, json_file

LISTING, WORK = "files.jsonl", ".apply"
STATES = ("done", "bad", "failed")


@dataclass(frozen=True, kw_only=True)
class Record:
    """What became of one file.

    Args:
        name: below the folder, with ``/`` between parts.
        state: its result is there; it cannot be used; or something else went wrong with it.
        cause: one line, unless it is done.
        seconds: that it took.
        facts: what the predictor said of it.
        key: sha256 of everything but the file that decides the result.
        source: sha256 of the file, or of all that are read for it; empty if it could not be read.
        result: name of the result; empty unless it is done.
        size: of the result, in bytes.
        digest: sha256 of the result.
        beside: sha256 of files written beside the result, by name.
        deaths: how many processes died doing it.
    """

    name: str
    state: Literal["done", "bad", "failed"]
    cause: str = ""
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    source: str = ""
    result: str = ""
    size: int = 0
    digest: str = ""
    beside: Mapping[str, str] = field(default_factory=dict)
    deaths: int = 0

    def line(self) -> str:
        """The record as one line of JSON, without its end."""
        return json.dumps(asdict(self), allow_nan=False)


def read(line: str) -> Record | None:
    """The record in a line; None if it is not whole, so that its file is done again."""
    try:
        record = Record(**json_file.parse(line))
    except (ValueError, TypeError):
        return None
    texts = (record.name, record.cause, record.key, record.source, record.result, record.digest)
    whole = all(isinstance(text, str) for text in texts) and isinstance(record.deaths, int)
    whole = whole and isinstance(record.beside, dict)
    return record if whole and record.state in STATES else None


class Ledger:
    """The records below a folder of results, and marks of what is being done.

    A mark is a file that has one byte for each process that began; whoever ends removes it.
    What a mark counts when somebody else begins is processes that died.
    """

    def __init__(self, out: Path) -> None:
        self.listing = out / LISTING
        self._work = out / WORK
        self._records = self._work / "done"
        self._marks = self._work / "begun"
        self.scratch = self._work / "scratch"

    def open(self) -> dict[str, str]:
        """The lines of all records by name of their file; what a dead process left is swept up."""
        lines = dict(_named(self._written()))
        found = list(_named(path.read_text() for path in self._records.glob("*/*.json")))
        lines.update(found)
        if found:
            self._list(lines)
        for left in (self._records, self.scratch):
            shutil.rmtree(left, ignore_errors=True)
        for folder in (self._records, self._marks, self.scratch):
            files.create_folder(folder)
        self.end("")
        return lines

    def close(self, lines: Mapping[str, str]) -> None:
        """Write the listing; nothing else is left."""
        self._list(lines)
        shutil.rmtree(self._work, ignore_errors=True)

    def _written(self) -> Iterator[str]:
        with suppress(FileNotFoundError), self.listing.open(encoding="utf-8") as file:
            yield from file

    def _list(self, lines: Mapping[str, str]) -> None:
        files.write_text(self.listing, "".join(f"{lines[name]}\n" for name in sorted(lines)))

    def add(self, record: Record) -> None:
        """Write the record of a file, and take away its mark."""
        place = self._place(record.name)
        place.parent.mkdir(exist_ok=True)
        files.write_text(place, record.line())
        self.end(record.name)

    def find(self, name: str) -> Record | None:
        """The record of a file that was done since the ledger was opened."""
        try:
            return read(self._place(name).read_text())
        except FileNotFoundError:
            return None

    def _place(self, name: str) -> Path:
        digest = _short(name)
        return self._records / digest[:2] / f"{digest[2:]}.json"

    def begun(self) -> set[str]:
        """The marks that are there, as `mark` names them."""
        return set(os.listdir(self._marks))

    def mark(self, name: str) -> str:
        """What the mark of a file is called; of the empty name, that of workers that start."""
        return _short(name)

    def deaths(self, name: str) -> int:
        """How many processes began with a file and never ended."""
        try:
            return (self._marks / self.mark(name)).stat().st_size
        except FileNotFoundError:
            return 0

    def begin(self, name: str) -> None:
        """Say that this process does a file now."""
        with (self._marks / self.mark(name)).open("ab") as file:
            file.write(b".")

    def end(self, name: str) -> None:
        """Say that whatever happens now is not its doing."""
        (self._marks / self.mark(name)).unlink(missing_ok=True)

    def forgive(self) -> None:
        """Take away all marks: whatever ends now is no file's doing."""
        for left in self._marks.glob("*"):
            left.unlink(missing_ok=True)


def shown(name: str) -> str:
    """A file's name for a terminal: what could steer one, or is no text, by its number."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def _short(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()


def _named(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        if record := read(line):
            yield record.name, line.rstrip("\n")
