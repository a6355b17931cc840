"""A process's predictor, and what it does with one file: the result whole, then its record."""

import os
import shutil
import stat
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from core.errors import InputError, StorageError, cut_lines, printable
from core.parts.config import plain
from core.parts.signature import arguments
from core.predictor import files_of
from core.storage import files, memory
from pipelines.apply.ledger import Ledger, Record, shown
from pipelines.apply.listing import DEATHS, RESULTS, Order, results_of, source_digest
from pipelines.run.names import traceback_without_names
from pipelines.store.contents import content_of

LONGEST = 300  # characters of a cause


class _Trouble(Exception):
    """A file that is not done, and why."""

    def __init__(self, state: Literal["bad", "failed"], cause: str) -> None:
        super().__init__(cause)
        self.state: Literal["bad", "failed"] = state
        self.cause = cause


class Worker:
    """A process's predictor, and what it does with a file.

    Raises:
        InputError: the predictor cannot be had, or the checkpoint is another one by now.
    """

    def __init__(self, order: Order) -> None:
        node = f"{os.uname().nodename}-{os.getpid()}"
        if not order.folder.is_dir():
            raise InputError(
                f"folder: {order.folder}: not visible on {node}; put it on a shared file system"
            )
        self._order, self._book = order, Ledger(order.out)
        self._scratch = self._book.scratch / node
        options = arguments(order.build, order.options)
        self._predict = order.build(order.machine, order.checkpoint, **options)
        if content_of(order.checkpoint).digest != order.digest:
            raise InputError(
                f"checkpoint: {order.checkpoint} has changed meanwhile; if it is still being "
                "trained, name the folder of one step"
            )

    def do(self, name: str) -> Record:
        """The record of a file, written after its result.

        A file that another worker did before it died is not done again.
        """
        if found := self._book.find(name):
            return found
        began, deaths, source = time.monotonic(), self._book.deaths(name), ""
        try:
            targets, path = self._places(name)
            source = self._digest(path)
            if deaths >= DEATHS:
                cause = f"{deaths} processes died doing it; not tried again until it changes"
                raise _Trouble("failed", cause)
            self._book.begin(name)
            record = Record(name=name, state="done", **self._made(name, path, targets))
        except _Trouble as trouble:
            record = Record(name=name, state=trouble.state, cause=trouble.cause)
        except BaseException:  # a stop or a full disk is not this file's doing
            self._book.end(name)
            raise
        record = replace(
            record,
            key=self._order.key,
            source=source,
            deaths=deaths,
            seconds=round(time.monotonic() - began, 3),
        )
        self._book.add(record)
        return record

    def _places(self, name: str) -> tuple[list[Path], Path]:
        """Where the result goes and what is beside it, earlier ones removed; and the input."""
        try:
            at = self._order.out / RESULTS
            targets = [files.inside(at, one) for one in results_of(self._order, name)]
            for target in targets:
                if target.is_file():
                    target.unlink()
            return targets, files.inside(self._order.folder, name)
        except InputError as error:
            cause = str(error).replace(printable(f"{self._order.folder}"), "the folder")
            raise _Trouble("bad", cause) from error

    def _made(self, name: str, path: Path, targets: list[Path]) -> dict[str, Any]:
        """The result's fields of the record; the result is on the disk, after those beside it."""
        result, *others = targets
        part, before = self._scratch / result.name, self._stamp(path)
        files.create_folder(self._scratch)
        try:
            facts = plain(dict(self._predict(path, part) or {}))
            if not part.is_file():
                raise RuntimeError("the predictor wrote no result")
            if self._stamp(path) != before:
                raise _Trouble("failed", "it changed while it was read")
            beside = [other for other in others if (self._scratch / other.name).is_file()]
            about = {
                "size": part.stat().st_size,
                "digest": files.digest(part),
                "beside": {o.name: files.digest(self._scratch / o.name) for o in beside},
            }
            files.create_folder(result.parent)
            for target in (*beside, result):
                files.move(self._scratch / target.name, target)
        except _Trouble:
            raise
        except Exception as error:
            cause = first_line(error)
            for given in (path, part):
                for form in (str(given), printable(str(given))):  # as an `InputError` has it
                    cause = cause.replace(f"{form}: ", "").replace(form, shown(name))
            known = {"folder": path, **{f"results.{n}": self._scratch / t.name
                                        for n, t in enumerate(targets)}}  # fmt: skip
            raise self._trouble(error, cause[:LONGEST], known) from error
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
        return {"facts": facts, "result": results_of(self._order, name)[0], **about}

    def _digest(self, path: Path) -> str:
        """The digest of an input, which need not be a file."""
        try:
            for file in files_of(self._order.build, path, self._order.options):
                if not stat.S_ISREG(file.stat().st_mode):
                    raise _Trouble("bad", "not a file that holds anything")
            return source_digest(self._order, path)
        except OSError as error:
            raise _Trouble("failed", f"cannot be read: {error.strerror}") from error

    def _stamp(self, path: Path) -> list[tuple[int, int, int]]:
        """What changes when somebody writes to an input."""
        order = self._order
        try:
            return [_stamp(file) for file in files_of(order.build, path, order.options)]
        except OSError:
            return []

    def _trouble(self, error: Exception, cause: str, known: Mapping[str, Path]) -> _Trouble:
        """The file's trouble from an error; an error of the system is none of its bytes.

        Raises:
            StorageError: there is no room for any result.
        """
        system = error if isinstance(error, OSError) else error.__cause__
        number = system.errno if isinstance(system, OSError) else None
        if number in files.NO_ROOM:
            raise StorageError(
                f"{self._order.out}: {os.strerror(number or 0)}; make room and run the same "
                "command again"
            ) from error
        if isinstance(error, memory.NotEnough):  # at another time there may be enough
            return _Trouble("failed", cause)
        if isinstance(error, InputError) and number is None:
            return _Trouble("bad", cause)
        print(traceback_without_names(error, known), file=sys.stderr)
        return _Trouble("failed", cause)


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes when somebody writes to a file."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ino


def first_line(error: Exception) -> str:
    """An error's first line, with its kind unless it is a sentence for users."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, InputError):
        return lines[0]
    return cut_lines(f"{type(error).__name__}: {lines[0]}")
