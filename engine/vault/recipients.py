"""How a file key is wrapped for a recipient and unwrapped by one: X25519 keys or a passphrase."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from engine.errors import BadInput, CrucibleError
from engine.vault.header import Stanza, derive, from_base64, to_base64
from engine.vault.keys import Identity, parse_recipient

WORK_FACTOR = 18
"""Files are written with N = 2^18 (256 MB and about 0.7 s of a core a guess)."""
MAX_WORK_FACTOR = 22
"""Files that ask for more (2^22 takes 4 GB) are refused, as the reference implementation does."""

_X25519 = "X25519"
_SCRYPT = "scrypt"
_WRAPPED = 32
"""16 bytes of file key and 16 of tag. Checked before decrypting: a longer body could be made to
open with several keys (partitioning oracle)."""
_NONCE = bytes(12)


def wrap_x25519(file_key: bytes, recipient: str) -> Stanza:
    """Wrap for a public key `age1...`. Raises BadInput if it is none."""
    public = parse_recipient(recipient)
    ephemeral = X25519PrivateKey.generate()
    share = ephemeral.public_key().public_bytes_raw()
    try:
        shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise BadInput(
            f"The recipient {recipient!r} is a degenerate key that anyone could open."
        ) from None
    key = derive(shared, share + public, b"age-encryption.org/v1/X25519")
    body = ChaCha20Poly1305(key).encrypt(_NONCE, file_key, None)
    return Stanza((_X25519, to_base64(share).decode()), body)


def wrap_scrypt(file_key: bytes, passphrase: str) -> Stanza:
    """Wrap with a passphrase, which must not be empty."""
    if not passphrase:
        raise BadInput("The passphrase is empty. Give one.")
    salt = os.urandom(16)
    key = _stretch(passphrase, salt, WORK_FACTOR)
    body = ChaCha20Poly1305(key).encrypt(_NONCE, file_key, None)
    return Stanza((_SCRYPT, to_base64(salt).decode(), str(WORK_FACTOR)), body)


def unwrap(
    stanzas: Sequence[Stanza], identities: Sequence[Identity], passphrase: str | None
) -> bytes:
    """The file key, opened with one of the identities or the passphrase, whichever it takes.

    Raises BadInput: no key fits, the passphrase is wrong, or a stanza is malformed.
    """
    if any(stanza.arguments[0] == _SCRYPT for stanza in stanzas):
        if len(stanzas) > 1:
            raise _damaged("a passphrase stands beside other recipients, which is forbidden")
        return _unwrap_scrypt(stanzas[0], passphrase)
    for stanza in stanzas:
        if stanza.arguments[0] == _X25519:
            for identity in identities:
                file_key = _unwrap_x25519(stanza, identity)
                if file_key is not None:
                    return file_key
    raise _no_key(stanzas, len(identities), passphrase is not None)


def _unwrap_x25519(stanza: Stanza, identity: Identity) -> bytes | None:
    if len(stanza.arguments) != 2 or len(stanza.body) != _WRAPPED:
        raise _damaged("a recipient has the wrong length")
    share = from_base64(stanza.arguments[1].encode(), 32)
    secret = X25519PrivateKey.from_private_bytes(identity.secret)
    try:
        shared = secret.exchange(X25519PublicKey.from_public_bytes(share))
    except ValueError:
        raise _damaged("a recipient's key share is degenerate") from None
    salt = share + secret.public_key().public_bytes_raw()
    try:
        key = derive(shared, salt, b"age-encryption.org/v1/X25519")
        return ChaCha20Poly1305(key).decrypt(_NONCE, stanza.body, None)
    except InvalidTag:
        return None


def _unwrap_scrypt(stanza: Stanza, passphrase: str | None) -> bytes:
    if len(stanza.arguments) != 3 or len(stanza.body) != _WRAPPED:
        raise _damaged("the passphrase's line has the wrong length")
    salt = from_base64(stanza.arguments[1].encode(), 16)
    if not re.fullmatch("[1-9][0-9]*", stanza.arguments[2]):
        raise _damaged("its work factor is not a number")
    if len(stanza.arguments[2]) > 2 or int(stanza.arguments[2]) > MAX_WORK_FACTOR:
        raise BadInput(
            f"The file asks for a passphrase work factor of 2^{stanza.arguments[2][:20]}; more "
            f"than 2^{MAX_WORK_FACTOR} is refused, since it would take hours or all memory."
        )
    if passphrase is None:
        raise BadInput(
            "The file is encrypted with a passphrase, and none was given. Give it "
            "(--passphrase-file on the command line)."
        )
    key = _stretch(passphrase, salt, int(stanza.arguments[2]))
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, stanza.body, None)
    except InvalidTag:
        raise BadInput("The passphrase is wrong: it does not open the file.") from None


def _stretch(passphrase: str, salt: bytes, work_factor: int) -> bytes:
    salt = b"age-encryption.org/v1/scrypt" + salt
    try:
        return Scrypt(salt, 32, 1 << work_factor, 8, 1).derive(
            passphrase.encode("utf-8", "surrogateescape")
        )
    except MemoryError:
        raise CrucibleError(
            f"Not enough memory for the passphrase: its work factor takes {1 << work_factor >> 10}"
            " MB. Close other programs and try again."
        ) from None


def _no_key(stanzas: Sequence[Stanza], identities: int, passphrase: bool) -> BadInput:
    kinds = Counter(stanza.arguments[0] for stanza in stanzas)
    listed = ", ".join(f"{n} of type {kind[:40]}" for kind, n in kinds.items())
    if identities == 0:
        given = "no secret key was given" + (", only a passphrase" if passphrase else "")
    else:
        given = (
            "the secret key given is" if identities == 1 else f"none of the {identities} given is"
        )
        given += " not one of theirs" if identities == 1 else " one of theirs"
    return BadInput(
        f"No key opens the file: it has {_count(len(stanzas))} ({listed}), and {given}. Give "
        "the identity file of one of them (--identity on the command line)."
    )


def _damaged(why: str) -> BadInput:
    return BadInput(f"The header is damaged: {why}. Take an unharmed copy of the file.")


def _count(recipients: int) -> str:
    return f"{recipients} recipient{'' if recipients == 1 else 's'}"
