"""Files that a step reads, held to what they were when it was planned: its key says so."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from core.errors import InputError
from pipelines.job.plan import Read
from pipelines.store import results
from pipelines.store.contents import Content, content_of


class Changed(Exception):
    """What a step reads is not what it was planned with; trying again needs another plan.

    Args:
        cause: one line, without names of a user's files.
        message: the same with them.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


@contextmanager
def unchanged(reads: Sequence[Read], folder: Path) -> Iterator[None]:
    """Do the block only if files are what they were, and refuse its result if they do not stay so.

    Files that were written meanwhile count as changed even where they hold what they held before:
    what the block saw between is not known.  What it made is then set aside, since a later attempt
    would resume from it.

    Args:
        reads: the files and folders.
        folder: where the block makes its result.

    Raises:
        Changed: they are others, before the block or after it.
    """
    before = {read: _now(read, folder) for read in reads}
    for read, content in before.items():
        if content is None and not read.own:
            continue  # whoever reads it says that it is not there
        if content is None or content.digest != read.digest:
            raise _changed(read, "changed after the step was planned; run the same command again")
    try:
        yield
    except BaseException:
        if folder.exists() and any(_now(r, folder) != content for r, content in before.items()):
            results.set_aside(folder)
        raise
    for read, content in before.items():
        if _now(read, folder) != content:
            aside = results.set_aside(folder)
            raise _changed(
                read,
                f"changed while the step ran, so its result is set aside as {aside.name}; run the "
                "same command again",
            )


def _now(read: Read, folder: Path) -> Content | None:
    """What lies there; None if there is nothing, or nothing that can be read."""
    try:
        return content_of(read.path, store=folder.parent)
    except InputError:
        return None


def _changed(read: Read, how: str) -> Changed:
    return Changed(f"{read.at} {how}", f"{read.at}: {read.path} {how}")
