"""Sizes that files claim."""

from pathlib import Path

import pytest

from core.errors import InputError
from core.scans import claims


def test_sizes_are_looked_at_before_memory_is_taken():
    with pytest.raises(InputError, match="at least one"):
        claims.check_claim(Path("a"), (0, 3), 4)
    with pytest.raises(InputError, match="GiB in memory"):
        claims.check_claim(Path("a"), (1 << 14,) * 3, 8)
    claims.check_claim(Path("a"), (16, 16), 8)
