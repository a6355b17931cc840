"""Messages for users: the two errors that are all they need, and text of others made safe to print.

Keys, names of files and contents of files get into messages; a terminal obeys escape codes in them.
"""

import re

LONGEST_VALUE = 200  # characters of a value that a message repeats
LONGEST_LINE = 4000  # characters of a line of a message, whatever it is made of

# Control characters; marks without width, that reorder or that separate lines; unpaired surrogates.
_STEERING = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e"
    r"\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def brief(value: object) -> str:
    """`repr(value)`, its middle left out where it is long."""
    return shortened(repr(value))


def shortened(text: str) -> str:
    """`text`, its middle left out where it is long for a value in a message."""
    return _cut(text, LONGEST_VALUE)


def printable(text: str) -> str:
    """`text` with control characters, but line breaks and tabs, written out as their numbers.

    So are marks that reorder text or have no width, and bytes of names that are no UTF-8.
    """
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def cut_lines(message: str) -> str:
    """`message` printable, the middle of each very long line left out."""
    return "\n".join(printable(_cut(line, LONGEST_LINE)) for line in message.split("\n"))


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    left_out = len(text) - longest
    return f"{text[: longest // 2]} ... {left_out} characters ... {text[-(longest // 2) :]}"


class InputError(ValueError):
    """Input that cannot be used; commands print the message and exit with 2.

    The message states what was expected, what was found and what to do.  Long lines are
    cut, and control characters are written out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(cut_lines(message))


class StorageError(OSError):
    """A result that could not be written; commands print the message, one line, and exit with 1.

    The message names the path, and states what is whole nevertheless and what to do.
    """
