"""`storage.s3`, which registry:2 also calls `s3aws`: its parameters, with its defaults and what it allows."""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, PlainValidator

from mirror.configsecrets import Secret
from mirror.configsections import Section
from mirror.configvalues import INSTEAD, Flag, Integer, Text, between, one_of, parse_text

CHUNK_MIN: Final = 5 << 20  # bytes; S3 takes no smaller parts
CHUNK_MAX: Final = 5 << 30  # bytes; nor larger ones
ACLS: Final = (
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
)
CLASSES: Final = (
    "NONE",
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "OUTPOSTS",
    "GLACIER_IR",
)
LEVELS: Final = (
    "",
    "off",
    "debug",
    "debugwithsigning",
    "debugwithhttpbody",
    "debugwithrequestretries",
    "debugwithrequesterrors",
    "debugwitheventstreambody",
)
# Amazon's directory buckets list their keys in no order, below whole folders only, and from no key on: what a
# listing seems to leave out is taken for gone here. They are all that has the class EXPRESS_ONEZONE.
EXPRESS: Final = "EXPRESS_ONEZONE"
DIRECTORY: Final = "--x-s"  # what their names, and no others, end with
UNORDERED: Final = "a directory bucket lists its keys in no order"
NO_UNDERSCORE: Final = "a host name without _ (give it another name, or its address)"
NO_DIRECTORY: Final = (
    "directory buckets cannot be used (they list their keys in no order). "
    "Use a general purpose bucket, with STANDARD, or leave the key out"
)
ENDPOINT_FORM: Final = "a URL such as https://s3.example.com, or a host name"
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{1,2047}\Z")  # an ARN of an access point as well
_ARN: Final = "arn:"
_LABEL: Final = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_HOST: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?\Z")  # what botocore takes, beside an IPv6 address
_REGION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_AMAZON: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]+\Z")  # us-east-1, us-gov-west-1
_ROOT: Final = re.compile(r"[A-Za-z0-9._/-]*\Z")


def parse_endpoint(value: object) -> str:
    """A URL without a path's last slash, or `host[:port]`, whose scheme `secure` says."""
    text = parse_text(value).strip().rstrip("/")
    try:
        url = urlsplit(text if "//" in text else f"//{text}")
        is_good = bool(url.hostname) and url.port != 0
    except ValueError:
        raise ValueError(ENDPOINT_FORM) from None
    if not is_good or url.scheme not in ("", "http", "https") or url.query or url.fragment or url.username:
        raise ValueError(ENDPOINT_FORM)
    return text


def parse_s3_endpoint(value: object) -> str:
    """As `parse_endpoint`, of a host that the S3 library takes."""
    text = parse_endpoint(value)
    host = urlsplit(text if "//" in text else f"//{text}").hostname or ""
    if "_" in host:
        raise ValueError(NO_UNDERSCORE)
    if ":" not in host and _HOST.match(host) is None:
        raise ValueError(ENDPOINT_FORM)
    return text


def parse_bucket(value: object) -> str:
    text = parse_text(value)
    if "/" in text and not text.startswith(_ARN):
        raise ValueError("the name of a bucket; a folder in it goes into rootdirectory")
    if _BUCKET.match(text) is None:
        raise ValueError("the name of a bucket")
    return text


def _general(value: object) -> str:
    text = parse_bucket(value)
    if text.endswith(DIRECTORY):
        raise ValueError(f"the name of a general purpose bucket: {UNORDERED}")
    return text


def parse_region(value: object) -> str:
    text = parse_text(value)
    if text and _REGION.match(text) is None:
        raise ValueError("a region such as us-east-1")
    return text


def parse_root(value: object) -> str:
    """The beginning of all keys, as distribution makes it: no slash in front, one behind."""
    text = parse_text(value).strip("/")
    if _ROOT.match(text) is None or any(part in ("", ".", "..") for part in text.split("/") if text):
        raise ValueError("a path such as /registry, of letters, digits and . _ -")
    return f"/{text}" if text else ""


def ends_with(endpoint: str, bucket: str) -> bool:
    """Whether the last part of a URL's path is the bucket, which is put there anyway."""
    path = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").path
    return path.rpartition("/")[2] == bucket


def is_amazon(region: str) -> bool:
    """Whether this is a region's name as Amazon makes them."""
    return _AMAZON.match(region) is not None


def _class(value: object) -> str:
    text = parse_text(value).upper()
    if text == EXPRESS:
        raise ValueError(f"{INSTEAD}{NO_DIRECTORY}")
    return one_of(*CLASSES)(text)


Endpoint = Annotated[str, PlainValidator(parse_endpoint)]
S3Endpoint = Annotated[str, PlainValidator(parse_s3_endpoint)]


class S3(Section):
    """`forcepathstyle` None: where there is a `regionendpoint`, as in registry:2.8."""

    accesskey: Secret | None = None
    secretkey: Secret | None = None
    sessiontoken: Secret | None = None
    region: Annotated[str, PlainValidator(parse_region)] = ""
    regionendpoint: S3Endpoint = ""
    redirectendpoint: S3Endpoint = ""
    forcepathstyle: Flag | None = None
    bucket: Annotated[str, PlainValidator(_general)]
    encrypt: Flag = False
    keyid: Text = ""
    secure: Flag = True
    skipverify: Flag = False
    v4auth: Flag = True
    chunksize: Annotated[Integer, AfterValidator(between(CHUNK_MIN, CHUNK_MAX))] = 10 << 20
    multipartcopychunksize: Integer = 32 << 20
    multipartcopymaxconcurrency: Integer = 100
    multipartcopythresholdsize: Integer = 32 << 20
    rootdirectory: Annotated[str, PlainValidator(parse_root)] = ""
    storageclass: Annotated[str, PlainValidator(_class)] = "STANDARD"
    useragent: Text = ""
    objectacl: Annotated[str, PlainValidator(one_of(*ACLS))] = "private"
    accelerate: Flag = False
    usedualstack: Flag = False
    usefipsendpoint: Flag = False
    loglevel: Annotated[str, PlainValidator(one_of(*LEVELS))] = "off"

    @property
    def path_style(self) -> bool:
        """Whether the bucket stands in the path of URLs, not in their host."""
        return bool(self.regionendpoint) if self.forcepathstyle is None else self.forcepathstyle

    def url(self, endpoint: str) -> str:
        """The URL of one of the endpoints; "" for none."""
        if not endpoint or "//" in endpoint:
            return endpoint
        return f"{'https' if self.secure else 'http'}://{endpoint}"
