"""The helpers beside the tests are imported by name."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def _toy_folder(tmp_path_factory):
    from toy_training import on_path

    return on_path(tmp_path_factory.mktemp("toys"))


@pytest.fixture
def toys(_toy_folder, monkeypatch):
    """The plug-in `toy` is installed, here and in processes that the test starts."""
    from core.parts.registry import installed

    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([*_toy_folder, os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setattr(sys, "path", [*_toy_folder, *sys.path])
    installed.cache_clear()
    yield
    installed.cache_clear()


@pytest.fixture(scope="session")
def launcher():
    """Starts `polymode` commands without the seconds that imports take."""
    from launcher import Launcher

    warm = Launcher()
    yield warm
    warm.close()


NOTES = pytest.StashKey()


@pytest.fixture
def note(request):
    """note(text): a figure to print at the end, for the table of results."""
    told = request.config.stash.setdefault(NOTES, [])
    return lambda text: told.append(f"{request.node.name}: {text}")


def pytest_terminal_summary(terminalreporter, config):
    told = config.stash.get(NOTES, [])
    if told:
        terminalreporter.section("battery")
    for line in told:
        terminalreporter.write_line(line)
