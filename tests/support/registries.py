"""Registries as processes: docker-registry (distribution 2.8) as upstream or as reference mirror."""

from __future__ import annotations

import base64
import http.client
import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.images import Catalog, Image
from tests.support.procs import HarnessError, Service, Workspace, accepts, client_env, free_port, wait_until
from tests.support.programs import find

PUSH_TIMEOUT = 30.0  # seconds for one request of a push


class RegistryProcess:
    """A registry program on a loopback port that stays its own over restarts.

    `config` is written as JSON, which is YAML too; http.addr and, unless it is there, the filesystem's
    rootdirectory are filled in.
    """

    def __init__(
        self,
        space: Workspace,
        name: str,
        argv: list[str],
        config: dict[str, Any],
        *,
        storage: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.space = space
        self.folder = space.folder(name)
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        self.storage = storage or self.folder / "storage"
        self.config = config
        self.env = {**client_env(self.folder), **(env or {})}
        self._argv = argv
        self.service: Service

    def start(self) -> None:
        """Write the configuration, start, wait until it accepts connections."""
        config = {"version": 0.1, **self.config}
        config["http"] = {**config.get("http", {}), "addr": self.host}
        config.setdefault("storage", {"filesystem": {"rootdirectory": str(self.storage)}})
        path = self.folder / "config.yml"
        path.write_text(json.dumps(config, indent=1))
        self.service = self.space.start(self.folder, [*self._argv, str(path)], self.env)
        wait_until(lambda: accepts(self.port), self.folder.name, service=self.service)

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        return self.service.stop()

    def kill(self) -> None:
        """SIGKILL."""
        self.service.kill()

    def restart(self) -> None:
        """SIGTERM, and anew on the same port and storage, with what `config` and `env` are now."""
        self.stop()
        self.start()

    @property
    def log(self) -> str:
        """All that it printed, over all its starts."""
        return self.service.log.read_text(errors="replace")

    def blob_file(self, digest: str) -> Path:
        """Where distribution's tree has these bytes."""
        algorithm, value = digest.split(":")
        return self.storage / f"docker/registry/v2/blobs/{algorithm}/{value[:2]}/{value}/data"


class Registry(RegistryProcess):
    """A docker-registry, started; with `proxy_of` a pull-through mirror of that URL."""

    def __init__(
        self,
        space: Workspace,
        name: str,
        *,
        proxy_of: str | None = None,
        auth: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        storage: Path | None = None,
    ) -> None:
        config = {"log": {"level": "info"}, **(config or {})}
        if proxy_of is not None:
            config["proxy"] = {"remoteurl": proxy_of}
        if auth is not None:
            config["auth"] = auth
        super().__init__(space, name, ["docker-registry", "serve"], config, storage=storage)
        self.start()


def htpasswd(folder: Path, login: tuple[str, str]) -> dict[str, Any]:
    """The `auth` section for a docker-registry that wants this login by Basic authentication."""
    hashed = subprocess.run(
        [find("htpasswd"), "-niB", login[0]],
        input=login[1].encode(),
        check=True,
        capture_output=True,
        timeout=30,
    )
    path = folder / "htpasswd"
    path.write_bytes(hashed.stdout)
    return {"htpasswd": {"realm": "tests", "path": str(path)}}


def basic_auth(login: tuple[str, str]) -> str:
    """The value of an Authorization header."""
    return "Basic " + base64.b64encode(":".join(login).encode()).decode()


class _Pusher:
    """Pushes with nothing but HTTP: also what no client can push, and byte for byte."""

    def __init__(self, url: str, catalog: Catalog) -> None:
        address = urlsplit(url)
        self.connection = http.client.HTTPConnection(
            address.hostname or "", address.port, timeout=PUSH_TIMEOUT
        )
        self.catalog = catalog

    def request(
        self, wanted: int, method: str, target: str, body: bytes | None = None, media_type: str = ""
    ) -> http.client.HTTPResponse:
        self.connection.request(method, target, body, {"Content-Type": media_type} if media_type else {})
        response = self.connection.getresponse()
        text = response.read()
        if response.status != wanted:
            raise HarnessError(f"{method} {target}: {response.status} {text!r}")
        return response

    def image(self, image: Image) -> None:
        manifests, blobs = self.catalog.objects(image)
        for digest in blobs:
            started = self.request(202, "POST", f"/v2/{image.name}/blobs/uploads/")
            location = urlsplit(started.headers["Location"])
            target = f"{location.path}?{location.query}&digest={digest}"
            self.request(201, "PUT", target, self.catalog.blobs[digest], "application/octet-stream")
        references = [*reversed(manifests[1:]), image.tag, *image.extra_tags]  # children before their index
        for reference in references:
            body = self.catalog.blobs.get(reference, self.catalog.blobs[image.digest])
            media_type = json.loads(body)["mediaType"]
            self.request(201, "PUT", f"/v2/{image.name}/manifests/{reference}", body, media_type)


def push(url: str, catalog: Catalog) -> None:
    """Push all the catalog's images to the registry at `url`."""
    pusher = _Pusher(url, catalog)
    try:
        for image in catalog.images:
            pusher.image(image)
    finally:
        pusher.connection.close()
