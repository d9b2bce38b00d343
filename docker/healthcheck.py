"""Exit 0 when the mirror in this container serves, on the address that it was told to listen on.

It asks `/`, which is 503 while a check of `health` fails: a container that refuses every pull is not healthy.
"""

from __future__ import annotations

import http.client
import os
import sys
from pathlib import Path

from mirror import configfile

TIMEOUT = 5.0  # seconds; `/` needs neither the disk nor the upstream
EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


def address() -> tuple[str, int]:
    """Host and port by the configuration of process 1 and the variables, which are the same here."""
    words = Path("/proc/1/cmdline").read_text().split("\0")
    files = [Path(word) for word in words if word.endswith((".yml", ".yaml"))]
    named = os.environ.get("REGISTRY_CONFIGURATION_PATH")
    file = files[-1] if files else Path(named) if named else None
    addr = configfile.load(file, os.environ).config.http.addr
    return "127.0.0.1" if addr.host in EVERYWHERE else addr.host, addr.port


def main() -> int:
    """The exit status. NB: http.client, because urllib would ask the HTTP_PROXY that is for the upstream."""
    try:
        host, port = address()
    except configfile.ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/")
        return 0 if connection.getresponse().status == 200 else 1
    except OSError as error:
        sys.stderr.write(f"{host}:{port}: {error}\n")
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
