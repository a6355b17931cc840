"""Progress for people: one line of words, shown live on a terminal and sparingly elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from core.errors import cut_lines
from core.request import Emit, Note, Progress

QUIET_SECONDS = 10.0


def duration(seconds: float) -> str:
    """``3m 17s``; whole units, the two largest."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def describe(news: Progress) -> str:
    """``step 1200/4000  loss 0.0312  14.2 step/s  3m 17s left``."""
    words = [f"{news.unit} {news.done}/{news.total}"]
    words += [f"{name} {value:.4g}" for name, value in news.figures.items()]
    if news.rate:
        words.append(f"{news.rate:.3g} {news.unit}/s")
    if news.seconds_left:
        words.append(f"{duration(news.seconds_left)} left")
    return "  ".join(words)


def print_note(event: Progress | Note) -> None:
    """Print notes on standard error, and nothing of progress: a listener."""
    if isinstance(event, Note):
        print(cut_lines(event.text), file=sys.stderr)


def counter(emit: Emit, total: int, unit: str) -> Callable[..., None]:
    """``count(done, **figures)`` reports the progress since now, with units a second.

    Args:
        emit: called with the progress.
        total: units in all.
        unit: the unit of progress.
    """
    begun = time.monotonic()

    def count(done: int, **figures: float) -> None:
        seconds = time.monotonic() - begun
        rate = done / seconds if seconds > 0 else 0.0
        emit(Progress(done=done, total=total, unit=unit, rate=rate, figures=figures))

    return count


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text as lines whose columns are aligned, two spaces apart; the last is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, [*widths[:-1], 0])) for row in rows]


@contextmanager
def listener(label: str) -> Iterator[Emit]:
    """A listener that shows a run's news on standard error while the block lasts.

    On a terminal one line is kept up to date; elsewhere a line is printed at most every ten
    seconds, and at the end.
    """
    if not sys.stderr.isatty():
        last = 0.0

        def plainly(event: Progress | Note) -> None:
            nonlocal last
            if isinstance(event, Note):
                print(f"{label}  {cut_lines(event.text)}", file=sys.stderr, flush=True)
            elif event.done == event.total or time.monotonic() - last >= QUIET_SECONDS:
                last = time.monotonic()
                print(f"{label}  {describe(event)}", file=sys.stderr, flush=True)

        yield plainly
        return
    from rich.console import Console
    from rich.status import Status

    console = Console(stderr=True, highlight=False)
    with Status(label, console=console) as status:

        def live(event: Progress | Note) -> None:
            if isinstance(event, Note):
                console.print(f"{label}  {cut_lines(event.text)}", markup=False)
            else:
                status.update(f"{label}  {describe(event)}")

        yield live
