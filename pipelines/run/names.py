"""Names of a user's files taken out of what is kept of a failure: they may be names of patients.

A file is named by its number in the sorted listing of the option that names its folder, such as
``file 17 of request.dataset.root``: line 17 of ``cd FOLDER && find . -type f | LC_ALL=C sort``; the
folder itself by the option.
"""

import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from core.errors import printable
from pipelines.store import results

SHORT = 4  # characters from which a name without a suffix is replaced where it stands alone
FRAME = '  File "'  # how a frame of a traceback begins; it holds code


def places(folders: Iterable[Path]) -> dict[str, Path]:
    """The files and folders that requests in the store name, by dotted option.

    Args:
        folders: of results, whole or begun; one that holds no request names nothing.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        document = results.read_json(folder / results.REQUEST) or {}
        named = document.get("named")
        for option, value in named.items() if isinstance(named, dict) else ():
            if isinstance(value, str) and Path(value) not in found.values():
                label = option if option not in found else f"{document.get('step')}.{option}"
                found[label] = Path(value)
    return found


def without_names(text: str, at: Mapping[str, Path], error: BaseException | None = None) -> str:
    """`text` with every name of a file or folder below `at` replaced by its number.

    Args:
        text: of an error.
        at: files and folders by option, as `places` gives them.
        error: its files, and those of its causes, are replaced too, wherever they lie.
    """
    found: dict[str, str] = {}
    for option, root in at.items():
        for name, label in _names(option, root):
            for form in {name, printable(name)}:  # the second is that of an `InputError`
                if form in text:
                    found.setdefault(form, label)
    while error is not None:
        for path in (getattr(error, "filename", None), getattr(error, "filename2", None)):
            if isinstance(path, str) and path:
                found.setdefault(path, "a file")
                found.setdefault(printable(path), "a file")
        error = error.__cause__ or error.__context__
    for name in sorted(found, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", lambda _, to=found[name]: to, text)
    return text


def _names(option: str, root: Path) -> Iterator[tuple[str, str]]:
    """Every form in which a message may name `root`'s files and folders, with its replacement."""
    if not root.is_dir():
        for name in (str(root), str(root.absolute()), str(root.resolve()), root.name):
            yield name, f"file of {option}"
        return
    for form in {str(root), str(root.absolute()), str(root.resolve())}:
        if "/" in form.strip("/"):  # "scans" alone is also a word
            yield form, option
    folders: dict[str, str] = {}
    for number, name in enumerate(results.files_below(root, strict=False), start=1):
        yield from _forms(root, name, f"file {number} of {option}")
        for parent in Path(name).parents[:-1]:
            folders.setdefault(parent.as_posix(), f"folder of file {number} of {option}")
    for name, label in folders.items():
        yield from _forms(root, name, label)


def _forms(root: Path, name: str, label: str) -> Iterator[tuple[str, str]]:
    for start in dict.fromkeys((root, root.absolute(), root.resolve())):
        yield str(start / name), label
    last = Path(name).name
    if "/" in name:
        yield name, label
    if Path(last).suffix or len(last) >= SHORT:
        yield last, label


def traceback_without_names(error: BaseException, at: Mapping[str, Path]) -> str:
    """The traceback of `error`: frames as they are, messages without names."""
    parts = traceback.format_exception(error)
    return "".join(p if p.startswith(FRAME) else without_names(p, at, error) for p in parts)
