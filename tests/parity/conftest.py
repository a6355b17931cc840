"""The helper beside the tests is imported by name; differences are gathered and printed."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

FOUND = pytest.StashKey()


@pytest.fixture(autouse=True)
def _tolerant_of_peers():
    """Their own warnings are their affair."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def agree(request):
    """agree(pair, settings, ours, theirs, within): assert, and keep the difference for the end."""
    from peers import difference

    found = request.config.stash.setdefault(FOUND, {})

    def check(pair, settings, ours, theirs, within):
        value = difference(ours, theirs)
        key = (pair, settings)
        found[key] = max(value, found.get(key, 0.0))
        assert value <= within, f"{pair}, {settings}: differ by {value:.2e}, expected {within:.0e}"

    return check


@pytest.fixture
def note(request):
    """note(what, text): a figure that the page of differences quotes."""
    found = request.config.stash.setdefault(FOUND, {})
    return lambda what, text: found.__setitem__((what, "measured"), text)


def pytest_terminal_summary(terminalreporter, config):
    found = config.stash.get(FOUND, {})
    if found:
        terminalreporter.section("peers")
    for (pair, settings), value in found.items():
        shown = value if isinstance(value, str) else f"{value:.1e}"
        terminalreporter.write_line(f"| {pair} | {settings} | {shown} |")
