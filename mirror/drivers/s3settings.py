"""What the S3 driver is told: registry:2's and registry:3's parameters, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

PRESIGNED = 1200.0  # seconds that a URL works which a client is given; registry:2's own


@dataclass(frozen=True, slots=True)
class Keys:
    """Of the S3 API; `endpoint` is its URL."""

    access_key: str
    secret_key: str
    endpoint: str


class Login(Protocol):
    """Who gives keys to somebody who has others: see `swiftlogin`."""

    async def keys(self) -> Keys:
        """May take half a minute. Raises DriverError."""


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Empty texts are what is not given. Without `access_key` the AWS credential chain is asked."""

    bucket: str
    region: str = ""
    endpoint: str = ""  # a URL
    redirect_endpoint: str = ""  # a URL: where clients reach the same storage, if it is another for them
    path_style: bool = False
    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""
    root: str = ""  # what all keys begin with, without slashes at its ends
    secure: bool = True
    verify: bool = True  # the server's certificate
    encrypt: bool = False
    kms_key: str = ""
    storage_class: str = ""
    acl: str = ""
    part_size: int = 10 << 20  # bytes
    accelerate: bool = False
    dual_stack: bool = False
    fips: bool = False
    user_agent: str = ""
    redirect: bool = True  # whether clients are given URLs
    presigned: float = PRESIGNED
    login: Login | None = None  # who gives the keys and the endpoint, asked before the first request
    section: str = "s3"  # of the configuration, for advice: s3, oss, swift
    hidden_sizes: bool = False  # listings may say of a file that has bytes that it has none

    @property
    def is_tls(self) -> bool:
        """Whether the server is asked by way of TLS."""
        return self.endpoint.startswith("https:") if "://" in self.endpoint else self.secure
