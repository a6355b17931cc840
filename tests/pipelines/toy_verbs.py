"""Verbs that take no time: numbers in text files.  Put on PYTHONPATH, so that workers find it."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast
from unittest import mock

from core.errors import InputError
from core.parts.registry import Plugin, Registry, Spec, network
from core.request import Emit, Machine, Note, Progress, silent
from pipelines.job.verbs import VERBS, Runnable
from pipelines.report.request import ReportRequest, ReportResult


@dataclass(frozen=True, kw_only=True)
class MakeRequest:
    """Write a number.

    Args:
        number: what is written.
        scale: what it is multiplied by.
        source: a file that is copied beside it.
        fail: refuse, raise, raise the first times, or die.
        seconds: time it takes.
    """

    number: int = 1
    scale: float = 1
    source: Path | None = None
    fail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MakeResult:
    made: Path
    value: float


@dataclass(frozen=True, kw_only=True)
class LeaveRequest:
    """Write this process, its threads and its folder.

    Args:
        leaves: what is left behind in the process: memory, thread, child or folder.
        after: a file that is not read.
    """

    leaves: str = ""
    after: Path | None = None


LEFT: list[bytes] = []


@dataclass(frozen=True, kw_only=True)
class AddRequest:
    """Add one to a number.

    Args:
        left: a file with a number.
        right: another.
        plus: what is added.
    """

    left: Path
    right: Path | None = None
    plus: int = 1


@dataclass(frozen=True, kw_only=True)
class DealRequest:
    """Write numbers, or some of them.

    Args:
        count: how many in all.
        source: a file that is not read.
        part: which share.
        parts: how many shares.
    """

    count: int = 10
    source: Path | None = None
    part: int = 1
    parts: int = 1


@dataclass(frozen=True, kw_only=True)
class GatherRequest:
    """Put the shares together."""


@dataclass(frozen=True, kw_only=True)
class LearnRequest:
    """Name a part.

    Args:
        network: which.
        steps: how long.
        start: where from.
    """

    network: Annotated[Spec, "network"] = Spec("toy/net")
    steps: int = 10
    start: Path | None = None


def net(
    *, width: int = 8, weights: Path | None = None, inner: Annotated[Spec, "network"] | None = None
): ...


def wider_net(*, width: int = 16, weights: Path | None = None): ...


def toys(version: str = "1", target: str = "net") -> Registry:
    """A registry of one network, whose inner networks are of the same kind."""
    part = network("net", f"toy_verbs:{target}", "A toy", version=version)
    other = network("other", "toy_verbs:wider_net", "Another", version="5")
    return Registry([Plugin("toy", "Toys", (part, other))])


def make(
    request: MakeRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> MakeResult:
    with (out / "tries.txt").open("a") as file:
        file.write("try\n")
    tries = len((out / "tries.txt").read_text().splitlines())
    print("a line on standard output")
    os.write(2, b"a line from below python\n")
    print("a line on standard error", file=sys.stderr)
    emit(Note(text=f"try {tries}"))
    if request.fail == "refuse":
        raise InputError("number: 13 is unlucky")
    if request.fail == "always" or (request.fail.isdigit() and tries <= int(request.fail)):
        raise RuntimeError("it broke\nin two lines")
    if request.fail == "die":
        os._exit(7)
    for done in range(10):
        time.sleep(request.seconds / 10)
        emit(Progress(done=done + 1, total=10, unit="step", rate=10.0, figures={"loss": 1.0}))
    value = request.number * request.scale
    (out / "made.txt").write_text(f"{value:g}")
    assert machine is not None
    (out / "machine.txt").write_text(
        f"{machine.device} {machine.threads} {os.environ['OMP_NUM_THREADS']}"
    )
    return MakeResult(made=out / "made.txt", value=value)


def leave(
    request: LeaveRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> MakeResult:
    where = [str(os.getpid()), os.environ["OMP_NUM_THREADS"], os.getcwd()]
    (out / "made.txt").write_text("\n".join(where))
    print(out.name)
    if request.leaves == "memory":
        LEFT.append(b"x" * (600 << 20))
    elif request.leaves == "thread":
        threading.Thread(target=time.sleep, args=[60], daemon=True).start()
    elif request.leaves == "child":
        subprocess.Popen(["sleep", "60"])
    elif request.leaves == "folder":
        os.chdir("/")
    return MakeResult(made=out / "made.txt", value=0)


def add(
    request: AddRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> MakeResult:
    value = float(request.left.read_text()) + request.plus
    if request.right:
        value += float(request.right.read_text())
    (out / "made.txt").write_text(f"{value:g}")
    return MakeResult(made=out / "made.txt", value=value)


def deal(
    request: DealRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> MakeResult:
    first, end = (request.count * i // request.parts for i in (request.part - 1, request.part))
    (out / "made.txt").write_text("".join(f"{i}\n" for i in range(first, end)))
    return MakeResult(made=out / "made.txt", value=request.count)


def gather(
    request: GatherRequest,
    inputs: dict[str, Path],
    out: Path,
    *,
    machine: Machine | None = None,
    emit: Emit = silent,
) -> MakeResult:
    text = "".join((inputs[label] / "made.txt").read_text() for label in inputs)
    (out / "made.txt").write_text(text)
    return MakeResult(made=out / "made.txt", value=len(text.splitlines()))


def show(
    request: ReportRequest,
    inputs: dict[str, Path],
    out: Path,
    *,
    machine: Machine | None = None,
    emit: Emit = silent,
) -> ReportResult:
    assert machine is not None
    lines = [request.title]
    for done, (label, folder) in enumerate(inputs.items(), start=1):
        lines.append(f"{label} {(folder / 'made.txt').read_text()}")
        emit(Progress(done=done, total=len(inputs), unit="page", figures={}))
    (out / "report.html").write_text("\n".join(lines))
    (out / "machine.txt").write_text(f"{machine.device} {machine.threads}")
    (out / "report.json").write_text("{}")
    return ReportResult(report=out / "report.html", data=out / "report.json")


TOYS = {
    "make": Runnable(request=MakeRequest, result=MakeResult, target="toy_verbs:make"),
    "learn": Runnable(request=LearnRequest, result=MakeResult, target="toy_verbs:make"),
    "add": Runnable(request=AddRequest, result=MakeResult, target="toy_verbs:add"),
    "report": Runnable(
        request=ReportRequest, result=ReportResult, target="toy_verbs:show", folders=True
    ),
    "deal": Runnable(
        request=DealRequest, result=MakeResult, target="toy_verbs:deal", joined_by="gather"
    ),
    "gather": Runnable(
        request=GatherRequest, result=MakeResult, target="toy_verbs:gather", folders=True
    ),
}


def polymode() -> None:
    """The command `polymode` with these verbs instead of its own."""
    from pipelines.cli import main

    with mock.patch.dict(cast(dict[str, Runnable], VERBS), TOYS, clear=True):
        main()


if __name__ == "__main__":
    import toy_verbs  # as workers will know it

    toy_verbs.polymode()
