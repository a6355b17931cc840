"""Commands made from signatures: what a user may type, and what the function is called with."""

import importlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from annotated_types import Ge, Le
from typer.testing import CliRunner

from core.commands import OnMachine, Stated, check_new, domain, with_options
from core.errors import InputError
from core.parts.config import configure
from core.parts.registry import Plugin, Registry, Spec, installed, operator, predictor
from core.parts.signature import options_of, part_options
from core.request import Machine
from pipelines import cli


@dataclass(frozen=True, kw_only=True)
class Region:
    """Of a picture.

    Args:
        box: rectangles to fill, each ``x,y,width,height``.
        feather: pixels over which the result is blended.
        invert: take the other pixels.
        solid: take all of them.
        mask: picture of it.
        shape: of its corners.
        sampler: rule of a step.
    """

    box: tuple[str, ...] = ()
    feather: Annotated[int, Ge(0), Le(9)] = 0
    invert: bool = False
    solid: bool = True
    mask: Path | None = None
    shape: Literal["round", "square"] | None = None
    sampler: Annotated[Spec, "sampler"] = Spec("core/ddim", {"eta": 1.0})


def ran(command, *arguments):
    """The exit code, and what the command was called with."""
    runner = CliRunner()
    return runner.invoke(domain("A group.", command), [command.__name__, *map(str, arguments)])


def edit(
    photo: Path, strength: float = 0.5, *, region: Region = Region(feather=3), machine: OnMachine
) -> None:
    """Edit a picture."""
    print(repr((photo, strength, region, machine)))


def test_a_group_is_one_value_with_what_was_typed():
    found = ran(
        edit, "a.png", "--box", "1,2,3,4", "--box", "5,6,7,8", "--invert", "--no-solid", "--mask",
        "m", "--shape", "round", "--sampler", "core/heun", "--device", "cpu", "--strength", "0.1",
    )  # fmt: skip
    region = Region(
        box=("1,2,3,4", "5,6,7,8"), feather=3, invert=True, solid=False, mask=Path("m"),
        shape="round", sampler=Spec("core/heun", {}),
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert found.output.strip() == repr((Path("a.png"), 0.1, region, Machine(device="cpu")))


def test_what_is_not_typed_has_its_default_with_the_options_of_a_part():
    region = Region(feather=3, sampler=Spec("core/ddim", {"eta": 1.0}))
    assert ran(edit, "a").output.strip() == repr((Path("a"), 0.5, region, Machine()))
    eta = ran(edit, "a", "--sampler", "{name: core/ddim, eta: 0.5}").output
    assert repr(Spec("core/ddim", {"eta": 0.5})) in eta


def test_help_lists_choices_bounds_defaults_and_the_fields_chosen():
    text = " ".join(ran(edit, "--help").output.split())
    for words in (
        "<round|square>", "0<=x<=9", "[default: 3;", "Rectangles to fill, each x,y,width,height.",
        "--solid", "--no-solid", "--threads",
    ):  # fmt: skip
        assert words in text, words
    assert "--no-invert" not in text
    assert "--workers" not in text  # a field of `Machine` that `OnMachine` leaves out


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("--feather", "10"), "less than or equal to 9"),
        (("--shape", "oval"), "'oval' is not one of 'round', 'square'"),
        (("--sampler", "core/hoin"), "did you mean"),
        (("--threads", "0"), "greater than or equal to 1"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(typed, message):
    found = ran(edit, "a", *typed)
    assert found.exit_code
    assert message in found.output + str(found.exception)
    assert found.exception is None or isinstance(found.exception, (InputError, SystemExit))


PART = """
import torch
from pathlib import Path
from grouped_request import Region as R


class Restore:
    \"\"\"A picture restored.

    Args:
        steps: of the sampler.
    \"\"\"

    def __init__(self, machine, checkpoint, *, steps: int = 4, region: R = R(feather=2)):
        self.told = steps, region.feather, region.mask
"""
REQUEST = """
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Region:
    \"\"\"Of a picture.

    Args:
        mask: picture of it.
        feather: pixels of its edge.
    \"\"\"

    mask: Path | None = None
    feather: int = 0
"""


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A plug-in whose predictor has a group of options that another module states."""
    (tmp_path / "grouped_part.py").write_text(PART)
    (tmp_path / "grouped_request.py").write_text(REQUEST)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("grouped_request")  # its package counts as known
    part = predictor("restore", "grouped_part:Restore", "")
    registry = Registry([Plugin("grouped", "", (part,))])
    monkeypatch.setattr("core.parts.signature.installed", lambda: registry)
    monkeypatch.setattr("core.parts.config.installed", lambda: registry)
    return registry


def test_a_group_in_a_part_is_read_as_text_and_as_imported_alike(registry):
    as_text = part_options("predictor", "grouped/restore", registry)
    imported = options_of(registry.load("predictor", "grouped/restore"))
    for one, other in zip(as_text, imported, strict=True):
        assert (one.name, one.annotation, one.meaning) == (
            other.name, other.annotation, other.meaning,
        )  # fmt: skip
        assert one.default == other.default
    assert [(o.name, o.default, o.meaning) for o in as_text] == [
        ("steps", 4, "of the sampler."),
        ("mask", None, "picture of it."),
        ("feather", 2, "pixels of its edge."),
    ]


def test_a_part_is_built_with_its_group_as_one_value(registry):
    made = configure("predictor", Spec("grouped/restore", {"mask": "m.png"}), registry=registry)
    assert made(None, None).told == (4, 2, Path("m.png"))
    kind = registry.load("predictor", "grouped/restore")
    with pytest.raises(InputError, match="feathr: unknown option; did you mean 'feather'"):
        configure("predictor", Spec("grouped/restore", {"feathr": 1}), registry=registry)
    assert kind(None, None).told == (4, 2, None)


def test_a_command_has_the_options_of_a_part_and_gives_its_spec(registry):
    def restore(photo: Path, *, predictor: Annotated[Spec, "predictor", "grouped/restore"]) -> None:
        """Restore a picture."""
        print(predictor)

    assert ran(restore, "a", "--feather", "5").output.strip() == str(
        Spec("grouped/restore", {"steps": 4, "mask": None, "feather": 5})
    )
    assert "Pixels of its edge." in ran(restore, "--help").output


def test_a_command_without_such_parameters_is_left_as_it_is():
    def plain(photo: Path) -> None:
        """Print it."""

    assert with_options(plain) is plain


BASED = """
class Radon:
    \"\"\"Parallel beams.

    Args:
        views: number of angles.
        arc: less than 180 is limited.
    \"\"\"

    def __init__(self, *, views: int = 180, arc: float = 180.0): ...


class FanBeam(Radon):
    \"\"\"Fans.

    Args:
        arc: in degrees.
    \"\"\"

    def __init__(self, *, views: int = 360, arc: float = 360.0): ...
"""


def test_an_option_means_what_its_base_says_where_it_says_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "fanned_part.py").write_text(BASED)
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry([Plugin("based", "", (operator("fan", "fanned_part:FanBeam", ""),))])
    expected = [("views", 360, "number of angles."), ("arc", 360.0, "in degrees.")]
    imported = options_of(registry.load("operator", "based/fan"))
    for options in (part_options("operator", "based/fan", registry), imported):
        assert [(o.name, o.default, o.meaning) for o in options] == expected


def every_command(group, path=()):
    """The click commands of a group and of those inside it, by their words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def test_the_usage_of_a_command_brackets_each_argument_once():
    """Required ones in braces, optional ones in brackets, dots behind several."""
    names = ("image2image", "medical", "segmentation", "video")
    groups = [cli.app, *(installed().load_commands(name) for name in names)]
    usages = {
        (number, words): " ".join(command.collect_usage_pieces(typer.Context(command)))
        for number, group in enumerate(groups)
        for words, command in every_command(typer.main.get_command(group))
    }
    assert usages[0, "train"] == "[OPTIONS] [REQUEST]"
    assert usages[1, "restore"] == "[OPTIONS] {IMAGE}..."
    for name, usage in usages.items():
        assert not re.search(r"\[\[|\.\.\.\}", usage), (name, usage)


@pytest.mark.parametrize(
    ("marked", "says"), [(True, "nothing of others is kept"), (False, "resume")]
)
def test_a_stop_promises_what_is_kept(tmp_path, marked, says):
    """Interrupted as by Ctrl-C, in a process of its own."""
    mark = "@keeps_nothing\n" if marked else ""
    (tmp_path / "script.py").write_text(
        "import os, signal, time\n"
        "from core.commands import domain, keeps_nothing, run_app\n"
        f"{mark}def long() -> None:\n"
        '    """Long work."""\n'
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(9)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "run_app(domain('Work', long))\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), "long"],
        capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 130
    assert done.stderr.startswith("stopped; ")
    assert says in done.stderr


# --- what the line states, and files that are there ----------------------------------------------


def measure(scan: str, views: int = 23, *, given: Stated, machine: OnMachine) -> None:
    """Measure a scan."""
    print(",".join(sorted(given)))


def test_a_command_knows_which_options_the_line_states_defaults_included():
    assert ran(measure, "a").stdout == "scan\n"
    assert ran(measure, "a", "--views", 23).stdout == "scan,views\n"
    assert ran(measure, "a", "--device", "cpu").stdout == "device,scan\n"
    assert "given" not in ran(measure, "--help").stdout


def test_files_that_are_there_are_not_replaced_unasked(tmp_path):
    there, new = tmp_path / "a", tmp_path / "b"
    there.write_text("")
    check_new([new], overwrite=False)
    check_new([there, new], overwrite=True)
    with pytest.raises(InputError, match="a: already there; choose another output, or replace"):
        check_new([there, new], overwrite=False)
