"""Scans of a JPEG stream, counted by its markers before anything is decoded.

Each scan of a progressive stream goes over the whole image and may take a dozen bytes, so a file
of a megabyte can take hours.  A count does not depend on how fast a machine is, as a time would.
"""

import re

MOST = 100  # scans; libtiff refuses more too, encoders write some ten
_MARKER = re.compile(rb"\xff([^\x00\xff])")  # FF 00 is a value, FF FF is fill
_SOS, _EOI = 0xDA, 0xD9
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length: TEM, RST0 to RST7, SOI


def count(stream: bytes) -> int:
    """Scans up to the end of the first image.

    Source: ITU-T T.81, B.1.1 (markers) and B.2.1 (an image's order).
    """
    scans, at = 0, 0
    while found := _MARKER.search(stream, at):
        marker, at = found[1][0], found.end()
        if marker == _EOI:
            break
        if marker in _ALONE:
            continue
        scans += marker == _SOS
        at += int.from_bytes(stream[at : at + 2])  # of a segment, which may hold anything
    return scans


def problem(stream: bytes) -> str:
    """The clause that refuses a stream of too many scans; empty where there are few enough."""
    scans = count(stream)
    return "" if scans <= MOST else f"has {scans:,} scans, expected at most {MOST}"
