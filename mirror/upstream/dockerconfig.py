"""docker's config.json as it is read, without reading it: what it has for a registry. No I/O.

`auths` has logins by registry, `credHelpers` names of helpers by registry, `credsStore` the helper of all
others: `docker-credential-<name>` on the PATH. As with docker a helper goes before `auths`; unlike docker,
`auths` is looked at when a helper has nothing. Source: docker's documentation of `docker login`, "Credential
stores" and "Credential helpers"; containers-auth.json(5), whose keys for a part of a registry are not used.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mirror.upstream.credentials import ANONYMOUS, Credentials

HUB_KEY = "https://index.docker.io/v1/"  # what `docker login` without a host writes
_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HELPER_NAME = re.compile(r"[\w.-]+\Z", re.ASCII)  # a part of a file's name, no path
_DECORATION = re.compile(r"\Ahttps?://|/(?:v[12]/?)?\Z")

_V = TypeVar("_V")


class DockerConfigError(ValueError):
    """Not a docker config.json; `str()` says what is wrong, without any of its values."""


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """The parts of a config.json that are about credentials."""

    auths: Mapping[str, Credentials] = field(default_factory=dict, repr=False)
    helpers: Mapping[str, str] = field(default_factory=dict)  # names, without `docker-credential-`
    store: str = ""

    @classmethod
    def parse(cls, body: bytes) -> DockerConfig:
        """Read it. Raises DockerConfigError: one broken entry breaks the whole, as with docker."""
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise DockerConfigError("it is not JSON") from None  # no cause: it holds the document
        if not isinstance(document, dict):
            raise DockerConfigError("it is not a JSON object")
        auths = {key: _login(key, entry) for key, entry in _table(document, "auths").items()}
        names = _table(document, "credHelpers")
        helpers = {key: _helper_name(f"credHelpers[{key!r}]", name) for key, name in names.items()}
        store = document.get("credsStore")
        return cls(auths, helpers, _helper_name("credsStore", store) if store else "")

    def login(self, host: str) -> Credentials:
        """What `auths` has for this host; ANONYMOUS for nothing."""
        return _find(self.auths, host) or ANONYMOUS

    def helper(self, host: str) -> str:
        """The program to ask for this host; empty for none."""
        name = _find(self.helpers, host) or self.store
        return f"docker-credential-{name}" if name else ""


def server_of(host: str) -> str:
    """How docker calls this host when it asks a helper."""
    return HUB_KEY if host in _HUB else host


def _find(entries: Mapping[str, _V], host: str) -> _V | None:
    """The entry of a host: under docker's own key for it, else under one that means the same."""
    own = server_of(host)
    if own in entries:
        return entries[own]
    hosts = _HUB if host in _HUB else {host}
    return next((entry for key, entry in entries.items() if _host(key) in hosts), None)


def _host(key: str) -> str:
    """`https://Registry.example/v1/` -> `registry.example`; a key with any other path stays no host."""
    return _DECORATION.sub("", key.strip().lower())


def _table(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = document.get(name)
    if table is not None and not isinstance(table, dict):
        raise DockerConfigError(f"{name} is not an object")
    return table or {}


def _login(key: str, entry: Any) -> Credentials:
    """An entry of `auths`: `auth` is base64 of user:password; empty where a helper keeps the login."""
    if not isinstance(entry, dict):
        raise DockerConfigError(f"auths[{key!r}] is not an object")
    parts = {name: entry.get(name) or "" for name in ("auth", "username", "password", "identitytoken")}
    if not all(isinstance(part, str) for part in parts.values()):
        raise DockerConfigError(f"auths[{key!r}] has something that is no text")
    username, password = parts["username"], parts["password"]
    if parts["auth"]:
        try:
            decoded = base64.b64decode(parts["auth"].strip(), validate=True).decode()
        except ValueError:
            raise DockerConfigError(f"auths[{key!r}].auth is not base64") from None
        username, colon, password = decoded.partition(":")
        if not colon:
            raise DockerConfigError(f"auths[{key!r}].auth is not user:password")
        password = password.strip("\0")  # some versions of docker pad it
    return Credentials(username, password, parts["identitytoken"])


def _helper_name(key: str, name: Any) -> str:
    if not isinstance(name, str) or _HELPER_NAME.match(name) is None:
        raise DockerConfigError(f"{key} is not the name of a credential helper")
    return name
