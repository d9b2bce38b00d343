"""The configuration as typed, frozen values: registry:2's and registry:3's tree, and the mirror's own keys.

Every attribute is named as its key in the file, and `Config()` is what an empty file means. What stands here
is in effect unless `mirror.configeffect` says otherwise; docs/configuration.md is the description for users.
Durations are in seconds. Only the composition root reads this.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, PlainValidator, field_validator, model_validator
from pydantic_core import PydanticCustomError

from mirror.confighosts import Address, AddressValue, Prefix, RealmHost, RemoteUrl, Url
from mirror.configsecrets import Secret
from mirror.configsections import (
    Compatibility,
    Headers,
    Health,
    LogHook,
    MiddlewareLists,
    Notifications,
    Policy,
    Redis,
    Reporting,
    Section,
    StringForm,
    Validation,
)
from mirror.configstorage import Filesystem, Storage
from mirror.configvalues import (
    Count,
    Duration,
    Flag,
    Integer,
    Level,
    PathValue,
    SizeValue,
    Text,
    between,
    one_of,
    within,
)

__all__ = ["DEFAULT_REMOTEURL", "VERSION", "Cache", "Config", "Http", "Log", "Proxy", "Storage"]

VERSION: Final = "0.1"  # the only one that the registry ever had
DEFAULT_REMOTEURL: Final = "https://registry-1.docker.io"
DEFAULT_MAXENTRIES: Final = 1000  # of a page; the registry's own, for catalog and tags
WAIT_MAX: Final = 600.0  # seconds; no client waits longer for a first byte (150 s were measured)
DRAIN_MAX: Final = 86400.0  # seconds
DEADLINE_MAX: Final = 60.0  # seconds; dockerd and containerd give a mirror up later than that
RETRIES_MAX: Final = 10

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")  # RFC 9110 §5.1: token
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*\Z")  # RFC 9110 §5.5: field-value, without CR, LF, NUL


class AccessLog(Section):
    disabled: Flag = False


class Log(Section):
    level: Level = "info"
    formatter: Annotated[str, PlainValidator(one_of("text", "json", "logstash"))] = "text"
    fields: dict[str, Any] = Field(default_factory=dict)
    hooks: tuple[LogHook, ...] = ()
    accesslog: AccessLog = AccessLog()
    reportcaller: Flag = False


class LetsEncrypt(Section):
    cachefile: Text = ""
    email: Text = ""
    hosts: tuple[Text, ...] = ()
    directoryurl: Text = ""


class Tls(Section):
    certificate: Text = ""
    key: Text = ""
    clientcas: tuple[Text, ...] = ()
    clientauth: Text = ""
    minimumtls: Text = ""
    ciphersuites: tuple[Text, ...] = ()
    letsencrypt: LetsEncrypt = LetsEncrypt()


class Prometheus(Section):
    enabled: Flag = False
    path: Text = "/metrics"


class Debug(Section):
    addr: Text = ""
    prometheus: Prometheus = Prometheus()


class Http2(Section):
    disabled: Flag = False


class H2c(Section):
    enabled: Flag = False


class Http(Section):
    """`prefix` has no slash at its end, "" for none; `draintimeout` 0 is: do not wait."""

    addr: AddressValue = Address("", 5000)
    net: Annotated[str, PlainValidator(one_of("", "tcp", "unix"))] = ""
    host: Url = ""
    prefix: Prefix = ""
    secret: Secret | None = None
    relativeurls: Flag = False
    draintimeout: Annotated[Duration, AfterValidator(within(0, DRAIN_MAX))] = 30.0
    headers: Headers = Field(default_factory=dict)
    tls: Tls = Tls()
    debug: Debug = Debug()
    http2: Http2 = Http2()
    h2c: H2c = H2c()

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, values in headers.items():
            if _HEADER_NAME.match(name) is None:
                raise ValueError(f"header names of letters, digits and - only, not {name[:100]!r}")
            if not all(_HEADER_VALUE.match(value) for value in values):
                raise ValueError(f"header values without line breaks and control characters; see {name}")
        return headers


class Catalog(Section):
    maxentries: Annotated[Integer, AfterValidator(lambda n: n if n > 0 else DEFAULT_MAXENTRIES)] = (
        DEFAULT_MAXENTRIES
    )


class Tags(Section):
    maxtags: Annotated[Count, AfterValidator(lambda n: n or DEFAULT_MAXENTRIES)] = DEFAULT_MAXENTRIES


class FreshnessRule(Section):
    match: Text
    fresh: Annotated[Duration, AfterValidator(within(0, 2**31))]


class Freshness(Section):
    default: Annotated[Duration, AfterValidator(within(0, 2**31))] = 60.0
    rules: tuple[FreshnessRule, ...] = ()


class Exec(Section):
    command: Text = ""
    lifetime: Duration | None = None


class Timeouts(Section):
    """Of one request to the upstream: until it is connected, until the answer begins, between bytes."""

    connect: Annotated[Duration, AfterValidator(within(0.1, WAIT_MAX))] = 10.0
    firstbyte: Annotated[Duration, AfterValidator(within(0.1, WAIT_MAX))] = 30.0
    stall: Annotated[Duration, AfterValidator(within(0.1, WAIT_MAX))] = 30.0


class Proxy(Section):
    """The upstream. `username` and `password` are both given or neither, `identitytoken` without them."""

    remoteurl: RemoteUrl = DEFAULT_REMOTEURL
    username: Text = ""
    password: Secret | None = None
    identitytoken: Secret | None = None
    realms: tuple[RealmHost, ...] = ()
    ca: PathValue | None = None
    deadline: Annotated[Duration, AfterValidator(within(0, DEADLINE_MAX))] = 1.0
    timeouts: Timeouts = Timeouts()
    retries: Annotated[Integer, AfterValidator(between(0, RETRIES_MAX))] = 2
    exec: Exec | None = None
    ttl: Duration = 168 * 3600.0
    cachewritetimeout: Duration | None = None
    upstreams: dict[str, dict[str, Any]] = Field(default_factory=dict)
    freshness: Freshness = Freshness()
    stale: Annotated[Duration, AfterValidator(within(0, 2**31))] = 720 * 3600.0
    negative: Annotated[Duration, AfterValidator(within(0, 2**31))] = 10.0

    @model_validator(mode="after")
    def _whole_credentials(self) -> Proxy:
        password = self.password is not None and self.password.get_secret_value() != ""
        if bool(self.username) != password:
            given, missing = ("username", "password") if self.username else ("password", "username")
            text = f"missing, wanted beside proxy.{given}; for no login leave both out"
            raise PydanticCustomError("incomplete", "{text}", {"key": missing, "at": given, "text": text})
        if self.identitytoken is not None and password:
            text = "given beside proxy.username and proxy.password, wanted either it or those two"
            context = {"key": "identitytoken", "at": "identitytoken", "text": text}
            raise PydanticCustomError("exclusive", "{text}", context)
        return self


class Cache(Section):
    maxsize: SizeValue | None = None
    minfree: SizeValue | None = None


class Config(Section):
    """The whole configuration. `loglevel`, the old name, is already in `log.level`."""

    version: Annotated[str, PlainValidator(one_of(VERSION))] = VERSION
    log: Log = Log()
    loglevel: Level | None = None
    storage: Annotated[Storage, StringForm()] = Storage(filesystem=Filesystem())
    auth: Annotated[dict[str, dict[str, Any]], StringForm()] = Field(default_factory=dict)
    middleware: MiddlewareLists = MiddlewareLists()
    reporting: Reporting = Reporting()
    http: Http = Http()
    notifications: Notifications = Notifications()
    redis: Redis = Redis()
    health: Health = Health()
    catalog: Catalog = Catalog()
    tags: Tags = Tags()
    proxy: Proxy = Proxy()
    cache: Cache = Cache()
    compatibility: Compatibility = Compatibility()
    validation: Validation = Validation()
    policy: Policy = Policy()
