"""The age v1 file format (https://c2sp.org/age), so that the `age` program opens what we write.

A file is encrypted to any number of X25519 recipients or with one passphrase; the format forbids
mixing them. Each function has a form that reports its progress (`encrypting`, ...): a generator
that yields the plaintext bytes done so far.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from engine.errors import BadInput, CrucibleError
from engine.events import drain
from engine.vault.armor import without_armor
from engine.vault.header import derive, read_header, write_header
from engine.vault.keys import (
    Identity,
    generate_identity,
    parse_recipient,
    read_identities,
    unique,
    write_identity,
)
from engine.vault.recipients import unwrap, wrap_scrypt, wrap_x25519
from engine.vault.stream import read_exactly, seal, unseal

__all__ = [
    "FileKey",
    "Identity",
    "decrypt",
    "decrypting",
    "encrypt",
    "encrypting",
    "generate_identity",
    "parse_recipient",
    "read_identities",
    "verify",
    "verifying",
    "write_identity",
]

_NONCE = 16


@dataclass(frozen=True, slots=True)
class FileKey:
    """The key of one file, with size and SHA-256 of the plaintext that was sealed with it: what a
    writer needs to check its work by reading it again."""

    key: bytes = field(repr=False)
    size: int
    sha256: str


def encrypt(
    source: BinaryIO,
    target: BinaryIO,
    *,
    recipients: Sequence[str] = (),
    passphrase: str | None = None,
) -> FileKey:
    """Write `source` to `target`, encrypted to the recipients (`age1...`) or with the passphrase.

    Raises BadInput: neither or both are given, the passphrase is empty, or a recipient is no key.
    """
    return drain(encrypting(source, target, recipients=recipients, passphrase=passphrase))


def encrypting(
    source: BinaryIO,
    target: BinaryIO,
    *,
    recipients: Sequence[str] = (),
    passphrase: str | None = None,
) -> Generator[int, None, FileKey]:
    """`encrypt` that yields the bytes done after each chunk."""
    key = os.urandom(16)
    if passphrase is not None and recipients:
        raise BadInput(
            "A passphrase cannot be combined with recipients: the age format forbids it. "
            "Choose one of the two."
        )
    if passphrase is not None:
        stanzas = [wrap_scrypt(key, passphrase)]
    else:
        stanzas = [wrap_x25519(key, recipient) for recipient in unique(recipients)]
    if not stanzas:
        raise BadInput("Nobody could open the file: give a recipient or a passphrase.")
    nonce = os.urandom(_NONCE)
    target.write(write_header(stanzas, key) + nonce)
    digest, size = hashlib.sha256(), 0
    for chunk, sealed in seal(derive(key, nonce, b"payload"), source):
        target.write(sealed)
        digest.update(chunk)
        size += len(chunk)
        yield size
    return FileKey(key, size, digest.hexdigest())


def decrypt(
    source: BinaryIO,
    target: BinaryIO,
    *,
    identities: Sequence[Identity] = (),
    passphrase: str | None = None,
) -> None:
    """Write the plaintext of `source` to `target`, opened by one of the identities or the
    passphrase, whichever the file takes.

    Raises BadInput: not an age file, no key fits, wrong passphrase, damaged or cut short. If
    anything fails, what was written is taken back (where `target` can seek).
    """
    drain(decrypting(source, target, identities=identities, passphrase=passphrase))


def decrypting(
    source: BinaryIO,
    target: BinaryIO,
    *,
    identities: Sequence[Identity] = (),
    passphrase: str | None = None,
) -> Generator[int, None, None]:
    """`decrypt` that yields the bytes done after each chunk."""
    source = without_armor(source)
    header = read_header(source)
    key = unwrap(header.stanzas, identities, passphrase)
    header.check(key)
    start = target.tell() if target.seekable() else None
    done = 0
    try:
        for chunk in unseal(_payload_key(key, source), source):
            target.write(chunk)
            done += len(chunk)
            yield done
    except BaseException:
        if start is not None:
            target.seek(start)
            target.truncate()
        raise


def verify(source: BinaryIO, written: FileKey) -> None:
    """Read a file again with the key it was just written with. Raises CrucibleError unless it
    holds exactly what was sealed."""
    drain(verifying(source, written))


def verifying(source: BinaryIO, written: FileKey) -> Generator[int, None, None]:
    """`verify` that yields the bytes done after each chunk."""
    digest, size = hashlib.sha256(), 0
    try:
        read_header(source).check(written.key)
        for chunk in unseal(_payload_key(written.key, source), source):
            digest.update(chunk)
            size += len(chunk)
            yield size
    except BadInput as error:
        raise CrucibleError(f"What was written does not read back: {error}") from error
    if (size, digest.hexdigest()) != (written.size, written.sha256):
        raise CrucibleError(
            f"What was written does not read back: {size} bytes instead of {written.size}, or "
            "others. The disk may be failing; write to another place."
        )


def _payload_key(key: bytes, source: BinaryIO) -> bytes:
    nonce = read_exactly(source, _NONCE)
    if len(nonce) < _NONCE:
        raise BadInput(
            "The file is cut short: it ends after its header. Take an unharmed copy of it."
        )
    return derive(key, nonce, b"payload")
