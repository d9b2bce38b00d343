"""Whether the server can listen as `http` says: certificates that are there and fit, and nothing half given.

What would leave clients unencrypted that were to be encrypted, or let in whom it was to keep out, stops the
start; also where the registry looks away (`clientcas` without a certificate).
"""

from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from mirror.config import UNIX, Http
from mirror.config import Tls as TlsKeys
from mirror.confighosts import SocketPath
from mirror.configproblems import Problem, Warning_, find, joined, show_path
from mirror.configtls import (
    CIPHERS,
    DEFAULT_VERSION,
    IF_GIVEN,
    REQUEST,
    REQUIRE,
    REQUIRE_ANY,
    VERIFY_MODES,
    VERSIONS,
    openssl_ciphers,
)
from mirror.configtree import Table
from mirror.server import tlscontext

TLS: Final = ("http", "tls")


def tls_of(tls: TlsKeys) -> tlscontext.Tls | None:
    """What the server needs to know; None for no TLS."""
    if not tls.certificate:
        return None
    return tlscontext.Tls(
        certificate=Path(tls.certificate),
        key=Path(tls.key),
        client_cas=tuple(map(Path, tls.clientcas)),
        client_auth=VERIFY_MODES[tls.clientauth],
        minimum=VERSIONS[tls.minimumtls],
        ciphers=openssl_ciphers(tls.ciphersuites),
    )


def check_listening(http: Http, tree: Table) -> tuple[list[Problem], list[Warning_]]:
    """What is wrong with `http.addr` and `http.tls`, and what is not meant as it stands."""
    problems = _missing(http, tree)
    if not problems:
        problems = _client_auth(http.tls, tree)
    if not problems and (tls := tls_of(http.tls)) is not None:
        try:
            tlscontext.build(tls)
        except tlscontext.CertificateError as error:
            problems.append(_of_file(error, tree))
    return problems, [] if problems else _doubtful(http.tls, tree)


def _missing(http: Http, tree: Table) -> list[Problem]:
    problems = []
    if http.net == UNIX and not isinstance(http.addr, SocketPath):
        text = "missing, wanted the path of a socket, such as /run/mirror/http.sock: http.net is unix"
        problems.append(_at(tree, ("http", "addr"), text))
    tls = http.tls
    if not tls.certificate and (tls.key or tls.clientcas or tls.clientauth):
        text = "missing, wanted a PEM file: without it clients would be answered unencrypted"
        problems.append(_at(tree, (*TLS, "certificate"), text))
    elif tls.certificate and not tls.key:
        text = "missing, wanted the PEM file with the key of http.tls.certificate"
        problems.append(_at(tree, (*TLS, "key"), text))
    return problems


def _client_auth(tls: TlsKeys, tree: Table) -> list[Problem]:
    at = (*TLS, "clientauth")
    if tls.clientauth == REQUIRE_ANY:
        text = (
            f"Python's ssl cannot ask for a certificate without looking at who signed it; write {REQUIRE} "
            f"with clientcas, or {REQUEST}"
        )
        return [_at(tree, at, f"got {tls.clientauth!r}: {text}")]
    if tls.clientauth in (IF_GIVEN, REQUIRE) and not tls.clientcas:
        text = "there are no clientcas, and without those nobody is asked for a certificate"
        return [_at(tree, at, f"got {tls.clientauth!r}: {text}")]
    return []


def _doubtful(tls: TlsKeys, tree: Table) -> list[Warning_]:
    if not tls.certificate:
        given = {"minimumtls": tls.minimumtls != DEFAULT_VERSION, "ciphersuites": bool(tls.ciphersuites)}
        text = "not looked at: there is no http.tls.certificate, and so no TLS"
        return [_warning(tree, (*TLS, key), text) for key, is_given in given.items() if is_given]
    at = (*TLS, "certificate")
    said = [(at, text) for text in tlscontext.doubts(Path(tls.certificate), datetime.now(UTC))]
    if tls.clientauth == REQUEST:
        text = f"nobody is asked for a certificate: {REQUEST} lets in those without one, and with any"
        said.append(((*TLS, "clientauth"), text))
    if tls.clientcas and tls.clientauth == REQUEST:
        said.append(((*TLS, "clientcas"), f"not looked at: clientauth is {REQUEST}"))
    if tls.ciphersuites and VERSIONS[tls.minimumtls] is ssl.TLSVersion.TLSv1_3:
        said.append(((*TLS, "ciphersuites"), "not looked at: TLS 1.3 has its own, and they are always on"))
    elif missing := _not_here(tls.ciphersuites):
        text = f"not in this machine's {ssl.OPENSSL_VERSION}: {', '.join(missing)}"
        said.append(((*TLS, "ciphersuites"), text))
    return [_warning(tree, at, text) for at, text in said]


def _not_here(names: tuple[str, ...]) -> list[str]:
    """Those that OpenSSL was built without."""
    missing = []
    for name in names:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.set_ciphers(f"{CIPHERS[name]}:@SECLEVEL=0" if name in CIPHERS else "DEFAULT")
        except ssl.SSLError:
            missing.append(name)
    return missing


def _of_file(error: tlscontext.CertificateError, tree: Table) -> Problem:
    key, _, number = error.key.partition("[")
    at: tuple[str | int, ...] = (*TLS, key)
    if number:
        at = (*at, int(number.rstrip("]")))
    text = f"got {show_path(error.path)}: {error}" if error.path else str(error)
    return replace(_at(tree, at, text), closed=error.closed)


def _at(tree: Table, path: tuple[str | int, ...], text: str) -> Problem:
    return Problem(find(tree, path)[1], joined(*path), text)


def _warning(tree: Table, path: tuple[str | int, ...], text: str) -> Warning_:
    return Warning_(find(tree, path)[1], joined(*path), text)
