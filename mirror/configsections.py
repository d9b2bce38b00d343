"""What sections are made of; and those of the registry's file that are read and checked, but not acted on.

Which of them warn, and which stop the start, stands in `mirror.configeffect`. The keys and the Go names are
those of registry:2.8 and registry:3.1 together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mirror.confighosts import HEADER_NAME, HEADER_VALUE
from mirror.configsecrets import Secret
from mirror.configvalues import Duration, Flag, Integer, Text


@dataclass(frozen=True, slots=True)
class Go:
    """The name of a field in the registry's source, where it is not the YAML key in capitals.

    The registry walks REGISTRY_* variables by this name; the mirror takes both.
    """

    name: str


@dataclass(frozen=True, slots=True)
class StringForm:
    """A section of one kind that may be given as that kind's name: `storage: filesystem`."""


class Section(BaseModel):
    """A part of the file. Attributes are named as the keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    go_inline: ClassVar[str] = ""  # a Go field that is inlined in YAML, yet may stand in a variable's name
    go_map: ClassVar[bool] = False  # a map in the registry: a variable may create keys that nobody knows


def _sendable(headers: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    for name, values in headers.items():
        if HEADER_NAME.match(name) is None:
            raise ValueError(f"header names of letters, digits and - only, not {name[:100]!r}")
        if not all(HEADER_VALUE.match(value) for value in values):
            raise ValueError(f"header values without line breaks and control characters; see {name}")
    return headers


SendableHeaders = Annotated[dict[str, tuple[Text, ...]], AfterValidator(_sendable)]


class Smtp(Section):
    addr: Text = ""
    username: Text = ""
    password: Secret | None = None
    insecure: Flag = False


class MailOptions(Section):
    smtp: Smtp = Smtp()
    from_: Text = Field(default="", alias="from")
    to: tuple[Text, ...] = ()


class LogHook(Section):
    disabled: Flag = False
    type: Text = ""
    levels: tuple[Text, ...] = ()
    options: Annotated[MailOptions, Go("MAILOPTIONS")] = MailOptions()


class Middleware(Section):
    name: Text = ""
    disabled: Flag = False
    options: dict[str, Any] = {}


class MiddlewareLists(Section):
    registry: tuple[Middleware, ...] = ()
    repository: tuple[Middleware, ...] = ()
    storage: tuple[Middleware, ...] = ()


class Bugsnag(Section):
    apikey: Secret | None = None
    releasestage: Text = ""
    endpoint: Text = ""


class NewRelic(Section):
    licensekey: Secret | None = None
    name: Text = ""
    verbose: Flag = False


class Reporting(Section):
    bugsnag: Bugsnag = Bugsnag()
    newrelic: NewRelic = NewRelic()


class RedisTls(Section):
    enabled: Flag = False  # registry:2
    certificate: Text = ""
    key: Text = ""
    rootcas: tuple[Text, ...] = ()


class RedisPool(Section):
    maxidle: Integer = 0
    maxactive: Integer = 0
    idletimeout: Duration = 0.0


class Redis(Section):
    go_inline: ClassVar[str] = "OPTIONS"

    addr: Text = ""  # this and `pool` are registry:2's
    pool: RedisPool = RedisPool()
    addrs: tuple[Text, ...] = ()
    clientname: Text = ""
    db: Integer = 0
    protocol: Integer = 0
    username: Text = ""
    password: Secret | None = None
    sentinelusername: Text = ""
    sentinelpassword: Secret | None = None
    maxretries: Integer = 0
    minretrybackoff: Duration = 0.0
    maxretrybackoff: Duration = 0.0
    dialtimeout: Duration = 0.0
    readtimeout: Duration = 0.0
    writetimeout: Duration = 0.0
    contexttimeoutenabled: Flag = False
    poolfifo: Flag = False
    poolsize: Integer = 0
    pooltimeout: Duration = 0.0
    minidleconns: Integer = 0
    maxidleconns: Integer = 0
    maxactiveconns: Integer = 0
    connmaxidletime: Duration = 0.0
    connmaxlifetime: Duration = 0.0
    maxredirects: Integer = 0
    readonly: Flag = False
    routebylatency: Flag = False
    routerandomly: Flag = False
    mastername: Text = ""
    disableidentity: Flag = False
    identitysuffix: Text = ""
    unstableresp3: Flag = False
    tls: RedisTls = RedisTls()


class Schema1(Section):
    signingkeyfile: Annotated[Text, Go("TRUSTKEY")] = ""
    enabled: Flag = False


class Compatibility(Section):
    schema1: Schema1 = Schema1()


class Urls(Section):
    allow: tuple[Text, ...] = ()
    deny: tuple[Text, ...] = ()


class Platform(Section):
    architecture: Text = ""
    os: Text = ""


class Indexes(Section):
    platforms: Text = ""
    platformlist: tuple[Platform, ...] = ()


class ManifestRules(Section):
    urls: Urls = Urls()
    indexes: Indexes = Indexes()


class Validation(Section):
    enabled: Flag = False
    disabled: Flag = False
    manifests: ManifestRules = ManifestRules()


class RepositoryPolicy(Section):
    classes: tuple[Text, ...] = ()


class Policy(Section):
    repository: RepositoryPolicy = RepositoryPolicy()
