"""What must be true of the whole: light listing, directions of import, names that are ours."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

import core

ROOT = Path(__file__).resolve().parent.parent
POLYMODE = Path(sys.executable).with_name("polymode")


def test_core_is_our_core():
    """`core` is a name that another distribution could take."""
    assert Path(core.__file__).resolve() == ROOT / "core" / "__init__.py"


def test_list_names_every_part_and_takes_under_half_a_second_of_cpu():
    from core.parts.registry import installed

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([POLYMODE, "list"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _, name in ((p.kind, name) for name, p in installed().names()):
        assert name in done.stdout
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 0.5, f"{used:.2f} s"


@pytest.mark.parametrize(
    "arguments", ["list", "list network", "show network core/unet", "--help", "run --help"]
)
def test_looking_imports_nothing_heavy(arguments):
    script = (
        "import sys\n"
        f"sys.argv = ['polymode', *{arguments.split()!r}]\n"
        "from pipelines.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'numpy', 'ray', 'kornia', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_no_test_folder_is_a_package():
    """`tests/core/__init__.py` would shadow `core`."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_modules_stay_readable():
    long = {
        str(file.relative_to(ROOT)): lines
        for folder in ("core", "plugins", "pipelines")
        for file in (ROOT / folder).rglob("*.py")
        if (lines := len(file.read_text().splitlines())) > 560
    }
    assert not long, "split by topic"
