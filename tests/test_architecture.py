"""What must be true of the whole: light listing, directions of import, names that are ours."""

import re
import subprocess
import sys
from pathlib import Path

import figures
import plant_faults
import pytest

import core

ROOT = Path(__file__).resolve().parent.parent
POLYMODE = Path(sys.executable).with_name("polymode")


def test_core_is_our_core():
    """`core` is a name that another distribution could take."""
    assert Path(core.__file__).resolve() == ROOT / "core" / "__init__.py"


CALLS = """
import cProfile, sys

calls = cProfile.Profile()
calls.enable()
try:
    from pipelines.cli import main

    main()
except SystemExit:
    pass
calls.disable()
print(sum(entry.callcount for entry in calls.getstats()), file=sys.stderr)
"""


def printed_and_calls_of(*arguments):
    """What a command prints, and its calls of functions, which a busy machine does not change."""
    script = CALLS.replace(
        "import cProfile, sys", f"import cProfile, sys\nsys.argv[1:] = {arguments}"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout, int(done.stderr.split()[-1])


# Half a million take 0.3 s of a core; importing torch alone makes more.
def test_list_names_every_part_in_half_a_million_calls():
    from core.parts.registry import installed

    printed, calls = printed_and_calls_of("list")
    for name in (name for name, _ in installed().names()):
        assert name in printed
    assert calls < 500_000


def test_a_plugins_command_shows_its_options_in_half_a_million_calls():
    printed, calls = printed_and_calls_of("image2image", "upscale", "--help")
    assert "--checkpoint" in printed
    assert calls < 500_000


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
    for plugin in ("image2image", "medical", "segmentation", "video"):
        assert f"  {plugin} " in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        "list", "list network", "list *snr*", "show network core/unet", "show verb sample",
        "show verb medical/samplers", "--help", "run --help", "image2image --help",
        "image2image upscale --help", "medical reconstruct-ct --help",
        "segmentation fit --help", "video predict --help",
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


def map_of_core():
    """The rows of the two tables in core/README: folders and files, and questions."""
    text = (ROOT / "core" / "README.md").read_text()
    text = text.split("## Where things are", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if "`" in line]
    return [row for row in rows if len(row) == 2], [row for row in rows if len(row) == 3]


def test_the_map_of_core_names_every_folder_and_file_and_fits_on_a_screen():
    rows, _ = map_of_core()
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    there = {f.stem for f in (ROOT / "core").glob("*.py")} - {"__init__"}
    there |= {f"{f.parent.name}/" for f in (ROOT / "core").glob("*/__init__.py")}
    assert named == there
    assert len(rows) <= 24


def test_twenty_questions_are_answered_by_the_file_that_the_map_names():
    _, questions = map_of_core()
    assert len(questions) == 20
    for question, file, name in questions:
        text = (ROOT / "core" / f"{file.strip('`')}.py").read_text()
        wanted = rf"^ *(def|class) {name.strip('`')}\b"
        assert re.search(wanted, text, re.M), f"{question}: {file} does not define {name}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["long", "kwargs", "what", "bare_tensors", "bare_fields"])
def test_figures_of_core(kind):
    assert not getattr(figures.count("core"), kind)


def test_every_planted_fault_fits_the_code():
    """A fault that no longer does is planted nowhere, and its test is not tried."""
    stale = [
        fault.name
        for fault in plant_faults.FAULTS
        if (ROOT / fault.file).read_text().count(fault.right) != 1
    ]
    assert stale == []


def test_numerical_code_is_commented():
    shares = {folder: figures.count(folder).comment_share for folder in figures.NUMERICAL}
    assert min(shares.values()) >= 0.05, shares


def test_the_figures_are_counted_as_they_say(tmp_path, monkeypatch):
    """A file with one of each, counted by hand."""
    (tmp_path / "one.py").write_text(
        '"""What a module is."""\n'
        "from torch import Tensor  # a comment beside code\n"
        "# a comment of its own\n"
        "x = 1  # noqa: E501\n"
        'def f(x: Tensor, y: Float[Tensor, " b"], **kwargs: int) -> list[Tensor]:\n'
        '    """Result."""\n'
        "    return [\n        x\n    ]\n"
        "@dataclass(frozen=True)\nclass A:\n"
        '    a: Tensor\n    b: Int[Tensor, ""] | None\n'
        "def _g(x: Tensor) -> None: ...\n"
        "def long():\n" + "    pass\n" * 60
    )
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    found = figures.count("one.py")
    assert (found.code, found.comments) == (11 + 61, 2)
    assert (found.signature_tensors, len(found.bare_tensors)) == (3, 2)
    assert (found.field_tensors, len(found.bare_fields)) == (2, 1)
    assert len(found.kwargs) == len(found.what) == len(found.long) == 1
    assert found.long == ["one.py:15  long, 61 lines"]
