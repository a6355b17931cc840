"""Asking a long run to end: signals, a file named STOP, or whatever the caller looks at."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

Asked = Callable[[], int]
"""Whether to stop: a signal's number, 1 without one, or 0 to go on."""

FILE = "STOP"
LOOK_SECONDS = 0.5  # between two looks for the file: cheap on a network file system


class Stopped(BaseException):
    """A run was asked to end, and all it did is saved; the same command goes on.

    No `Exception`, as `KeyboardInterrupt` is none: it is no failure, and whoever counts or retries
    failures must let it pass.

    Args:
        step: where it ended.
        number: of the signal; 1 if there was none.
    """

    def __init__(self, step: int, number: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step, self.number = step, number

    @property
    def status(self) -> int:
        """The exit status: 130 or 143 as a shell has it, 143 for a stop without a signal."""
        return 128 + (self.number if self.number > 1 else signal.SIGTERM)


@contextmanager
def signals_asked() -> Iterator[Asked]:
    """Have the first SIGINT or SIGTERM ask for a stop while the block lasts.

    A second one does at once what it did before the block.  Handlers are put back at the end.
    Off the main thread, where Python allows no handlers, signals do what they always do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    came = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            put_back()
            signal.raise_signal(number)
        came = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    try:
        yield lambda: came
    finally:
        put_back()


def asked_by(signals: Asked, folder: Path, caller: Callable[[], bool] | None) -> Asked:
    """A stop asked for by a signal, by a file named STOP in a folder, or by the caller."""
    last, found = 0.0, 0

    def asked() -> int:
        nonlocal last, found
        if number := signals():
            return number
        if caller is not None and caller():
            return 1
        if time.monotonic() - last >= LOOK_SECONDS:
            last, found = time.monotonic(), int((folder / FILE).exists())
        return found

    return asked


def obey(folder: Path) -> None:
    """Remove the file, so that the next run goes on."""
    (folder / FILE).unlink(missing_ok=True)


def deliver(stopped: Stopped) -> None:
    """Let a signal that was held back do now what it does by default or by the caller's handler.

    Returns if there was none or if that lets the program go on.
    """
    on_main = threading.current_thread() is threading.main_thread()
    if stopped.number > 1 and on_main:
        signal.raise_signal(stopped.number)
