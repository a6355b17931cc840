"""Names for people's scans that say nothing of whose they are.

A patient's name or number becomes a keyed hash.  The key is this user's own: without it nobody can
try names until one fits, and the same patient has another name with another user.
"""

import hashlib
import hmac
import os
import re
import secrets
from functools import cache
from pathlib import Path

from core.errors import InputError

VARIABLE = "POLYMODE_ID_KEY"
"""Environment variable with a key that several people or machines share."""

MADE = re.compile(r"patient-[0-9a-f]{8}|anonymous")


def pseudonym(text: str) -> str:
    """``patient-7f3a91c2`` for a name or number, ``anonymous`` for none; these stay as they are."""
    said = " ".join(text.split())
    if not said or MADE.fullmatch(said):
        return said or "anonymous"
    return f"patient-{hmac.new(_key(), said.encode(), hashlib.sha256).hexdigest()[:8]}"


def _key() -> bytes:
    given = os.environ.get(VARIABLE)
    return given.encode() if given else _kept(_place())


def _place() -> Path:
    root = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(root) / "polymode" / "id.key"


@cache
def _kept(place: Path) -> bytes:
    """The user's key, made at the first use; nobody else may read it."""
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        else:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_hex(32).encode())
        found = place.read_bytes()
    except OSError as error:
        raise InputError(
            f"{place}: the key that patients' names are hidden with cannot be kept: "
            f"{error.strerror}; set {VARIABLE} to any secret words instead"
        ) from error
    if len(found) < 16:
        raise InputError(f"{place}: no key; remove the file, and one is made")
    return found
