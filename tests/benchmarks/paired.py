"""Two pieces of work timed in turn, and the peak memory of one in a process of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def times(
    pair: tuple[Any, Any], what: str, rounds: int, *, clock: Callable[[], float], warm: int
) -> list[tuple[float, float]]:
    """Seconds of the method `what` of both, by round, after `warm` rounds that do not count.

    Which of the two goes first changes from round to round.
    """
    found = []
    for number in range(warm + rounds):
        seconds = {}
        for work in pair if number % 2 else pair[::-1]:
            start = clock()
            getattr(work, what)()
            seconds[id(work)] = clock() - start
        found.append((seconds[id(pair[0])], seconds[id(pair[1])]))
    return found[warm:]


def peak(script: str, *arguments: object) -> float:
    """MiB that ``script --peak arguments`` prints by `print_peak` in a fresh process."""
    command = [sys.executable, script, "--peak", *map(str, arguments)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(call: Callable[[], object]) -> None:
    """Print how many MiB this process holds at most during a call, above what it held before."""
    Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status")

    def held(name: str) -> float:
        (line,) = (one for one in status.read_text().splitlines() if one.startswith(name))
        return int(line.split()[1]) / 1024

    before = held("VmRSS")
    call()
    print(held("VmHWM") - before)
