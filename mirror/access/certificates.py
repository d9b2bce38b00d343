"""Certificate chains of tokens (RFC 7515 §4.1.6), from the root down, and the names of keys.

distribution verifies them by Go's x509 with any key usage: the same rules, but for names, which a chain of a
token server has none of. A key is used only after a trusted one has signed for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

CHAIN_MAX = 8  # certificates; a chain has two or three
CERTIFICATE_LIMIT = 16 << 10  # characters of one in base64

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
# What cryptography raises about certificates and keys of somebody's making.
_UNFIT = (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion)


class ChainError(ValueError):
    """No chain that a trusted root has signed for."""


def algorithms(key: object) -> tuple[str, ...]:
    """Which signatures this key can have made; a public key never stands for a shared secret."""
    if isinstance(key, rsa.RSAPublicKey):
        return _RSA
    if isinstance(key, ec.EllipticCurvePublicKey):
        name = _CURVES.get(key.curve.name)
        return (name,) if name else ()
    return ("EdDSA",) if isinstance(key, ed25519.Ed25519PublicKey) else ()


def key_ids(key: PublicKey) -> tuple[str, str]:
    """What registry:3 and registry:2 call a key: its RFC 7638 thumbprint, and libtrust's fingerprint."""
    if isinstance(key, rsa.RSAPublicKey):
        jwk = RSAAlgorithm.to_jwk(key, as_dict=True)
        names: tuple[str, ...] = ("e", "kty", "n")
    elif isinstance(key, ec.EllipticCurvePublicKey):
        jwk = ECAlgorithm.to_jwk(key, as_dict=True)
        names = ("crv", "kty", "x", "y")
    else:
        jwk = OKPAlgorithm.to_jwk(key, as_dict=True)
        names = ("crv", "kty", "x")
    text = json.dumps({name: jwk[name] for name in names}, separators=(",", ":"))
    thumbprint = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    letters = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    return thumbprint, ":".join(letters[at : at + 4] for at in range(0, len(letters), 4))


def signing_key(chain: object, roots: Sequence[x509.Certificate], now: datetime) -> PublicKey:
    """The key of an `x5c` header's first certificate, if a root vouches for it now. Raises ChainError."""
    if not isinstance(chain, list) or not 0 < len(chain) <= CHAIN_MAX:
        raise ChainError(f"not a list of 1 to {CHAIN_MAX} certificates")
    certificates = [_certificate(each) for each in chain]
    path = _path(certificates[0], certificates[1:], roots)
    for number, certificate in enumerate(path):
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise ChainError("a certificate has expired, or is not valid yet")
        if number:
            _check_authority(certificate, below=number - 1)
    key = path[0].public_key()
    if not isinstance(key, PublicKey):
        raise ChainError("the key is of a kind that signs no tokens")
    return key


def _certificate(text: object) -> x509.Certificate:
    if not isinstance(text, str) or len(text) > CERTIFICATE_LIMIT:
        raise ChainError("not a certificate in base64")
    try:
        return x509.load_der_x509_certificate(base64.b64decode(text.encode("ascii"), validate=True))
    except _UNFIT as error:  # binascii.Error is a ValueError
        raise ChainError("not a certificate in base64") from error


def _path(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]
) -> list[x509.Certificate]:
    """From the leaf to a root. Raises ChainError.

    Found by names, which costs nothing; signatures are checked from the root down, so that no key is used
    before one that is trusted has signed for it.
    """
    path = [leaf]
    while path[-1] not in roots:
        last = path[-1]
        signer = next((root for root in roots if root.subject == last.issuer and _signed(root, last)), None)
        between = (each for each in others if each.subject == last.issuer and each not in path)
        found = signer or next(between, None)
        if found is None:
            raise ChainError("no trusted root has signed for it")
        path.append(found)
    for issuer, issued in zip(reversed(path[1:]), reversed(path[:-1]), strict=True):
        if not _signed(issuer, issued):
            raise ChainError("a signature in it is wrong")
    return path


def _signed(issuer: x509.Certificate, issued: x509.Certificate) -> bool:
    try:
        issued.verify_directly_issued_by(issuer)
    except _UNFIT:
        return False
    return True


def _check_authority(certificate: x509.Certificate, below: int) -> None:
    """Whether it may sign certificates, with so many authorities below it. Raises ChainError."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not constraints.ca or (constraints.path_length is not None and constraints.path_length < below):
            raise ChainError("a certificate in it may not sign others")
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        if not usage.key_cert_sign:
            raise ChainError("a certificate in it may not sign others")
    except x509.ExtensionNotFound as error:
        if error.oid != x509.KeyUsage.oid:
            raise ChainError("a certificate in it may not sign others") from error
    except (ValueError, x509.DuplicateExtension) as error:
        if isinstance(error, ChainError):
            raise
        raise ChainError("a certificate in it has extensions that cannot be read") from error
