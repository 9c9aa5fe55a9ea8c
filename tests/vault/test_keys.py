"""Key pairs, their Bech32 text and their file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pyrage
import pytest

from engine.errors import BadInput
from engine.vault import bech32
from engine.vault.keys import (
    generate_identity,
    own_identity,
    parse_identity,
    parse_recipient,
    read_identities,
    unique,
    write_identity,
)

# The pair that the format's specification prints.
SECRET = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"
PUBLIC = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"


def test_the_pair_of_the_specification() -> None:
    identity = parse_identity(SECRET)
    assert identity.secret == b"\x42" * 32
    assert identity.recipient == PUBLIC
    assert identity.text == SECRET
    assert SECRET not in repr(identity)
    assert "B" * 8 not in repr(identity)


def test_pairs_agree_with_another_implementation() -> None:
    for _ in range(20):
        ours = generate_identity()
        assert str(pyrage.x25519.Identity.from_str(ours.text).to_public()) == ours.recipient
        theirs = pyrage.x25519.Identity.generate()
        assert parse_identity(str(theirs)).recipient == str(theirs.to_public())


def test_bech32_round_trip_and_vectors_of_bip_173() -> None:
    for size in (0, 1, 4, 5, 20, 32, 100, 1000):
        data = os.urandom(size)
        assert bech32.decode(bech32.encode("pre1fix", data)) == ("pre1fix", data)
    for text in ("A12UEL5L", "an83characterlonghumanreadablepartthatcontainsthenumber1andthe"
                 "excludedcharactersbio1tt5tgs"):  # fmt: skip
        assert bech32.decode(text)[1] == b""
    for text in ("pzry9x0s0muk", "1pzry9x0s0muk", "x1b4n0q5v", "li1dgmt3", "A1G7SGD8", "10a06t8",
                 "1qzzfhee", "de1lg7wt\xff", "a12UEL5L"):  # fmt: skip
        with pytest.raises(ValueError):
            bech32.decode(text)


def test_every_single_character_change_is_noticed() -> None:
    for place in range(len(PUBLIC)):
        changed = PUBLIC[:place] + ("q" if PUBLIC[place] != "q" else "p") + PUBLIC[place + 1 :]
        with pytest.raises(BadInput):
            parse_recipient(changed)


@pytest.mark.parametrize(
    ("text", "explained"),
    [
        (PUBLIC[:-1], "checksum"),
        (PUBLIC.replace("z", "Z", 1), "mixes upper and lower"),
        (PUBLIC.replace("z", "b", 1), "character 5 does not belong"),
        ("", "is not a key"),
        ("hello", "no '1'"),
        ("ssh-ed25519 AAAA", "SSH"),
        (bech32.encode("age1yubikey", bytes(33)), "another kind"),
        (bech32.encode("age", bytes(31)), "holds 31 bytes"),
    ],
)
def test_bad_recipients_are_explained(text: str, explained: str) -> None:
    with pytest.raises(BadInput, match=explained):
        parse_recipient(text)


def test_a_secret_key_as_recipient_is_not_repeated() -> None:
    with pytest.raises(BadInput, match="public key") as caught:
        parse_recipient(SECRET.lower())
    assert SECRET[20:30].lower() not in str(caught.value).lower()


def test_unique_keeps_the_order() -> None:
    other = generate_identity().recipient
    assert unique((PUBLIC, other, PUBLIC.upper(), f" {other}\n")) == (PUBLIC, other)


def test_identity_file(tmp_path: Path) -> None:
    path = tmp_path / "key.txt"
    identity = generate_identity()
    write_identity(path, identity)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    created, public, secret = path.read_text().splitlines()
    assert created.startswith("# created: 2")
    assert public == f"# public key: {identity.recipient}"
    assert secret == identity.text
    assert read_identities(path) == (identity,)
    with pytest.raises(BadInput, match="exists already"):
        write_identity(path, generate_identity())
    assert read_identities(path) == (identity,)


@pytest.mark.parametrize(
    ("content", "explained"),
    [
        (b"", "holds no secret key"),
        (b"# only a comment\n\n", "holds no secret key"),
        (PUBLIC.encode(), "Line 1 .* another kind"),
        (b"#\n" + SECRET[:-1].encode(), "Line 2 .* checksum"),
        (b"AGE-SECRET-KEY-PQ-1XX76", "Line 1"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\n", "SSH"),
        (b"age-encryption.org/v1\n-> scrypt", "itself encrypted"),
        (os.urandom(100), "Line 1|holds no"),
    ],
)
def test_bad_identity_files_are_explained(tmp_path: Path, content: bytes, explained: str) -> None:
    path = tmp_path / "key.txt"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=explained) as caught:
        read_identities(path)
    assert SECRET[20:-1] not in str(caught.value)


def test_own_identity_is_made_once(tmp_path: Path) -> None:
    keys = tmp_path / "workspace" / "keys"
    path, identity = own_identity(keys)
    assert path == keys / "identity.txt"
    assert own_identity(keys) == (path, identity)
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_absent_identity_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_identities(tmp_path / "absent")
