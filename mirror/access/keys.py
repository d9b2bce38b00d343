"""Which keys may have signed a token: the certificates of `rootcertbundle` and the keys of `jwks`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from mirror.access.certificates import ChainError, PublicKey, algorithms, key_ids, signing_key

FILE_LIMIT = 1 << 20  # bytes; a bundle has a few certificates
KEYS_MAX = 1000
_PUBLIC = ("kty", "n", "e", "crv", "x", "y")  # of a JSON Web Key; the rest is private, or not asked


class KeysError(ValueError):
    """Not a file of keys; the text says what is wanted, and shows nothing of the file."""


class KeyNotTrustedError(ValueError):
    """No key that is trusted fits what a token's header says; the text is for the log."""


@dataclass(frozen=True, slots=True)
class Keys:
    """`roots` vouch for chains in a token's header; `by_id` are keys by the names that tokens call them."""

    roots: tuple[x509.Certificate, ...] = ()
    by_id: Mapping[str, PublicKey] = field(default_factory=dict)

    def find(self, header: Mapping[str, Any], now: datetime) -> PublicKey:
        """The key that signed a token, by its header: `x5c`, else `jwk`, else `kid`, as in distribution.

        Whatever a header brings along, the key that comes back is one that is trusted: one of ours, or one
        that a root of ours has signed for. Raises KeyNotTrustedError.
        """
        if "x5c" in header:
            return self._by_chain(header["x5c"], now)
        if "jwk" in header:
            jwk = header["jwk"]
            if isinstance(jwk, dict) and "x5c" in jwk:
                return self._by_chain(jwk["x5c"], now)
            return self._like(jwk)
        kid = header.get("kid")
        if not isinstance(kid, str) or kid not in self.by_id:
            raise KeyNotTrustedError("it is signed by a key that is not known here")
        return self.by_id[kid]

    def _by_chain(self, chain: object, now: datetime) -> PublicKey:
        try:
            return signing_key(chain, self.roots, now)
        except ChainError as error:
            raise KeyNotTrustedError(f"its certificate chain is not trusted: {error}") from error

    def _like(self, jwk: object) -> PublicKey:
        """Our own key that is the same as this one. NB: its `kid` is the sender's word, and not looked at."""
        key = _public(jwk)
        known = [self.by_id[name] for name in key_ids(key) if name in self.by_id] if key is not None else []
        if not known:
            raise KeyNotTrustedError("the key in its header is not known here")
        return known[0]


def load(bundle: Path | None, jwks: Path | None) -> Keys:
    """The keys of both files. Raises KeysError, and OSError."""
    roots = certificates(read(bundle)) if bundle is not None else ()
    by_id: dict[str, PublicKey] = {}
    for root in roots:
        key = root.public_key()
        if isinstance(key, PublicKey) and algorithms(key):
            by_id |= dict.fromkeys(key_ids(key), key)
    if jwks is not None:
        by_id |= parse_jwks(read(jwks))
    return Keys(tuple(roots), by_id)


def certificates(body: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM bundle. Raises KeysError."""
    try:
        found = x509.load_pem_x509_certificates(body)
    except ValueError as error:
        raise KeysError("wanted a file with certificates in PEM form") from error
    if len(found) > KEYS_MAX:
        raise KeysError(f"wanted at most {KEYS_MAX} certificates")
    return tuple(found)


def parse_jwks(body: bytes) -> dict[str, PublicKey]:
    """The public keys of a JSON Web Key Set (RFC 7517 §5) by their `kid`. Raises KeysError.

    Keys of other kinds, also shared secrets, are passed over: anybody who can read the file could sign.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise KeysError("wanted a JSON Web Key Set") from error
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > KEYS_MAX:
        raise KeysError(f'wanted a JSON Web Key Set: {{"keys": [...]}} with at most {KEYS_MAX} keys')
    found: dict[str, PublicKey] = {}
    for entry in entries:
        key = _public(entry)
        if key is None:
            continue
        kid = entry.get("kid")
        names = (kid,) if isinstance(kid, str) and kid else ()
        for name in (*key_ids(key), *names):
            if found.setdefault(name, key) != key:
                raise KeysError(f"wanted each kid once; {name[:100]!r} is there twice")
    if not found:
        raise KeysError("wanted a JSON Web Key Set with a public key of kind RSA, EC or OKP (Ed25519) in it")
    return found


def _public(jwk: object) -> PublicKey | None:
    """The key, if it is a public one of a kind that is used here."""
    if not isinstance(jwk, dict) or jwk.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    plain = {name: jwk[name] for name in _PUBLIC if isinstance(jwk.get(name), str)}
    try:
        key = jwt.PyJWK(plain).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, PublicKey) and algorithms(key) else None


def read(path: Path) -> bytes:
    """Raises KeysError, and OSError."""
    with path.open("rb") as file:
        body = file.read(FILE_LIMIT + 1)
    if len(body) > FILE_LIMIT:
        raise KeysError(f"wanted a file of at most {FILE_LIMIT >> 20} MiB")
    return body
