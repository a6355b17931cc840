"""A function of a script, called in a process of its own with limits, for files from elsewhere.

Some decoders end their process or write past their tables on some bytes, and an unpickler may have
a hole.  `call` starts this file as ``python -I limited_process.py ORDER``.  It loads the script by
its path, so that no package of ours is imported, and calls its ``work(begin, *arguments)``;
``begin()`` sets the limits once ``work`` has imported what it needs, and ``begin(memory=...)``
lowers that of memory once it knows what the file needs.  The answer is plain values as JSON.  There
is no environment and no output: messages of decoders quote their files.
"""

import importlib.util
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

ANSWER = "answer"  # file that the process writes
LONGEST_ANSWER = 1 << 16  # bytes of it that are read
# Where the loader finds libraries of packages; nothing else of the environment is passed on.
KEPT = ("LD_LIBRARY_PATH",)
BYTES_PER_PIXEL = 40  # of a decoder at most: four channels of two bytes, five times
PIXELS_PER_SECOND = 1_000_000

Begin = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a process, from ``begin()`` on.

    Args:
        memory: bytes of address space, beside what it has then.
        seconds: of processor time.
        written: bytes of a file that it writes.
        wait: seconds that it may last in all, its imports included; a disk may be slow.
        threads: whether it may start threads; the system counts them as processes.
    """

    memory: int
    seconds: int
    written: int
    wait: float
    threads: bool = False

    @classmethod
    def of_image(
        cls, size: int, pixels: int, *, memory: int, seconds: int, threads: bool = False
    ) -> "Limits":
        """Limits of a process that decodes an image, by what its header states.

        Args:
            size: of the file in bytes; the process may write it once more.
            pixels: of the image, each of up to eight bytes when it is written.
            memory: bytes of the decoder beside those.
            seconds: of processor time beside that of the pixels.
            threads: whether the decoder may start threads.
        """
        return cls(
            memory=memory + BYTES_PER_PIXEL * pixels + 4 * size,
            seconds=seconds + pixels // PIXELS_PER_SECOND,
            written=size + 8 * pixels + (1 << 20),
            wait=120 + 2 * pixels / PIXELS_PER_SECOND,
            threads=threads,
        )


class NoAnswer(Exception):
    """The process ended without an answer.

    Args:
        slow: whether it took too long; else it failed, or its limits or the file ended it.
    """

    def __init__(self, slow: bool) -> None:
        super().__init__("took too long" if slow else "ended without an answer")
        self.slow = slow


# --- the caller ------------------------------------------------------------------------------


def call(script: Path, *arguments: str | int, folder: Path, limits: Limits) -> Any:
    """The answer of the script's ``work`` to some arguments.

    Args:
        script: its file; it imports installed packages only.
        arguments: after ``begin``.
        folder: an empty one, the process's working directory; larger results are written there.
        limits: of the process.

    Raises:
        NoAnswer: an exception, a signal, or a limit ended the process.
    """
    order = {"script": str(script), "arguments": arguments, "limits": asdict(limits)}
    process = subprocess.Popen(
        [sys.executable, "-I", __file__, json.dumps(order)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=_environment(folder),
        start_new_session=True,
    )
    late = False
    try:
        process.wait(timeout=limits.wait)
    except subprocess.TimeoutExpired:
        late = True
    finally:
        if process.poll() is None:  # also where the caller is interrupted
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        raise NoAnswer(late or process.returncode in (-signal.SIGXCPU, -signal.SIGKILL))
    return _answer(folder / ANSWER)


def _environment(folder: Path) -> Mapping[str, str]:
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {"TMPDIR": str(folder), **threads, **kept}


def _answer(path: Path) -> Any:
    """The plain values in a file; a pipe in its place would be waited for.

    Raises:
        NoAnswer: none, or too long.
    """
    try:
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_size <= LONGEST_ANSWER:
            return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise NoAnswer(slow=False) from error
    raise NoAnswer(slow=False)


# --- the process -----------------------------------------------------------------------------


def begin(limits: Limits, *, memory: int | None = None) -> None:
    """Limit this process from here on; nothing raises the limits again.

    Args:
        limits: of the process.
        memory: bytes beside what it has now, in place of theirs.
    """
    memory = limits.memory if memory is None else memory
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = resource.getrusage(resource.RUSAGE_SELF)
    for what, most in (
        (resource.RLIMIT_AS, pages * resource.getpagesize() + memory),
        (resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + limits.seconds),
        (resource.RLIMIT_FSIZE, max(limits.written, LONGEST_ANSWER)),
        (resource.RLIMIT_CORE, 0),
        *(() if limits.threads else ((resource.RLIMIT_NPROC, 0),)),
    ):
        hard = resource.getrlimit(what)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (bound, bound))


def _serve(order: str) -> NoReturn:
    """Call the script's ``work`` and write its answer."""
    given = json.loads(order)
    spec = importlib.util.spec_from_file_location("script", given["script"])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["script"] = module  # where its dataclasses look for their names
    spec.loader.exec_module(module)
    answer = module.work(partial(begin, Limits(**given["limits"])), *given["arguments"])
    Path(ANSWER).write_text(json.dumps(answer))
    os._exit(0)  # no finaliser of what the file made may run


if __name__ == "__main__":
    _serve(sys.argv[1])
