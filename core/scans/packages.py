"""Packages that read and write scans, which one extra brings."""

import importlib.util

from core.errors import InputError

EXTRA = "polymode[scans]"


def require(name: str, *modules: str) -> None:
    """Refuse what needs a package that is not installed.

    Args:
        name: of the file, for the message.
        modules: that read or write it.

    Raises:
        InputError: one of them cannot be imported.
    """
    if missing := [one for one in modules if importlib.util.find_spec(one) is None]:
        raise InputError(
            f"{name}: needs {' and '.join(missing)}, not installed here; pip install '{EXTRA}'"
        )
