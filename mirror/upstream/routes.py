"""Which registry a request means, and by which name the mirror knows the repository.

Clients name a registry in one of three ways: containerd and BuildKit by `?ns=`, whoever has set up DNS for it
by the host that is asked (`ghcr.io.mirror.example`), podman and people by the path's first component
(`mirror/quay.io/org/app`). Else the default upstream is meant: docker says nothing.

Inside, a repository has one **qualified** name. The default upstream's are bare (registry:2's tree); every
other's begin with its namespace, in which `_` stands for a port's colon. `Routes.split` is the inverse, and
`Routes.route` gives no name of which `split` says anything else: so no two repositories share one, and what
is kept of one registry is never taken for another's.

`ns` is a key to look up. Only in the open mode (`*`) is it a place to go to, and then public hosts alone are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from mirror.oci.errors import ErrorCode
from mirror.oci.names import MAX_NAME_LENGTH, Repository
from mirror.registry import RegistryError
from mirror.upstream import hosts
from mirror.upstream.hosts import HUB, HUB_NAMES, Pattern

OPEN = "*"  # the namespace that stands for every public host
CACHED = 4096  # answers that are remembered, some 2 MB; finding one takes up to 75 us, looking it up 1
CACHED_LENGTH = 300  # characters of `ns` and host; longer ones are no names
NAMED = 5  # namespaces that an error names: enough to see what kind of mirror this is
QUOTED = 80  # characters of a client's text in an error

By = Literal["ns", "host", "path", "default"]
_WORDS: dict[By, str] = {"ns": "?ns={}", "host": "host name {}", "path": "first component {} of the path"}


@dataclass(frozen=True, slots=True)
class Names:
    """What one upstream is called. `namespace` may be a pattern, or `*` for the open mode: without aliases.

    `hub`: one-component names are below `library/`, as nowhere but on Docker Hub.
    """

    namespace: str
    aliases: tuple[str, ...] = ()
    hub: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """One registry's repository, by the registry's own name for it."""

    namespace: str
    repository: Repository


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes, and why. `entry` is the configured namespace: a pattern, `*`, or `namespace`.

    `name` is the text that decided (an alias, a host name); empty when `by` is `default`.
    """

    namespace: str
    repository: Repository
    qualified: Repository
    entry: str
    by: By
    name: str

    @property
    def routed_by(self) -> str:
        """In an operator's words: `?ns=1.dkr.ecr.eu.amazonaws.com (*.dkr.ecr.*.amazonaws.com)`."""
        if self.by == "default":
            return "default upstream"
        words = _WORDS[self.by].format(self.name)
        return words if self.entry == self.name else f"{words} ({self.entry})"


@dataclass(frozen=True, slots=True)
class _Found:
    """An upstream that some name means: `names` are those configured for it, or for its pattern."""

    namespace: str
    names: Names
    hub: bool


class Routes:
    """All upstreams of this mirror, by name. Nothing here asks anybody.

    `strict`: an `ns` that no upstream has is refused; else it means the default upstream, as registry:2 takes
    it. Not strict and without `others`, requests are taken as registry:2 takes them: by their path as it is.
    """

    def __init__(self, default: Names, others: Iterable[Names] = (), *, strict: bool) -> None:
        """Raises ValueError for names that are none, or that two upstreams claim."""
        everything = [_lowered(names) for names in (default, *others)]
        self._default = everything[0]
        self._strict = strict
        self._plain = not strict and len(everything) == 1
        self._served = tuple(names.namespace for names in everything)
        self._open = next((names for names in everything[1:] if names.namespace == OPEN), None)
        self._patterns: list[tuple[Pattern, Names]] = []
        self._exact: dict[str, Names] = {}
        self._folders: dict[str, tuple[str, Names]] = {}  # first component -> the name that it is, whose
        for names in everything:
            self._add(names, is_default=names is self._default)
        self._patterns.sort(key=lambda entry: -entry[0].weight)
        for names in everything:
            for name in sorted(HUB_NAMES) if names.hub else ():
                self._exact.setdefault(name, names)
                self._folders.setdefault(name, (name, names))
        if self._open is not None:
            hosts.is_public("example.com")  # reads the suffix list now, not on the event loop
        # Of the same few repositories, several times in each request.
        self._cached_route = lru_cache(maxsize=CACHED)(self._route)
        self._cached_split = lru_cache(maxsize=CACHED)(self._split)

    def locate(self, ns: str | None, host: str, repository: Repository) -> Repository:
        """The qualified name of what a client asks for. Errors: as `route`."""
        return self.route(ns, host, repository).qualified

    def route(self, ns: str | None, host: str, repository: Repository) -> Route:
        """Where a request goes: by its `?ns=`, its Host header, its path, or to the default upstream.

        Errors: NAME_UNKNOWN, at which clients go on to their next host.
        """
        is_short = len(host) <= CACHED_LENGTH and (ns is None or len(ns) <= CACHED_LENGTH)
        return (self._cached_route if is_short else self._route)(ns, host, repository)

    def registry(self, ns: str | None, host: str) -> str:
        """The namespace of the registry that `/v2/` means: by `?ns=` or the Host header, else the default."""
        found = None
        if not self._plain:
            found = self._find(ns.lower()) if ns is not None else self._by_host(hosts.from_header(host))
        return found.namespace if found is not None else self._default.namespace

    def split(self, repository: Repository) -> Target:
        """Whose repository a qualified name means, and what it is called there."""
        return self._cached_split(repository)

    def entry(self, namespace: str) -> str:
        """The configured namespace that a Target's stands under: itself, a pattern, or `*`.

        Raises KeyError for a namespace that `split` does not give.
        """
        found = self._find(namespace)
        if found is None:
            raise KeyError(namespace)
        return found.names.namespace

    def _route(self, ns: str | None, host: str, repository: Repository) -> Route:
        default = _Found(self._default.namespace, self._default, self._default.hub)
        if self._plain:
            return self._routed(default, repository, "default", "")
        if ns is not None:
            found = self._find(ns.lower())
            if found is not None:
                return self._routed(found, self._once(found, repository), "ns", ns)
            if self._strict:
                raise self._unknown(ns)
            return self._routed(default, repository, "default", "")
        found = self._by_host(name := hosts.from_header(host))
        if found is not None:
            return self._routed(found, self._once(found, repository), "host", name)
        first, _, rest = repository.name.partition("/")
        found = self._by_component(first) if rest else None
        if found is not None:
            return self._routed(found, Repository(rest), "path", first)
        if rest and default.hub and "." in first:
            raise self._unknown(first)  # no user of Docker Hub has a dot in his name: a registry is meant
        return self._routed(default, repository, "default", "")

    def _split(self, repository: Repository) -> Target:
        default = Target(self._default.namespace, repository)
        first, _, rest = repository.name.partition("/")
        if not rest or self._plain:
            return default
        if first in self._folders:
            name, names = self._folders[first]
            # An alias begins no qualified name, and the default upstream's begin with nothing.
            is_folder = name == names.namespace and names is not self._default
            return Target(name, Repository(rest)) if is_folder else default
        found = self._by_component(first)
        if found is None or found.names is self._default or hosts.folder(found.namespace) != first:
            return default
        return Target(found.namespace, Repository(rest))

    def _add(self, names: Names, *, is_default: bool) -> None:
        if names.namespace == OPEN or "*" in names.namespace:
            if is_default or names.aliases or names.hub:
                raise ValueError(f"a pattern is one of several registries: {names.namespace!r}")
            if names.namespace != OPEN:
                self._patterns.append((Pattern.parse(names.namespace), names))
            return
        for name in dict.fromkeys((names.namespace, *names.aliases)):
            self._claim(name, names)
            if hosts.is_name(name):
                self._folders[hosts.folder(name)] = (name, names)
            elif not is_default:  # where registry:2 could point to `my_registry:5000`, so can we
                raise ValueError(f"not the name of a registry: {name!r}")

    def _claim(self, name: str, names: Names) -> None:
        owner = self._exact.setdefault(name, names)
        if owner is not names:
            raise ValueError(f"{owner.namespace} and {names.namespace} are both called {name}")

    def _find(self, name: str) -> _Found | None:
        """The upstream of this name, which may be any text."""
        names = self._exact.get(name)
        if names is not None:
            return _Found(names.namespace, names, names.hub)
        for pattern, names in self._patterns:
            if pattern.fits(name):
                return _Found(name, names, hub=False)
        if self._open is not None and hosts.is_public(name):
            hub = name in HUB_NAMES
            return _Found(HUB if hub else name, self._open, hub)
        return None

    def _by_component(self, component: str) -> _Found | None:
        if component in self._folders:
            names = self._folders[component][1]
            return _Found(names.namespace, names, names.hub)
        return self._find(hosts.unfold(component))

    def _by_host(self, host: str) -> _Found | None:
        """The upstream that is called so, or else the one with the longest name that `host` begins with.

        NB: not a pattern that fits the whole of `host`: in `*.example.com` this mirror may be itself.
        """
        if not host:
            return None
        if host in self._exact:
            return self._find(host)
        labels = host.split(".")
        beginnings = (".".join(labels[:count]) for count in range(len(labels) - 1, 1, -1))
        exact = next((name for name in beginnings if self._is_namespace(name)), "")
        others = (pattern.beginning(host) for pattern, _ in self._patterns)
        best = max((exact, *others), key=len)  # the first of those that are equally long
        return self._find(best) if best else None

    def _is_namespace(self, name: str) -> bool:
        return name in self._exact and (name == self._exact[name].namespace or name in HUB_NAMES)

    def _once(self, found: _Found, repository: Repository) -> Repository:
        """The repository without the name of the registry that was named already.

        containerd's `override_path` sends both, as in `/v2/quay.io/org/app/...?ns=quay.io`. A plain word (the
        alias `hub`) may as well be a user's name there, and is left alone; but names on Docker Hub have two
        parts, so that there the first of three can only be an alias.
        """
        first, _, rest = repository.name.partition("/")
        again = self._by_component(first) if rest else None
        if again is None or again.namespace != found.namespace:
            return repository
        name = self._folders[first][0] if first in self._folders else again.namespace
        return Repository(rest) if hosts.is_image_host(name) or (found.hub and "/" in rest) else repository

    def _routed(self, found: _Found, own: Repository, by: By, name: str) -> Route:
        """Raises NAME_UNKNOWN where the qualified name would be too long, or another repository's."""
        if found.hub and "/" not in own.name:
            own = Repository(f"library/{own.name}")
        is_default = found.names is self._default
        qualified = own if is_default else Repository(f"{hosts.folder(found.namespace)}/{own.name}")
        if len(qualified.name) > MAX_NAME_LENGTH:
            raise RegistryError(ErrorCode.NAME_UNKNOWN, "this name is too long for this mirror")
        if self.split(qualified) != Target(found.namespace, own):
            first = own.name.partition("/")[0] if is_default else found.namespace
            raise RegistryError(
                ErrorCode.NAME_UNKNOWN,
                f"here, names below {_quoted(first)}/ are another registry's",
            )
        return Route(found.namespace, own, qualified, found.names.namespace, by, name)

    def _unknown(self, ns: str) -> RegistryError:
        served = ", ".join(self._served[:NAMED])
        more = len(self._served) - NAMED
        if more > 0:
            served += f" and {more} more"
        return RegistryError(
            ErrorCode.NAME_UNKNOWN, f"this mirror does not serve {_quoted(ns)}; it serves {served}"
        )


def _lowered(names: Names) -> Names:
    return Names(names.namespace.lower(), tuple(alias.lower() for alias in names.aliases), names.hub)


def _quoted(text: str) -> str:
    """A client's text, printable and bounded."""
    shown = ascii(text[:QUOTED])[1:-1][:QUOTED]
    return shown + "..." if len(text) > QUOTED else shown
