"""A real S3 server: OpenStack Swift with its S3 API, one node on loopback, five processes.

It checks signatures, checksums and conditions, and keeps what it is given as files. What it lacks: object
tags, and an anonymous request gets 400 instead of 403.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from tests.support import installed as build
from tests.support.procs import Service, Workspace, accepts, client_env, free_port, wait_until
from tests.support.programs import find, missing, require

ACCESS_KEY, SECRET_KEY, REGION = "test:tester", "testing", "us-east-1"
REQUIREMENTS = Path(__file__).with_name("swift-requirements.txt")
KEYSTONE = Path(__file__).with_name("keystone-requirements.txt")  # Swift, and a Keystone
READY_TIMEOUT = 60.0  # seconds; it takes two
OTHERS = "MIRROR_TESTS_SWIFT"
PROGRAM = "swift-{}-server"
SERVERS = ("account", "container", "object")
# Seconds that its servers wait for one another. The defaults are half a second and less: on a busy machine a
# token is not found (401), and a listing lacks what was put.
PATIENCE = 30
BLOCK = 1 << 20  # bytes that its servers move at a time; the default, 64 KiB, costs a third of the speed

_RING = """[swift-hash]
swift_hash_path_suffix = tests
swift_hash_path_prefix = tests
[storage-policy:0]
name = Policy-0
default = yes
"""
_COMMON = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
recon_cache_path = {folder}
log_address = {folder}/no-syslog
"""
_STORAGE = """[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
network_chunk_size = {block}
disk_chunk_size = {block}
conn_timeout = {patience}
node_timeout = {patience}
container_update_timeout = {patience}
"""
_FILTERS = ("catch_errors", "gatekeeper", "healthcheck", "copy", "listing_formats", "slo", "dlo", "symlink")
_PROXY = """[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats s3api tempauth copy slo dlo \
versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
client_chunk_size = {block}
object_chunk_size = {block}
conn_timeout = {patience}
node_timeout = {patience}
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
connect_timeout = {patience}
pool_timeout = {patience}
io_timeout = {patience}
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
max_bucket_listing = {page}
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
user_test_reader = reading
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
""" + "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in _FILTERS)


class SwiftServer:
    """The server, started; it ends with the workspace. `test:reader` is a user who may do nothing."""

    def __init__(
        self, space: Workspace, page: int = 1000, keystone: str = "", *, debian: bool = False
    ) -> None:
        """`page`: how many keys it lists at once, at most. `keystone`: what asks one who you are.

        `debian`: the one that the system has installed, whatever MIRROR_TESTS_SWIFT says.
        """
        self._page = page
        self._keystone = keystone
        find("memcached")
        self.folder = space.folder("swift")
        _check_attributes(self.folder)
        self._programs = installed() if debian else programs(KEYSTONE if keystone else REQUIREMENTS)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._space = space
        self._env = client_env(self.folder)
        self._login: tuple[str, str] | None = None  # the account's URL, and a token
        self._start()
        self.bucket = "tests"
        if not keystone:
            self.make_bucket(self.bucket)

    def stop_answering(self) -> None:
        """Connections are taken, and nothing is said any more (SIGSTOP)."""
        os.kill(self._proxy.process.pid, signal.SIGSTOP)

    def answer_again(self) -> None:
        """After `stop_answering`."""
        os.kill(self._proxy.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Connections are refused."""
        self._proxy.kill()

    def revive(self) -> None:
        """After `kill`: at the same place, with all that was in it."""
        self._proxy = self._service("proxy", self._program("proxy"))
        wait_until(partial(accepts, self.port), "swift proxy", READY_TIMEOUT, self._proxy)

    def make_bucket(self, name: str) -> None:
        """An empty one: by Swift's own interface, where a bucket is a container."""
        self._ask("PUT", f"/{name}")

    def names(self, bucket: str, prefix: str) -> list[str]:
        """The keys that begin so, by Swift's own interface: 10,000 at most. [] where there is no bucket."""
        query = urlencode({"prefix": prefix, "format": "json"})
        try:
            return [each["name"] for each in json.loads(self._ask("GET", f"/{bucket}?{query}") or b"[]")]
        except HTTPError as error:
            if error.code != HTTPStatus.NOT_FOUND:
                raise
            return []

    def _ask(self, method: str, path: str) -> bytes:
        if self._login is None:
            login = {"X-Auth-User": ACCESS_KEY, "X-Auth-Key": SECRET_KEY}
            with urlopen(Request(f"{self.url}/auth/v1.0", headers=login), timeout=READY_TIMEOUT) as answer:
                self._login = answer.headers["X-Storage-Url"], answer.headers["X-Auth-Token"]
        url, token = self._login
        request = Request(f"{url}{path}", headers={"X-Auth-Token": token}, method=method)
        with urlopen(request, timeout=READY_TIMEOUT) as answer:
            body: bytes = answer.read()
        return body

    def parameters(self, bucket: str, url: str | None = None) -> dict[str, Any]:
        """The registry's `s3` section for a bucket here, by way of `url` where that is given."""
        return {
            "accesskey": ACCESS_KEY,
            "secretkey": SECRET_KEY,
            "region": REGION,
            "regionendpoint": url or self.url,
            "forcepathstyle": True,
            "bucket": bucket,
        }

    def _start(self) -> None:
        ports = {name: free_port() for name in (*SERVERS, "memcached")}
        memcached = ["memcached", "-u", _user(), "-l", "127.0.0.1", "-p", str(ports["memcached"]), "-U", "0"]
        services = {"memcached": self._service("memcached", [*memcached, "-m", "16"])}
        (self.folder / "devices" / "d1").mkdir(parents=True)
        (self.folder / "swift.conf").write_text(_RING)
        for name in SERVERS:
            self._make_ring(name, ports[name])
            self._write(f"{name}.conf", _COMMON + _STORAGE, name=name, port=ports[name])
        proxy = _PROXY.replace("tempauth", "s3token keystoneauth", 1) if self._keystone else _PROXY
        self._write(
            "proxy.conf", _COMMON + proxy + self._keystone, port=self.port, memcached=ports["memcached"]
        )
        for name in (*SERVERS, "proxy"):
            services[name] = self._service(name, self._program(name))
        self._proxy = services["proxy"]
        for name, service in services.items():
            wait_until(partial(accepts, ports.get(name, self.port)), f"swift {name}", READY_TIMEOUT, service)

    def _program(self, name: str) -> list[str]:
        return [str(self._programs / PROGRAM.format(name)), str(self.folder / f"{name}.conf"), "-v"]

    def _write(self, file: str, text: str, **values: object) -> None:
        values = {"folder": self.folder, "user": _user(), "block": BLOCK, "page": self._page, **values}
        values["patience"] = PATIENCE
        (self.folder / file).write_text(text.format(**values))

    def _make_ring(self, name: str, port: int) -> None:
        builder = str(self.folder / f"{name}.builder")
        for command in (["create", "4", "1", "0"], ["add", f"r1z1-127.0.0.1:{port}/d1", "1"], ["rebalance"]):
            argv = [str(self._programs / "swift-ring-builder"), builder, *command]
            subprocess.run(argv, check=True, capture_output=True, env=self._env, timeout=READY_TIMEOUT)

    def _service(self, name: str, argv: list[str]) -> Service:
        service = self._space.start(self._space.folder(f"swift-{name}"), argv, self._env)
        self._space.on_close(service.kill)  # nothing of it is kept, and SIGTERM takes it a second
        return service


def programs(requirements: Path = REQUIREMENTS) -> Path:
    """The folder of Swift's programs; the first call on a machine installs it, or skips the test.

    MIRROR_TESTS_SWIFT names the folder of others, for all tests: `/usr/bin` for those of Debian 12, an S3
    server of 2022 without conditional puts, which takes wrong checksums and wants a Content-MD5 for
    DeleteObjects. Some tests take it in any case, where it is installed: see test_s3_old.py.
    """
    if OTHERS in os.environ and requirements == REQUIREMENTS:
        return Path(os.environ[OTHERS])
    text = requirements.read_bytes() + sys.version.encode()
    name = f"swift-{hashlib.sha256(text).hexdigest()[:12]}"
    home = build.installed(name, "swift (Python package)", partial(_commands, requirements))
    return home / "bin"


def installed() -> Path:
    """The folder of the system's own programs; skips the test where they are not there."""
    require("swift-ring-builder", *(PROGRAM.format(name) for name in SERVERS))
    return Path(find(PROGRAM.format("proxy"))).parent


def _commands(requirements: Path, home: Path) -> list[list[str]]:
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip.append("--no-compile")  # of a hundred packages a tenth is ever imported: it halves the time
    return [[sys.executable, "-m", "venv", "--clear", str(home)], [*pip, "-r", str(requirements)]]


def _check_attributes(folder: Path) -> None:
    """Swift keeps what it knows of an object in extended attributes of its file."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        try:
            os.setxattr(file.name, "user.swift", b"x")
        except OSError as error:
            missing(f"no extended attributes of users in {folder.parent.parent}: {error.strerror}")


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name
