"""The age format: against other implementations, against damage, against made-up headers."""

from __future__ import annotations

import io
import os
import pty
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from engine.errors import BadInput, CrucibleError
from engine.vault import age
from engine.vault.header import Stanza, derive, to_base64, write_header
from engine.vault.recipients import wrap_scrypt, wrap_x25519
from engine.vault.stream import CHUNK, TAG, seal

SIZES = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK)
IDENTITY = age.generate_identity()
SEALED_CHUNK = CHUNK + TAG


def encrypted(data: bytes, **how: object) -> bytes:
    target = io.BytesIO()
    age.encrypt(io.BytesIO(data), target, **(how or {"recipients": [IDENTITY.recipient]}))
    return target.getvalue()


def decrypted(data: bytes, **how: object) -> bytes:
    target = io.BytesIO()
    age.decrypt(io.BytesIO(data), target, **(how or {"identities": [IDENTITY]}))
    return target.getvalue()


def refused(data: bytes, match: str | None = None, **how: object) -> str:
    """The text of the refusal; nothing of the plaintext may be left."""
    target = io.BytesIO(b"before")
    target.seek(6)
    with pytest.raises(BadInput, match=match) as caught:
        age.decrypt(io.BytesIO(data), target, **(how or {"identities": [IDENTITY]}))
    assert target.getvalue() == b"before"
    return str(caught.value)


# --- other implementations ------------------------------------------------------------------------

Program = tuple[Callable[[bytes, str], bytes], Callable[[bytes, str], bytes]]
"""Encrypts to a recipient, decrypts with a secret key."""


def _pyrage(armored: bool) -> Program:
    return (
        lambda data, to: pyrage.encrypt(
            data, [pyrage.x25519.Recipient.from_str(to)], armored=armored
        ),
        lambda data, key: pyrage.decrypt(data, [pyrage.x25519.Identity.from_str(key)]),
    )


def _binary(*options: str) -> Program:
    def decrypt(data: bytes, key: str) -> bytes:
        reading, writing = os.pipe()
        os.write(writing, key.encode())
        os.close(writing)
        try:
            command = ["age", "-d", "-i", f"/dev/fd/{reading}"]
            return subprocess.run(
                command, input=data, stdout=subprocess.PIPE, check=True, pass_fds=(reading,)
            ).stdout
        finally:
            os.close(reading)

    def encrypt(data: bytes, to: str) -> bytes:
        command = ["age", *options, "-r", to]
        return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout

    return encrypt, decrypt


PROGRAMS = {"pyrage": _pyrage(False), "pyrage armored": _pyrage(True)}
if shutil.which("age"):
    PROGRAMS |= {"age": _binary(), "age armored": _binary("-a")}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
@pytest.mark.parametrize("size", SIZES)
def test_others_read_ours_and_we_read_theirs(program: Program, size: int) -> None:
    encrypt, decrypt = program
    data = os.urandom(size)
    others = [age.generate_identity().recipient for _ in range(3)]
    ours = encrypted(data, recipients=[*others, IDENTITY.recipient])
    assert decrypt(ours, IDENTITY.text) == data
    assert decrypted(ours) == data
    assert decrypted(encrypt(data, IDENTITY.recipient)) == data


def test_passphrase_both_ways_with_the_real_work_factor() -> None:
    data = os.urandom(CHUNK + 5)
    ours = encrypted(data, passphrase="correct 马 battery")
    assert b" 18\n" in ours[:100]
    assert pyrage.passphrase.decrypt(ours, "correct 马 battery") == data
    refused(ours, "passphrase is wrong", passphrase="correct 马 batterx")
    refused(ours, "none was given")
    assert decrypted(pyrage.passphrase.encrypt(data, "x"), passphrase="x") == data


if shutil.which("age"):

    def test_the_age_program_opens_a_passphrase_file(tmp_path: Path, quick_passphrase) -> None:
        file, opened = tmp_path / "f.age", tmp_path / "opened"
        file.write_bytes(encrypted(b"content", passphrase="correct horse"))
        leader, follower = pty.openpty()
        # age asks on the controlling terminal: the first one that a new session opens.
        script = 'exec 3<>"$0"; exec age -d -o "$1" "$2"'
        command = ["sh", "-c", script, os.ttyname(follower), str(opened), str(file)]
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
        os.write(leader, b"correct horse\n")
        _, log = process.communicate(timeout=60)
        os.close(leader)
        os.close(follower)
        assert process.returncode == 0, log
        assert opened.read_bytes() == b"content"


def test_each_recipient_can_open() -> None:
    several = [age.generate_identity() for _ in range(5)]
    file = encrypted(b"x", recipients=[i.recipient for i in several])
    for identity in several:
        assert decrypted(file, identities=[age.generate_identity(), identity]) == b"x"


def test_two_files_share_nothing() -> None:
    one, other = encrypted(bytes(1000)), encrypted(bytes(1000))
    assert one.split(b"\n")[1:] != other.split(b"\n")[1:]
    assert one[-1000:] != other[-1000:]


# --- what is asked for ----------------------------------------------------------------------------


def test_bad_requests(quick_passphrase) -> None:
    key = IDENTITY.recipient
    for how, match in (
        ({"recipients": []}, "Nobody could open"),
        ({"recipients": [key], "passphrase": "x"}, "cannot be combined"),
        ({"passphrase": ""}, "passphrase is empty"),
        ({"recipients": [key, key[:-1]]}, "checksum"),
        ({"recipients": [_degenerate()]}, "degenerate"),
    ):
        target = io.BytesIO()
        with pytest.raises(BadInput, match=match):
            age.encrypt(io.BytesIO(b"x"), target, **how)
        assert target.getvalue() == b""


def _degenerate() -> str:
    from engine.vault import bech32

    return bech32.encode("age", bytes(32))


def test_no_matching_key_says_who_could(quick_passphrase) -> None:
    other = age.generate_identity()
    file = encrypted(b"x", recipients=[age.generate_identity().recipient for _ in range(2)])
    refused(file, r"2 recipients \(2 of type X25519\).*is not one of theirs")
    refused(file, "none of the 2 given is one", identities=[other, IDENTITY])
    refused(file, "no secret key was given, only a passphrase", passphrase="x")
    refused(encrypted(b"x", passphrase="x"), "none was given", identities=[IDENTITY])


def test_a_passphrase_or_a_key_whichever_the_file_takes(quick_passphrase) -> None:
    both = {"identities": [IDENTITY], "passphrase": "x"}
    assert decrypted(encrypted(b"1"), **both) == b"1"
    assert decrypted(encrypted(b"2", passphrase="x"), **both) == b"2"


# --- damage ---------------------------------------------------------------------------------------


def test_every_truncation_is_refused() -> None:
    data = os.urandom(2 * CHUNK + 100)
    file = encrypted(data)
    payload = file.index(b"\n--- ") + 49 + 16
    boundaries = [payload, payload + SEALED_CHUNK, payload + 2 * SEALED_CHUNK]
    near = {b + d for b in boundaries for d in (-17, -16, -1, 0, 1, 15, 16, 17)}
    for length in sorted({*range(payload), *near, len(file) - 1}):
        text = refused(file[:length])
        assert "cut short" in text or "empty" in text or "not encrypted" in text, (length, text)
    for chunks, boundary in enumerate(boundaries):
        refused(file[:boundary], rf"after {chunks} chunk\(s\) its end is missing")
    assert decrypted(file) == data


def test_flipped_bits_are_refused() -> None:
    file = encrypted(os.urandom(2 * CHUNK + 100))
    payload = file.index(b"\n--- ") + 49
    for place in (*range(payload + 20), *range(payload, len(file), 1009), len(file) - 1):
        changed = bytearray(file)
        changed[place] ^= 1 << place % 8
        refused(bytes(changed))


def test_moved_dropped_and_added_chunks_are_refused() -> None:
    file = encrypted(os.urandom(3 * CHUNK + 100))
    start = file.index(b"\n--- ") + 49 + 16
    head, rest = file[:start], file[start:]
    chunks = [rest[at : at + SEALED_CHUNK] for at in range(0, len(rest), SEALED_CHUNK)]
    a, b, c, last = chunks
    for order in ([b, a, c, last], [a, c, last], [a, b, c, last, last], [a, b, c, c, last], [last]):
        refused(head + b"".join(order), "chunk")
    refused(file + b"\0", "chunk 4")


def test_foreign_files_are_named() -> None:
    refused(b"", "empty")
    refused(b"PK\x03\x04" + os.urandom(100), "not encrypted in the age format")
    refused(os.urandom(5000), "not encrypted in the age format")
    refused(b"age-encryption.org/v2\n-> X25519 a\n", "version 'v2'")


def test_damaged_armor_is_refused() -> None:
    text = pyrage.encrypt(os.urandom(300), [pyrage.x25519.Recipient.from_str(IDENTITY.recipient)],
                          armored=True)  # fmt: skip
    for place in range(0, len(text.rstrip()), 7):
        changed = bytearray(text)
        changed[place] ^= 1 << place % 8
        refused(bytes(changed))
    for length in range(0, len(text.rstrip()), 11):
        refused(text[:length])
    lines = text.split(b"\n")
    refused(text + b"more", "follows its last line")
    refused(b"\n".join([*lines[:2], b"", *lines[2:]]), "wrong length")
    assert decrypted(b" \n" + text.replace(b"\n", b"\r\n") + b"\n\n") == decrypted(text)


# --- made-up headers ------------------------------------------------------------------------------

KEY = bytes(range(16))


def file_with(*stanzas: Stanza, header: bytes | None = None, body: bytes = b"x") -> bytes:
    nonce = bytes(16)
    payload = b"".join(s for _, s in seal(derive(KEY, nonce, b"payload"), io.BytesIO(body)))
    return (header or write_header(stanzas, KEY)) + nonce + payload


def test_unknown_recipients_are_passed_over() -> None:
    grease = Stanza(("example.com/enigma", "a+b", "!~"), os.urandom(96))
    mine = wrap_x25519(KEY, IDENTITY.recipient)
    assert decrypted(file_with(grease, mine, Stanza(("x",), b""))) == b"x"
    refused(file_with(grease), r"1 of type example\.com/enigma")


def test_malformed_stanzas_are_refused(quick_passphrase) -> None:
    mine, secret = wrap_x25519(KEY, IDENTITY.recipient), wrap_scrypt(KEY, "x")
    share, salt = mine.arguments[1], secret.arguments[1]
    factors = [Stanza(("scrypt", salt, f), secret.body) for f in ("23", "99", "1" * 5000)]
    numbers = [Stanza(("scrypt", salt, f), secret.body) for f in ("010", "0", "-1", "a", "1e1")]
    cases = {
        "beside other": [
            [secret, mine],
            [mine, secret],
            [secret, secret],
            [Stanza(("y",), b""), secret],
        ],
        "is refused, since": [[f] for f in factors],
        "not a number": [[n] for n in numbers],
        "wrong length": [
            [Stanza(("X25519", share, "more"), mine.body)],
            [Stanza(("X25519",), mine.body)],
            [Stanza(("X25519", share), mine.body + b"x")],
            [Stanza(("scrypt", salt), secret.body)],
            [Stanza(("scrypt", salt, "10"), secret.body[:-1])],
        ],
        "bytes where": [
            [Stanza(("X25519", to_base64(bytes(31)).decode()), mine.body)],
            [Stanza(("scrypt", to_base64(bytes(15)).decode(), "10"), secret.body)],
        ],
        "not canonical": [[Stanza(("X25519", share[:-1] + _next(share[-1])), mine.body)]],
        "degenerate": [[Stanza(("X25519", to_base64(bytes(32)).decode()), mine.body)]],
    }
    for match, headers in cases.items():
        for stanzas in headers:
            refused(file_with(*stanzas), match, identities=[IDENTITY], passphrase="x")


def _next(character: str) -> str:
    """The base64 digit that differs in its last, unused bit only."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return digits[digits.index(character) + 1]


def test_malformed_headers_are_refused() -> None:
    good = write_header([wrap_x25519(KEY, IDENTITY.recipient)], KEY)
    assert decrypted(file_with(header=good)) == b"x"
    for old, new, match in (
        (b"-> X", b"->  X", "name a recipient"),
        (b"-> X", b"-> X ", "name a recipient|length|No key"),
        (b"-> X", b"=> X", "name a recipient"),
        (b"\n---", b"\r\n---", "base64"),
        (b"--- ", b"---", "no MAC"),
        (b"--- ", b"---  ", "base64"),
        (b"/v1\n", b"/v1\r\n", "version"),
        (good[-2:], b"=\n", "base64|bytes"),
    ):
        refused(file_with(header=good.replace(old, new)), match)
    refused(file_with(header=write_header([], KEY)), "no recipient")
    long = Stanza(("x",), bytes(1 << 20))
    refused(file_with(long, wrap_x25519(KEY, IDENTITY.recipient)), "longer than")
    refused(file_with(header=good[:22] + b"-> " + b"x" * (2 << 20)), "longer than")


def test_an_empty_last_chunk_is_refused() -> None:
    header = write_header([wrap_x25519(KEY, IDENTITY.recipient)], KEY)
    cipher = ChaCha20Poly1305(derive(KEY, bytes(16), b"payload"))
    first = cipher.encrypt(bytes(12), bytes(CHUNK), None)
    empty = cipher.encrypt(bytes(10) + b"\1\1", b"", None)
    refused(header + bytes(16) + first + empty, "empty chunk")


# --- verifying, memory, other sources -------------------------------------------------------------


def test_verify_reads_what_was_written() -> None:
    target = io.BytesIO()
    key = age.encrypt(io.BytesIO(os.urandom(100_000)), target, recipients=[IDENTITY.recipient])
    assert key.key.hex() not in repr(key)
    assert repr(key.key) not in repr(key)
    file = target.getvalue()
    age.verify(io.BytesIO(file), key)
    for place in range(0, len(file), 997):
        changed = bytearray(file)
        changed[place] ^= 4
        with pytest.raises(CrucibleError):
            age.verify(io.BytesIO(bytes(changed)), key)
    other = age.FileKey(key.key, key.size, "0" * 64)
    with pytest.raises(CrucibleError, match="does not read back"):
        age.verify(io.BytesIO(file), other)


class Dripping(io.RawIOBase):
    """A pipe: no seeking, a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        return self._data.readinto(memoryview(buffer)[:1000])


def test_sources_that_give_parts() -> None:
    data = os.urandom(2 * CHUNK + 1)
    target = io.BytesIO()
    age.encrypt(Dripping(data), target, recipients=[IDENTITY.recipient])
    opened = io.BytesIO()
    age.decrypt(Dripping(target.getvalue()), opened, identities=[IDENTITY])
    assert opened.getvalue() == data


def test_memory_is_bounded(tmp_path: Path) -> None:
    plain, sealed, opened = (tmp_path / name for name in ("plain", "sealed", "opened"))
    with plain.open("wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    try:
        with plain.open("rb") as source, sealed.open("wb") as target:
            key = age.encrypt(source, target, recipients=[IDENTITY.recipient])
        with sealed.open("rb") as source:
            age.verify(source, key)
        with sealed.open("rb") as source, opened.open("wb") as target:
            age.decrypt(source, target, identities=[IDENTITY])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert opened.stat().st_size == 64 << 20
