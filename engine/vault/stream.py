"""The payload of an age file: chunks of 64 KiB, each sealed with its number and whether it is the
last one, so that none can be changed, moved, dropped or added (C2SP age, "Payload"; Hoang et al.
2015, STREAM). Memory stays at a few chunks whatever the size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from engine.errors import BadInput

CHUNK = 64 * 1024
TAG = 16


def seal(key: bytes, source: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Each chunk of `source` and what stands for it in the file."""
    cipher = ChaCha20Poly1305(key)
    for index, chunk, last in _blocks(source, CHUNK):
        yield chunk, cipher.encrypt(_nonce(index, last), chunk, None)


def unseal(key: bytes, source: BinaryIO) -> Iterator[bytes]:
    """The chunks of a payload, each authentic; the payload is whole when the iterator ends.

    Raises BadInput where a chunk is damaged or the end is missing.
    """
    cipher = ChaCha20Poly1305(key)
    for index, block, last in _blocks(source, CHUNK + TAG):
        if len(block) < TAG:
            raise _cut_short(index)
        try:
            chunk = cipher.decrypt(_nonce(index, last), block, None)
        except InvalidTag:
            if last and _opens(cipher, index, block):
                raise _cut_short(index + 1) from None
            raise BadInput(
                f"The file is damaged{' or cut short' if last else ''} in chunk {index + 1} of its "
                "payload. Take an unharmed copy of it."
            ) from None
        if last and index > 0 and not chunk:
            raise BadInput("The file is damaged: it ends with an empty chunk.")
        yield chunk


def read_exactly(source: BinaryIO, size: int) -> bytes:
    """`size` bytes, or fewer at the end of `source` only (a pipe may give them in parts)."""
    data = source.read(size)
    while 0 < len(data) < size:
        part = source.read(size - len(data))
        if not part:
            break
        data += part
    return data


def _blocks(source: BinaryIO, size: int) -> Iterator[tuple[int, bytes, bool]]:
    """Number, bytes, and whether it is the last one; an empty source is one empty block."""
    index, block = 0, read_exactly(source, size)
    while following := read_exactly(source, size):
        yield index, block, False
        index, block = index + 1, following
    yield index, block, True


def _nonce(index: int, last: bool) -> bytes:
    return index.to_bytes(11, "big") + bytes([last])


def _opens(cipher: ChaCha20Poly1305, index: int, block: bytes) -> bool:
    """Whether the block is authentic, but not the last one of its file."""
    try:
        cipher.decrypt(_nonce(index, last=False), block, None)
    except InvalidTag:
        return False
    return True


def _cut_short(chunks: int) -> BadInput:
    return BadInput(
        f"The file is cut short: after {chunks} chunk(s) its end is missing. Take an unharmed copy "
        "of it."
    )
