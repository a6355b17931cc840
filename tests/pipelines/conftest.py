"""Toy verbs are imported by name, here and in workers."""

import os
import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)


@pytest.fixture(autouse=True)
def _toys_on_the_path(monkeypatch):
    """Other processes find the toys as they would find a user's plug-in."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")]))
