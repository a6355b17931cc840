"""Options from another file: own ones win, circles and lost files are one sentence."""

import pytest

from core.errors import InputError
from core.parts.inherited import inherit, merged


@pytest.mark.parametrize(
    ("base", "own", "together"),
    [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 4}}, {"a": 1, "b": {"c": 2, "d": 4}}),
        ({"a": {"name": "x", "w": 1}}, {"a": {"name": "y", "v": 2}}, {"a": {"name": "y", "v": 2}}),
        ({"a": {"name": "x", "w": 1}}, {"a": {"name": "x", "v": 2}},
         {"a": {"name": "x", "w": 1, "v": 2}}),
        ({"a": {"name": "x", "w": 1}}, {"a": "y"}, {"a": "y"}),
        ({"a": "x"}, {"a": {"w": 1}}, {"a": {"name": "x", "w": 1}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": 1}, {"a": None}, {"a": None}),
    ],
)  # fmt: skip
def test_own_options_are_laid_over_the_others(base, own, together):
    assert merged(base, own) == together


def test_files_are_found_from_where_they_are_named(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "one.yaml").write_text("from: deep/two.yaml\nsteps: 2\n")
    (tmp_path / "deep" / "two.yaml").write_text("{from: three.yaml, steps: 3, lr: 0.3}")
    (tmp_path / "deep" / "three.yaml").write_text("{steps: 4, lr: 0.4, network: {width: 8}}")
    assert inherit({"from": "one.yaml"}, tmp_path, without=["network.width"]) == {
        "steps": 2, "lr": 0.3, "network": {}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("none.yaml", "none.yaml: cannot be read"),
        ("a.yaml", "in a circle: a.yaml -> b.yaml -> a.yaml"),
        ("c.yaml", "in a circle: c.yaml -> c.yaml"),
        ("list.yaml", "expected a mapping of options"),
        ("a\0b", "expected the path of a YAML file"),
        (3, "expected the path of a YAML file"),
        ("", "expected the path of a YAML file"),
    ],
)
def test_what_cannot_be_taken_is_one_sentence(tmp_path, value, words):
    (tmp_path / "a.yaml").write_text("from: b.yaml")
    (tmp_path / "b.yaml").write_text("from: a.yaml")
    (tmp_path / "c.yaml").write_text("from: ./c.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(InputError, match=r"^steps\.a\.request\.from: ") as caught:
        inherit({"from": value}, tmp_path, at="steps.a.request")
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
