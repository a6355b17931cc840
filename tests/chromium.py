"""Where this machine's Chromium is; `python tests/chromium.py` prints it, and fails without one."""

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
DOWNLOADED = ("chromium-*/chrome-linux*/chrome", "chromium_headless_shell-*/*/*headless*shell")


def chromium() -> str | None:
    """POLYMODE_CHROMIUM if set, else one on PATH, else one that playwright has downloaded."""
    if named := os.environ.get("POLYMODE_CHROMIUM"):
        return named
    for name in NAMES:
        if found := shutil.which(name):
            return found
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or "~/.cache/ms-playwright")
    for pattern in DOWNLOADED:
        if downloaded := sorted(cache.expanduser().glob(pattern)):
            return str(downloaded[-1])
    return None


def missing() -> str | None:
    """What tests in a browser lack here, in words; None if nothing."""
    if find_spec("playwright") is None:
        return "playwright is not installed"
    return None if chromium() else "there is no Chromium"


if __name__ == "__main__":
    print(chromium() or "no Chromium: install one, or set POLYMODE_CHROMIUM to its path")
    sys.exit(chromium() is None)
