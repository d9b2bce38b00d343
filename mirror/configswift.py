"""`storage.swift`: registry:2's parameters. Swift is spoken to by its S3 API.

registry:2 lays its tree below `<prefix>/files`, and what it writes in pieces in segments beside that.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, PlainValidator

from mirror.configclouds import Root
from mirror.configs3 import CHUNK_MAX, CHUNK_MIN, S3Endpoint, parse_region
from mirror.configsecrets import Secret
from mirror.configsections import Section
from mirror.configvalues import Flag, Integer, Text, between, one_of, parse_text

FILES: Final = "files"  # the folder in which registry:2 has its tree
INTERFACES: Final = ("public", "internal", "admin")
_CONTAINER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}\Z")  # what is a bucket's name as well


class Login(IntEnum):
    """Whose interface `authurl` is."""

    SWIFT = 1  # Swift's own, or a server that knows it: `/auth/v1.0`
    KEYSTONE = 3


def parse_container(value: object) -> str:
    text = parse_text(value)
    if _CONTAINER.match(text) is None:
        raise ValueError("the name of a container, of 3 letters, digits and . _ - or more")
    return text


def parse_authurl(value: object) -> str:
    text = parse_text(value).strip().rstrip("/")
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment or url.username:
        raise ValueError("a URL such as https://keystone.example.com/v3")
    return text


class Swift(Section):
    """`accesskey`, `secretkey` and `tempurl…` are for registry:2's URLs for clients, and no login."""

    authurl: Annotated[str, PlainValidator(parse_authurl)]
    username: Text
    password: Secret
    container: Annotated[str, PlainValidator(parse_container)]
    region: Text = ""
    tenant: Text = ""
    tenantid: Text = ""
    tenantdomain: Text = ""
    tenantdomainid: Text = ""
    domain: Text = ""
    domainid: Text = ""
    trustid: Text = ""
    insecureskipverify: Flag = False
    chunksize: Annotated[Integer, AfterValidator(between(CHUNK_MIN, CHUNK_MAX))] = 20 << 20
    prefix: Root = ""
    accesskey: Secret | None = None
    secretkey: Secret | None = None
    endpointtype: Annotated[str, PlainValidator(one_of(*INTERFACES))] = "public"
    authversion: Annotated[Integer, AfterValidator(between(0, 3))] = 0
    tempurlcontainerkey: Flag = False
    tempurlmethods: tuple[Any, ...] = ()
    s3endpoint: S3Endpoint = ""
    s3region: Annotated[str, PlainValidator(parse_region)] = ""

    @property
    def login(self) -> Login | None:
        """As `authversion` says, else as `authurl` does, in registry:2's way; None: as neither does."""
        if self.authversion:
            return next((login for login in Login if login == self.authversion), None)
        for login in (Login.KEYSTONE, Login.SWIFT):
            if f"v{login}" in self.authurl:
                return login
        return None

    @property
    def root(self) -> str:
        """What all keys begin with."""
        return f"{self.prefix.strip('/')}/{FILES}".lstrip("/")
