"""The two errors whose message is all that a user needs: bad input, and no way to write."""


class InputError(ValueError):
    """Input that cannot be used; commands print the message and exit with 2.

    The message states what was expected, what was found and what to do.
    """


class StorageError(OSError):
    """A result that could not be written; commands print the message, one line, and exit with 1.

    The message names the path, and states what is whole nevertheless and what to do.
    """
