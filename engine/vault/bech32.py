"""Bech32 (BIP 173) without its length limit, as the age format uses it for keys."""

from __future__ import annotations

from collections.abc import Iterable

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def encode(prefix: str, data: bytes) -> str:
    """`data` as lower-case Bech32 after the human-readable `prefix` (lower case)."""
    values = list(_regroup(data, 8, 5, pad=True))
    remainder = _polymod([*_expand(prefix), *values, 0, 0, 0, 0, 0, 0]) ^ 1
    check = [(remainder >> 5 * (5 - i)) & 31 for i in range(6)]
    return prefix + "1" + "".join(_ALPHABET[v] for v in (*values, *check))


def decode(text: str) -> tuple[str, bytes]:
    """The human-readable prefix (lower case) and the bytes of `text`.

    Raises ValueError that says what is wrong, without repeating the text: it may be a secret.
    """
    if text != text.lower() and text != text.upper():
        raise ValueError("it mixes upper and lower case")
    prefix, separator, rest = text.lower().rpartition("1")
    if not separator or not prefix:
        raise ValueError("it has no '1' after its prefix")
    if len(rest) < 6:
        raise ValueError("it is too short")
    if any(not 33 <= ord(c) <= 126 for c in prefix):
        raise ValueError("its prefix holds a character that does not belong there")
    for place, character in enumerate(rest, len(prefix) + 2):
        if character not in _ALPHABET:
            raise ValueError(f"character {place} does not belong there")
    values = [_ALPHABET.index(c) for c in rest]
    if _polymod([*_expand(prefix), *values]) != 1:
        raise ValueError("its checksum does not match: a character is wrong, missing or too many")
    return prefix, bytes(_regroup(values[:-6], 5, 8, pad=False))


def _expand(prefix: str) -> list[int]:
    codes = prefix.encode("ascii")
    return [c >> 5 for c in codes] + [0] + [c & 31 for c in codes]


def _polymod(values: Iterable[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for i, generator in enumerate(_GENERATOR):
            check ^= generator if top >> i & 1 else 0
    return check


def _regroup(values: Iterable[int], width: int, into: int, *, pad: bool) -> Iterable[int]:
    """`values` of `width` bits as values of `into` bits; bits left over are padded or must be 0."""
    buffer, held = 0, 0
    for value in values:
        buffer = (buffer << width | value) & 0xFFF
        held += width
        while held >= into:
            held -= into
            yield buffer >> held & ((1 << into) - 1)
    rest = buffer & ((1 << held) - 1)
    if pad and held:
        yield rest << (into - held)
    elif not pad and (held >= width or rest):
        raise ValueError("its last character holds bits that must be zero")
