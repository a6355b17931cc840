"""Requests to stop a long run: signals, a file named STOP, or a function of the caller's."""

import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ShouldStop = Callable[[], int]
"""Whether to stop: a signal's number, `NO_SIGNAL`, or 0 to continue."""

NO_SIGNAL = int(signal.NSIG)  # of a stop that no signal requested: above every signal's number

FILE = "STOP"
STATUSES = (128 + signal.SIGHUP, 128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit statuses of a run that a signal stopped, as a shell has them."""
POLL_SECONDS = 0.5  # between two looks for the file: cheap on a network file system


class Stopped(BaseException):
    """A run was asked to stop and has saved its work; the same command resumes it.

    Not an `Exception`, like `KeyboardInterrupt`: code that counts or retries failures must let it
    pass.

    Args:
        step: optimiser steps taken.
        number: of the signal; `NO_SIGNAL` if there was none.
    """

    def __init__(self, step: int, number: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step, self.number = step, number

    @property
    def status(self) -> int:
        """The exit status: 129, 130 or 143 as a shell has it, 143 for a stop without a signal."""
        return 128 + (signal.SIGTERM if self.number == NO_SIGNAL else self.number)


def stop_signals() -> tuple[signal.Signals, ...]:
    """Signals that request a stop: SIGINT, SIGTERM and SIGHUP, the last not where it is ignored.

    `nohup` ignores it, so that a run outlasts the terminal.
    """
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *(() if ignored else (signal.SIGHUP,)))


def leave_terminal() -> None:
    """Send output to a terminal that is gone nowhere, since writing there fails."""
    for stream in (1, 2):
        try:
            if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream)
                os.close(null)
        except OSError:  # closed: nothing is written there
            continue


@contextmanager
def catch_signals() -> Iterator[ShouldStop]:
    """Have the first of `stop_signals` request a stop while the block lasts.

    A second one invokes the handler that was installed before the block, at once.  Handlers are
    restored at the end.  Off the main thread, where Python allows no handlers, signals keep theirs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    received = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if number == signal.SIGHUP:
            leave_terminal()
        if received:
            restore()
            signal.raise_signal(number)
        received = number

    before = {number: signal.signal(number, handle) for number in stop_signals()}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    try:
        yield lambda: received
    finally:
        restore()


def stop_request(
    signals: ShouldStop, folder: Path, caller: Callable[[], bool] | None
) -> ShouldStop:
    """A stop requested by a signal, by a file named STOP in a folder, or by the caller."""
    last, found = 0.0, 0

    def should_stop() -> int:
        nonlocal last, found
        if number := signals():
            return number
        if caller is not None and caller():
            return NO_SIGNAL
        if time.monotonic() - last >= POLL_SECONDS:
            last = time.monotonic()
            found = NO_SIGNAL if (folder / FILE).exists() else 0
        return found

    return should_stop


def remove_stop_file(folder: Path) -> None:
    """Remove the file named STOP, so that the next run continues."""
    (folder / FILE).unlink(missing_ok=True)


def raise_caught_signal(stopped: Stopped) -> None:
    """Raise again the signal that stopped a run, for the default or the caller's handler.

    Returns if there was none or if that handler does.
    """
    on_main = threading.current_thread() is threading.main_thread()
    if stopped.number != NO_SIGNAL and on_main:
        signal.raise_signal(stopped.number)
