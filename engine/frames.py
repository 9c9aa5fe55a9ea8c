"""Length-prefixed frames: one JSON object and the raw bytes it announces.

The one format of everything that is streamed: between window and engine process, and in the
picture files of a run. A frame is two big-endian 32-bit lengths, then UTF-8 JSON, then the bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from functools import cached_property
from typing import Any, BinaryIO

_HEADER = struct.Struct("!II")
LIMIT = 256 * 2**20
"""A frame announcing more than this is taken for noise on the line."""


class BadFrame(ValueError):
    """The bytes are not a frame: another program's output, or a torn file."""


class Listed(tuple[Any, ...]):
    """A list in a message whose text is made once, however many frames it goes into: what is said
    of pictures takes longer to write down than the pictures, and is stored, sent, and said of two
    of them."""

    @cached_property
    def text(self) -> str:
        """It as JSON."""
        return _json(self)


def pack(message: Mapping[str, Any], payload: bytes = b"") -> bytes:
    """One frame. NaN and infinities are written as JSON's common extension and read back."""
    whole = _json({k: v for k, v in message.items() if not isinstance(v, Listed)})
    for name, value in message.items():
        if isinstance(value, Listed):
            comma = "" if whole == "{}" else ","
            whole = f"{whole[:-1]}{comma}{_json(name)}:{value.text}}}"
    text = whole.encode()
    return _HEADER.pack(len(text), len(payload)) + text + payload


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def size_of(start: bytes | bytearray) -> int | None:
    """Size in bytes of the frame that `start` begins, None while its header is not complete.
    Raises BadFrame if it begins none."""
    if len(start) < _HEADER.size:
        return None
    text_size, payload_size = _HEADER.unpack_from(start)
    if text_size > LIMIT or payload_size > LIMIT:
        raise BadFrame(f"not a frame: it begins with {bytes(start[: _HEADER.size])!r}")
    return int(_HEADER.size + text_size + payload_size)


def read(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next frame, or None at the end of the stream (also in the middle of a frame: what was
    cut off was never acknowledged). Raises BadFrame if these are no frames."""
    header = stream.read(_HEADER.size)
    if size_of(header) is None:
        return None
    text_size, payload_size = _HEADER.unpack(header)
    text = stream.read(text_size)
    payload = stream.read(payload_size)
    if len(text) < text_size or len(payload) < payload_size:
        return None
    try:
        message = json.loads(text)
    except ValueError as error:
        raise BadFrame(f"not a frame: {text[:80]!r}") from error
    if not isinstance(message, dict):
        raise BadFrame(f"not a frame: {text[:80]!r}")
    return message, payload
