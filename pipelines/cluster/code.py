"""The code that a cluster needs from here: polymode and every plug-in, metadata included.

Plug-ins are found by entry points, which lie in package metadata; so metadata travels as well.
Ray would install a wheel by pip, with everything that it requires, from a network that a cluster
may not have.  So they are unpacked here and travel as folders.
"""

import json
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distribution, entry_points
from pathlib import Path
from urllib.parse import unquote, urlparse

from core.errors import InputError
from core.parts.registry import GROUP


def unpack(folder: Path) -> list[Path]:
    """Copy into `folder` the packages and the metadata of what is to travel; their places.

    A distribution that was installed from a checkout (`pip install -e`) is built first.

    Args:
        folder: an existing, empty folder.

    Raises:
        InputError: such a checkout cannot be built.
    """
    for name, carried in _carried().items():
        place = folder / name
        place.mkdir()
        if source := _checkout(carried):
            _build(name, source, place)
        else:
            _copy(carried, place)
    return sorted(path for place in folder.iterdir() for path in place.iterdir())


def _carried() -> dict[str, Distribution]:
    """polymode, and each distribution with a plug-in, by name."""
    found = {"polymode": distribution("polymode")}
    for point in entry_points(group=GROUP):
        if point.dist is not None:
            found.setdefault(point.dist.name, point.dist)
    return found


def _checkout(carried: Distribution) -> Path | None:
    """Where the source lies of a distribution whose files are not copies of it."""
    said = json.loads(carried.read_text("direct_url.json") or "{}")
    if not said.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlparse(said["url"]).path))


def _build(name: str, source: Path, place: Path) -> None:
    """Build `source` with what is installed here, and unpack what that gives."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    command += ["--no-build-isolation", "--target", str(place), str(source)]
    # In a folder of ours: `-m` looks for pip in the working folder first.
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=place)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip gave no output"])[-1]
        raise InputError(
            f"{name}: its checkout {source} could not be built to be sent to the cluster: {last}; "
            f"install what builds it, or install {name} without -e"
        )
    shutil.rmtree(place / "bin", ignore_errors=True)


def _copy(carried: Distribution, place: Path) -> None:
    """Copy installed files; scripts and compiled bytecode stay."""
    for file in carried.files or ():
        if ".." in file.parts or "__pycache__" in file.parts or file.is_absolute():
            continue
        source = Path(str(carried.locate_file(file)))
        if source.is_file():
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place / file)
