"""How connections are encrypted, from files: certificate, key, the CAs of clients' certificates.

Looked at when the configuration is read as well, so this imports nothing of the server.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import ssl
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

FILE_LIMIT = 1 << 20  # bytes; a system's whole bundle of certificates has a quarter of that


class CertificateError(Exception):
    """What is wrong, and what to do. `key`: which of `http.tls`; `path`: the file, None where it is none.

    `closed`: nothing is wrong with the file, but this user may not read it.
    """

    def __init__(self, key: str, path: Path | None, text: str, *, closed: bool = False) -> None:
        super().__init__(text)
        self.key, self.path, self.closed = key, path, closed

    def told(self) -> str:
        """In one line, with the file."""
        return f"http.tls.{self.key}: {self.path}: {self}" if self.path else f"http.tls.{self.key}: {self}"


@dataclass(frozen=True, slots=True)
class Tls:
    """`http.tls`. `ciphers`: OpenSSL's names for TLS up to 1.2; None: those of TLS 1.3 only."""

    certificate: Path
    key: Path
    client_cas: tuple[Path, ...] = ()
    client_auth: ssl.VerifyMode = ssl.CERT_NONE
    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    ciphers: tuple[str, ...] | None = None


def build(tls: Tls) -> ssl.SSLContext:
    """Blocks. Raises CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    # In the client's order: it knows what its processor is quick at.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    minimum = tls.minimum if tls.ciphers else ssl.TLSVersion.TLSv1_3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's about TLS 1.0 and 1.1: asked for
        context.minimum_version = minimum
    if tls.ciphers:
        # OpenSSL 3 has no signature for TLS 1.0 and 1.1 above its level 0.
        level = ":@SECLEVEL=0" if minimum < ssl.TLSVersion.TLSv1_2 else ""
        try:
            context.set_ciphers(":".join(tls.ciphers) + level)
        except ssl.SSLError as error:
            text = f"none of them is in this machine's {ssl.OPENSSL_VERSION}"
            raise CertificateError("ciphersuites", None, text) from error
    _load_pair(context, tls)
    for number, path in enumerate(tls.client_cas):
        _load_ca(context, path, f"clientcas[{number}]")
    if tls.client_cas:
        # As in Go, what is listed is trusted, also an intermediate one without its root.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_mode = tls.client_auth
    return context


def doubts(path: Path, now: datetime) -> list[str]:
    """Why clients will refuse a certificate that OpenSSL takes: its dates, and whom it is for. Blocks."""
    from cryptography import x509  # 40 ms of a start that needs none of it without TLS

    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except (OSError, ValueError):  # of a kind that only OpenSSL knows, or gone
        return []
    found = []
    if now > until:
        found.append(f"the certificate has expired, on {until:%Y-%m-%d %H:%M} UTC: clients refuse it")
    elif now < since:
        found.append(
            f"the certificate counts from {since:%Y-%m-%d %H:%M} UTC on: until then clients refuse it"
        )
    try:
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        found.append(
            "the certificate has no subject alternative name: docker, containerd and podman refuse it"
        )
    except ValueError:  # extensions that OpenSSL does not look at
        pass
    return found


def _load_pair(context: ssl.SSLContext, tls: Tls) -> None:
    for key, path in (("certificate", tls.certificate), ("key", tls.key)):
        if "-----BEGIN" not in read(key, path).decode("ascii", "replace"):
            raise CertificateError(key, path, "not a PEM file: there is no line -----BEGIN …----- in it")

    def no_passphrase() -> NoReturn:
        """Without this, OpenSSL would ask for one on the terminal, and wait."""
        raise CertificateError("key", tls.key, "the key has a passphrase: write one without")

    try:
        context.load_cert_chain(tls.certificate, tls.key, no_passphrase)
    except ssl.SSLError as error:
        reason = error.reason or ""
        if "MISMATCH" in reason:
            text = f"the key is for another certificate than the one in {tls.certificate}"
            raise CertificateError("key", tls.key, text) from error
        if _has_certificate(tls.certificate):
            text = f"no private key that OpenSSL can use ({reason.replace('_', ' ').lower() or 'unreadable'})"
            raise CertificateError("key", tls.key, text) from error
        body = read("certificate", tls.certificate)
        if b"PRIVATE KEY-----" in body and b"-----BEGIN CERTIFICATE" not in body:
            text = "it holds a key and no certificate: are certificate and key in each other's place?"
            raise CertificateError("certificate", tls.certificate, text) from error
        text = f"no certificate that OpenSSL can use ({reason.replace('_', ' ').lower() or 'unreadable'})"
        raise CertificateError("certificate", tls.certificate, text) from error


def _has_certificate(path: Path) -> bool:
    """Whether OpenSSL can read the first certificate, and takes it for good enough."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with contextlib.suppress(ssl.SSLError, OSError):
        context.load_verify_locations(path)
    return context.cert_store_stats()["x509"] > 0


def _load_ca(context: ssl.SSLContext, path: Path, key: str) -> None:
    body = read(key, path)
    try:
        context.load_verify_locations(cadata=body.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:  # ValueError: nothing at all in it
        raise CertificateError(key, path, "wanted a file with CA certificates in PEM form") from error


def read(key: str, path: Path) -> bytes:
    """A small file. Raises CertificateError, which names who could not read it."""
    try:
        with path.open("rb") as file:
            body = file.read(FILE_LIMIT + 1)
    except PermissionError as error:
        who = user()
        text = f"user {who} may not read it: give it to that user (chown), or to its group (chgrp, chmod g+r)"
        raise CertificateError(key, path, text, closed=True) from error
    except OSError as error:
        raise CertificateError(key, path, f"cannot be read: {error.strerror}") from error
    if len(body) > FILE_LIMIT:
        raise CertificateError(key, path, f"wanted a file of at most {FILE_LIMIT >> 20} MiB")
    return body


def user() -> str:
    """Who this process is: `mirror (65532)`, or the number alone where it has no name."""
    number = os.geteuid()
    try:
        return f"{pwd.getpwuid(number).pw_name} ({number})"
    except KeyError:
        return str(number)
