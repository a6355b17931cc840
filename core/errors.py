"""The one base of every error that the user can mend."""


class InputError(ValueError):
    """What was given cannot be used; commands print the message and exit with 2.

    The message says what was given, what was wanted and what to do.
    """
