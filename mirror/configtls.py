"""The words of `http.tls`: registry:2's and registry:3's, and what they are called in OpenSSL."""

from __future__ import annotations

import ssl
from typing import Final

from mirror.configvalues import parse_text

VERSIONS: Final = {
    "tls1.0": ssl.TLSVersion.TLSv1,  # this one and the next: registry:2 only
    "tls1.1": ssl.TLSVersion.TLSv1_1,
    "tls1.2": ssl.TLSVersion.TLSv1_2,
    "tls1.3": ssl.TLSVersion.TLSv1_3,
}
DEFAULT_VERSION: Final = "tls1.2"

REQUEST, REQUIRE_ANY = "request-client-cert", "require-any-client-cert"
IF_GIVEN, REQUIRE = "verify-client-cert-if-given", "require-and-verify-client-cert"
CLIENT_AUTH: Final = (REQUEST, REQUIRE_ANY, IF_GIVEN, REQUIRE)
VERIFY_MODES: Final = {
    "": ssl.CERT_REQUIRED,
    REQUEST: ssl.CERT_NONE,  # nobody is kept out by it, so nobody is asked: see configlisten
    IF_GIVEN: ssl.CERT_OPTIONAL,
    REQUIRE: ssl.CERT_REQUIRED,
}

# Go's names (crypto/tls) that the registry takes. Those of TLS 1.3 are always on, there and here.
_TLS_1_3: Final = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
CIPHERS: Final = {
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA": "DES-CBC3-SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA": "ECDHE-RSA-DES-CBC3-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
}
# The registry's own: forward secrecy, and nothing in CBC.
DEFAULT_CIPHERS: Final = tuple(
    CIPHERS[name] for name in CIPHERS if name.startswith("TLS_ECDHE_") and "_CBC_" not in name
)


def parse_cipher(value: object) -> str:
    """Go's name of a cipher suite that the registry takes."""
    text = parse_text(value)
    if text not in CIPHERS and text not in _TLS_1_3:
        known = ", ".join((*CIPHERS, *_TLS_1_3))
        raise ValueError(f"one of Go's names of cipher suites: {known}")
    return text


def openssl_ciphers(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """For TLS up to 1.2, in OpenSSL's words; None where only those of TLS 1.3 are named."""
    if not names:
        return DEFAULT_CIPHERS
    return tuple(CIPHERS[name] for name in names if name in CIPHERS) or None
