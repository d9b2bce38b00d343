"""A real Azure blob server: Microsoft's own emulator, one process on loopback. It checks signatures."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import ssl
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from tests.support.certificates import Pair
from tests.support.installed import installed
from tests.support.procs import Workspace, accepts, client_env, free_port, wait_until
from tests.support.programs import find

VERSION = "3.35.0"
READY_TIMEOUT = 60.0  # seconds; it takes two
# The emulator's account, the same everywhere: Microsoft's documentation of Azurite.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CONTAINER = "tests"

ANY_CERTIFICATE = ssl._create_unverified_context()  # for loopback

_numbers = itertools.count(1)


class Azurite:
    """The server, started; it ends with the workspace.

    With a certificate it speaks TLS, and takes any token that is of the right form: it checks no signature.
    """

    def __init__(self, space: Workspace, certificate: Pair | None = None) -> None:
        program = _program()
        folder = space.folder("azurite")
        port = free_port()
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
        where = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "-l", str(folder)]
        argv = [find("node"), str(program), *where, "--silent", "--disableTelemetry", "--skipApiVersionCheck"]
        if certificate is not None:
            argv += ["--cert", str(certificate[0]), "--key", str(certificate[1]), "--oauth", "basic"]
        service = space.start(space.folder("azurite-home"), argv, client_env(folder))
        space.on_close(service.kill)  # nothing of it is kept
        wait_until(partial(accepts, port), "azurite", READY_TIMEOUT, service)
        self._make(CONTAINER)

    def _make(self, container: str) -> None:
        """https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key"""
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        lines = ["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in headers.items())]
        lines += [f"/{ACCOUNT}/{ACCOUNT}/{container}", "restype:container"]
        made = hmac.new(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(made).decode()}"
        url = f"{self.url}/{ACCOUNT}/{container}?restype=container"
        request = Request(url, method="PUT", headers=headers)
        with urlopen(request, timeout=READY_TIMEOUT, context=ANY_CERTIFICATE) as answer:
            answer.read()


class Container:
    """A root of its own in one container: nothing of another test is seen there."""

    def __init__(self, server: Azurite) -> None:
        self.server = server
        self.root = f"test{next(_numbers)}"

    def parameters(self, url: str | None = None, **others: Any) -> dict[str, Any]:
        """The registry's `azure` section; by way of `url` where that is given."""
        return {
            "accountname": ACCOUNT,
            "accountkey": KEY,
            "container": CONTAINER,
            "serviceurl": f"{url or self.server.url}/{ACCOUNT}",
            "rootdirectory": f"/{self.root}",
            **others,
        }


def _program() -> Path:
    """Its script."""
    home = installed(f"azurite-{VERSION}", "azurite (npm package)", _commands)
    return home / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


def _commands(home: Path) -> list[list[str]]:
    (home / "package.json").write_text("{}\n")
    return [[find("npm"), "install", "--no-fund", "--no-audit", "--silent", f"azurite@{VERSION}"]]
