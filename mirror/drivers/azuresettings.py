"""What the driver for Azure is told: registry:2's and registry:3's parameters, as plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AzureSettings:
    """Empty texts are what is not given. Without a login, the machine's or the pod's own is used."""

    container: str
    account: str
    endpoint: str  # a URL: the account's, without the container
    key: str = ""
    shared_access: str = ""  # a SAS, of a connection string
    client: str = ""
    tenant: str = ""
    secret: str = ""
    root: str = ""  # what all names begin with, without slashes at its ends
    verify: bool = True  # the server's certificate
    retries: int = 2  # after a break, a time-out of a read, 5xx
    retry_delay: float = 0.1  # seconds before the first of these; the next ones wait longer
    user_agent: str = ""
