"""The textual header of an age file: who can open it, and a MAC over it (C2SP age, "Header")."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from engine.errors import BadInput

VERSION = b"age-encryption.org/v1\n"
_COLUMNS = 64
_LIMIT = 1 << 20
"""Bytes of header read at most: room for some ten thousand recipients, and none for a bomb."""
_ARGUMENTS = re.compile(rb"-> ([!-~]+(?: [!-~]+)*)\n")


@dataclass(frozen=True, slots=True)
class Stanza:
    """The file key, wrapped for one recipient. `arguments[0]` is the recipient's type."""

    arguments: tuple[str, ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """`signed` are the bytes that `mac` is computed over."""

    stanzas: tuple[Stanza, ...]
    signed: bytes
    mac: bytes

    def check(self, file_key: bytes) -> None:
        """Raise BadInput unless the MAC belongs to the header and the file key."""
        if not hmac.compare_digest(_mac(file_key, self.signed), self.mac):
            raise BadInput(
                "The header is damaged: its MAC does not match. Take an unharmed copy of the file."
            )


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA-256 (RFC 5869), 32 bytes, as the format uses it throughout."""
    return HKDF(SHA256(), 32, salt or None, info).derive(secret)


def write_header(stanzas: Sequence[Stanza], file_key: bytes) -> bytes:
    """The header of a file that holds `stanzas`, sealed with the file key."""
    signed = VERSION + b"".join(map(_format, stanzas)) + b"---"
    return signed + b" " + to_base64(_mac(file_key, signed)) + b"\n"


def read_header(source: BinaryIO) -> Header:
    """Read a header, leaving `source` where the payload begins.

    Raises BadInput if it is no age file, of another version, cut short or malformed.
    """
    lines = _Lines(source)
    _check_version(lines.next())
    stanzas: list[Stanza] = []
    while not (line := lines.next()).startswith(b"---"):
        stanzas.append(_stanza(line, lines))
    if not stanzas:
        raise _malformed("it names no recipient")
    if not line.startswith(b"--- "):
        raise _malformed("its last line has no MAC")
    mac = from_base64(line[4:-1], 32)
    return Header(tuple(stanzas), bytes(lines.read.removesuffix(line)) + b"---", mac)


def to_base64(data: bytes) -> bytes:
    """Base64 without padding."""
    return base64.b64encode(data).rstrip(b"=")


def from_base64(text: bytes, size: int | None = None) -> bytes:
    """Canonical, unpadded base64, of `size` bytes if given. Raises BadInput."""
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise _malformed("it holds something that is not base64") from None
    if to_base64(data) != text:
        raise _malformed("it holds base64 that is not canonical")
    if size is not None and len(data) != size:
        raise _malformed(f"it holds {len(data)} bytes where {size} are expected")
    return data


class _Lines:
    """Lines of the header, and all that was read of it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.read = bytearray()

    def next(self) -> bytes:
        line = self._source.readline(_LIMIT - len(self.read))
        self.read += line
        if line.endswith(b"\n"):
            return line
        if len(self.read) >= _LIMIT:
            raise _malformed(f"it is longer than {_LIMIT} bytes")
        if not VERSION.startswith(self.read[: len(VERSION)]):
            raise _not_age()
        if not self.read:
            raise BadInput("The file is empty; an encrypted export (age format) is expected.")
        raise BadInput(
            "The file is cut short: it ends within its header. Take an unharmed copy of it."
        )


def _check_version(line: bytes) -> None:
    if line == VERSION:
        return
    if line.startswith(b"age-encryption.org/"):
        version = line[19:-1][:20].decode("ascii", "replace")
        raise BadInput(
            f"The file is of version {version!r} of the age format; only v1 can be read."
        )
    raise _not_age()


def _stanza(line: bytes, lines: _Lines) -> Stanza:
    match = _ARGUMENTS.fullmatch(line)
    if match is None:
        raise _malformed("a line that should name a recipient does not")
    body = bytearray()
    while True:
        part = lines.next()[:-1]
        if len(part) > _COLUMNS:
            raise _malformed(f"a line has more than {_COLUMNS} characters")
        body += part
        if len(part) < _COLUMNS:
            return Stanza(tuple(match[1].decode("ascii").split(" ")), from_base64(bytes(body)))


def _format(stanza: Stanza) -> bytes:
    body = to_base64(stanza.body)
    lines = [body[at : at + _COLUMNS] for at in range(0, len(body) + 1, _COLUMNS)]
    return b"-> " + " ".join(stanza.arguments).encode("ascii") + b"\n" + b"\n".join(lines) + b"\n"


def _mac(file_key: bytes, signed: bytes) -> bytes:
    return hmac.digest(derive(file_key, b"", b"header"), signed, "sha256")


def _malformed(why: str) -> BadInput:
    return BadInput(f"The header is damaged: {why}. Take an unharmed copy of the file.")


def _not_age() -> BadInput:
    return BadInput("The file is not encrypted in the age format; an exported .age is expected.")
