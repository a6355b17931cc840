"""Reading a file of lines while another process writes to it."""

from pathlib import Path


class Tail:
    """The whole lines that a file gets from now on, or from its beginning.

    Args:
        path: need not exist yet.
        whole: begin with what is there already.
    """

    def __init__(self, path: Path, *, whole: bool = False) -> None:
        self._path = path
        self._at = path.stat().st_size if path.exists() and not whole else 0

    def lines(self) -> list[bytes]:
        """Lines that were not there at the last look; all where the file was begun again."""
        try:
            if self._path.stat().st_size < self._at:
                self._at = 0
            with self._path.open("rb") as file:
                file.seek(self._at)
                found = file.read()
        except OSError:
            return []
        whole = found[: found.rfind(b"\n") + 1]
        self._at += len(whole)
        return whole.splitlines()
