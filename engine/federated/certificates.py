"""What a deployment needs to be sure of who is who: a certificate authority of one's own, the
SuperLink's certificate, and a key for each SuperNode."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from engine.errors import BadInput
from engine.files import atomic

CA, SERVER, SERVER_KEY, NODES = "ca.crt", "server.crt", "server.key", "nodes"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
DAYS = 365


def make_certificates(folder: Path, hosts: Sequence[str], nodes: int, days: int = DAYS) -> None:
    """Write into `folder`, which must not have them yet: `ca.crt`; `server.crt` and `server.key`,
    for `hosts` (names or addresses) and this machine; `nodes/node-K` and `node-K.pub` for each of
    `nodes` clients.

    The authority's own key is not written: what it signed is all that it will ever sign. Raises
    BadInput for a host that is none, and where there are certificates already.
    """
    if (folder / CA).exists():
        raise BadInput(
            f"{folder} has certificates already; nodes that trust them would be lost. Take another "
            "folder, or delete this one first."
        )
    names = [_alternative(host) for host in dict.fromkeys((*LOOPBACK, *hosts))]
    begin = datetime.now(UTC) - timedelta(minutes=5)  # clocks differ
    end = begin + timedelta(days=days)
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = _name("Crucible federation")
    own = (
        _begun(issuer, issuer, authority.public_key(), begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False
        )
        .sign(authority, hashes.SHA256())
    )
    server = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _begun(_name("SuperLink"), issuer, server.public_key(), begin, end)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),
            critical=False,
        )
        .sign(authority, hashes.SHA256())
    )
    (folder / NODES).mkdir(parents=True, exist_ok=True)
    _write(folder / SERVER_KEY, _private(server, PrivateFormat.PKCS8), secret=True)
    _write(folder / SERVER, certificate.public_bytes(Encoding.PEM))
    for node in range(nodes):
        key = ec.generate_private_key(ec.SECP384R1())
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        _write(folder / NODES / f"node-{node}", _private(key, PrivateFormat.OpenSSH), secret=True)
        _write(folder / NODES / f"node-{node}.pub", public + b"\n")
    _write(folder / CA, own.public_bytes(Encoding.PEM))


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    if not host or any(c.isspace() or c in ":/" for c in host) or not host.isascii():
        raise BadInput(f"{host!r} is no host; expected a name or an address, as in 192.168.1.7")
    return x509.DNSName(host)


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    begin: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _private(key: ec.EllipticCurvePrivateKey, form: PrivateFormat) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def _write(path: Path, content: bytes, *, secret: bool = False) -> None:
    with atomic(path, mode=0o600 if secret else 0o644) as file:
        file.write(content)
