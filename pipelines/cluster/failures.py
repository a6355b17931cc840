"""Ray's errors as sentences: without colours, and by what they end in rather than begin with.

Source: Ray 2.60, `ray/exceptions.py`.
"""

import re
import sys

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# Last lines of a traceback of what could not be imported or unpickled.
_NOT_IMPORTED = re.compile(
    r"(?:(?:ModuleNotFoundError|ImportError): (?P<module>.+)"
    r"|AttributeError: (?P<name>(?:Can't|module '[^']*' has no) .+))$",
    re.M,
)


def without_colours(text: str) -> str:
    """`text` without the escape codes by which Ray colours what it prints."""
    return _COLOURS.sub("", text)


def not_imported(error: BaseException) -> str:
    """Which module or name a process of Ray could not import, and what to do; else nothing."""
    found = _NOT_IMPORTED.findall(without_colours(str(error)))
    if not found:
        return ""
    lack = next(filter(None, found[-1]))
    return (
        f"a worker process of Ray cannot import the code of this step ({lack}); install the "
        f"package that holds it for the Python of every machine, here {sys.executable}, or use "
        "--local"
    )


def last_words(error: BaseException) -> str:
    """The kind of one of Ray's errors, and what it says: of an exception elsewhere, its own line.

    What such an exception prints begins with the task and ends with the traceback.
    """
    lines = without_colours(str(error)).strip().splitlines() or [""]
    of_a_task = hasattr(error, "as_instanceof_cause")  # `ray.exceptions.RayTaskError`
    told = lines[-1] if of_a_task else lines[0].partition(". ")[0]
    return f"{type(error).__name__}: {told.strip()}".removesuffix(": ")
