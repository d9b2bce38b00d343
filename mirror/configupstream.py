"""What is to be said about the upstream before the start: which one it is, and whether its CA file is one."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from mirror.config import DEFAULT_REMOTEURL, Proxy
from mirror.configproblems import Problem, Warning_, find, is_given, text_of
from mirror.configschema import slip
from mirror.configtree import Table, is_null

CA_LIMIT: Final = 1 << 20  # bytes; a system's whole bundle has a quarter of that
REMOTEURL: Final = "proxy.remoteurl"
_CREDENTIALS: Final = ("username", "password", "identitytoken")
_WEBSITES: Final = frozenset({"docker.io", "www.docker.io", "hub.docker.com", "docker.com", "www.docker.com"})


def check_remoteurl(
    tree: Table, *, from_file: bool, ignored: Sequence[str] = ()
) -> tuple[list[Problem], list[Warning_]]:
    """No login goes to a registry that nobody named, and Docker Hub is not mirrored by oversight.

    `ignored`: the variables that were not taken, and look as if this key was meant.
    """
    proxy, source = find(tree, ("proxy",))
    if proxy is not None and not isinstance(proxy, Table) and not is_null(proxy):
        return [], []  # of the wrong shape, which is reported elsewhere
    entries = proxy.entries if isinstance(proxy, Table) else {}
    url = entries.get("remoteurl")
    if is_given(url):
        return [], _check_host(text_of(url), url.source if url else source)
    if any(slip(key, ["remoteurl"]) for key in entries if key != "remoteurl"):
        return [], []  # reported as an unknown key
    for key in _CREDENTIALS:
        if is_given(entries.get(key)):
            text = (
                f"missing, wanted beside proxy.{key}: the registry that the login is for "
                f"(Docker Hub's is {DEFAULT_REMOTEURL})"
            )
            if ignored:
                text += f"; {ignored[0]} is no variable, write REGISTRY_PROXY_REMOTEURL"
            return [Problem(entries[key].source, REMOTEURL, text)], []
    if not from_file and not entries:
        return [], []  # without any configuration Docker Hub is what is documented
    text = f"not set, so Docker Hub is mirrored; write {DEFAULT_REMOTEURL} there if that is meant"
    return [], [Warning_(source, REMOTEURL, text)]


def _check_host(url: str | None, source: str) -> list[Warning_]:
    """Docker's websites are not its registry, though its images are named after one of them."""
    try:
        host = urlsplit(url or "").hostname
    except ValueError:  # reported elsewhere
        return []
    if host not in _WEBSITES:
        return []
    return [Warning_(source, REMOTEURL, f"{host} is a website; Docker Hub's registry is {DEFAULT_REMOTEURL}")]


def check_ca(proxy: Proxy, tree: Table) -> list[Problem]:
    """The CA file must hold certificates now: later it would look like an upstream that is down."""
    if proxy.ca is None:
        return []
    _, source = find(tree, ("proxy", "ca"))
    given = f"got {str(proxy.ca)!r}, "
    try:
        with proxy.ca.open("rb") as file:
            body = file.read(CA_LIMIT + 1)
        if len(body) > CA_LIMIT:
            return [Problem(source, "proxy.ca", f"{given}wanted a file of at most {CA_LIMIT >> 20} MiB")]
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=body.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):  # ValueError: nothing at all in it
        return [Problem(source, "proxy.ca", f"{given}wanted a file with CA certificates in PEM form")]
    except OSError as error:
        return [Problem(source, "proxy.ca", f"{given}which cannot be read: {error.strerror}")]
    return []
