"""Keys and certificates of token servers, and tokens that they sign, rightly or not."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

ISSUER, SERVICE = "issuer.example", "mirror.example"
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def rsa_key() -> rsa.RSAPrivateKey:
    """2048 bits."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pull(*names: str) -> list[dict[str, Any]]:
    """`access` claims."""
    return [{"type": "repository", "name": name, "actions": ["pull"]} for name in names]


def claims(*names: str, **changed: Any) -> dict[str, Any]:
    """What a good token says; a claim that is changed to None is left out."""
    now = int(time.time())
    good = {
        "iss": ISSUER,
        "sub": "bob",
        "aud": SERVICE,
        "iat": now,
        "nbf": now - 1,
        "exp": now + 300,
        "access": pull(*names),
    }
    return {name: value for name, value in {**good, **changed}.items() if value is not None}


def unsigned(header: dict[str, Any], body: dict[str, Any], signature: bytes = b"") -> str:
    """A token of any form."""
    return ".".join(encoded(part) for part in (json.dumps(header), json.dumps(body), signature))


def signed(body: dict[str, Any], key: Private, algorithm: str, header: dict[str, Any] | None = None) -> str:
    """Rightly, whatever it says: PyJWT's `encode` would look at some claims."""
    return jwt.PyJWS().encode(json.dumps(body).encode(), key, algorithm, header)


def encoded(part: str | bytes) -> str:
    """Base64 for URLs, without padding."""
    raw = part.encode() if isinstance(part, str) else part
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def certificate(
    name: str,
    key: Private,
    issuer: tuple[str, Private] | None = None,
    *,
    ca: bool = True,
    days: tuple[int, int] = (-1, 1),
    path_length: int | None = None,
) -> x509.Certificate:
    """Signed by the issuer, or by itself; valid from and to so many days from now."""
    by, signer = issuer or (name, key)
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, by)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length if ca else None), critical=True)
        .sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )


def x5c(*chain: x509.Certificate) -> list[str]:
    """As it stands in a token's header."""
    return [base64.b64encode(each.public_bytes(Encoding.DER)).decode() for each in chain]


def pem(*certificates: x509.Certificate) -> bytes:
    """As it stands in a bundle."""
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


@dataclass(slots=True)
class Signer:
    """A token server's key with its certificate, which is the bundle's."""

    key: rsa.RSAPrivateKey = field(default_factory=rsa_key)
    root: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        self.root = certificate("root", self.key)

    def token(self, *names: str, header: dict[str, Any] | None = None, **changed: Any) -> str:
        """A good token for pulling from these repositories, but for what is changed."""
        given = {"x5c": x5c(self.root)} if header is None else header
        return signed(claims(*names, **changed), self.key, "RS256", given)
