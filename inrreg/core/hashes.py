"""SHA-256 of files and values."""

import hashlib
from pathlib import Path


def hash_file(path: str | Path) -> str:
    """SHA-256 of the content of a file, hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_bytes(*parts: bytes) -> str:
    """SHA-256 of ``parts`` one after the other, hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
