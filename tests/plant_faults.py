"""Plants one wrong number at a time in the code and counts the faults that the tests notice.

python tests/plant_faults.py            every fault, in a copy of the repository
python tests/plant_faults.py churn ddim only those whose name contains one of the words

Each fault is one replacement in one file, then the tests named beside it, which must pass without
it.  Exit status 1 if any goes unnoticed.  Some ten seconds a fault.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from faults import (
    image2image,
    interfaces,
    medical,
    networks,
    pipelines,
    processes,
    samplers,
    segmentation,
    storage,
    training,
    video,
)
from faults.fault import Fault

ROOT = Path(__file__).resolve().parents[1]
AREAS = (
    samplers, processes, storage, networks, training, interfaces, medical, image2image, pipelines,
    segmentation, video,
)  # fmt: skip
FAULTS: tuple[Fault, ...] = tuple(fault for area in AREAS for fault in area.FAULTS)


def plant(fault: Fault, copy: Path) -> bool:
    """Whether the tests fail with the fault in `copy`; the file is put back.

    Raises:
        ValueError: the fault no longer fits the code, or its tests fail without it.
    """
    place = copy / fault.file
    text = place.read_text()
    if text.count(fault.right) != 1:
        raise ValueError(f"{fault.name}: stands {text.count(fault.right)} times in {fault.file}")
    _check_sound(fault.noticed_by, fault.choose, copy)
    place.write_text(text.replace(fault.right, fault.wrong))
    try:
        return not _passes(fault.noticed_by, fault.choose, copy)
    finally:
        place.write_text(text)


@cache
def _check_sound(tests: str, choose: str, copy: Path) -> None:
    """Tests that fail on the right code would notice any fault: each choice is run once on it."""
    if not _passes(tests, choose, copy):
        raise ValueError(f"{tests} -k {choose!r}: fails without any fault; mend it first")


def _passes(tests: str, choose: str, copy: Path) -> bool:
    """Whether the chosen tests of some files pass in `copy`.

    Raises:
        ValueError: the run itself is broken, or no test has such a name.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += ["-m", "not gpu and not torture and not benchmark and not parity"]  # slow ones too
    command += [f"tests/{file}" for file in tests.split()] + (["-k", choose] if choose else [])
    environment = {
        **os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False)
    if done.returncode not in (0, 1):  # neither passed nor failed
        raise ValueError(f"{tests} -k {choose!r}: {done.stdout.decode()[-500:]}")
    return done.returncode == 0


def main(words: list[str]) -> int:
    """Plant those faults whose names contain one of `words`, or all.

    Returns:
        0 if all were noticed, 1 if any was not, 2 if one no longer fits the code.
    """
    chosen = [f for f in FAULTS if not words or any(word in f.name for word in words)]
    unnoticed = []
    for fault in chosen:
        if (ROOT / fault.file).read_text().count(fault.right) != 1:
            print(f"{fault.name}: no longer fits {fault.file}; plant it anew", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        leave = shutil.ignore_patterns("__pycache__")
        for name in ("core", "tests", "plugins", "pipelines", "data_cards"):
            shutil.copytree(ROOT / name, copy / name, ignore=leave)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for number, fault in enumerate(chosen, start=1):
            try:
                noticed, why = plant(fault, copy), ""
            except ValueError as error:
                noticed, why = False, f": {error}"
            unnoticed += [] if noticed else [fault.name]
            word = "noticed  " if noticed else "UNNOTICED"
            print(f"{number:3d} {word} {fault.name}{why}", flush=True)
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} faults noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
