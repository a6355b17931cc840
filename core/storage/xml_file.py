"""XML from files that somebody else may have written: bounded in size and in depth, no entities.

A document type declaration can define entities that expand to gigabytes, or read other files; none
of the formats that are read here has one, so it is refused before any entity is looked up.
"""

from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from core.storage import files

DEEPEST = 100  # levels of elements
LARGEST = 2**26  # bytes of a document, unless its reader expects more


class NotXml(ValueError):
    """A text that is not XML, or more than is read; the message says which."""


def parse(data: bytes) -> Element:
    """The root element of an XML document.

    Raises:
        NotXml: it is none, has a document type declaration, or more than `DEEPEST` levels.
    """
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise NotXml(f"nested deeper than {DEEPEST} levels")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # an encoding that is unknown
        raise NotXml(str(error)) from error
    return builder.close()


def _refuse(*declared: object) -> NoReturn:
    raise NotXml("has a document type declaration, which is not read; export the file without it")


def read(path: Path, *, largest: int = LARGEST) -> Element:
    """The root element of an XML file.

    Raises:
        OSError: there is none, or it cannot be read now.
        NotXml: it is not a regular file, too large, or not XML.
    """
    try:
        data = files.read_at_most(path, largest)
    except files.Unusable as error:
        raise NotXml(str(error)) from error
    return parse(data)
