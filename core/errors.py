"""The two errors whose message is all that a user needs: bad input, and no way to write."""

LONGEST_VALUE = 200  # characters of a value that a message repeats
LONGEST_LINE = 4000  # characters of a line of a message, whatever it is made of


def brief(value: object) -> str:
    """`repr(value)`, its middle left out where it is long."""
    return _cut(repr(value), LONGEST_VALUE)


def cut_lines(message: str) -> str:
    """`message`, the middle of each very long line left out."""
    return "\n".join(_cut(line, LONGEST_LINE) for line in message.split("\n"))


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    left_out = len(text) - longest
    return f"{text[: longest // 2]} ... {left_out} characters ... {text[-(longest // 2) :]}"


class InputError(ValueError):
    """Input that cannot be used; commands print the message and exit with 2.

    The message states what was expected, what was found and what to do.  Long lines are cut.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(cut_lines(message))


class StorageError(OSError):
    """A result that could not be written; commands print the message, one line, and exit with 1.

    The message names the path, and states what is whole nevertheless and what to do.
    """
