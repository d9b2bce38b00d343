"""Certificates made on the spot, for TLS servers on loopback and for clients that show one."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

Pair = tuple[Path, Path]
DAY = timedelta(days=1)


def self_signed(
    folder: Path, name: str, *, nameless: bool = False, since: timedelta = -DAY, until: timedelta = DAY
) -> Pair:
    """Certificate and key, PEM files `<name>.pem` and `<name>.key`; good for 127.0.0.1, for a day.

    It may sign others, too. `nameless`: it is for no address at all.
    """
    now = datetime.now(UTC)
    return _write(folder, name, None, now + until, since=now + since, ca=True, nameless=nameless)


def issued(
    folder: Path, name: str, by: Pair, *, expired: bool = False, ca: bool = False, rsa_key: bool = False
) -> Pair:
    """The same, signed by another pair."""
    until = datetime.now(UTC) + (-DAY / 24 if expired else DAY)
    return _write(folder, name, by, until, ca=ca, rsa_key=rsa_key)


def locked(pair: Pair, passphrase: bytes) -> Path:
    """The pair's key in a file that wants a passphrase."""
    key = load_pem_private_key(pair[1].read_bytes(), None)
    path = pair[1].with_suffix(".locked")
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
    )
    return path


def _write(
    folder: Path,
    name: str,
    by: Pair | None,
    until: datetime,
    *,
    ca: bool,
    since: datetime | None = None,
    rsa_key: bool = False,
    nameless: bool = False,
) -> Pair:
    key = rsa.generate_private_key(65537, 2048) if rsa_key else ec.generate_private_key(ec.SECP256R1())
    subject = issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = key
    if by is not None:
        issuer = x509.load_pem_x509_certificate(by[0].read_bytes()).subject
        loaded = load_pem_private_key(by[1].read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        signer = loaded
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since or datetime.now(UTC) - DAY)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not nameless:
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    certificate = builder.sign(signer, hashes.SHA256())
    certificate_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate_file, key_file
