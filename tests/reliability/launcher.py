"""Starts `python -m core` in children of a process that has imported everything once.

A command's own time is then some tenths of a second instead of three, so that hundreds can be
killed.  As a script: requests and answers are JSON, one a line, on standard input and output.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import privileges

ROOT = Path(__file__).resolve().parents[2]
PATH = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
EAGER = ["core.cli", "core.runs", "core.training.run", "core.network.unet",
         "core.objective.denoising", "plugins.image2image.tasks.super_resolution",
         "plugins.image2image.data.photos",
         "pydantic", "torch._dynamo", "torch.onnx", "skimage.data", "skimage.io",
         "skimage.util"]  # fmt: skip


class Done(NamedTuple):
    """How a command ended: exit code (negative: signal), what it said, its processor's seconds."""

    code: int
    out: str
    err: str
    seconds: float


class Launcher:
    """A warm process, and the commands started from it."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATH}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=environment, cwd=ROOT,
        )  # fmt: skip
        self._ask({"ready": True})

    def _ask(self, request: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, arguments: Sequence[object], said: Path, **settings: Any) -> int:
        """Start a command; the child's process id.

        Args:
            arguments: after ``python -m core``; paths may be of any bytes.
            said: its standard output and error go to this path with ``.out`` and ``.err``.
            settings: `limit`, bytes that a file may have; `humble`, permissions hold for
                it even if it is root's; `every`, save at every step.
        """
        words = [os.fsdecode(a) if isinstance(a, Path | bytes) else str(a) for a in arguments]
        return self._ask({"arguments": words, "said": str(said), **settings})

    def wait(self, child: int, said: Path) -> Done:
        """Wait for a command to end."""
        code, seconds = self._ask({"wait": child})
        out, err = (Path(f"{said}.{kind}").read_text() for kind in ("out", "err"))
        return Done(code, out, err, seconds)

    def run(self, arguments: Sequence[object], said: Path, **settings: Any) -> Done:
        """Start a command and wait for its end."""
        return self.wait(self.start(arguments, said, **settings), said)

    def close(self) -> None:
        """End the warm process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


# --- the warm process -------------------------------------------------------------------------


def _every_step(arguments: list[str]) -> None:
    """`train` as the command does it, but with a checkpoint at every step."""
    from core.parts.config import bind, override
    from core.request import Machine, TrainRequest
    from core.runs import train

    settings = [word for before, word in pairwise(arguments) if before == "--set"]
    out = Path(arguments[arguments.index("-o") + 1])
    wanted = bind(TrainRequest, override({}, settings))
    train(wanted, out, machine=Machine(threads=1, save_seconds=1e-6))


def _copier(path: str) -> tuple[int, int]:
    """A child that copies a pipe into a file, and the pipe's end: limits on files spare pipes."""
    reading, writing = os.pipe()
    copier = os.fork()
    if copier == 0:
        os.close(writing)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        while data := os.read(reading, 65536):
            os.write(file, data)
        os._exit(0)
    os.close(reading)
    return copier, writing


def _child(request: Mapping[str, Any], out: int, err: int) -> int:
    from core.cli import main

    for number, pipe in ((1, out), (2, err)):
        os.dup2(pipe, number)
        os.close(pipe)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "limit" in request:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"],) * 2)
    if request.get("humble"):
        privileges.drop()
    sys.argv = ["python -m core", *request["arguments"]]
    if request.get("every"):
        _every_step(request["arguments"])
        return 0
    main()


def _start(request: Mapping[str, Any]) -> list[int]:
    """Start a command: its process, and those that write down what it says."""
    (first, out), (second, err) = (_copier(f"{request['said']}.{kind}") for kind in ("out", "err"))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _child(request, out, err)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(out)
    os.close(err)
    return [child, first, second]


def _wait(child: int, copiers: list[int]) -> tuple[int, float]:
    """How a command ended, once all it said is written down."""
    _, status, used = os.wait4(child, 0)
    for copier in copiers:
        os.waitpid(copier, 0)
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def _serve() -> None:
    import importlib

    import torch

    torch.set_num_threads(1)
    for name in EAGER:
        importlib.import_module(name)
    started: dict[int, list[int]] = {}
    for line in sys.stdin.buffer:
        request = json.loads(line)
        answer: object = True
        if "wait" in request:
            answer = _wait(request["wait"], started.pop(request["wait"]))
        elif "arguments" in request:
            answer, *copiers = _start(request)
            started[answer] = copiers
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
