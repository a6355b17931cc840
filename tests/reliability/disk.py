"""What a disk is told to do, and what of that a power cut may leave behind.

`watched` tells of every change that the checkpoint store asks of the system.  `after_power_cut`
replays the told on a model in which nothing is kept that was not followed by the right fsync, and
yields the folders that could be found after a cut at any moment.
"""

import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from core.storage import tensor_file

Tree = dict[str, bytes | None]  # path below the root -> content; None is a folder


class Operation(NamedTuple):
    """One change: `kind` is make, create, write, sync, rename or remove."""

    kind: str
    path: Path
    data: bytes = b""
    to: Path | None = None


Heard = Callable[[Operation, str], None]  # an operation; "before", "half" (of a write) or "after"


def _place(path: object, folder: int | None = None) -> Path:
    """The path of what is named by a path, a handle, or a name in an open folder."""
    if isinstance(path, int):
        return Path(os.readlink(f"/proc/self/fd/{path}"))
    place = Path(os.fsdecode(path))  # type: ignore[arg-type]
    return place if folder is None else _place(folder) / place


@contextmanager
def watched(heard: Heard) -> Iterator[None]:
    """Tell of every operation before and after it, while the block lasts.

    The writer of tensors is compiled: in its place stands what it does (seen by strace: a file of
    a passing name, its content, a rename), in three pieces.
    """
    names = ("mkdir", "open", "write", "fsync", "rename", "replace", "unlink", "rmdir")
    true = {name: getattr(os, name) for name in names}

    def told(operation: Operation, act: Callable[[], object]) -> object:
        heard(operation, "before")
        result = act()
        heard(operation, "after")
        return result

    def mkdir(path, mode=0o777, *, dir_fd=None):
        told(Operation("make", _place(path, dir_fd)), lambda: true["mkdir"](path, mode))

    def open_(path, flags, mode=0o777, *, dir_fd=None):
        def act():
            return true["open"](path, flags, mode, dir_fd=dir_fd)

        place = _place(path, dir_fd)
        if flags & os.O_CREAT and not place.exists():
            return told(Operation("create", place), act)
        assert not flags & (os.O_TRUNC | os.O_APPEND), "the model knows no overwriting"
        return act()

    def write(handle, data):
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return true["write"](handle, data)
        operation, half = Operation("write", _place(handle), bytes(data)), len(data) // 2
        heard(operation, "before")
        written = true["write"](handle, data[:half])
        heard(operation, "half")
        written += true["write"](handle, data[half:])
        heard(operation, "after")
        return written

    def fsync(handle):
        told(Operation("sync", _place(handle)), lambda: true["fsync"](handle))

    def rename(source, target):
        operation = Operation("rename", _place(source), to=_place(target))
        told(operation, lambda: true["rename"](source, target))

    def remove(name):
        def act(path, *, dir_fd=None):
            operation = Operation("remove", _place(path, dir_fd))
            told(operation, lambda: true[name](path, dir_fd=dir_fd))

        return act

    def save_file(tensors, path, about):
        from safetensors.torch import save

        data, aside = save(tensors, about), path.with_name(".tmp123456")
        third = len(data) // 3
        handle = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        for piece in (data[:third], data[third : 2 * third], data[2 * third :]):
            os.write(handle, piece)
        os.close(handle)
        os.rename(aside, path)

    instead = {"mkdir": mkdir, "open": open_, "write": write, "fsync": fsync, "rename": rename,
               "replace": rename, "unlink": remove("unlink"), "rmdir": remove("rmdir")}  # fmt: skip
    with ExitStack() as stack:
        for name, function in instead.items():
            stack.enter_context(patch.object(os, name, function))
        stack.enter_context(patch.object(tensor_file, "save_file", save_file))
        yield


def tree(root: Path) -> Tree:
    """What stands below a folder."""
    return {
        str(p.relative_to(root)): None if p.is_dir() else p.read_bytes()
        for p in sorted(root.rglob("*"))
    }


def plant(found: Tree, root: Path) -> None:
    """Make a tree in a new folder."""
    root.mkdir()
    for name, content in sorted(found.items()):
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)


# --- power cuts -------------------------------------------------------------------------------

Content = bytes | dict[str, int]  # of a file; of a folder: name -> number of a thing
Change = bytes | dict[str, int | None]  # bytes appended; names given and taken away at once


def _changed(content: Content, change: Change) -> Content:
    if isinstance(content, bytes):
        assert isinstance(change, bytes)
        return content + change
    assert isinstance(change, dict)
    return {name: n for name, n in {**content, **change}.items() if n is not None}


class Disk:
    """Files and folders by number: as programs see them, as the disk holds them, and what waits.

    `held` is what a power cut leaves for certain.  Of `waiting` it may leave any part: the changes
    of different files and folders reach the disk in any order.
    """

    def __init__(self, start: Tree) -> None:
        self.seen: dict[int, Content] = {0: {}}
        self.held: dict[int, Content] = {0: {}}
        self.waiting: list[tuple[int, Change]] = []
        for name, content in sorted(start.items()):
            path = Path(name)
            number = self._new({} if content is None else content)
            self.held[number] = self.seen[number]
            self._change(self._find(path.parent), {path.name: number})
        for number, content in self.seen.items():
            self.held[number] = content
        self.waiting = []

    def _new(self, content: Content) -> int:
        number = len(self.seen)
        self.seen[number] = content
        self.held[number] = b"" if isinstance(content, bytes) else {}
        return number

    def _find(self, path: Path) -> int:
        number = 0
        for name in path.parts:
            content = self.seen[number]
            assert isinstance(content, dict)
            number = content[name]
        return number

    def _change(self, number: int, change: Change) -> None:
        self.seen[number] = _changed(self.seen[number], change)
        self.waiting.append((number, change))

    def do(self, operation: Operation, root: Path) -> None:
        """Follow one operation below `root`."""
        path = operation.path.relative_to(root)
        parent = self._find(path.parent) if path.parts else 0
        if operation.kind in ("make", "create"):
            new = self._new({} if operation.kind == "make" else b"")
            self._change(parent, {path.name: new})
        elif operation.kind == "write":
            self._change(self._find(path), operation.data)
        elif operation.kind == "remove":
            self._change(parent, {path.name: None})
        elif operation.kind == "rename":
            assert operation.to is not None
            assert operation.to.parent == operation.path.parent, "the model renames in one folder"
            self._change(parent, {path.name: None, operation.to.name: self._find(path)})
        else:
            number = self._find(path)
            self.held[number] = self.seen[number]
            self.waiting = [(n, change) for n, change in self.waiting if n != number]

    def left(self, chosen: list[bool], *, zeros: bool = False) -> Tree:
        """What is found if, of the waiting changes, the chosen ones reached the disk.

        Args:
            chosen: one for each waiting change.
            zeros: the sizes of files arrived, their bytes did not.
        """
        held = dict(self.held)
        for (number, change), arrived in zip(self.waiting, chosen, strict=True):
            if arrived:
                blank = bytes(len(change)) if zeros and isinstance(change, bytes) else change
                held[number] = _changed(held[number], blank)
        found: Tree = {}

        def walk(number: int, above: str) -> None:
            content = held[number]
            assert isinstance(content, dict)
            for name, inner in content.items():
                thing = held[inner]
                found[above + name] = thing if isinstance(thing, bytes) else None
                if isinstance(thing, dict):
                    walk(inner, f"{above}{name}/")

        walk(0, "")
        return found


def _choices(waiting: list[tuple[int, Change]], draws: int) -> Iterator[list[bool]]:
    """Which of the waiting changes arrived: every way if they are few, else the telling ones."""
    n = len(waiting)
    if n <= 6:
        yield from (list(chosen) for chosen in product((False, True), repeat=n))
        return
    names = [isinstance(change, dict) for _, change in waiting]
    yield from ([False] * n, [True] * n, names, [not name for name in names])
    for i in range(n):
        yield [j == i for j in range(n)]
        yield [j != i for j in range(n)]
        yield [j <= i for j in range(n)]
    draw = random.Random(n)
    for _ in range(draws):
        yield [draw.random() < 0.5 for _ in range(n)]


def after_power_cut(
    start: Tree, operations: list[Operation], root: Path, *, draws: int
) -> Iterator[tuple[int, Tree]]:
    """Number of operations done, and what may be found after a cut there; no state twice.

    Args:
        start: what the disk held before.
        operations: what was done then, below `root`.
        root: of both.
        draws: random choices of what arrived, where the choices are too many for all.
    """
    disk, told = Disk(start), set()
    for done in range(len(operations) + 1):
        for chosen in _choices(disk.waiting, draws):
            for zeros in (False, True):
                found = disk.left(chosen, zeros=zeros)
                key = (done == len(operations), frozenset(found.items()))
                if key not in told:
                    told.add(key)
                    yield done, found
        if done < len(operations):
            disk.do(operations[done], root)
