"""Whether what upstreams need beside the configuration is there: certificates, docker's file, programs.

Looked at before the start: later it would look like an upstream that is down. No message shows what is in
a file.
"""

from __future__ import annotations

import os
import shlex
import shutil
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

from mirror.config import Proxy
from mirror.configproblems import Problem, Warning_, find, joined, show_path
from mirror.configproxy import Upstream
from mirror.configtree import Table
from mirror.configupstream import sections
from mirror.upstream.dockerconfig import DockerConfig, DockerConfigError

FILE_LIMIT: Final = 1 << 20  # bytes; a system's whole bundle of certificates has a quarter of that
_PAIR: Final = "wanted a PEM file with a client certificate, and its key in it or in clientkey"


class _Unusable(Exception):
    """The text says what is wrong with a file, and what is wanted. `closed`: this user may not read it."""

    def __init__(self, text: str, *, closed: bool = False) -> None:
        super().__init__(text)
        self.closed = closed


def check_files(proxy: Proxy, tree: Table) -> list[Problem]:
    """Certificates must be such, with their keys, and docker's configuration file must be JSON."""
    problems = []
    for at, upstream in sections(proxy):
        for key, check in _CHECKS.items():
            path: Path | None = getattr(upstream, key)
            if path is None:
                continue
            try:
                check(path, upstream)
            except _Unusable as error:
                text = f"got {show_path(path)}, {error}"
                problems.append(Problem(find(tree, (*at, key))[1], joined(*at, key), text, error.closed))
    return problems


def check_programs(proxy: Proxy, tree: Table, environ: Mapping[str, str]) -> list[Warning_]:
    """A program that is not there is a warning only: what needs no login works without it."""
    warnings = []
    for at, upstream in sections(proxy):
        if upstream.exec is None:
            continue
        program = shlex.split(upstream.exec.command)[0]
        if shutil.which(program, path=environ.get("PATH", os.defpath)) is None:
            text = f"there is no program {program[:100]!r} on PATH; until there is, what needs a login fails"
            path = (*at, "exec", "command")
            warnings.append(Warning_(find(tree, path)[1], joined(*path), text))
    return warnings


def _check_ca(path: Path, _upstream: Upstream) -> None:
    body = _read(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=body.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:  # ValueError: nothing at all in it
        raise _Unusable("wanted a file with CA certificates in PEM form") from error


def _check_key(path: Path, _upstream: Upstream) -> None:
    _read(path)


def _check_pair(path: Path, upstream: Upstream) -> None:
    """The certificate together with its key."""
    _read(path)
    try:
        if upstream.clientkey is not None:
            _read(upstream.clientkey)
    except _Unusable:
        return  # the key has a line of its own
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(path, upstream.clientkey, _no_passphrase)
    except ssl.SSLError as error:
        other = "wanted the certificate that its key is for: these do not fit"
        raise _Unusable(other if "MISMATCH" in (error.reason or "") else _PAIR) from error


def _no_passphrase() -> NoReturn:
    """Without this, OpenSSL would ask for one on the terminal, and wait."""
    raise _Unusable("wanted a key without a passphrase")


def _check_docker(path: Path, _upstream: Upstream) -> None:
    try:
        DockerConfig.parse(_read(path))
    except DockerConfigError as error:
        raise _Unusable(f"wanted docker's config.json: {error}") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            body = file.read(FILE_LIMIT + 1)
    except OSError as error:
        closed = isinstance(error, PermissionError)
        raise _Unusable(f"which cannot be read: {error.strerror}", closed=closed) from error
    if len(body) > FILE_LIMIT:
        raise _Unusable(f"wanted a file of at most {FILE_LIMIT >> 20} MiB")
    return body


_CHECKS: Final = {
    "ca": _check_ca,
    "clientcert": _check_pair,
    "clientkey": _check_key,
    "dockerconfig": _check_docker,
}
