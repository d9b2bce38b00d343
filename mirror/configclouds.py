"""`storage.azure`, `storage.gcs` and `storage.oss`: registry:2's and registry:3's parameters."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, PlainValidator

from mirror.configs3 import CHUNK_MAX, CHUNK_MIN, Endpoint, parse_bucket, parse_root
from mirror.configsecrets import Secret
from mirror.configsections import Section
from mirror.configvalues import Duration, Flag, Integer, PathValue, Text, between, one_of, parse_text, within

PIECE: Final = 256 << 10  # bytes; Google takes uploads in multiples of this
RETRIES_MAX: Final = 10
DELAY_MAX: Final = 10.0  # seconds
CONNECTIONS_MIN: Final = 25  # registry:2 takes no less either
CONNECTIONS_MAX: Final = 1000
CREDENTIALS: Final = ("", "shared_key", "client_secret", "default_credentials")
REALM: Final = "core.windows.net"
_ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}\Z")
_CONTAINER: Final = re.compile(r"(\$root|[a-z0-9](-?[a-z0-9]){2,62})\Z")
_HOST: Final = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?\Z")
_OSS_REGION: Final = re.compile(r"(oss-)?[a-z]{2,20}(-[a-z0-9]+)+\Z")

Root = Annotated[str, PlainValidator(parse_root)]


def _matching(pattern: re.Pattern[str], form: str) -> Any:
    def parse(value: object) -> str:
        text = parse_text(value)
        if text and pattern.match(text) is None:
            raise ValueError(form)
        return text

    return parse


def _pieces(number: int) -> int:
    if number < PIECE or number % PIECE or number > CHUNK_MAX:
        raise ValueError(f"a multiple of {PIECE}, and at least that")
    return number


class AzureCredentials(Section):
    """`type` "": as what else is given says."""

    type: Annotated[str, PlainValidator(one_of(*CREDENTIALS))] = ""
    clientid: Text = ""
    tenantid: Text = ""
    secret: Secret | None = None


class Azure(Section):
    """The account is that of `accountname`, or of `connectionstring`."""

    accountname: Annotated[
        str, PlainValidator(_matching(_ACCOUNT, "an account's name, of 3 to 24 small letters and digits"))
    ] = ""
    accountkey: Secret | None = None
    container: Annotated[str, PlainValidator(_matching(_CONTAINER, "the name of a container"))]
    credentials: AzureCredentials = AzureCredentials()
    connectionstring: Secret | None = None
    realm: Annotated[str, PlainValidator(_matching(_HOST, f"a host name such as {REALM}"))] = REALM
    serviceurl: Endpoint = ""
    rootdirectory: Root = ""
    max_retries: Annotated[Integer, AfterValidator(between(0, RETRIES_MAX))] = 5
    retry_delay: Annotated[Duration, AfterValidator(within(0.001, DELAY_MAX))] = 0.1
    skipverify: Flag = False


class Gcs(Section):
    """Without `keyfile` and `credentials` Google's own chain is asked."""

    bucket: Annotated[str, PlainValidator(parse_bucket)]
    keyfile: PathValue | None = None
    credentials: dict[str, Any] = Field(default_factory=dict)
    rootdirectory: Root = ""
    chunksize: Annotated[Integer, AfterValidator(_pieces)] = 16 << 20
    maxconcurrency: Annotated[
        Integer,
        AfterValidator(between(0, CONNECTIONS_MAX)),
        AfterValidator(lambda n: max(n, CONNECTIONS_MIN)),
    ] = 50
    useragent: Text = ""


class Oss(Section):
    """Alibaba's, which speaks S3 as well."""

    accesskeyid: Secret
    accesskeysecret: Secret
    region: Annotated[str, PlainValidator(_matching(_OSS_REGION, "a region such as oss-cn-hangzhou"))]
    endpoint: Endpoint = ""
    internal: Flag = False
    bucket: Annotated[str, PlainValidator(parse_bucket)]
    encrypt: Flag = False
    encryptionkeyid: Text = ""
    secure: Flag = True
    chunksize: Annotated[Integer, AfterValidator(between(CHUNK_MIN, CHUNK_MAX))] = 10 << 20
    rootdirectory: Root = ""

    def s3_region(self) -> str:
        """`oss-cn-hangzhou`, with or without `oss-` given."""
        return self.region if self.region.startswith("oss-") else f"oss-{self.region}"

    def s3_endpoint(self) -> str | None:
        """The URL of the S3 API, without the bucket; None: `endpoint` is not one of this bucket's.

        NB: registry:2's `endpoint` has the bucket in its host.
        """
        given = self.endpoint
        scheme, _, host = given.rpartition("//")
        scheme = scheme.rstrip(":") or ("https" if self.secure else "http")
        if not given:
            host = f"{self.s3_region()}{'-internal' if self.internal else ''}.aliyuncs.com"
        elif host.startswith(f"{self.bucket}."):
            host = host.removeprefix(f"{self.bucket}.")
        elif not host.startswith("oss-"):
            return None
        return f"{scheme}://{host}"


def connection(text: str) -> dict[str, str]:
    """`AccountName=a;AccountKey=b` -> {"accountname": "a", "accountkey": "b"}."""
    pairs = (part.partition("=") for part in text.strip().split(";") if part.strip())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
