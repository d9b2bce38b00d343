"""Exit 0 when the mirror in this container serves, on the address that it was told to listen on.

It asks `/`, which is 503 while a check of `health` fails: a container that refuses every pull is not healthy.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import sys
from pathlib import Path

from mirror import configfile
from mirror.config import Http
from mirror.confighosts import SocketPath
from mirror.configtls import REQUIRE

TIMEOUT = 5.0  # seconds; `/` needs neither the disk nor the upstream
EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


class Connection(http.client.HTTPConnection):
    """To where the mirror listens. NB: no urllib, which would ask the HTTP_PROXY that is for the upstream."""

    def __init__(self, said: Http) -> None:
        super().__init__("127.0.0.1", timeout=TIMEOUT)
        self._said = said

    def connect(self) -> None:
        """Its certificate is not looked at: it is for the clients' name of the mirror, not for this one."""
        addr = self._said.addr
        if isinstance(addr, SocketPath):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(TIMEOUT)
            self.sock.connect(str(addr.path))
        else:
            host = "127.0.0.1" if addr.host in EVERYWHERE else addr.host
            self.sock = socket.create_connection((host, addr.port), TIMEOUT)
        if self._said.tls.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self.sock = context.wrap_socket(self.sock)


def settings() -> Http:
    """By the configuration of process 1, and the variables, which are the same here. Raises ConfigError."""
    words = Path("/proc/1/cmdline").read_text().split("\0")
    files = [Path(word) for word in words if word.endswith((".yml", ".yaml"))]
    named = os.environ.get("REGISTRY_CONFIGURATION_PATH")
    file = files[-1] if files else Path(named) if named else None
    return configfile.load(file, os.environ).config.http


def trouble(said: Http) -> str:
    """Why the mirror is not healthy; nothing if it is."""
    connection = Connection(said)
    try:
        connection.connect()
        if wants_certificate(said):
            return ""  # there is none here to show, so it is asked for no more than a handshake
        connection.request("GET", "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        # By TLS 1.2 the missing certificate is told within the handshake.
        refused = isinstance(error, ssl.SSLError) and wants_certificate(said)
        return "" if refused else f"{said.addr}: {error}"
    finally:
        connection.close()
    return "" if status == http.client.OK else f"{said.addr}: answers {status}: see its log"


def wants_certificate(said: Http) -> bool:
    """Whether clients without a certificate are kept out."""
    return bool(said.tls.clientcas) and said.tls.clientauth in ("", REQUIRE)


def main() -> int:
    """The exit status."""
    try:
        found = trouble(settings())
    except configfile.ConfigError as error:
        found = str(error)
    if found:
        sys.stderr.write(f"{found}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
