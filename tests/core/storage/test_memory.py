"""Free memory: what does not fit is refused before it is taken."""

import psutil
import pytest

from core.errors import InputError
from core.storage import memory


def test_free_memory_is_the_machines():
    assert 0 < memory.free() <= psutil.virtual_memory().total


def test_what_fits_passes_and_a_byte_more_is_refused_in_a_sentence():
    memory.check(2**30, "a scan needs 1 GiB", "cut it", free=2**30)
    with pytest.raises(InputError, match=r"^a scan needs 1 GiB, 1.0 GiB are free; cut it$"):
        memory.check(2**30 + 1, "a scan needs 1 GiB", "cut it", free=2**30)
