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


def cpu_seconds_of(*arguments):
    """What a command prints, and the CPU time that it and its children take."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([POLYMODE, *arguments], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_list_names_every_part_and_takes_under_half_a_second_of_cpu():
    from core.parts.registry import installed

    printed, used = cpu_seconds_of("list")
    for name in (name for name, _ in installed().names()):
        assert name in printed
    assert used < 0.5, f"{used:.2f} s"


def test_a_plugins_command_shows_its_options_in_under_half_a_second_of_cpu():
    printed, used = cpu_seconds_of("image2image", "upscale", "--help")
    assert "--checkpoint" in printed
    assert used < 0.5, f"{used:.2f} s"


def test_the_help_names_plugins_without_importing_their_commands():
    script = (
        "import sys\nsys.argv = ['polymode', '--help']\nfrom pipelines.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not [m for m in sys.modules if m.startswith('plugins.') and 'command' in m]\n"
        "assert 'plugins.image2image.__main__' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    for plugin in ("image2image", "medical"):
        assert f"  {plugin} " in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        "list", "list network", "list *snr*", "show network core/unet", "show verb sample",
        "show verb medical/samplers", "--help", "run --help", "image2image --help",
        "image2image upscale --help", "medical reconstruct-ct --help",
    ],
)  # fmt: skip
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
