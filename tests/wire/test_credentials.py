"""Every secret goes where it belongs and nowhere else: all that was sent and written is searched for them.

A mirror process with an upstream for each way to log in. Each upstream is pulled from, redirects, refuses,
fails, and tells the headers of requests back in its errors; so do token servers, and the host of the blobs.
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mirror import explain
from mirror.server.control import SOCKET
from tests.support.certificates import self_signed
from tests.support.mirror_process import ROOT, MirrorProcess
from tests.support.procs import Workspace
from tests.support.pulls import fetch
from tests.support.scripted import Basic, Bearer, Fault, Image, Seen, Upstream, in_thread, sha256
from tests.support.webproxy import WebProxy

NAME = "team/app"
COMMAND_LIMIT = 30.0  # seconds
LOGIN = "reader"
CLIENTS_OWN = "word-of-a-client-for-somebody-else"
STORAGE, PROXY, TOKENS = "storage", "proxy", "password-tokens"

# What each upstream does with the tag or the blob of that name.
TROUBLES = {
    "refused": Fault(status=403, echo=True),
    "unauthorized": Fault(status=401, echo=True, headers={"WWW-Authenticate": 'Basic realm="again"'}),
    "missing": Fault(status=404, echo=True),
    "failing": Fault(status=500, echo=True),
    "garbage": Fault(echo=True),
    "reset": Fault(reset=True),
    "hanging": Fault(hang=True),
    "limited": Fault(status=429, echo=True),  # the last: the mirror asks for less from then on
}
TOKEN_TROUBLES = (
    Fault(status=500, echo=True),
    Fault(status=401, echo=True),
    Fault(echo=True),
    Fault(reset=True),
)


def secret(of: str) -> str:
    """Long enough to stand nowhere by chance."""
    return f"{of}-5ecre7-" + sha256(of.encode())[-16:]


@dataclass(slots=True)
class Stage:
    """The servers by name, the mirror's configuration of them, and what the mirror answered and printed."""

    servers: dict[str, Upstream] = field(default_factory=dict)
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: dict[str, Image] = field(default_factory=dict)
    key: str = ""  # a line of the client's private key
    proxy: WebProxy | None = None
    told: list[bytes] = field(default_factory=list)

    def upstream(self, name: str, auth: Basic | Bearer | None = None, **entry: Any) -> Upstream:
        """A registry with an image, and with all the troubles."""
        upstream = self.servers[name] = Upstream(auth=auth)
        self.images[name] = upstream.add_image(NAME, "1", layers=[f"layer of {name}".encode()])
        self.entries[f"{name}.example"] = entry
        return upstream


def presigned(upstream: Upstream, storage: str, name: str, image: Image) -> None:
    """Blobs are on another host, as object storage is: by a URL with a signature in it."""
    signed = f"?signature={secret(f'{name}-signature')}"
    for digest in image.blobs:
        location = f"{storage}/v2/{NAME}/blobs/{digest}{signed}"
        upstream.fault("*", f"/blobs/{digest}", Fault(status=307, headers={"Location": location}))
    # This one is not there; it tells what it was asked, and by whom.
    lost = f"{storage}/v2/{NAME}/manifests/refused{signed}"
    upstream.fault("*", "/manifests/moved", Fault(status=307, headers={"Location": lost}))


def troubled(upstream: Upstream) -> None:
    """Everything that can go wrong, by the name of what is asked for."""
    for trouble, fault in TROUBLES.items():
        upstream.fault("*", f"/manifests/{trouble}$", fault)
        upstream.fault("*", f"/blobs/{sha256(trouble.encode())}", fault)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield _stage(tmp_path, stack)


def _stage(folder: Path, stack: ExitStack) -> Stage:
    stage = Stage()
    _with_logins(stage, folder)
    certificate, key = self_signed(folder, "server")
    client_certificate, client_key = self_signed(folder, "client")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    tls.load_verify_locations(client_certificate)
    tls.verify_mode = ssl.CERT_REQUIRED
    stage.key = client_key.read_text().splitlines()[1]
    stage.upstream("key", ca=str(certificate), clientcert=str(client_certificate), clientkey=str(client_key))
    stage.upstream("proxied")

    storage = stage.servers[STORAGE] = Upstream()
    tokens = stage.servers[TOKENS] = Upstream(auth=stage.servers["password"].auth)
    elsewhere = stack.enter_context(in_thread(storage, host="127.0.0.2"))
    realm = stack.enter_context(in_thread(tokens, host="127.0.0.3"))
    troubled(storage)
    for name, image in stage.images.items():
        upstream = stage.servers[name]
        for data in image.blobs.values():
            storage.add_blob(NAME, data)
        url = stack.enter_context(in_thread(upstream, tls=tls if name == "key" else None))
        troubled(upstream)
        if name != "key":  # nobody is led from https to http
            presigned(upstream, elsewhere, name, image)
        stage.entries[f"{name}.example"]["remoteurls"] = [url]
    password = stage.servers["password"].auth
    assert isinstance(password, Bearer)
    password.realm = f"{realm}/token"
    stage.entries["password.example"]["realms"] = [realm.removeprefix("http://")]
    docker = {"auth": base64.b64encode(f"{LOGIN}:{secret('docker')}".encode()).decode()}
    auths = {stage.servers["docker"].url.removeprefix("http://"): docker}
    (folder / "docker.json").write_text(json.dumps({"auths": auths}))
    stage.proxy = WebProxy({"proxied.invalid": stage.servers["proxied"].url})
    stack.callback(stage.proxy.stop)
    stage.entries["proxied.example"] = {
        "remoteurls": ["http://proxied.invalid"],
        "httpproxy": f"http://{LOGIN}:{secret('proxy')}@{stage.proxy.address}",
    }
    return stage


def _with_logins(stage: Stage, folder: Path) -> None:
    """One upstream for each way to say who one is."""

    def bearer(name: str, **wanted: Any) -> Bearer:
        return Bearer(service=name, prefix=secret(f"{name}-token"), **wanted)

    def login(name: str) -> dict[str, str]:
        return {"username": LOGIN, "password": secret(name)}

    helper = folder / "docker-credential-tests"
    given = {"ServerURL": "", "Username": LOGIN, "Secret": secret("helper")}
    # It talks on its standard error too, as some do.
    helper.write_text(
        f"#!/bin/sh\ncat >/dev/null\necho 'found {secret('helper')}' >&2\necho '{json.dumps(given)}'\n"
    )
    helper.chmod(0o755)
    stage.upstream("password", bearer("password", **login("password")), **login("password"))
    stage.upstream(
        "identity",
        bearer("identity", identity_token=secret("identity")),
        identitytoken=secret("identity"),
    )
    stage.upstream("helper", Basic(LOGIN, secret("helper")), exec={"command": str(helper)})
    stage.upstream("docker", bearer("docker", **login("docker")), dockerconfig=str(folder / "docker.json"))
    stage.upstream("header", headers={"X-Api-Key": secret("header")})


@pytest.fixture
def mirror(space: Workspace, stage: Stage) -> Iterator[MirrorProcess]:
    quick = {
        # A busy machine must not look like an upstream that hangs, more than once. All hang at the same time.
        "timeouts": {"connect": "10s", "firstbyte": "2s", "stall": "2s"},
        "retries": 1,
        "freshness": {"default": "0s"},
        "negative": "0s",
    }
    default = stage.servers[STORAGE].url  # asked for nothing: each request names another
    config = {"proxy": {**quick, "upstreams": stage.entries}}
    mirror = MirrorProcess(space, default, name="secretive", config=config)
    yield mirror
    mirror.stop()


def ask(stage: Stage, mirror: MirrorProcess, namespace: str, path: str, method: str = "GET") -> int:
    """One request, with a client's own credentials on it; its answer is searched later."""
    headers = {"Authorization": f"Basic {base64.b64encode(CLIENTS_OWN.encode()).decode()}"}
    answer = fetch(f"{mirror.url}/v2/{NAME}/{path}?ns={namespace}", headers, method=method)
    stage.told.append(json.dumps(answer.headers).encode() + answer.body)
    return answer.status


def pull_and_fail(stage: Stage, mirror: MirrorProcess) -> None:
    """All that a client can ask of each upstream, and that can go wrong with it; of all of them at a time."""
    with ThreadPoolExecutor(len(stage.images)) as clients:
        ended = [clients.submit(pull_and_fail_at, stage, mirror, name) for name in stage.images]
    for each in ended:
        each.result()


def pull_and_fail_at(stage: Stage, mirror: MirrorProcess, name: str) -> None:
    image, namespace = stage.images[name], f"{name}.example"
    assert ask(stage, mirror, namespace, "manifests/1") == 200, mirror.service.tail()
    for digest in image.blobs:
        assert ask(stage, mirror, namespace, f"blobs/{digest}") == 200, mirror.service.tail()
    ask(stage, mirror, namespace, "tags/list")
    ask(stage, mirror, namespace, f"referrers/{image.digest}")
    for path in ("manifests/none", "manifests/moved", f"blobs/{sha256(b'none')}"):
        assert ask(stage, mirror, namespace, path) >= 400, path
    token_troubles(stage, mirror, name)
    for trouble in TROUBLES:
        for method, path in (
            ("HEAD", f"manifests/{trouble}"),
            ("GET", f"manifests/{trouble}"),
            ("GET", f"blobs/{sha256(trouble.encode())}"),
        ):
            assert ask(stage, mirror, namespace, path, method) >= 400
            # It is well in between, so that its breaker stays closed.
            assert ask(stage, mirror, namespace, "manifests/1") == 200
        assert stage.servers[name].find("", f"/manifests/{trouble}$"), f"{name} was not asked: {trouble}"


def token_troubles(stage: Stage, mirror: MirrorProcess, name: str) -> None:
    """Its tokens are worth nothing any more, and there are no others to be had."""
    auth = stage.servers[name].auth
    if not isinstance(auth, Bearer):
        return
    tokens = stage.servers.get(f"{name}-tokens", stage.servers[name])
    for trouble in TOKEN_TROUBLES:
        auth.tokens.clear()
        before = len(tokens.find("", "/token"))
        tokens.fault("*", "/token", trouble)
        assert ask(stage, mirror, f"{name}.example", "manifests/cold") >= 400
        assert len(tokens.find("", "/token")) > before, "the token server was not asked"
        tokens.clear_faults("/token")
        assert ask(stage, mirror, f"{name}.example", "manifests/1") == 200


def commands(stage: Stage, mirror: MirrorProcess) -> None:
    """What an operator prints."""
    file = str(mirror.folder / "config.yml")
    images = [f"{name}.example/{NAME}:{tag}" for name in stage.images for tag in ("1", "refused")]
    for argv in (["config", file], ["explain", images[0], "--config", file]):
        done = subprocess.run(
            [sys.executable, "-m", "mirror", *argv],
            cwd=mirror.folder,
            env={**mirror.env, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=COMMAND_LIMIT,
            check=False,
        )
        assert done.returncode == 0, (argv, done.stderr)
        stage.told.append(done.stdout + done.stderr)
    for image in images:  # what the command prints, without a process for each
        stage.told.append(json.dumps(explain.ask(mirror.storage / SOCKET, image)).encode())


def forms(text: str) -> list[bytes]:
    """A secret as it is, and in base64 with anything before and after it."""
    found = [text.encode()]
    for before in range(3):
        padded = base64.b64encode(b"\0" * before + text.encode())
        # The first and the last characters depend on what stands beside them.
        found.append(padded[(before * 8 + 5) // 6 : len(padded) // 4 * 4 - 4])
    return found


def line(seen: Seen) -> bytes:
    """All of a request."""
    headers = "\r\n".join(f"{name}: {value}" for name, value in seen.headers.items())
    return f"{seen.method} {seen.path}?{seen.query}\r\n{headers}\r\n\r\n".encode() + seen.body


def places(stage: Stage, mirror: MirrorProcess) -> dict[str, bytes]:
    """Everything that was received, answered, printed and written, by where."""
    found = {name: b"\n".join(map(line, upstream.seen)) for name, upstream in stage.servers.items()}
    assert stage.proxy is not None
    found[PROXY] = b"\n".join(stage.proxy.seen)
    found["answers and commands"] = b"\n".join(stage.told)
    found["log"] = mirror.service.log.read_bytes()
    files = [path for path in mirror.storage.rglob("*") if path.is_file()]
    assert any(path.name.startswith("ledger.sqlite") for path in files)
    found["data folder"] = b"\n".join(str(path).encode() + path.read_bytes() for path in files)
    return found


def test_each_secret_is_seen_by_its_own_registry_and_nowhere_else(
    stage: Stage, mirror: MirrorProcess
) -> None:
    pull_and_fail(stage, mirror)
    commands(stage, mirror)
    mirror.stop()

    belongs: dict[str, set[str]] = {
        secret("password"): {TOKENS},
        secret("identity"): {"identity"},
        secret("helper"): {"helper"},
        secret("docker"): {"docker"},
        secret("header"): {"header"},
        secret("proxy"): {PROXY},
        stage.key: set(),
        CLIENTS_OWN: set(),
        **{secret(f"{name}-token"): {name} for name in ("password", "identity", "docker")},
        **{secret(f"{name}-signature"): {STORAGE} for name in stage.images if name != "key"},
        secret("proxied-signature"): {STORAGE, PROXY},  # over plain http a proxy sees all
    }
    searched = places(stage, mirror)
    wrong = {}
    for text, wanted in belongs.items():
        seen = {place for place, content in searched.items() if any(each in content for each in forms(text))}
        if seen != wanted:
            wrong[text] = f"found in {sorted(seen)}, belongs to {sorted(wanted)}"
    assert wrong == {}
