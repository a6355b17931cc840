"""News of a run's steps on standard error: a live table on a terminal, plain lines elsewhere."""

import os
import sys
import time
from dataclasses import dataclass
from typing import Any, TextIO

from core.errors import cut_lines
from core.progress import QUIET_SECONDS, describe, duration
from core.request import Note, Progress

COLOURS = {"running": "cyan", "done": "green", "hit": "green", "failed": "bold red"}


@dataclass(kw_only=True)
class _Line:
    state: str = "waiting"
    progress: Progress | None = None
    started: float = 0.0
    printed: float = 0.0
    detail: str = ""


class Display:
    """What the steps of one run are doing.  A context manager: it owns the terminal while open.

    It writes to a copy of standard error, because a step done in this process has its standard
    error sent to its log.

    Args:
        names: the steps, in the order shown.
        stream: where to write instead of standard error.
        record: a file that is given every plain line, whatever the terminal shows.
    """

    def __init__(
        self, names: list[str], *, stream: TextIO | None = None, record: TextIO | None = None
    ) -> None:
        try:
            self._stream = stream or os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8")
        except (OSError, ValueError):  # standard error is not a file, for example in a notebook
            self._stream = sys.stderr
        self._record = record
        self._lines = {name: _Line() for name in names}
        self._width = max(map(len, names), default=0)
        self._live: Any = None

    def __enter__(self) -> "Display":
        if self._stream.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream, highlight=False)  # rich heeds NO_COLOR itself
            self._live = Live(console=console, get_renderable=self._table, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
            self._live = None
        self._stream.flush()

    def say(self, text: str, *, step: str = "") -> None:
        """Show a line, above the table where there is one."""
        line = self._record_line(text, step)
        if self._live:
            self._live.console.print(line, markup=False, soft_wrap=True)
        else:
            print(line, file=self._stream, flush=True)

    def started(self, name: str, attempt: int) -> None:
        """A step begins, for the `attempt`-th time."""
        now = time.monotonic()
        self._lines[name] = _Line(state="running", started=now, printed=now)
        self._unless_live(f"started{f', attempt {attempt}' if attempt > 1 else ''}", name)

    def news(self, name: str, event: Progress | Note) -> None:
        """A running step reports."""
        line = self._lines[name]
        if isinstance(event, Note):
            self.say(event.text, step=name)
            return
        line.progress = event
        if time.monotonic() - line.printed >= QUIET_SECONDS:
            line.printed = time.monotonic()
            self._unless_live(describe(event), name)

    def ended(self, name: str, state: str, detail: str = "") -> None:
        """A step is done, failed, was found, or will not run."""
        line = self._lines[name]
        line.state, line.detail = state, cut_lines(detail)
        self._unless_live(f"{state}  {detail}".rstrip(), name)

    def _record_line(self, text: str, step: str) -> str:
        line = cut_lines(f"{step:<{self._width}}  {text}" if step else text)
        if self._record:
            print(line, file=self._record, flush=True)
        return line

    def _unless_live(self, text: str, step: str) -> None:
        """Lines that the table shows by itself go to the record, and to plain output."""
        line = self._record_line(text, step)
        if not self._live:
            print(line, file=self._stream, flush=True)

    def _table(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for name, line in self._lines.items():
            told, detail, bar = "", line.detail, Text()
            if line.state == "running":
                detail = duration(time.monotonic() - line.started)
                if line.progress:
                    told = describe(line.progress)
                    total, done = line.progress.total, line.progress.done
                    bar = ProgressBar(total=total, completed=done, width=16)
            state = Text(line.state, style=COLOURS.get(line.state, "dim"))
            table.add_row(Text(name, style="bold"), state, bar, Text(told), Text(detail, "dim"))
        return table
