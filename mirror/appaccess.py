"""The part of the composition root that joins who may pull: the access controller, patterns, callers' rights.

Like `app` it reads `Config`, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from mirror.access import htpasswd, keys
from mirror.access.base import AccessController
from mirror.access.bearer import Token
from mirror.access.callers import Callers, Whose
from mirror.access.htpasswd import Htpasswd
from mirror.access.patterns import Patterns
from mirror.access.silly import Silly
from mirror.access.token import Verifier
from mirror.config import Auth, Config, Proxy
from mirror.configproxy import CALLER, Upstream
from mirror.oci.challenge import Said
from mirror.oci.names import Repository
from mirror.registry import RateLimited, RegistryError
from mirror.upstream.routes import Routes
from mirror.upstream.upstreams import Upstreams

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Gate:
    """What the server is told of rights."""

    access: AccessController | None
    forbids: Callable[[Repository], str | None]
    listed: Callable[[Repository], bool]


def build(config: Config, names: Routes, registries: Upstreams) -> Gate:
    """Raises OSError and KeysError for files that have gone since the configuration was checked."""
    proxy = config.proxy
    forbids = _forbids(proxy, names)
    by_caller = {key for key, entry in _entries(proxy).items() if entry.rights == CALLER}

    def is_callers(whose: Whose) -> bool:
        namespace = whose if isinstance(whose, str) else names.split(whose).namespace
        return bool(by_caller) and names.entry(namespace) in by_caller

    async def ask(whose: Whose, what: str, authorization: str) -> Said:
        try:
            return await registries.ask_as(authorization, whose, what)
        except RateLimited as error:
            return Said(429, retry_after=error.retry_after)
        except RegistryError:  # told in the log by whoever raised it
            return Said(503)

    access = Callers(is_callers, ask) if by_caller else _controller(config.auth)
    return Gate(access, forbids, lambda each: not is_callers(each) and forbids(each) is None)


def create_users(auth: Auth) -> None:
    """Make the file of `auth.htpasswd` if there is none; its password is told once. Raises OSError."""
    section = auth.htpasswd
    if section is None or section.path is None:
        return
    password = htpasswd.create_if_missing(section.path)
    if password is not None:
        user = htpasswd.NEW_USER
        # NB: as registry:3 does: in the text, where no redaction of fields hides it, and never again.
        log.warning("auth.htpasswd.created", path=str(section.path), detail=f"login: {user} {password}")


def _controller(auth: Auth) -> AccessController | None:
    if auth.silly is not None:
        return Silly(auth.silly.realm, auth.silly.service)
    if auth.htpasswd is not None and auth.htpasswd.path is not None:
        return Htpasswd(auth.htpasswd.realm, auth.htpasswd.path)
    if auth.token is not None:
        token = auth.token
        found = keys.load(token.rootcertbundle, token.jwks)
        verifier = Verifier(found, token.issuer, token.service, token.signingalgorithms)
        realm = "" if token.autoredirect else token.realm
        return Token(verifier, realm=realm, path=token.autoredirectpath)
    return None


def _forbids(proxy: Proxy, names: Routes) -> Callable[[Repository], str | None]:
    """By the upstream's own name for a repository: each upstream has its own patterns."""
    patterns = {
        key: Patterns("proxy" if entry is proxy else f"proxy.upstreams.{key}", entry.allow, entry.deny)
        for key, entry in _entries(proxy).items()
        if entry.allow or entry.deny
    }

    def forbids(repository: Repository) -> str | None:
        if not patterns:
            return None
        target = names.split(repository)
        found = patterns.get(names.entry(target.namespace))
        return found.forbids(target.repository.name) if found is not None else None

    return forbids


def _entries(proxy: Proxy) -> dict[str, Upstream]:
    """Every upstream by its configured namespace, or pattern."""
    return {proxy.namespace: proxy, **proxy.upstreams}
