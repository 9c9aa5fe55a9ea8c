"""X25519 key pairs of the age format, and the file that `age-keygen` writes them to."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from engine.errors import BadInput
from engine.files import atomic
from engine.vault import bech32

RECIPIENT = "age"
SECRET = "age-secret-key-"


@dataclass(frozen=True, slots=True)
class Identity:
    """A secret key: 32 bytes. Its text is never part of a repr, hence of no log."""

    secret: bytes = field(repr=False)

    @property
    def recipient(self) -> str:
        """The public key, `age1...`."""
        public = X25519PrivateKey.from_private_bytes(self.secret).public_key()
        return bech32.encode(RECIPIENT, public.public_bytes_raw())

    @property
    def text(self) -> str:
        """The secret key, `AGE-SECRET-KEY-1...`."""
        return bech32.encode(SECRET, self.secret).upper()


def generate_identity() -> Identity:
    """A new key pair."""
    return Identity(os.urandom(32))


def parse_recipient(text: str) -> bytes:
    """The 32 bytes of a public key `age1...`. Raises BadInput that says what is wrong with it."""
    text = text.strip()
    if text.upper().startswith(SECRET.upper()):
        raise BadInput(
            "A recipient is a secret key (AGE-SECRET-KEY-...): keep that to yourself and give the "
            "public key (age1...), which stands above it in its file."
        )
    data = _decode(text, f"The recipient {_shorten(text)}", RECIPIENT, "age1... (age-keygen -y)")
    if len(data) != 32:
        raise BadInput(
            f"The recipient {_shorten(text)} holds {len(data)} bytes; an X25519 key holds 32."
        )
    return data


def parse_identity(text: str, where: str = "The secret key") -> Identity:
    """The identity of `AGE-SECRET-KEY-1...`. Raises BadInput, which never repeats the text."""
    data = _decode(text.strip(), where, SECRET, "AGE-SECRET-KEY-1... (engine keygen, age-keygen)")
    if len(data) != 32:
        raise BadInput(f"{where} holds {len(data)} bytes; an X25519 key holds 32.")
    return Identity(data)


def read_identities(path: Path) -> tuple[Identity, ...]:
    """The secret keys of an identity file: one a line, empty lines and `#` comments aside.

    Raises BadInput where it cannot be read, holds none, or holds one of a kind we cannot use.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BadInput(f"The identity file {path} cannot be read: {error.strerror}.") from error
    if text.startswith((b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE")):
        raise BadInput(
            f"The identity file {path} is itself encrypted. Open it first: age -d -o KEY.txt {path}"
        )
    if text.startswith(b"-----BEGIN"):
        raise BadInput(
            f"{path} is an SSH or PEM key; an age identity file is expected (engine keygen)."
        )
    lines = [line.strip() for line in text.decode("utf-8", "replace").splitlines()]
    found = tuple(
        parse_identity(line, f"Line {number} of the identity file {path}")
        for number, line in enumerate(lines, 1)
        if line and not line.startswith("#")
    )
    if not found:
        raise BadInput(f"The identity file {path} holds no secret key (AGE-SECRET-KEY-1...).")
    return found


def write_identity(path: Path, identity: Identity) -> None:
    """Write a new identity file as `age-keygen` does, readable by its owner only.

    Raises BadInput where the file exists: a key that is overwritten is lost, and with it every
    file that was encrypted to it.
    """
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    lines = (f"# created: {now}", f"# public key: {identity.recipient}", identity.text, "")
    with atomic(path, mode=0o600, replace=False) as file:
        file.write("\n".join(lines).encode())


def own_identity(keys: Path) -> tuple[Path, Identity]:
    """The key pair `identity.txt` in the folder `keys`, made if it is not there."""
    path = keys / "identity.txt"
    try:
        keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"The folder {keys} cannot be made: {error.strerror}.") from error
    if not path.exists():
        try:
            write_identity(path, generate_identity())
        except BadInput:
            if not path.exists():  # else another process has just made it: use that one
                raise
    return path, read_identities(path)[0]


def unique(recipients: Iterable[str]) -> tuple[str, ...]:
    """The recipients, checked, each once, in their order."""
    known: dict[bytes, str] = {}
    for text in recipients:
        known.setdefault(parse_recipient(text), text.strip())
    return tuple(known.values())


def _decode(text: str, what: str, prefix: str, expected: str) -> bytes:
    if text.startswith("ssh-"):
        raise BadInput(f"{what} is an SSH key, which is not supported; expected {expected}.")
    try:
        found, data = bech32.decode(text)
    except ValueError as error:
        raise BadInput(f"{what} is not a key: {error}. Expected {expected}.") from None
    if found != prefix:
        raise BadInput(
            f"{what} is a key of another kind ({found}1...), which is not supported; "
            f"expected {expected}."
        )
    return data


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:40]}...{text[-10:]}")
