"""The helpers beside the tests are imported by name."""

import os
import sys
from pathlib import Path

import pytest

NOBODY = 65534

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def as_another_user(tmp_path):
    """Call a function as a user without privileges; what it returned, or its error, as text.

    root passes every permission, so that the call runs in a child of another user where the tests
    run as root; the folders above the test's own are opened for it.
    """

    def call(function):
        if os.getuid() == 0:
            for above in tmp_path.parents[:-2]:
                above.chmod(above.stat().st_mode | 0o055)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                if os.getuid() == 0:
                    os.setgroups([])
                    os.setgid(NOBODY)
                    os.setuid(NOBODY)
                try:
                    said = str(function())
                except Exception as error:  # noqa: BLE001  (the test judges it)
                    said = f"{type(error).__name__}: {error}"
                os.write(writing, said.encode())
            finally:
                os._exit(0)
        os.close(writing)
        with open(reading, "rb") as answer:
            said = answer.read().decode()
        os.waitpid(child, 0)
        return said

    return call
