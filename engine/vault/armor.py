"""Reading age files in their text form (C2SP age, "ASCII armor"): strict PEM."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterator
from typing import BinaryIO, cast

from engine.errors import BadInput

_BEGIN = b"-----BEGIN AGE ENCRYPTED FILE-----"
_END = b"-----END AGE ENCRYPTED FILE-----"
_COLUMNS = 64
_LEAD = 1024
"""Bytes of white space allowed before the first line."""


def without_armor(source: BinaryIO) -> BinaryIO:
    """`source` itself, or its decoded content if it is in text form.

    A source that cannot seek (a pipe) is taken as binary. Reading raises BadInput where the text
    form is damaged.
    """
    if not source.seekable():
        return source
    start = source.tell()
    lead = source.read(_LEAD + len(_BEGIN))
    skipped = len(lead) - len(lead.lstrip())
    armored = lead[skipped:].startswith(_BEGIN)
    source.seek(start + (skipped if armored else 0))
    return cast(BinaryIO, io.BufferedReader(_Decoded(source))) if armored else source


class _Decoded(io.RawIOBase):
    def __init__(self, source: BinaryIO) -> None:
        self._parts = _decode(source)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = next(self._parts, b"")
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def _decode(source: BinaryIO) -> Iterator[bytes]:
    if _line(source) != _BEGIN:
        raise _damaged("its first line is not what it should be")
    short = False
    while (line := _line(source)) != _END:
        if short or not 0 < len(line) <= _COLUMNS:
            raise _damaged("a line has the wrong length")
        short = len(line) < _COLUMNS
        try:
            part = base64.b64decode(line, validate=True)
        except binascii.Error:
            raise _damaged("it holds something that is not base64") from None
        if base64.b64encode(part) != line:
            raise _damaged("it holds base64 that is not canonical")
        short = short or line.endswith(b"=")
        yield part
    while rest := source.read(_LEAD):
        if rest.strip():
            raise _damaged("something follows its last line")


def _line(source: BinaryIO) -> bytes:
    line = source.readline(2 * _COLUMNS)
    if not line:
        raise BadInput("The file is cut short: its text form ends early. Take an unharmed copy.")
    return line.removesuffix(b"\n").removesuffix(b"\r")


def _damaged(why: str) -> BadInput:
    return BadInput(f"The file is damaged: in its text form, {why}. Take an unharmed copy of it.")
