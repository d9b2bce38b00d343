"""The programs that are measured side by side: how each is started for an upstream, and what it is called."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from mirror import __version__
from tests.bench.content import Image
from tests.bench.nginx import Nginx
from tests.support.linkprocess import Link
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Service, Workspace, accepts, client_env, free_port, wait_until
from tests.support.programs import SEARCH_PATH
from tests.support.registries import Registry, RegistryProcess

MIRROR = "mirror"
STATIC = "nginx, static files"
ASK = 20.0  # seconds for a program to tell its version


@dataclass(frozen=True, slots=True)
class Peer:
    """One that runs. `link`: its way to the upstream; None: it has all that it gives.

    `whole_images`: it has all of an image when it answers for the manifest, so that no blob is cold alone.
    """

    name: str
    url: str
    service: Service
    link: Link | None
    publish: Callable[[Image], None] | None = None
    whole_images: bool = False

    @property
    def pid(self) -> int:
        """Of the process that has all its others as children."""
        return self.service.process.pid


@dataclass(frozen=True, slots=True)
class Kind:
    """One that can be started.

    `key` is its name on the command line. `expected`: where it is not on PATH, it is named as not installed,
    and how to get it.
    """

    key: str
    name: str
    program: str | None
    install: str
    version: tuple[str, ...]
    start: Callable[[Workspace, Link], Peer]
    expected: bool = True

    @property
    def installed(self) -> bool:
        return self.program is None or shutil.which(self.program, path=SEARCH_PATH) is not None

    def tell(self) -> str:
        """Its name and version."""
        if not self.version:
            return f"{self.name} {__version__}"
        done = subprocess.run(
            self.version, capture_output=True, text=True, timeout=ASK, check=False, env={"PATH": SEARCH_PATH}
        )
        found = re.search(r"\d+\.\d+\.\d+[\w.+-]*", done.stdout + done.stderr)
        return f"{self.name.partition(',')[0]} {found[0] if found else 'of unknown version'}"


def _mirror(space: Workspace, link: Link) -> Peer:
    process = MirrorProcess(space, link.url, config={"log": {"level": "info"}})
    return Peer(MIRROR, process.url, process.service, link)


def _registry2(space: Workspace, link: Link) -> Peer:
    process = Registry(space, "docker-registry", proxy_of=link.url)
    return Peer("docker-registry", process.url, process.service, link)


def _registry3(space: Workspace, link: Link) -> Peer:
    config = {"log": {"level": "info"}, "proxy": {"remoteurl": link.url}}
    process = RegistryProcess(space, "registry3", ["registry", "serve"], config)
    process.start()
    return Peer("registry:3", process.url, process.service, link)


def _drayage(space: Workspace, link: Link) -> Peer:
    def config(port: int, data: str) -> str:
        return f"""listen = "127.0.0.1:{port}"
cache_dir = "{data}"
[upstreams.docker_io]
registry = "{link.url}"
"""

    return _program(space, "drayage", ["drayage", "serve", "--config"], config, link)


def _zot(space: Workspace, link: Link) -> Peer:
    def config(port: int, data: str) -> str:
        registry = {
            "urls": [link.url],
            "onDemand": True,
            "tlsVerify": False,
            "content": [{"prefix": "**"}],
        }
        return json.dumps(
            {
                "storage": {"rootDirectory": data},
                "http": {"address": "127.0.0.1", "port": str(port)},
                "log": {"level": "info"},
                "extensions": {"sync": {"enable": True, "registries": [registry]}},
            }
        )

    return dataclasses.replace(_program(space, "zot", ["zot", "serve"], config, link), whole_images=True)


def _program(
    space: Workspace, name: str, argv: list[str], config: Callable[[int, str], str], link: Link
) -> Peer:
    """One that reads a file; `config` makes its text from a port and a folder for data."""
    folder, port = space.folder(name), free_port()
    folder.joinpath("data").mkdir()
    path = folder / "config"
    path.write_text(config(port, str(folder / "data")))
    service = space.start(folder, [*argv, str(path)], client_env(folder))
    wait_until(lambda: accepts(port), name, service=service)
    return Peer(name, f"http://127.0.0.1:{port}", service, link)


def _nginx_cache(space: Workspace, link: Link) -> Peer:
    nginx = Nginx(space, "nginx-cache", link.port)
    return Peer("nginx, proxy_cache", nginx.url, nginx.service, link)


def _nginx_static(space: Workspace, _link: Link) -> Peer:
    nginx = Nginx(space, "nginx-static")
    return Peer(STATIC, nginx.url, nginx.service, None, nginx.publish)


_NGINX = ("nginx", "apt-get install nginx", ("nginx", "-v"))
KINDS = [
    Kind(MIRROR, MIRROR, None, "", (), _mirror),
    Kind(
        "registry2",
        "docker-registry",
        "docker-registry",
        "apt-get install docker-registry",
        ("docker-registry", "--version"),
        _registry2,
    ),
    Kind("registry3", "registry:3", "registry", "", ("registry", "--version"), _registry3, expected=False),
    Kind("drayage", "drayage", "drayage", "", ("drayage", "--version"), _drayage, expected=False),
    Kind("zot", "zot", "zot", "", ("zot", "--version"), _zot, expected=False),
    Kind("nginx-cache", "nginx, proxy_cache", *_NGINX, _nginx_cache),
    Kind("nginx-static", STATIC, *_NGINX, _nginx_static),
]
