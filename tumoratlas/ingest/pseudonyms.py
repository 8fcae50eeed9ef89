"""Names that stand for private ones: keyed hashes, which only the holder of the key can repeat.

A plain hash would not do: hospitals' patient numbers are few enough to hash them all and compare.
The key therefore stays with the private scans and is never released.
"""

import hashlib
import hmac
import os
import re
import secrets
import unicodedata
from pathlib import Path

from tumoratlas.core.errors import InputError

_KEY_BYTES = 32
_OTHERS = 0o007


def pseudonym(key: bytes, text: str) -> str:
    """Return ``p`` and 16 hexadecimal digits of the HMAC-SHA256 (RFC 2104) of a text.

    Parameters
    ----------
    key
        The key of `read_key`.
    text
        A private name or number. Its Unicode spelling is made one (NFC), as file systems
        differ in it; nothing else is, so that callers strip what they read from a header.
    """
    # Names of files may hold bytes that are no text.
    data = unicodedata.normalize("NFC", text).encode("utf-8", "surrogateescape")
    return "p" + hmac.new(key, data, hashlib.sha256).hexdigest()[:16]


def read_key(path: Path) -> bytes:
    """Read the key of the pseudonyms: a file of 64 hexadecimal digits.

    Raises
    ------
    InputError
        ``PSEUDONYM_KEY``: the file is absent, holds something else, or everybody may read it.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise _refusal(path, "the key cannot be read", reason or "it holds no digits") from error
    if mode & _OTHERS:
        raise InputError(
            "PSEUDONYM_KEY",
            path,
            "every user of the machine may read the key",
            evidence=f"mode {mode & 0o777:o}",
            remedy=f"Run: chmod 600 {path}",
        )
    if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * _KEY_BYTES}}}", text):
        raise _refusal(
            path, f"a key is {2 * _KEY_BYTES} hexadecimal digits", f"{len(text)} characters"
        )
    return bytes.fromhex(text)


def write_key(path: Path) -> None:
    """Write a new random key that only its owner may read; an older one is never replaced.

    Raises
    ------
    InputError
        ``PSEUDONYM_KEY``: the file exists or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InputError(
            "PSEUDONYM_KEY",
            path,
            "the file exists, and a new key would change every pseudonym",
            remedy="Keep the key, or choose another file",
        ) from error
    except OSError as error:
        raise _refusal(path, "the key cannot be written", error.strerror or "") from error
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(_KEY_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _refusal(path: Path, reason: str, evidence: str) -> InputError:
    # The evidence never holds the file's text: it may be most of a key.
    return InputError(
        "PSEUDONYM_KEY",
        path,
        reason,
        evidence=evidence,
        remedy=f"Restore the key, or make the first one: python -m tumoratlas key {path}",
    )
