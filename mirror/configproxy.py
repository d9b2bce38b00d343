"""The `proxy` section: the default upstream, the others, and how long what they say is believed.

`Upstream` is what can be said about any one of them; the rules between its keys are in
`mirror.configupstream`, where they can name lines. Times are in seconds.
"""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    field_validator,
    model_validator,
)

from mirror.confighosts import HttpProxy, RealmHost, RemoteUrl
from mirror.confignames import (
    DEFAULT_REMOTEURL,
    HUB,
    HUB_NAMES,
    Name,
    Namespace,
    default_url,
    host_of,
    is_pattern,
)
from mirror.configsecrets import HIDDEN, Secret
from mirror.configsections import Section
from mirror.configvalues import (
    Duration,
    Flag,
    Integer,
    PathValue,
    Period,
    Share,
    Text,
    at_most,
    between,
    one_of,
    parse_text,
    within,
)

WAIT_MAX: Final = 600.0  # seconds; no client waits longer for a first byte (150 s were measured)
DEADLINE_MAX: Final = 60.0  # seconds; dockerd and containerd give a mirror up later than that
AGE_MAX: Final = float(2**31)  # seconds; 68 years, as good as for ever
RETRIES_MAX: Final = 10
CONNECTIONS_MAX: Final = 1000  # to one host; what a process may have open files for is a few thousand
REMOTEURLS_MAX: Final = 8  # each that is down costs a client its time-out before the next is asked
ALIASES_MAX: Final = 32  # of one upstream; nobody has that many names for a registry
UPSTREAMS_MAX: Final = 256  # each has its own connections, tokens and breakers
RULES_MAX: Final = 256  # they are tried one after the other, for each request of a tag
MATCH_MAX: Final = 512  # characters; a namespace, a repository and a tag have 255, 255 and 128
MATCH_STARS_MAX: Final = 4  # each multiplies the ways in which a name may fit
PATTERNS_MAX: Final = 256  # of repositories; all are tried for a name that is asked for the first time
CALLER: Final = "caller"

_PATTERN = re.compile(r"[a-z0-9._/*-]+\Z")
_MATCH = re.compile(r"[A-Za-z0-9._/:*-]+\Z")  # what names and tags are made of

_Age = Annotated[Duration, AfterValidator(within(0, AGE_MAX))]
_Wait = Annotated[Duration, AfterValidator(within(0.1, WAIT_MAX))]


def parse_command(value: object) -> str:
    """A program and its arguments, as a shell would split them."""
    text = parse_text(value)
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    if not words or "\0" in text:
        raise ValueError("a command such as docker-credential-ecr-login, with quotes in pairs")
    return text


def parse_match(value: object) -> str:
    """A pattern of `repository:tag`, in which `*` stands for anything."""
    text = parse_text(value)
    reaches_the_tag = ":" in text or "*" in text
    bounded = len(text) <= MATCH_MAX and text.count("*") <= MATCH_STARS_MAX
    if _MATCH.match(text) is None or not reaches_the_tag or not bounded:
        raise ValueError(
            f"a pattern of repository:tag, such as *:latest or library/*, with {MATCH_STARS_MAX} * at most"
        )
    return text


def parse_pattern(value: object) -> str:
    """A pattern of an upstream's repositories, in which `*` stands for anything."""
    text = parse_text(value)
    if len(text) > MATCH_MAX or _PATTERN.match(text) is None or text.startswith("/"):
        raise ValueError("a repository's name at the upstream, in which * stands for anything: library/*")
    return text


Patterns = Annotated[
    tuple[Annotated[str, PlainValidator(parse_pattern)], ...],
    AfterValidator(at_most(PATTERNS_MAX, "patterns")),
]


class FreshnessRule(Section):
    match: Annotated[str, PlainValidator(parse_match)]
    fresh: _Age


class Freshness(Section):
    """The first rule that fits counts; 0 is: ask the upstream each time."""

    default: _Age = 60.0
    rules: Annotated[tuple[FreshnessRule, ...], AfterValidator(at_most(RULES_MAX, "rules"))] = ()


class Exec(Section):
    """A program of the docker-credential protocol. `lifetime` None: until refused; 0: for each use."""

    command: Annotated[str, PlainValidator(parse_command)] = ""
    lifetime: _Age | None = None


class Timeouts(Section):
    """Of one request to the upstream: until it is connected, until the answer begins, between bytes."""

    connect: _Wait = 10.0
    firstbyte: _Wait = 30.0
    stall: _Wait = 30.0


class Quota(Section):
    """`reserve`: the share, 0 to 1, of an upstream's rate limit below which it is asked less."""

    reserve: Share = 0.1


class Upstream(Section):
    """One upstream. `remoteurl` is the first of `remoteurls`, also where only one of the two was given.

    `headers` has secrets for values. At most one login is given: user and password, a token, a program, or
    docker's configuration file.
    """

    remoteurl: RemoteUrl = ""
    remoteurls: Annotated[tuple[RemoteUrl, ...], AfterValidator(at_most(REMOTEURLS_MAX, "URLs"))] = ()
    aliases: Annotated[tuple[Name, ...], AfterValidator(at_most(ALIASES_MAX, "names"))] = ()
    username: Text = ""
    password: Secret | None = None
    identitytoken: Secret | None = None
    exec: Exec | None = None
    dockerconfig: PathValue | None = None
    realms: tuple[RealmHost, ...] = ()
    ca: PathValue | None = None
    insecure: Flag = False
    clientcert: PathValue | None = None
    clientkey: PathValue | None = None
    headers: Annotated[dict[str, Text], PlainSerializer(lambda given: dict.fromkeys(given, HIDDEN))] = Field(
        default_factory=dict, repr=False
    )
    httpproxy: HttpProxy = Field(default="", repr=False)
    allow: Patterns = ()
    deny: Patterns = ()
    rights: Annotated[str, PlainValidator(one_of("shared", CALLER))] = "shared"
    timeouts: Timeouts = Timeouts()
    retries: Annotated[Integer, AfterValidator(between(0, RETRIES_MAX))] = 2
    connections: Annotated[Integer, AfterValidator(between(1, CONNECTIONS_MAX))] = 48

    @field_validator("exec")
    @classmethod
    def _meant(cls, given: Exec | None) -> Exec | None:
        return given if given is not None and given.command else None

    def is_hub(self, namespace: str = "") -> bool:
        """Whether this is Docker Hub, or plays it: by the name it goes by, or by its URL."""
        names = (namespace, *self.aliases, host_of(self.remoteurl))
        return any(name in HUB_NAMES for name in names)

    def names(self, namespace: str) -> tuple[str, ...]:
        """All by which clients may mean it, `namespace` first; of Docker Hub all that it is called."""
        hub = HUB_NAMES if self.is_hub(namespace) else ()
        return tuple(dict.fromkeys((namespace, *self.aliases, *hub)))


class UpstreamEntry(Upstream):
    """One of `proxy.upstreams`. A pattern has no `remoteurl` ("") and no `remoteurls`: each host that fits
    it is asked by its own name."""


class Proxy(Upstream):
    """The default upstream, and the others by namespace, which have in them what they take from here."""

    remoteurl: RemoteUrl = DEFAULT_REMOTEURL
    upstreams: Annotated[
        dict[Namespace, UpstreamEntry], AfterValidator(at_most(UPSTREAMS_MAX, "upstreams"))
    ] = Field(default_factory=dict)
    freshness: Freshness = Freshness()
    deadline: Annotated[Duration, AfterValidator(within(0, DEADLINE_MAX))] = 1.0
    stale: _Age = 720 * 3600.0
    negative: _Age = 10.0
    quota: Quota = Quota()
    ttl: Period = 168 * 3600.0
    cachewritetimeout: Duration | None = None

    @property
    def namespace(self) -> str:
        """What the default upstream is called: `docker.io`, else the host of its first URL."""
        return HUB if self.is_hub() else host_of(self.remoteurl)

    @property
    def strict(self) -> bool:
        """Whether a `?ns=` that nobody knows is refused; else it is ignored, as in registry:2."""
        return bool(self.upstreams or self.aliases) or self.is_hub()

    @model_validator(mode="after")
    def _complete(self) -> Proxy:
        # NB: frozen from here on; a copy would be another object than the one that is being made
        upstreams = {
            namespace: entry.model_copy(update=self._inherited(namespace, entry))
            for namespace, entry in self.upstreams.items()
        }
        for name, value in {**_urls(self), "upstreams": upstreams}.items():
            object.__setattr__(self, name, value)
        return self

    def _inherited(self, namespace: str, entry: UpstreamEntry) -> dict[str, Any]:
        """What an entry does not say: its URL is its name, its limits are those of the default upstream."""
        given = entry.timeouts.model_fields_set
        own = {name: getattr(entry.timeouts, name) for name in given}
        taken: dict[str, Any] = {"timeouts": self.timeouts.model_copy(update=own)}
        for name in ("retries", "connections", "rights"):
            if name not in entry.model_fields_set:
                taken[name] = getattr(self, name)
        if not is_pattern(namespace):
            taken |= _urls(entry, default_url(namespace))
        return taken


def _urls(upstream: Upstream, default: str = "") -> dict[str, Any]:
    """Both keys, from the one that was given."""
    urls = upstream.remoteurls or (upstream.remoteurl or default,)
    return {"remoteurl": urls[0], "remoteurls": urls}
