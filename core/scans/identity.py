"""Pseudonyms of patients, and of the UIDs by which their studies are known.

A patient's name or number becomes a keyed hash (HMAC).  The key belongs to this user: without it
names cannot be found by trying, and another user's pseudonym of the same patient differs.
"""

import hashlib
import hmac
import os
import re
import secrets
import uuid
from functools import cache
from pathlib import Path

from core.errors import InputError

VARIABLE = "POLYMODE_ID_KEY"
"""Environment variable with a key shared by several users or machines."""

MADE = re.compile(r"patient-[0-9a-f]{8}|anonymous")


def pseudonym(text: str) -> str:
    """``patient-7f3a91c2`` of a name or number, ``anonymous`` of none; pseudonyms stay."""
    identity = " ".join(text.split())
    if not identity or MADE.fullmatch(identity):
        return identity or "anonymous"
    return f"patient-{hmac.new(_key(), identity.encode(), hashlib.sha256).hexdigest()[:8]}"


def new_uid(uid: str) -> str:
    """A DICOM UID in place of another: the same of the same, by the user's key.

    Results of one study stay one study, and without the key no UID leads back to the source.
    Its form is that of a random UUID (PS3.5 B.2).
    """
    digest = hmac.new(_key(), b"uid " + uid.encode(), hashlib.sha256).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"


def _key() -> bytes:
    given = os.environ.get(VARIABLE)
    return given.encode() if given else _kept(_place())


def _place() -> Path:
    root = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(root) / "polymode" / "id.key"


@cache
def _kept(place: Path) -> bytes:
    """The user's key, generated at the first use and readable by the user alone."""
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
            f"{place}: the key of the patients' pseudonyms cannot be stored: {error.strerror}; set "
            f"{VARIABLE} to a secret text instead"
        ) from error
    if len(found) < 16:
        raise InputError(
            f"{place}: not a valid key (under 16 bytes); delete the file to have one generated"
        )
    return found
