"""What this machine has and lacks for polymode, and what to do about each lack.  Starts nothing."""

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from core.errors import InputError, brief
from core.parts.registry import installed_version
from core.progress import columns
from pipelines.commands.options import Out

if TYPE_CHECKING:
    from packaging.requirements import Requirement

GIB = 1 << 30
ROOM_NEEDED, ROOM_WANTED = 1 * GIB, 10 * GIB  # the embedded job writes less than the first
MEMORY_NEEDED, MEMORY_WANTED = 1 * GIB, 4 * GIB  # torch with a small network; with Ray beside it
SHARED_MEMORY_WANTED = 256 << 20  # the object store of `cluster.private_ray`
DEVELOPMENT = ("dev", "parity")  # extras that only tests use
# Packages that no extra can bring: they have no build for every torch.
BUILT_BY_HAND = {
    "pytorch3d": "optional, for comparing shapes; build it against this torch: "
    "pip install --no-build-isolation git+https://github.com/facebookresearch/pytorch3d",
}

Find = Callable[[str], str | None]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at.

    Args:
        what: its name.
        state: there, usable without it, or needed and not there.
        found: what is here.
        todo: what to do; empty if nothing.
    """

    what: str
    state: Literal["ok", "note", "missing"]
    found: str
    todo: str = ""


def examine(out: Path) -> list[Finding]:
    """Everything that polymode uses on this machine.

    Args:
        out: the folder where results are to go; need not exist.
    """
    here = requires_of("polymode")
    return [
        *_python(),
        *required_packages(here, installed_version),
        *_torch(),
        *_cpu(),
        *_ray(installed_version),
        *optional_packages(here, extras_of("polymode"), installed_version),
        *_plugins(),
        *_memory(),
        *folders(out),
    ]


def usable(findings: Sequence[Finding]) -> bool:
    """Whether nothing that is needed is missing."""
    return all(finding.state != "missing" for finding in findings)


def table(findings: Sequence[Finding]) -> list[str]:
    """One line a finding, what to do below it, and a last line with the outcome."""
    rows: list[tuple[str, str, str]] = []
    for finding in findings:
        rows.append((f"{finding.state:<7}", finding.what, finding.found))
        rows += [("", "", f"-> {finding.todo}")] if finding.todo else []
    lines = [line.rstrip() for line in columns(rows)]
    lacking = [finding.what for finding in findings if finding.state == "missing"]
    lines.append(
        f"not usable yet: {', '.join(lacking)}" if lacking else "usable; notes are optional"
    )
    return lines


# --- packages --------------------------------------------------------------------------------


def requires_of(package: str) -> list[str]:
    """The requirements in a distribution's metadata; none if it is not installed."""
    try:
        return requires(package) or []
    except PackageNotFoundError:
        return []


def extras_of(package: str) -> list[str]:
    """The extras in a distribution's metadata; none if it is not installed."""
    try:
        return metadata(package).get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return []


def required_packages(requirements: Sequence[str], find: Find) -> Iterator[Finding]:
    """Whether what polymode cannot do without is there and new enough."""
    if not requirements:
        yield Finding(
            what="polymode",
            state="missing",
            found="the code is here, its package metadata is not",
            todo="install the distribution: pip install .",
        )
        return
    lacking = list(_lacking(requirements, "", find))
    if lacking:
        todo = f"pip install {' '.join(repr(wanted) for wanted, _ in lacking)}"
        found = ", ".join(f"{wanted} ({had or 'not installed'})" for wanted, had in lacking)
        yield Finding(what="packages", state="missing", found=found, todo=todo)
    else:
        yield Finding(what="polymode", state="ok", found=f"{find('polymode')}, with all it needs")


def optional_packages(
    requirements: Sequence[str], extras: Sequence[str], find: Find
) -> Iterator[Finding]:
    """One finding for each extra, and one for each package that no extra brings."""
    for extra in sorted(set(extras) - set(DEVELOPMENT)):
        lacking = list(_lacking(requirements, extra, find))
        what = f"extra {extra}"
        if lacking:
            found = ", ".join(f"{wanted} ({had or 'not installed'})" for wanted, had in lacking)
            todo = f"to use it: pip install 'polymode[{extra}]'"
            yield Finding(what=what, state="note", found=found, todo=todo)
        else:
            yield Finding(what=what, state="ok", found="all there")
    for package, todo in BUILT_BY_HAND.items():
        had = find(package)
        if had:
            yield Finding(what=package, state="ok", found=had)
        else:
            yield Finding(what=package, state="note", found="not installed", todo=todo)


def _lacking(
    requirements: Sequence[str], extra: str, find: Find
) -> Iterator[tuple[str, str | None]]:
    """Requirements of `extra` on this machine that are not met, and the installed version."""
    for requirement in map(_parse, requirements):
        if not _applies(requirement, extra) or (extra and _applies(requirement, "")):
            continue
        had = find(requirement.name)
        if had is None or not _meets(had, requirement):
            yield f"{requirement.name}{requirement.specifier}", had


def _parse(text: str) -> "Requirement":
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise InputError(
            f"polymode's metadata: cannot read the requirement {brief(text)}"
        ) from error


def _applies(requirement: "Requirement", extra: str) -> bool:
    """Whether its marker holds on this machine where `extra` is requested."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _meets(version: str, requirement: "Requirement") -> bool:
    """Whether an installed version satisfies a requirement; a build such as `+cpu` is ignored."""
    from packaging.version import InvalidVersion, Version

    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return not requirement.specifier


def _ray(find: Find) -> Iterator[Finding]:
    """Whether Ray can join clusters too; that it is there at all is among the packages."""
    if had := find("ray"):
        if find("aiohttp"):
            yield Finding(what="ray", state="ok", found=f"{had}, with clusters and their jobs")
        else:
            yield Finding(
                what="ray",
                state="note",
                found=f"{had}, for this machine alone",
                todo="to join clusters and submit jobs: pip install 'polymode[cluster]'",
            )


def _plugins() -> Iterator[Finding]:
    from core.parts.registry import installed

    registry = installed()
    parts = sum(1 for _ in registry.names())
    names = ", ".join(registry.plugins)
    yield Finding(what="plug-ins", state="ok", found=f"{names}: {parts} parts")
    for name, why in registry.broken.items():
        todo = "reinstall or uninstall its distribution"
        yield Finding(what=f"plug-in {name}", state="note", found=f"unreadable: {why}", todo=todo)


# --- machine ---------------------------------------------------------------------------------


def _python() -> Iterator[Finding]:
    found = f"{platform.python_version()} at {sys.executable}"
    yield Finding(what="python", state="ok", found=found)


def _torch() -> Iterator[Finding]:
    """The build of torch and the GPUs that it can use."""
    try:
        import torch
    except Exception as error:  # noqa: BLE001  (a broken build fails in many ways; this says which)
        first = (str(error).splitlines() or [""])[0]
        todo = "install a build for this machine: https://pytorch.org/get-started/locally"
        yield Finding(
            what="torch", state="missing", found=f"cannot be imported: {first}", todo=todo
        )
        return
    build = "CPU"
    if torch.version.cuda:
        build = f"CUDA {torch.version.cuda}"
    elif torch.version.hip:
        build = f"ROCm {torch.version.hip}"
    yield Finding(what="torch", state="ok", found=f"{torch.__version__}, {build} build")
    if not torch.cuda.is_available():
        driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi")
        if driver and build == "CPU":
            todo = "this machine has an NVIDIA driver: install a CUDA build of torch"
        elif driver:
            todo = "the driver does not serve this torch: update it, or see CUDA_VISIBLE_DEVICES"
        else:
            todo = ""
        yield Finding(what="gpu", state="note" if todo else "ok", found="none", todo=todo)
        return
    for index in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if of.major >= 8 or torch.version.hip else "no bf16"
        found = f"{of.name}, {of.total_memory / GIB:.0f} GiB, {bf16}"
        yield Finding(what=f"gpu {index}", state="ok", found=found)


def _cpu() -> Iterator[Finding]:
    from pipelines.job.resources import cpus_here

    flags: set[str] = set()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if line := re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE):
            flags = set(line[1].split())
    except OSError:
        pass
    names = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
    features = [name for name in names if name in flags]
    fast = bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    known = ", ".join(features) or "no vector extension known"
    speed = "bf16 in hardware" if fast else "bf16 emulated: leave precision at fp32"
    yield Finding(what="cpu", state="ok", found=f"{cpus_here()} cores, {known}; {speed}")


def _memory() -> Iterator[Finding]:
    import psutil

    has = psutil.virtual_memory()
    found = f"{has.available / GIB:.1f} of {has.total / GIB:.1f} GiB free"
    yield _enough(
        "memory", has.available, MEMORY_NEEDED, MEMORY_WANTED, found, "end other programs"
    )
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).total < SHARED_MEMORY_WANTED:
        size = shutil.disk_usage(shared).total / (1 << 20)
        todo = "Ray is slow with so little; in a container: docker run --shm-size=1g"
        yield Finding(what="/dev/shm", state="note", found=f"{size:.0f} MiB", todo=todo)


def _enough(what: str, has: int, needed: int, wanted: int, found: str, do: str) -> Finding:
    if has >= wanted:
        return Finding(what=what, state="ok", found=found)
    todo = f"{do}: at least {needed / GIB:.0f} GiB is needed, {wanted / GIB:.0f} are comfortable"
    return Finding(what=what, state="note" if has >= needed else "missing", found=found, todo=todo)


def folders(out: Path) -> Iterator[Finding]:
    """Whether results, temporary files and the user's own settings can be written."""
    place = out.absolute()
    while not place.exists():
        place = place.parent
    if place.is_dir() and os.access(place, os.W_OK):
        free = shutil.disk_usage(place).free
        found = f"{free / GIB:.1f} GiB free at {place}"
        yield _enough("disk", free, ROOM_NEEDED, ROOM_WANTED, found, "make room or use --out")
    else:
        todo = "name a folder that can be written with --out"
        yield Finding(what="disk", state="missing", found=f"{place} is not writable", todo=todo)
    temporary = Path(tempfile.gettempdir())
    yield Finding(what="temporary files", state="ok", found=str(temporary))
    home = Path(os.path.expanduser("~"))
    if home.is_dir() and os.access(home, os.W_OK):
        yield Finding(what="home", state="ok", found=f"{home} is writable")
    else:
        todo = "set HOME to a folder that can be written; clusters' tokens and caches lie in it"
        yield Finding(what="home", state="note", found=f"{home} is not writable", todo=todo)


# --- the command -----------------------------------------------------------------------------


def show_findings(
    out: Out = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Say what this machine has and lacks, and what to do; status 1 if something needed is missing.

    Example: polymode doctor --json
    """
    findings = examine(out)
    if as_json:
        import json
        from dataclasses import asdict

        whole = {"usable": usable(findings), "findings": [asdict(f) for f in findings]}
        print(json.dumps(whole, indent=1))
    else:
        print("\n".join(table(findings)))
    if not usable(findings):
        raise typer.Exit(1)
