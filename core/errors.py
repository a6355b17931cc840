"""The two errors whose message is all that a user needs: bad input, and no way to write."""


class InputError(ValueError):
    """What was given cannot be used; commands print the message and exit with 2.

    The message says what was given, what was wanted and what to do.
    """


class StorageError(OSError):
    """What a run made could not be written; commands print the message, one line, and exit with 1.

    The message names the path, says what is whole nevertheless and what to do.
    """
