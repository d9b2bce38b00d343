"""An emulator of Google Cloud Storage: fake-gcs-server, one process on loopback.

It keeps objects in memory. What it does not do: it checks no login, no signature and no checksum, and knows
no older generations. Asked how far an upload has come, it takes it for complete.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.installed import installed
from tests.support.procs import Workspace, accepts, client_env, free_port, wait_until
from tests.support.programs import missing
from tests.support.recorder import Recorder

REQUIREMENTS = Path(__file__).with_name("gcs-requirements.txt")
READY_TIMEOUT = 60.0  # seconds; it takes less than one
BUCKET = "tests"
EMAIL = "mirror@tests.iam.gserviceaccount.com"

_numbers = itertools.count(1)


class GcsServer:
    """The server, started, with a recording proxy before it; both end with the workspace.

    It is told the proxy's address, by which signed URLs name it.
    """

    def __init__(self, space: Workspace) -> None:
        program = _program()
        folder = space.folder("gcs")
        port, front = free_port(), free_port()
        self.direct = f"http://127.0.0.1:{port}"
        self.url = f"http://127.0.0.1:{front}"
        argv = [str(program), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
        argv += ["-backend", "memory"]  # as files, no object can be where a folder has been
        argv += ["-external-url", self.url, "-public-host", f"127.0.0.1:{front}", "-log-level", "error"]
        service = space.start(space.folder("gcs-home"), argv, client_env(folder))
        space.on_close(service.kill)  # nothing of it is kept
        wait_until(partial(accepts, port), "fake-gcs-server", READY_TIMEOUT, service)
        body = json.dumps({"name": BUCKET}).encode()
        with urlopen(f"{self.direct}/storage/v1/b?project=tests", body, READY_TIMEOUT) as answer:
            answer.read()
        self.proxy = Recorder(self.direct, front)
        space.on_close(self.proxy.stop)


class GcsBucket:
    """A root of its own in one bucket: nothing of another test is seen there."""

    def __init__(self, server: GcsServer) -> None:
        self.server = server
        self.root = f"test{next(_numbers)}"
        server.proxy.clear()

    def parameters(self, **others: Any) -> dict[str, Any]:
        """The registry's `gcs` section; the server is told by STORAGE_EMULATOR_HOST."""
        return {"bucket": BUCKET, "rootdirectory": f"/{self.root}", "credentials": key(), **others}

    def write(self, path: str, data: bytes) -> None:
        """Behind the driver's back."""
        url = f"{self.server.direct}/upload/storage/v1/b/{BUCKET}/o?uploadType=media"
        url += f"&name={quote(f'{self.root}/{path}', safe='')}"
        with urlopen(Request(url, method="POST", data=data), timeout=READY_TIMEOUT) as answer:
            answer.read()

    def names(self) -> list[str]:
        """All that is in it, as the server says."""
        url = f"{self.server.direct}/storage/v1/b/{BUCKET}/o?prefix={self.root}/"
        with urlopen(url, timeout=READY_TIMEOUT) as answer:
            found = json.load(answer).get("items", ())
        return sorted(each["name"].removeprefix(f"{self.root}/") for each in found)


@cache
def key() -> dict[str, str]:
    """A service account's, as its JSON file has it."""
    private = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return {
        "type": "service_account",
        "client_email": EMAIL,
        "private_key": private.decode(),
        "private_key_id": "1",
        "token_uri": "http://127.0.0.1:9/token",  # nobody is to ask for one here
    }


def _program() -> Path:
    """The binary."""
    text = REQUIREMENTS.read_bytes() + sys.version.encode()
    what = "fake-gcs-server (Python package)"
    home = installed(f"gcs-{hashlib.sha256(text).hexdigest()[:12]}", what, _commands)
    found = [path for path in home.rglob("bin/fake-gcs-server-*") if path.is_file()]
    if not found:
        missing(f"{what} has no program for this machine")
    return found[0]


def _commands(home: Path) -> list[list[str]]:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    return [[*pip, "--target", str(home), "-r", str(REQUIREMENTS)]]
