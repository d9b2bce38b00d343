"""Exit 0 when the mirror in this container answers. Its port is the default or REGISTRY_HTTP_ADDR's."""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT = 5.0  # seconds; `/` needs neither the disk nor the upstream


def main() -> int:
    """The exit status. NB: http.client, because urllib would ask the HTTP_PROXY that is for the upstream."""
    port = int(os.environ.get("REGISTRY_HTTP_ADDR", ":5000").rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/")
        return 0 if connection.getresponse().status == 200 else 1
    except OSError as error:
        sys.stderr.write(f"127.0.0.1:{port}: {error}\n")
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
