"""Pseudonyms: keyed, stable, and their key nobody else's."""

import pytest

from core.errors import InputError
from core.scans import identity


def test_a_pseudonym_depends_on_the_key_and_stays_what_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv(identity.VARIABLE, "one secret and another")
    first = identity.pseudonym("Zwicknagl^Apollonia  90817263")
    assert first == identity.pseudonym("Zwicknagl^Apollonia 90817263 ")
    assert first != identity.pseudonym("Zwicknagl^Apollonia 90817264")
    assert identity.pseudonym(first) == first
    assert identity.pseudonym(" ") == "anonymous"
    monkeypatch.setenv(identity.VARIABLE, "another")
    assert first != identity.pseudonym("Zwicknagl^Apollonia 90817263")


def test_the_key_is_made_once_and_is_nobody_elses_to_read(monkeypatch, tmp_path):
    monkeypatch.delenv(identity.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    first = identity.pseudonym("a")
    place = tmp_path / "polymode" / "id.key"
    assert place.stat().st_mode & 0o777 == 0o600
    identity._kept.cache_clear()
    assert identity.pseudonym("a") == first
    identity._kept.cache_clear()
    place.write_bytes(b"")
    with pytest.raises(InputError, match="not a valid key"):
        identity.pseudonym("a")
    identity._kept.cache_clear()
