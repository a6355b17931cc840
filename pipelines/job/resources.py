"""What steps require and what machines have: whether each step can ever start."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core.errors import InputError
from pipelines.job.file import Step
from pipelines.job.plan import Planned

CGROUP = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)

GPU_DEVICES = ("nvidia[0-9]*", "nvhost-gpu", "nvgpu", "dxg", "kfd")  # CUDA, Jetson, WSL, ROCm


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one machine has for steps.

    Args:
        cpus: cores.
        gpus: GPUs.
        memory: bytes; None where it is not known, and then nothing is refused for it.
    """

    cpus: float
    gpus: float = 0
    memory: int | None = None


def size_in_words(size: float) -> str:
    """Bytes for people: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def cpus_here() -> int:
    """Cores that this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def gpus_here() -> int:
    """GPUs that torch can use here.  Imports torch, but not where the kernel shows no GPU."""
    if sys.platform == "linux" and not any(any(Path("/dev").glob(name)) for name in GPU_DEVICES):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def memory_here() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's if less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUP:
        with suppress(OSError, ValueError):  # no such file, or "max"
            found.append(int(path.read_text()))
    return min(found)


def check_fits(
    planned: Iterable[Planned], machines: Sequence[Resources], *, where: str = "this machine"
) -> None:
    """Refuse steps that would wait for ever for what no machine has.  Only those that run count.

    Args:
        planned: what is to be done.
        machines: the one machine, or each of a cluster's: a step runs on one of them.
        where: what they are called in a message.

    Raises:
        InputError: some do not fit; all of them at once.
    """
    steps = [p.step for p in planned if p.state == "run"]
    problems = [said for step in steps for said in _lacking(step, machines, where)]
    if problems:
        raise InputError("\n".join(problems))


def _lacking(step: Step, machines: Sequence[Resources], where: str) -> Iterator[str]:
    at = f"steps.{step.name}"
    several = len(machines) > 1
    most = f"a machine of {where} has at most" if several else f"{where} has"
    most_cpus = most if several else "this run has"
    gpus, cpus = max(m.gpus for m in machines), max(m.cpus for m in machines)
    known = [m.memory for m in machines if m.memory is not None]
    memory = max(known) if len(known) == len(machines) else None
    found = False
    if step.gpus > gpus:
        found = True
        yield (
            f"{at}: requires {_count(step.gpus, 'GPU')}, {most} {gpus:g}; "
            f"set {at}.gpus={gpus:g} or run on a machine with {_enough(step.gpus)}"
        )
    if step.cpus > cpus:
        found = True
        yield (
            f"{at}: requires {_count(step.cpus, 'CPU')}, {most_cpus} {cpus:g}; "
            f"set {at}.cpus={cpus:g} or allow this run more with --cpus {step.cpus}"
        )
    if memory is not None and step.memory > memory:
        found = True
        yield (
            f"{at}: requires {size_in_words(step.memory)} of memory, {most} "
            f"{size_in_words(memory)}; set {at}.memory lower or run on a machine with more"
        )
    workers = step.workers
    room = sum(_room(step, machine, workers) for machine in machines)
    if found or room >= workers:
        return
    if workers == 1:
        yield (
            f"{at}: no single machine of {where} has all that it requires; "
            "lower its cpus, gpus or memory"
        )
    else:
        yield (
            f"{at}: requires {workers} workers with {_count(step.cpus, 'CPU')} and "
            f"{_count(step.gpus, 'GPU')} each, {where} has room for {room}; "
            f"set {at}.workers={max(1, room)} or give each less"
        )


def _room(step: Step, machine: Resources, most: int) -> int:
    """How many workers of the step `machine` holds, at most `most`."""
    pairs = (
        (machine.cpus, step.cpus), (machine.gpus, step.gpus), (machine.memory, step.memory),
    )  # fmt: skip
    return min(
        [most, *(int(has / wants + 1e-9) for has, wants in pairs if wants and has is not None)]
    )


def _count(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number <= 1 else 's'}"


def _enough(number: float) -> str:
    return "one" if number <= 1 else f"{number:g}"
