"""Parts are found by name, without importing anything."""

import subprocess
import sys

import pytest

from core.parts.registry import Plugin, Registry, RegistryError, network

GOOD = Plugin(
    "shapes",
    "Shapes.",
    (
        network("mlp", "somewhere.that.is.never.imported:MLP", "Layers"),
        network("wrapped", "textwrap:no_such_name", "Missing attribute"),
        network("real", "textwrap:TextWrapper", "Exists"),
        network("heavy", "textwrap:dedent", "Needs a package", needs=("no_such_package_x",)),
    ),
    extra="polymode[shapes]",
)


def of_unknown_kind():
    part = network("x", "a:b", "")
    object.__setattr__(part, "kind", "verb")  # as a table written without the checks would be
    return part


def test_listing_and_finding_import_nothing():
    registry = Registry([GOOD])
    assert next(name for name, _ in registry.names("network")) == "shapes/heavy"
    assert registry.find("network", "shapes/mlp").summary == "Layers"


def test_a_part_is_imported_when_loaded():
    import textwrap

    assert Registry([GOOD]).load("network", "shapes/real") is textwrap.TextWrapper


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("network", "shapes/mpl", ["no network named 'shapes/mpl'", "did you mean 'shapes/mlp'?"]),
        ("network", "mlp", ["did you mean 'shapes/mlp'?", "known: shapes/heavy"]),
        ("sampler", "shapes/mlp", ["no sampler named", "none"]),
        ("netwrok", "shapes/mlp", ["no kind of part named 'netwrok'; did you mean 'network'?"]),
    ],
)
def test_an_unknown_part_is_answered_with_the_nearest(kind, name, words):
    with pytest.raises(RegistryError) as caught:
        Registry([GOOD]).find(kind, name)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_package_is_said_with_the_extra_to_install():
    with pytest.raises(RegistryError, match=r"pip install 'polymode\[shapes\]'"):
        Registry([GOOD]).load("network", "shapes/heavy")


def test_a_target_that_does_not_exist_is_said():
    with pytest.raises(RegistryError, match="has no 'no_such_name'"):
        Registry([GOOD]).load("network", "shapes/wrapped")


@pytest.mark.parametrize(
    ("plugin", "why"),
    [
        (Plugin("shapes", "Again.", ()), "another installed plug-in"),
        (Plugin("odd", "", (of_unknown_kind(),)), "unknown kind of part 'verb'"),
        (Plugin("odd", "", (network("x", "a.b", ""),)), "is not 'package.module:attribute'"),
        (Plugin("odd", "", (network("x", "a:b", ""), network("x", "a:c", ""))), "two parts"),
    ],
)
def test_a_bad_table_is_named_and_hides_no_other(plugin, why):
    registry = Registry([GOOD, plugin])
    assert why in registry.broken[plugin.name]
    assert registry.find("network", "shapes/mlp")


def test_asking_for_a_part_of_a_broken_plugin_says_why_it_is_broken():
    registry = Registry([GOOD], {"torn": "RuntimeError: wrong CUDA"})
    with pytest.raises(RegistryError, match="RuntimeError: wrong CUDA"):
        registry.find("network", "torn/unet")


def test_a_broken_entry_point_hides_no_other(tmp_path):
    """An installed distribution whose table raises, seen by a fresh process."""
    info = tmp_path / "torn-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torn\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[polymode.plugins]\ntorn = torn_plugin:PLUGIN\n")
    (tmp_path / "torn_plugin.py").write_text("raise RuntimeError('wrong CUDA')\n")
    done = subprocess.run(
        [sys.executable, "-m", "core", "list", "network"],
        env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "core/unet" in done.stdout
    assert "plug-in 'torn' could not be read: RuntimeError: wrong CUDA" in done.stderr
