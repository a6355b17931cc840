"""A folder of texts and a checkpoint."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from made_folders import TEXTS, put


@pytest.fixture
def place(tmp_path):
    """A folder of texts, and a checkpoint."""
    for name, text in TEXTS.items():
        put(tmp_path, name, text)
    (tmp_path / "word").write_text("well")
    return tmp_path
