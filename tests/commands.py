"""A command called in this process: it says and ends as it would in one of its own, sooner.

To start Python, and to import torch in it, takes longer than most commands take for what is tested.
"""

import io
import signal
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock


def call(main: Callable[[], object], *words: object, cwd: Path | str = ".") -> CompletedProcess:
    """What the entry script `main` prints for `words`, and its status."""
    arguments, out, err = ["command", *map(str, words)], io.StringIO(), io.StringIO()
    handlers = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
    }
    try:
        with (
            mock.patch.object(sys, "argv", arguments),
            redirect_stdout(out),
            redirect_stderr(err),
            chdir(cwd),
        ):
            main()
        raise AssertionError("an entry script ends by SystemExit")
    except SystemExit as ended:
        status = ended.code or 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert isinstance(status, int)
    return CompletedProcess(arguments, status, out.getvalue(), err.getvalue())
