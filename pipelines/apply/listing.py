"""What is to be done with a folder of files: looked through and checked before anything slow."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from core.errors import InputError
from core.parts.config import ConfigError, plain, resolve
from core.parts.registry import Registry, installed
from core.parts.signature import options_of
from core.predictor import files_of, folders_of, names_of, reads_by_option, unread_of
from core.request import Emit, Machine, Note, Progress, silent
from core.results.record import digest_of
from core.storage import files
from pipelines.apply import ledger
from pipelines.apply.ledger import Ledger, Record, shown
from pipelines.apply.request import ApplyRequest
from pipelines.job.identity import key_of, what_decides

RESULTS = "results"
DEATHS = 2  # processes that may die doing a file before it is left alone


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be done with every file; the same for all processes of the work.

    Args:
        build: the predictor's class.
        options: of it, resolved.
        machine: of each process.
        checkpoint: absolute.
        digest: of what lies there.
        folder: of the files, absolute.
        out: for results and records, absolute.
        key: sha256 of all that decides a result but the file.
    """

    build: Any
    options: Mapping[str, Any]
    machine: Machine
    checkpoint: Path
    digest: str
    folder: Path
    out: Path
    key: str


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A folder, looked through.

    Args:
        order: what is to be done.
        total: files in all.
        settled: lines of the records of those that need no doing, by name.
        todo: names of the others.
    """

    order: Order
    total: int
    settled: dict[str, str]
    todo: tuple[str, ...]


@contextmanager
def prepared(
    request: ApplyRequest,
    out: Path,
    *,
    machine: Machine,
    emit: Emit = silent,
    retry: bool = False,
    registry: Registry | None = None,
) -> Iterator[Batch]:
    """Check all that can be checked, and find what is to be done; `out` is ours meanwhile.

    Records of an earlier call hold where the file and all that decides its result are the same, and
    the result is whole; all of it is compared by content.

    Args:
        request: what is done with which files.
        out: for results and records.
        machine: of each process.
        emit: hears of progress.
        retry: do again also what could not be used, and what processes died of.
        registry: where the predictor is looked up; the installed one by default.

    Raises:
        InputError: the request is wrong.
        StorageError: another process is doing this, or `out` cannot be written.
    """
    _check_places(request.folder, out)
    order = _order(request, out, machine, registry or installed())
    names, refused, others = find(order.folder, order.build, order.options)
    _check_names(order, request.predictor.name, names, refused)
    try:
        files.create_folder(order.out / RESULTS)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}; name another") from error
    with files.hold(order.out):
        book = Ledger(order.out)
        before = book.open()
        if others:
            emit(Note(text=_not_read(request.predictor.name, others)))
        settled, todo = _compared(order, book, names, before, retry, emit)
        settled |= {r.name: replace(r, key=order.key).line() for r in refused}
        other = sum(_is_of_other_settings(order, before.get(name)) for name in todo)
        if other:
            emit(Note(text=f"results of other settings: {other} are replaced"))
        gone = len(before.keys() - set(names) - settled.keys())
        if gone:
            emit(Note(text=f"results of {gone} files that are gone now are left where they are"))
        try:
            yield Batch(order=order, total=len(settled) + len(todo), settled=settled, todo=todo)
        except (KeyboardInterrupt, SystemExit):
            book.forgive()  # workers, which have ended by now, were stopped
            raise


def _check_places(folder: Path, out: Path) -> None:
    if not folder.is_dir():
        what = "a file" if folder.exists() else "no such folder"
        raise InputError(f"folder: {folder}: {what}; give the folder that holds the files")
    inside, place = folder.resolve(), out.resolve()
    if place.is_relative_to(inside):
        raise InputError(f"out: {out} lies in {folder}, whose files are read; name one outside it")
    if inside.is_relative_to(place / RESULTS):
        raise InputError(f"folder: {folder} lies among the results of {out}; name another out")
    if out.exists() and not out.is_dir():
        raise InputError(f"out: {out}: a file; name a folder")


def _order(request: ApplyRequest, out: Path, machine: Machine, registry: Registry) -> Order:
    spec, problems = resolve("predictor", request.predictor, "predictor", registry)
    if problems:
        raise ConfigError(problems)
    values = {"predictor": spec, "checkpoint": request.checkpoint}
    options = options_of(ApplyRequest)
    contents, parts, problems = what_decides(options, values, registry, "")
    if problems:
        raise InputError("\n".join(problems))
    build = registry.load("predictor", spec.name)
    for name in reads_by_option(build):  # each input's record has its own
        contents.pop(f"predictor.{name}", None)
    decides = {"predictor": plain(spec), "files": contents, "parts": parts}
    return Order(
        build=build,
        options=spec.options,
        machine=machine,
        checkpoint=request.checkpoint.absolute(),
        digest=contents["checkpoint"],
        folder=request.folder.absolute(),
        out=out.absolute(),
        key=key_of(decides),
    )


def find(
    folder: Path, build: Any, options: Mapping[str, Any]
) -> tuple[list[str], list[Record], list[str]]:
    """Names below `folder` of the inputs of a predictor's class, sorted; and of other files.

    The second value are records of what cannot be used: links, files that the class names as not
    read, and names that no record can hold.  The third are names of files that it does not know.

    An input is a file with one of its suffixes, or a folder inside that has files of one input.
    Hidden files and folders are passed over, and so is what is read with another file.  No input is
    opened: what lies behind a name is seen when its turn comes.
    """
    root, names, refused, unknown = os.fspath(folder), [], [], []
    together, apart, unread = folders_of(build), tuple(build.suffixes), unread_of(build)

    def unreadable(error: OSError) -> None:
        name = os.path.relpath(error.filename, root)
        refused.append(Record(name=name, state="failed", cause=f"a folder: {error.strerror}"))

    for at, folders, found in os.walk(root, onerror=unreadable):
        below = "" if at == root else f"{os.path.relpath(at, root)}/"
        seen = [name for name in folders if not name.startswith(".")]
        folders[:] = [name for name in seen if not os.path.islink(os.path.join(at, name))]
        cause = "a link to a folder, not followed; copy what it holds"
        refused += [
            Record(name=below + name, state="bad", cause=cause)
            for name in seen
            if name not in folders
        ]
        seen = [name for name in found if not name.startswith(".")]
        slices = [name for name in seen if below and name.lower().endswith(together)]
        names += [below[:-1]] if slices else []
        for name in seen:
            if name in slices:
                continue
            if name.lower().endswith(apart):
                names.append(below + name)
            elif reason := unread.get(os.path.splitext(name)[1].lower()):
                refused.append(Record(name=below + name, state="bad", cause=reason))
            else:
                unknown.append(below + name)
    for name in names:
        if problem := files.name_problem(name):
            refused.append(Record(name=name, state="bad", cause=f"{problem}; rename it"))
    names = [name for name in names if not files.name_problem(name)]
    paths = {name: folder / name for name in names}
    others = {
        file for path in paths.values() if not path.is_dir()
        for file in files_of(build, path, options) if file != path
    }  # fmt: skip
    found = sorted(name for name, path in paths.items() if path not in others)
    return found, refused, [name for name in unknown if folder / name not in others]


def _not_read(predictor: str, names: Sequence[str]) -> str:
    """The note that counts files by their suffixes; names of files may be names of people."""
    suffixes = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in names)
    listed = ", ".join(f"{shown(suffix)} ({n})" for suffix, n in suffixes.most_common(8))
    more = f" and {len(suffixes) - 8} more" if len(suffixes) > 8 else ""
    count = f"{len(names)} file{'s are' if len(names) > 1 else ' is'}"
    return f"{count} not read by {predictor}: {listed}{more}"


def _check_names(order: Order, predictor: str, names: list[str], refused: list[Record]) -> None:
    if not names and not refused:
        reads = ", ".join(dict.fromkeys((*order.build.suffixes, *folders_of(order.build))))
        raise InputError(f"folder: {order.folder}: no file that {predictor} reads ({reads})")
    taken: dict[str, str] = {}
    for name in names:
        for result in results_of(order, name):
            if result in taken:
                raise InputError(
                    f"folder: {shown(taken[result])} and {shown(name)} would both give "
                    f"{shown(result)}; rename one of them"
                )
            taken[result] = name


def results_of(order: Order, name: str) -> list[str]:
    """Where the result of a file lies below the results, and what may be written beside it."""
    at = PurePosixPath(name)
    return [at.with_name(one).as_posix() for one in names_of(order.build, at.name, order.options)]


def source_digest(order: Order, path: Path) -> str:
    """sha256 of an input: of the file, or of all files that are read for it."""
    return digest_of(files_of(order.build, path, order.options))


def _compared(
    order: Order, book: Ledger, names: list[str], before: Mapping[str, str], retry: bool, emit: Emit
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The lines that still hold, and the names of the rest: last those that a process died of."""
    settled: dict[str, str] = {}
    todo: list[str] = []
    began, known = time.monotonic(), sum(name in before for name in names)
    for name in names:
        record = ledger.read(before[name]) if name in before else None
        if record is None:
            todo.append(name)
            continue
        if _holds(order, record, retry):
            settled[name] = before[name]
        else:
            todo.append(name)
        done = len(settled) + len(todo)
        rate = done / (time.monotonic() - began + 1e-9)
        emit(Progress(done=min(done, known), total=known, unit="check", rate=rate, figures={}))
    suspects = book.begun()
    todo.sort(key=lambda name: book.mark(name) in suspects)
    return settled, tuple(todo)


def _is_of_other_settings(order: Order, line: str | None) -> bool:
    record = None if line is None else ledger.read(line)
    return record is not None and record.state == "done" and record.key != order.key


def _holds(order: Order, record: Record, retry: bool) -> bool:
    """Whether doing a file again would give what is there."""
    final = record.state != "failed" or record.deaths >= DEATHS
    if record.key != order.key or not record.source or not final:
        return False
    if record.state != "done" and retry:
        return False
    try:
        if source_digest(order, files.inside(order.folder, record.name)) != record.source:
            return False
        if record.state != "done":
            return True
        expected, *_ = results_of(order, record.name)
        result = files.inside(order.out / RESULTS, expected)
        if record.result != expected or result.stat().st_size != record.size:
            return False
        written = {result.name: record.digest, **record.beside}
        return all(files.digest(result.with_name(name)) == was for name, was in written.items())
    except (OSError, InputError):
        return False
