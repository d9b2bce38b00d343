"""The configuration as typed, frozen values: registry:2's and registry:3's tree, and the mirror's own keys.

Every attribute is named as its key in the file, and `Config()` is what an empty file means. What stands here
is in effect unless `mirror.configeffect` says otherwise; docs/configuration.md is the description for users.
Durations are in seconds. Only the composition root reads this.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from mirror.configauth import Auth
from mirror.configcache import Cache
from mirror.confighealth import Health
from mirror.confighosts import (
    HEADER_NAME,
    HEADER_VALUE,
    LOOPBACK,
    Address,
    ListenValue,
    NetworkValue,
    OptionalAddress,
    Prefix,
    SocketPath,
    Url,
    parse_socket_path,
)
from mirror.confignotifications import Notifications
from mirror.configproxy import Proxy
from mirror.configsecrets import Secret
from mirror.configsections import (
    Compatibility,
    LogHook,
    MiddlewareLists,
    Policy,
    Redis,
    Reporting,
    Section,
    SendableHeaders,
    StringForm,
    Validation,
)
from mirror.configstorage import Filesystem, Storage
from mirror.configtls import CLIENT_AUTH, DEFAULT_VERSION, VERSIONS, parse_cipher
from mirror.configvalues import (
    Count,
    Duration,
    Flag,
    Integer,
    Level,
    Size,
    SizeValue,
    Text,
    at_most,
    bytes_within,
    debug_path,
    one_of,
    within,
)

__all__ = ["VERSION", "Auth", "Cache", "Config", "Http", "Log", "Proxy", "Storage"]

VERSION: Final = "0.1"  # the only one that the registry ever had
DEFAULT_MAXENTRIES: Final = 1000  # of a page; the registry's own, for catalog and tags
UNIX: Final = "unix"  # of `http.net`
PROXIES_MAX: Final = 256  # each is compared with an address, for a request with a proxy's headers
DRAIN_MAX: Final = 86400.0  # seconds
HEADER_MIN: Final = 8 << 10  # bytes; below that common tokens do not fit
HEADER_MAX: Final = 1 << 20  # bytes for each connection; Go's own limit, and so the registry's
TIMEOUT_MAX: Final = 3600.0  # seconds


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
    """Off without a certificate. `clientauth` "" is the strictest where there are `clientcas`."""

    certificate: Text = ""
    key: Text = ""
    clientcas: tuple[Text, ...] = ()
    clientauth: Annotated[str, PlainValidator(one_of("", *CLIENT_AUTH))] = ""
    minimumtls: Annotated[str, PlainValidator(one_of(*VERSIONS))] = DEFAULT_VERSION
    ciphersuites: tuple[Annotated[str, PlainValidator(parse_cipher)], ...] = ()
    letsencrypt: LetsEncrypt = LetsEncrypt()


class Prometheus(Section):
    enabled: Flag = False
    path: Annotated[str, PlainValidator(debug_path)] = "/metrics"


class Debug(Section):
    addr: OptionalAddress = None
    prometheus: Prometheus = Prometheus()


class Http2(Section):
    disabled: Flag = False


class H2c(Section):
    enabled: Flag = False


class Limits(Section):
    """What clients may take; `connections` and `perclient` 0: as `mirror.server.limits` counts them."""

    connections: Count = 0
    perclient: Count = 0
    headersize: Annotated[SizeValue, AfterValidator(bytes_within(HEADER_MIN, HEADER_MAX))] = Size(64 << 10)
    headertimeout: Annotated[Duration, AfterValidator(within(1, TIMEOUT_MAX))] = 10.0
    idletimeout: Annotated[Duration, AfterValidator(within(1, TIMEOUT_MAX))] = 90.0
    writetimeout: Annotated[Duration, AfterValidator(within(1, TIMEOUT_MAX))] = 60.0


class Http(Section):
    """`prefix` has no slash at its end, "" for none; `draintimeout` 0 is: do not wait."""

    net: Annotated[str, PlainValidator(one_of("", "tcp", UNIX))] = ""  # before `addr`, which it is about
    addr: ListenValue = Address("", 5000)
    host: Url = ""
    prefix: Prefix = ""
    secret: Secret | None = None
    relativeurls: Flag = False
    draintimeout: Annotated[Duration, AfterValidator(within(0, DRAIN_MAX))] = 30.0
    headers: SendableHeaders = Field(default_factory=dict)
    tls: Tls = Tls()
    debug: Debug = Debug()
    http2: Http2 = Http2()
    h2c: H2c = H2c()
    fastlane: Flag = True
    limits: Limits = Limits()
    trustedproxies: Annotated[
        tuple[NetworkValue, ...], AfterValidator(at_most(PROXIES_MAX, "proxies or networks"))
    ] = LOOPBACK
    eventloop: Annotated[str, PlainValidator(one_of("auto", "uvloop", "asyncio"))] = "auto"

    @field_validator("addr", mode="wrap")
    @classmethod
    def _by_net(
        cls, value: Any, parse: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Address | SocketPath:
        if info.data.get("net") == UNIX:
            return parse_socket_path(value)
        address: Address = parse(value)
        return address

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, values in headers.items():
            if HEADER_NAME.match(name) is None:
                raise ValueError(f"header names of letters, digits and - only, not {name[:100]!r}")
            if not all(HEADER_VALUE.match(value) for value in values):
                raise ValueError(f"header values without line breaks and control characters; see {name}")
        return headers


class Catalog(Section):
    maxentries: Annotated[Integer, AfterValidator(lambda n: n if n > 0 else DEFAULT_MAXENTRIES)] = (
        DEFAULT_MAXENTRIES
    )


class Tags(Section):
    maxtags: Annotated[Count, AfterValidator(lambda n: n or DEFAULT_MAXENTRIES)] = DEFAULT_MAXENTRIES


class Config(Section):
    """The whole configuration. `loglevel`, the old name, is already in `log.level`."""

    version: Annotated[str, PlainValidator(one_of(VERSION))] = VERSION
    log: Log = Log()
    loglevel: Level | None = None
    storage: Annotated[Storage, StringForm()] = Storage(filesystem=Filesystem())
    auth: Annotated[Auth, StringForm()] = Auth()
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
