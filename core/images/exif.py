"""EXIF entries edited in place, so that all others keep their bytes and their offsets.

Maker notes hold offsets into the whole structure, which a rewritten one would break.  What is
left out is overwritten with zeros: an entry without its value's bytes would only hide them.
Source: TIFF 6.0, section 2; Exif 2.32 (CIPA DC-008-2019), 4.6.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

ORIENTATION = 0x0112
DESCRIPTION = 0x010E
_WIDTHS, _HEIGHTS = (0x0100, 0xA002, 0x1001), (0x0101, 0xA003, 0x1002)
_EXIF, _GPS, _INTEROPERABILITY, _SUB_IFDS = 0x8769, 0x8825, 0xA005, 0x014A
_MAKER_NOTE = 0x927C
_SUBJECT = (0x9214, 0xA214)  # where the subject lies, in pixels of the input
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_JPEG = b"\xff\xd8\xff"
_SHORT, _LONG = 3, 4
_MOST = 1000  # entries of a directory, values of an entry, and directories; cameras write a tenth


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a directory: where it lies, and where its value does."""

    at: int
    tag: int
    kind: int
    count: int
    value: int
    size: int


class _Structure:
    """A TIFF structure whose bytes are changed in place.

    Raises:
        Exception: of any kind, on a damaged structure.
    """

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self._order = {b"II": "<", b"MM": ">"}[data[:2]]
        self._doomed: list[tuple[int, int]] = []

    def number(self, kind: str, at: int) -> int:
        return struct.unpack_from(self._order + kind, self.data, at)[0]

    def put(self, kinds: str, at: int, *values: int) -> None:
        struct.pack_into(self._order + kinds, self.data, at, *values)

    @property
    def first(self) -> int:
        return self.number("I", 4)

    def count(self, directory: int) -> int:
        found = self.number("H", directory)
        if found > _MOST:
            raise ValueError(f"{found} entries")
        return found

    def entries(self, directory: int) -> Iterator[_Entry]:
        """The entries of a directory, last first, so that one may be removed meanwhile."""
        for index in reversed(range(self.count(directory))):
            at = directory + 2 + 12 * index
            tag, kind = self.number("H", at), self.number("H", at + 2)
            count = self.number("I", at + 4)
            size = _SIZES.get(kind, 1) * count
            yield _Entry(
                at, tag, kind, count, at + 8 if size <= 4 else self.number("I", at + 8), size
            )

    def find(self, directory: int, tag: int) -> _Entry | None:
        return next((entry for entry in self.entries(directory) if entry.tag == tag), None)

    def folder(self, directory: int, tag: int) -> int:
        """Where the directory lies that an entry points to; 0 without one."""
        entry = self.find(directory, tag)
        return self.number("I", entry.at + 8) if entry else 0

    def erase(self, at: int, size: int) -> None:
        """Mark bytes for `erased`."""
        if at >= 8 and size > 0:
            self._doomed.append((at, min(at + size, len(self.data))))

    def erased(self) -> bytes:
        """The structure, marked bytes overwritten with zeros and cut off where they end it."""
        reached = 8
        for start, end in sorted(self._doomed):  # each byte once, however many overlap
            start = max(start, reached)
            self.data[start:end] = bytes(max(0, end - start))
            reached = max(reached, end)
        last = len(self.data)
        for start, end in sorted(self._doomed, key=lambda span: -span[1]):
            if end >= last - 1:  # a byte of padding
                last = min(last, start)
        return bytes(self.data[:last])

    def remove(self, directory: int, entry: _Entry) -> None:
        """Erase an entry and its value; later ones and the next directory's offset move up."""
        if entry.size > 4:
            self.erase(entry.value, entry.size)
        count = self.count(directory)
        end = directory + 2 + 12 * count + 4
        self.data[entry.at : end] = self.data[entry.at + 12 : end] + bytes(12)
        self.put("H", directory, count - 1)

    def erase_directory(self, directory: int) -> None:
        """Erase a directory with the values of its entries, and a thumbnail that it has."""
        offset, length = self.find(directory, 0x0201), self.find(directory, 0x0202)
        if offset and length:
            self.erase(self.number("I", offset.at + 8), self.number("I", length.at + 8))
        strips, sizes = self.find(directory, 0x0111), self.find(directory, 0x0117)
        if strips and sizes:
            for at, size in zip(self.values(strips), self.values(sizes), strict=False):
                self.erase(at, size)
        for entry in self.entries(directory):
            if entry.size > 4:
                self.erase(entry.value, entry.size)
        self.erase(directory, 2 + 12 * self.count(directory) + 4)

    def values(self, entry: _Entry) -> list[int]:
        letter, step = ("H", 2) if entry.kind == _SHORT else ("I", 4)
        if entry.count > _MOST:
            raise ValueError(f"{entry.count} values")
        return [self.number(letter, entry.value + step * index) for index in range(entry.count)]

    def next(self, directory: int) -> int:
        """Where the offset of the directory after one lies."""
        return directory + 2 + 12 * self.count(directory)


def of_file(data: bytes) -> bytes:
    """The EXIF entries of an upright image: orientation 1, no thumbnail and nothing of its pixels.

    Left out are further directories (the thumbnail's), maker notes that hold a JPEG preview, where
    the subject lies, and a description that states the shape of an array.

    Args:
        data: a TIFF structure without the ``Exif`` mark.

    Raises:
        Exception: of any kind, on a damaged structure.
    """
    tiff = _Structure(data)
    first = tiff.first
    for entry in tiff.entries(first):
        if entry.tag == ORIENTATION:
            tiff.put("HIHH", entry.at + 2, _SHORT, 1, 1, 0)
        elif entry.tag == _SUB_IFDS:
            for directory in tiff.values(entry):
                tiff.erase_directory(directory)
            tiff.remove(first, entry)
        elif entry.tag == DESCRIPTION:
            _describe(tiff, first, entry)
    pointer = tiff.next(first)
    further = tiff.number("I", pointer) if pointer + 4 <= len(data) else 0
    if further:
        tiff.put("I", pointer, 0)
    for _ in range(_MOST):  # they may go in a circle
        if further in (0, first):
            break
        thumbnail, further = further, tiff.number("I", tiff.next(further))
        tiff.erase_directory(thumbnail)
    kept = tiff.erased()
    private = tiff.folder(first, _EXIF)
    for entry in tiff.entries(private) if private else ():
        note = entry.tag == _MAKER_NOTE and _JPEG in kept
        if note or entry.tag in _SUBJECT:
            tiff.remove(private, entry)
    return tiff.erased()


def _describe(tiff: _Structure, directory: int, entry: _Entry) -> None:
    """Leave out what a description states of an array's shape, which is the input's."""
    text = bytes(tiff.data[entry.value : entry.value + entry.size]).decode("utf-8", "replace")
    kept = description(text.rstrip("\0"))
    if kept == text.rstrip("\0"):
        return
    value = b"" if kept is None else kept.encode() + b"\0"
    if 4 < len(value) <= entry.size:
        tiff.data[entry.value : entry.value + entry.size] = value.ljust(entry.size, b"\0")
        tiff.put("I", entry.at + 4, len(value))
    else:
        tiff.remove(directory, entry)


def description(text: str) -> str | None:
    """An image description without an array's shape; None where nothing else is in it.

    Written so by tifffile (JSON), ImageJ and OME.
    """
    if text.startswith("ImageJ=") or "<OME " in text[:2048]:
        return None
    if not text.lstrip().startswith("{"):
        return text
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(found, dict) or "shape" not in found:
        return text
    kept = {key: value for key, value in found.items() if key not in ("shape", "axes")}
    return json.dumps(kept) if kept else None


def of_result(
    data: bytes | None, size: tuple[int, int], *, without_place: bool = False
) -> bytes | None:
    """The EXIF entries of an image whose result has another size.

    Args:
        data: as `of_file` returns them.
        size: width and height of the result.
        without_place: whether the GPS directory is left out, and maker notes, which may hold it.
    """
    if not data:
        return data
    tiff = _Structure(data)
    first = tiff.first
    private = tiff.folder(first, _EXIF)
    related = tiff.folder(private, _INTEROPERABILITY) if private else 0
    for directory in filter(None, (first, private, related)):
        for entry in tiff.entries(directory):
            if entry.tag in (*_WIDTHS, *_HEIGHTS) and entry.kind in (_SHORT, _LONG):
                tiff.put("HII", entry.at + 2, _LONG, 1, size[entry.tag in _HEIGHTS])
            elif without_place and directory == private and entry.tag == _MAKER_NOTE:
                tiff.remove(directory, entry)
    if without_place and (place := tiff.find(first, _GPS)):
        tiff.erase_directory(tiff.number("I", place.at + 8))
        tiff.remove(first, place)
    return tiff.erased()
