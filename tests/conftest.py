"""What every test runs under: one thread, since the tensors here are small and workers are many."""

import json
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
if not os.environ.get("POLYMODE_GPU"):  # answers here are a CPU's; `make gpu` runs those of a GPU
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parent / "benchmarks"))

import privileges
from chromium import chromium as find_chromium
from chromium import missing

SLOW_SECONDS = 2.0

# A shell takes SIGINT away from what it puts in the background, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """Whether the tests in a browser run, before anything else is said."""
    lack = missing()
    return (
        f"browser: {f'its tests are left out, {lack} (make browser)' if lack else find_chromium()}"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests in a browser where there is none, so that the summary counts them.

    Of several processes that share the tests, one does those of a file, and one those of all files
    that share a Ray.
    """
    if missing():
        without = [item for item in items if item.get_closest_marker("browser")]
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]
    for item in items:
        ray = {"ray_here", "head"}.intersection(getattr(item, "fixturenames", ()))
        item.add_marker(pytest.mark.xdist_group("ray" if ray else str(item.path)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Measure the processor time of a test and of the processes it waited for."""
    before = os.times()
    try:
        return (yield)
    finally:
        spent = sum(os.times()[:4]) - sum(before[:4])
        item.user_properties.append(("cpu_seconds", round(spent, 2)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that should be marked slow; with POLYMODE_TIMES=FILE, write all times."""
    reports = [r for each in terminalreporter.stats.values() for r in each if hasattr(r, "when")]
    found = {
        report.nodeid: dict(report.user_properties)["cpu_seconds"]
        for report in reports
        if report.when == "call" and report.user_properties
    }
    if place := os.environ.get("POLYMODE_TIMES"):
        Path(place).write_text(json.dumps(found, indent=1))
    if "not slow" not in terminalreporter.config.getoption("-m"):
        return
    long = sorted(((v, k) for k, v in found.items() if v > SLOW_SECONDS), reverse=True)
    if long:
        terminalreporter.section(f"over {SLOW_SECONDS:g} s of processor time: mark them slow")
        for seconds, name in long:
            terminalreporter.line(f"{seconds:6.1f}  {name}")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of Chromium."""
    found = find_chromium()
    assert found, "deselected where there is none"
    return found


@pytest.fixture
def humbly():
    """Call a function where permissions hold, even for root; its result or its error, as text."""

    def call(function):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                privileges.drop()
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
