"""Options against signatures: every problem at once, with its path and the nearest name."""

import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InputError
from core.parts.config import ConfigError, bind, configure, override, plain
from core.parts.registry import Plugin, Registry, RegistryError, Spec, installed, network
from core.parts.signature import options_of, part_options
from core.parts.yaml_file import parse_yaml, read_yaml
from core.request import TrainRequest


def build(
    x: object,
    *,
    width: int = 64,
    rate: float = 0.5,
    depths: tuple[int, ...] = (2, 2),
    norm: Literal["group", "none"] = "group",
    grid: Annotated[Spec, "grid"] = Spec("core/karras"),
    root: Path | None = None,
    deep: bool = False,
) -> dict:
    return {"width": width, "rate": rate, "depths": depths, "grid": grid, "root": root}


def problems(options):
    with pytest.raises(ConfigError) as caught:
        _bind(options)
    return caught.value.problems


def _bind(options):
    from core.parts.config import check

    values, wrong = check(options_of(build), options, at="network")
    if wrong:
        raise ConfigError(wrong)
    return values


def test_every_problem_is_reported_at_once_with_its_path():
    found = problems(
        {
            "widht": 32,
            "norm": "layer",
            "depths": [1, "x"],
            "grid": {"name": "core/karras", "stepz": 3},
        }
    )
    assert found == [
        "network.widht: unknown option; did you mean 'width'?",
        "network.depths[1]: expected int, got 'x'",
        "network.norm: expected one of 'group', 'none', got 'layer'",
        "network.grid.stepz: unknown option; did you mean 'steps'?",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": "32"}, "network.width: expected int, got '32'"),
        ({"width": True}, "network.width: expected int, got True"),
        ({"width": 1.5}, "network.width: expected int, got 1.5"),
        ({"deep": 1}, "network.deep: expected true or false, got 1"),
        ({"rate": "fast"}, "network.rate: expected float, got 'fast'"),
        ({"depths": 3}, "network.depths: expected a list, got 3"),
        ({"root": 3}, "network.root: expected text, got 3"),
        ({"grid": 3}, "network.grid: a part is a name or a mapping with a name, got 3"),
        ({"grid": "core/carras"}, "network.grid: no grid named 'core/carras'; did you mean"),
    ],
)
def test_a_wrong_type_is_said_in_the_users_words(options, message):
    assert problems(options)[0].startswith(message)


def test_whole_numbers_do_for_floats_lists_for_tuples_and_text_for_paths():
    values = _bind({"rate": 1, "depths": [3], "root": "a/b"})
    assert values["rate"] == 1.0
    assert values["depths"] == (3,)
    assert values["root"] == Path("a/b")


def test_nested_parts_are_resolved_with_their_defaults():
    grid = _bind({"grid": {"name": "core/karras", "steps": 5}})["grid"]
    assert grid.options == {"steps": 5, "sigma_min": None, "sigma_max": 80.0, "rho": 7.0}


def test_bounds_of_a_request_are_checked():
    options = {"task": "image2image/sr3", "dataset": "image2image/photos"}
    with pytest.raises(ConfigError) as caught:
        bind(TrainRequest, {**options, "steps": 0, "ema": 1.0, "lr": -1.0})
    assert caught.value.problems == [
        "steps: expected at least 1, got 0",
        "lr: expected more than 0.0, got -1.0",
        "ema: expected less than 1.0, got 1.0",
    ]


def test_a_required_option_that_is_missing_is_named():
    with pytest.raises(ConfigError) as caught:
        bind(TrainRequest, {})
    assert caught.value.problems[:2] == [
        "task: required, but not given",
        "dataset: required, but not given",
    ]


@pytest.mark.parametrize("kind_and_name", [(part.kind, name) for name, part in installed().names()])
def test_signatures_read_as_text_equal_the_imported_ones(kind_and_name):
    """Every registered part's options can be read without importing it, and are the real ones."""
    kind, name = kind_and_name
    as_text = part_options(kind, name)
    imported = options_of(installed().load(kind, name))
    assert [(o.name, o.default) for o in as_text] == [(o.name, o.default) for o in imported]
    assert [o.annotation for o in as_text] == [o.annotation for o in imported]
    for option in as_text:
        assert option.meaning, f"{kind} {name}: option {option.name!r} has no line under Args"


def test_checking_a_request_imports_no_torch():
    script = (
        "import sys\n"
        "from core.parts.config import bind\n"
        "from core.request import TrainRequest\n"
        "bind(TrainRequest, {'task': 'image2image/sr3', 'dataset': 'image2image/photos'})\n"
        "from core.parts.config import part_options\n"
        "from core.parts.registry import installed\n"
        "for name, part in installed().names():\n"
        "    part_options(part.kind, name)\n"
        "    assert 'torch' not in sys.modules and 'numpy' not in sys.modules, name\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_part_without_a_signature_of_its_own_has_that_of_what_it_builds_on(tmp_path, monkeypatch):
    (tmp_path / "based_part.py").write_text(
        "import torch\n"
        "class Base:\n"
        '    """A base.\n\n    Args:\n        width: of it.\n    """\n'
        "    def __init__(self, split, *, width: int = 7): self.width = width\n"
        "class Net(Base):\n"
        "    __doc__ = Base.__doc__\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry([Plugin("based", "", (network("net", "based_part:Net", ""),))])
    (option,) = part_options("network", "based/net", registry)
    assert (option.name, option.default, option.meaning) == ("width", 7, "of it.")
    assert "based_part" not in sys.modules


def test_a_signature_that_text_does_not_tell_is_read_from_the_import(tmp_path, monkeypatch):
    (tmp_path / "odd_part.py").write_text(
        "DEFAULT = 7\n"
        "class Net:\n"
        "    def __init__(self, *, width: int = DEFAULT): self.width = width\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry([Plugin("odd", "", (network("net", "odd_part:Net", ""),))])
    assert part_options("network", "odd/net", registry)[0].default == 7
    made = configure("network", Spec("odd/net", {"width": 9}), registry=registry)()
    assert made.width == 9
    with pytest.raises(ConfigError, match=r"network\.widht: unknown option; did you mean 'width'"):
        configure("network", Spec("odd/net", {"widht": 9}), registry=registry)
    with pytest.raises(RegistryError):
        configure("network", Spec("odd/nett"), registry=registry)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from([option.name for option in options_of(TrainRequest)] + ["name", "x"])


@pytest.mark.slow
@given(st.dictionaries(NAMES, VALUES, max_size=4))
@settings(deadline=None, max_examples=200, derandomize=True)
def test_any_value_gives_a_request_or_a_config_error(options):
    with suppress(ConfigError):
        bind(TrainRequest, options)


def test_settings_are_laid_over_options():
    options = {"network": "core/unet", "steps": 10}
    result = override(options, ["network.width=32", "lr=1e-4", "norm=l1", "task.name=a/b"])
    assert result["network"] == {"name": "core/unet", "width": 32}
    assert result["lr"] == 1e-4
    assert result["task"] == {"name": "a/b"}
    assert options == {"network": "core/unet", "steps": 10}


@pytest.mark.parametrize("setting", ["steps", "=3", "a..b=1", "steps.more=1"])
def test_a_setting_that_is_none_is_refused(setting):
    with pytest.raises(ConfigError, match="--set"):
        override({"steps": 10}, [setting])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", "line 2: 'a' is given twice"),
        ("a: &x [1]\nb: *x\n", "anchors and aliases are not read"),
        ("[" * 40 + "]" * 40, "nested more than 32"),
        ("a: [1,\n", "not YAML"),
        ("1: 2\n", "key 1 is not text"),
        ("a: !!python/object:os.system x\n", "line 1: tags such as"),
        ("a: " + "x" * (1 << 20), "more than 1048576 bytes"),
    ],
)
def test_hostile_yaml_is_refused(text, words):
    with pytest.raises(InputError, match=r"file\.yaml") as caught:
        parse_yaml(text, "file.yaml")
    assert words in str(caught.value)


def test_a_missing_or_binary_file_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        read_yaml(tmp_path / "binary.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match="expected a mapping"):
        read_yaml(tmp_path / "list.yaml")


def test_plain_undoes_parse():
    @dataclass(frozen=True)
    class Box:
        part: Spec
        where: Path

    value = plain(Box(Spec("a/b", {"x": (1, 2)}), Path("c")))
    assert value == {"part": {"name": "a/b", "x": [1, 2]}, "where": "c"}
    assert Spec.parse(value["part"]) == Spec("a/b", {"x": [1, 2]})


def test_a_path_with_a_null_byte_is_refused_where_it_stands():
    def build(*, one: Path, more: tuple[Path, ...] = (), name: str = "") -> None: ...

    given = {"one": "a\0b", "more": ["fine", "c\0"], "name": "text may\0"}
    with pytest.raises(ConfigError) as caught:
        bind(build, given)
    assert caught.value.problems == [
        "one: a path cannot contain a null byte", "more[1]: a path cannot contain a null byte"
    ]  # fmt: skip
