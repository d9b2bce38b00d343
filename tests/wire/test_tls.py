"""The mirror as a process in TLS, at a Unix socket and at systemd's, asked by curl and openssl.

Where it is cheap, docker-registry 2.8 runs beside it with the same configuration and has to say the same.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support import watchful
from tests.support.certificates import Pair, issued, self_signed
from tests.support.images import AMD64, Catalog
from tests.support.mirror_process import ROOT, MirrorProcess
from tests.support.modes import ENVIRONMENT
from tests.support.procs import Service, Workspace, client_env, free_port, wait_until
from tests.support.programs import find
from tests.support.registries import Registry, RegistryProcess, push

LIMIT = 30.0  # seconds for one command
IMAGE = "library/small:1"
ACCEPT = "Accept: application/vnd.docker.distribution.manifest.v2+json"  # else it makes schema 1 of it
OLD_SUITES = ["TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The server's, which is its own CA."""
    return self_signed(tmp_path_factory.mktemp("tls"), "server")


def with_tls(pair: Pair, **more: Any) -> dict[str, Any]:
    """A configuration."""
    return {"http": {"tls": {"certificate": str(pair[0]), "key": str(pair[1]), **more}}}


def curl(*args: str) -> subprocess.CompletedProcess[bytes]:
    """`curl ARGS` to its end."""
    return subprocess.run(
        [find("curl"), "-sS", "--max-time", "20", *args], capture_output=True, timeout=LIMIT, check=False
    )


def s_client(port: int, *args: str) -> str:
    """What openssl says of a handshake."""
    done = subprocess.run(
        [find("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-brief", *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    return done.stdout + done.stderr


class Reference(RegistryProcess):
    """A docker-registry with this configuration."""

    def __init__(self, space: Workspace, proxy_of: str, config: dict[str, Any]) -> None:
        config = {"log": {"level": "info"}, "proxy": {"remoteurl": proxy_of}, **config}
        super().__init__(space, "reference", ["docker-registry", "serve"], config)
        self.start()


@pytest.fixture(scope="module")
def origin(space: Workspace, catalog: Catalog) -> Registry:
    """A docker-registry with the images."""
    made = Registry(space, "tls-origin")
    push(made.url, catalog)
    return made


@pytest.fixture(scope="module")
def both(space: Workspace, origin: Registry, pair: Pair) -> dict[str, RegistryProcess]:
    """The mirror and docker-registry, in TLS, with suites for old clients, too."""
    config = with_tls(pair, minimumtls="tls1.1", ciphersuites=OLD_SUITES)
    return {
        "mirror": MirrorProcess(space, origin.url, name="tls-mirror", config=config),
        "docker-registry": Reference(space, origin.url, config),
    }


@pytest.mark.parametrize(
    "target",
    ["/v2/", "/", "/v2", "/v2/library/small/manifests/1", "/v2/library/small/blobs/CONFIG", "/v2/_catalog"],
)
def test_answers_in_tls_are_docker_registrys(
    both: dict[str, RegistryProcess], pair: Pair, catalog: Catalog, target: str
) -> None:
    """Status, body and the headers that both have."""
    target = target.replace("CONFIG", catalog[IMAGE].platforms[AMD64].config)
    said: dict[str, list[tuple[str, bytes, dict[str, str]]]] = {}
    for name, server in both.items():
        for _ in range(3):  # cold, warm, and what the fast lane repeats
            done = curl("-i", "-H", ACCEPT, "--cacert", str(pair[0]), f"https://{server.host}{target}")
            assert done.returncode == 0, done.stderr
            head, _, body = done.stdout.partition(b"\r\n\r\n")
            status, *lines = head.decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            said.setdefault(name, []).append((status.split()[1], body, headers))
    for _, _, headers in said["docker-registry"]:
        for name in ("date", "cache-control", "etag", "content-type", "x-content-type-options"):
            headers.pop(name, None)  # HTTP/2 has them as well; the mirror's own are compared elsewhere
    for ours, theirs in zip(said["mirror"], said["docker-registry"], strict=True):
        assert ours[:2] == theirs[:2]
        assert ours[2].items() >= theirs[2].items()


@pytest.mark.parametrize(
    ("args", "used"),
    [
        (["-tls1_3"], "TLSv1.3"),
        (["-tls1_2"], "TLSv1.2"),
        (["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "TLSv1.1"),
        (["-tls1", "-cipher", "ALL:@SECLEVEL=0"], ""),
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"], "ECDHE-ECDSA-AES128-SHA"),
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"], ""),
    ],
)
def test_versions_and_suites_are_docker_registrys(
    both: dict[str, RegistryProcess], args: list[str], used: str
) -> None:
    for server in both.values():
        said = s_client(server.port, *args)
        assert ("CONNECTION ESTABLISHED" in said) is bool(used), said
        assert used in said


def test_http_on_the_tls_port_is_answered_in_docker_registrys_words(both: dict[str, RegistryProcess]) -> None:
    answers = {}
    for name, server in both.items():
        with socket.create_connection(("127.0.0.1", server.port), LIMIT) as client:
            client.sendall(b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n")
            answer = b""
            while piece := client.recv(4096):
                answer += piece
        answers[name] = answer
    assert b"Client sent an HTTP request to an HTTPS server." in answers["docker-registry"]
    assert answers["mirror"] == answers["docker-registry"]


@pytest.mark.parametrize("who", ["nobody", "known", "by another CA", "expired"])
def test_clients_certificates_are_taken_and_refused_as_by_docker_registry(
    space: Workspace, origin: Registry, pair: Pair, tmp_path: Path, who: str
) -> None:
    """`clientcas` alone: one that this CA has signed is required."""
    ours, other = self_signed(tmp_path, "ours"), self_signed(tmp_path, "other")
    made: dict[str, Callable[[], Pair | None]] = {
        "nobody": lambda: None,
        "known": lambda: issued(tmp_path, "known", ours),
        "by another CA": lambda: issued(tmp_path, "stranger", other),
        "expired": lambda: issued(tmp_path, "expired", ours, expired=True),
    }
    shown = made[who]()
    args = ["--cert", str(shown[0]), "--key", str(shown[1])] if shown else []
    config = with_tls(pair, clientcas=[str(ours[0])])
    mirror = MirrorProcess(space, origin.url, config=config)
    reference = Reference(space, origin.url, config)
    for server in (mirror, reference):
        done = curl("--cacert", str(pair[0]), *args, f"https://{server.host}/v2/")
        assert (done.stdout == b"{}") is (who == "known"), (server, done)
        assert (done.returncode == 0) is (who == "known")
        server.stop()
    assert ("client.certificate.refused" in mirror.log) is (who != "known")


class Pulling(threading.Thread):
    """Blobs and manifests over kept connections, until told to stop; each answer is looked at."""

    def __init__(self, port: int, trust: ssl.SSLContext, catalog: Catalog) -> None:
        super().__init__()
        self.stop = threading.Event()
        self.served = 0
        self.failure: BaseException | None = None
        self._port, self._trust = port, trust
        part = catalog[IMAGE].platforms[AMD64]
        self._wanted = {
            f"/v2/library/small/blobs/{digest}": catalog.blobs[digest]
            for digest in (part.config, *part.layers)
        }
        self.start()

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                connection = http.client.HTTPSConnection(
                    "127.0.0.1", self._port, context=self._trust, timeout=LIMIT
                )
                with closing(connection):
                    for target, content in self._wanted.items():
                        connection.request("GET", target)
                        response = connection.getresponse()
                        assert (response.status, response.read()) == (200, content)
                        self.served += 1
        except BaseException as error:  # noqa: BLE001 - told to the test
            self.failure = error


def test_a_renewed_certificate_is_shown_and_no_pull_notices(
    space: Workspace, origin: Registry, tmp_path: Path, catalog: Catalog
) -> None:
    """Under load; then a broken one, which changes nothing."""
    first, second = self_signed(tmp_path, "first"), self_signed(tmp_path, "second")
    used = (tmp_path / "used.pem", tmp_path / "used.key")
    for source, target in zip(first, used, strict=True):
        shutil.copyfile(source, target)
    trust = ssl.create_default_context(cafile=first[0])
    trust.load_verify_locations(second[0])
    trust.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    mirror = MirrorProcess(space, origin.url, config=with_tls(used), program=watchful.__file__)
    pulling = [Pulling(mirror.port, trust, catalog) for _ in range(3)]
    try:
        wait_until(lambda: all(each.served > 20 or each.failure for each in pulling), "pulls")
        for source, target in zip(second, used, strict=True):
            shutil.copyfile(source, target)
        wait_until(lambda: "tls.reloaded" in mirror.log, "the new certificate", service=mirror.service)
        assert curl("--cacert", str(second[0]), f"{mirror.url.replace('http', 'https')}/v2/").stdout == b"{}"
        used[1].write_text("nonsense")
        complaint = f"http.tls.key: {used[1]}: not a PEM file"
        wait_until(lambda: complaint in mirror.log, "the complaint", 30, mirror.service)
        assert "tls.not_reloaded" in mirror.log
        before = [each.served for each in pulling]
        wait_until(
            lambda: all(each.served > had for each, had in zip(pulling, before, strict=True)), "more pulls"
        )
    finally:
        for each in pulling:
            each.stop.set()
        for each in pulling:
            each.join()
    assert [each.failure for each in pulling] == [None] * 3


def test_a_pair_that_does_not_fit_stops_the_start_with_its_names(tmp_path: Path, pair: Pair) -> None:
    other = self_signed(tmp_path, "other")
    env = {**client_env(tmp_path), "PYTHONPATH": str(ROOT)}
    env |= {"REGISTRY_HTTP_TLS_CERTIFICATE": str(pair[0]), "REGISTRY_HTTP_TLS_KEY": str(other[1])}
    done = subprocess.run(
        [sys.executable, "-m", "mirror", "serve"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"mirror: REGISTRY_HTTP_TLS_KEY: http.tls.key: got '{other[1]}': "
        f"the key is for another certificate than the one in {pair[0]}\n"
    )


# Unix sockets, and systemd's.


class Elsewhere:
    """A mirror that does not listen at a port of its own choice; `files` are descriptors from 3 on."""

    def __init__(
        self, space: Workspace, origin: Registry, http_: dict[str, Any], files: tuple[int, ...] = ()
    ) -> None:
        self.folder = space.folder("elsewhere")
        config = {
            "version": 0.1,
            "log": {"level": "debug"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "storage")}},
            "http": http_,
            "proxy": {"remoteurl": origin.url},
        }
        path = self.folder / "config.yml"
        path.write_text(json.dumps(config))
        argv = [sys.executable, "-m", "mirror", "serve", str(path)]
        if files:
            # As systemd does: the descriptors in their places, and this very process named as theirs.
            places = " ".join(f"{at}<&{file}" for at, file in enumerate(files, 3))
            script = f'LISTEN_FDS={len(files)} LISTEN_PID=$$ exec "$@" {places}'
            argv = ["bash", "-c", script, "bash", *argv]
        env = {**client_env(self.folder), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **ENVIRONMENT}
        self.service = start(space, self.folder, argv, env, files)

    @property
    def log(self) -> str:
        return self.service.log.read_text()

    def started(self) -> None:
        wait_until(lambda: "mirror.started" in self.log, "the mirror", service=self.service)

    def ended(self) -> int:
        """Its exit status, once it has ended by itself."""
        return self.service.process.wait(LIMIT)


def start(
    space: Workspace, folder: Path, argv: list[str], env: dict[str, str], files: tuple[int, ...]
) -> Service:
    """A service that inherits these descriptors."""
    if not files:
        return space.start(folder, argv, env)
    real = subprocess.Popen

    def popen(*args: Any, **options: Any) -> subprocess.Popen[Any]:
        return real(*args, pass_fds=files, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", popen)
        return space.start(folder, argv, env)


@pytest.fixture
def path(space: Workspace) -> Path:
    """Where a socket may be: a short path."""
    return space.folder("s") / "m.sock"


def test_a_unix_socket_serves_and_goes_with_the_mirror(
    space: Workspace, origin: Registry, path: Path, catalog: Catalog
) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    mirror = Elsewhere(space, origin, {"net": "unix", "addr": str(path)})
    mirror.started()
    digest = catalog[IMAGE].platforms[AMD64].layers[0]
    target = f"http://m/v2/library/small/blobs/{digest}"
    for _ in range(2):
        done = curl("--unix-socket", str(path), target)
        assert done.stdout == catalog.blobs[digest]
    second = Elsewhere(space, origin, {"net": "unix", "addr": str(path)})
    assert second.ended() == 1
    assert f"http.addr: cannot listen on {path}: somebody answers there. Stop what" in second.log
    assert curl("--unix-socket", str(path), "http://m/v2/").stdout == b"{}"
    assert mirror.service.stop() == 0
    assert not path.exists()


def test_a_unix_socket_speaks_tls_and_believes_who_is_at_it(
    space: Workspace, origin: Registry, path: Path, pair: Pair
) -> None:
    http_ = {"net": "unix", "addr": str(path), **with_tls(pair)["http"]}
    mirror = Elsewhere(space, origin, http_)
    mirror.started()
    args = ["--unix-socket", str(path), "--cacert", str(pair[0]), "-H", "X-Forwarded-For: 203.0.113.9"]
    assert curl(*args, "https://127.0.0.1/v2/").stdout == b"{}"
    wait_until(lambda: "http.request.remoteaddr=203.0.113.9" in mirror.log, "the request's line")


def test_a_path_that_is_another_file_stops_the_start(space: Workspace, origin: Registry, path: Path) -> None:
    path.write_text("mine")
    mirror = Elsewhere(space, origin, {"net": "unix", "addr": str(path)})
    assert mirror.ended() == 1
    assert "there is a file of that name that is no socket. Remove that file" in mirror.log
    assert path.read_text() == "mine"


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_systemds_socket_is_used_and_the_address_is_not(
    space: Workspace, origin: Registry, pair: Pair, secure: bool
) -> None:
    """A client that comes before the mirror waits for it."""
    config = {"addr": f"127.0.0.1:{free_port()}", **(with_tls(pair)["http"] if secure else {})}
    with socket.create_server(("127.0.0.1", 0)) as given:
        port = given.getsockname()[1]
        mirror = Elsewhere(space, origin, config, (given.fileno(),))
        url = f"{'https' if secure else 'http'}://127.0.0.1:{port}/v2/"
        assert curl("--cacert", str(pair[0]), url).stdout == b"{}"
        assert "listen.activated" in mirror.log
        assert f'addr="127.0.0.1:{port}"' in mirror.log or f"addr=127.0.0.1:{port} " in mirror.log
        assert mirror.service.stop() == 0


def test_two_sockets_of_systemd_stop_the_start(space: Workspace, origin: Registry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        mirror = Elsewhere(space, origin, {}, (one.fileno(), two.fileno()))
        assert mirror.ended() == 1
    assert "systemd has passed 2 sockets, wanted one" in mirror.log
