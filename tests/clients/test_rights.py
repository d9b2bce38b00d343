"""`rights: caller` for several registries: real clients with logins of two users, one private repository.

Each registry wants its own kind of login. docker and podman learn at `/v2/` of a host how to log in there, so
each registry is reached by a host name of its own (`quay.io.mirror.test`), as with a wildcard in DNS; here a
proxy knows these names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import HUB, Podman
from tests.support.daemons import Dockerd
from tests.support.images import Catalog, Image, generate
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace
from tests.support.recorder import Recorder
from tests.support.registries import Registry, basic_auth, htpasswd, push
from tests.support.tokenserver import TokenServer
from tests.support.webproxy import WebProxy

pytestmark = pytest.mark.clients

QUAY, GITHUB = "quay.io", "ghcr.io"
NAMESPACES = (HUB, QUAY, GITHUB)
PRIVATE, OTHER = "team/project/sub_group/app-name:V1.2.3_rc-4", "library/small:1"
Login = tuple[str, str]


def login_of(user: str, namespace: str) -> Login:
    """Each has another password at each registry."""
    return user, f"{user} at {namespace}"


@dataclass(frozen=True, slots=True)
class Origin:
    """A registry where Alice may have PRIVATE and Eve may not."""

    namespace: str
    catalog: Catalog
    recorder: Recorder
    tokens: TokenServer | None  # None: it wants Basic authentication, and does not know Eve

    def sent(self) -> set[str]:
        """Every login that it and its token server were sent, but the tokens that it gave."""
        asked = {e.request_headers.get("authorization", "") for e in self.recorder.exchanges}
        asked = {each for each in asked if not each.startswith("Bearer ")}
        return (asked | {r.authorization for r in self.tokens.requests} if self.tokens else asked) - {""}


def _origin(space: Workspace, number: int, namespace: str) -> Origin:
    """Images of its own seed, pushed while it is open to all; then it wants a login."""
    catalog = generate(seed=number)
    catalog.images[:] = [image for image in catalog.images if image.ref in (PRIVATE, OTHER)]
    opened = Registry(space, f"rights-{namespace}-open")
    push(opened.url, catalog)
    opened.stop()
    robot, alice, eve = (login_of(user, namespace) for user in ("robot", "alice", "eve"))
    tokens, auth = None, {}
    if namespace == QUAY:
        auth = htpasswd(space.folder(f"rights-{namespace}-robot"), robot)
        also = htpasswd(space.folder(f"rights-{namespace}-alice"), alice)
        users, more = (Path(each["htpasswd"]["path"]) for each in (auth, also))
        users.write_bytes(users.read_bytes() + more.read_bytes())
    else:
        guests = {alice: [PRIVATE.partition(":")[0]], eve: [OTHER.partition(":")[0]]}
        tokens = TokenServer(space.folder(f"rights-{namespace}-tokens"), robot, guests=guests)
        space.on_close(tokens.stop)
        auth = tokens.auth
    registry = Registry(space, f"rights-{namespace}", auth=auth, storage=opened.storage)
    recorder = Recorder(registry.url)
    space.on_close(recorder.stop)
    return Origin(namespace, catalog, recorder, tokens)


@pytest.fixture(scope="module")
def origins(space: Workspace) -> dict[str, Origin]:
    """By namespace."""
    return {namespace: _origin(space, n, namespace) for n, namespace in enumerate(NAMESPACES, 1)}


@pytest.fixture(scope="module")
def mirror(space: Workspace, origins: dict[str, Origin]) -> Iterator[MirrorProcess]:
    """One process for all three, with a login at each that may read all of it."""
    entries = {name: _entry(origin) for name, origin in origins.items()}
    proxy = {**entries.pop(HUB), "aliases": [HUB], "rights": "caller", "upstreams": entries}
    url = proxy.pop("remoteurls")[0]
    process = MirrorProcess(space, url, name="rights", config={"proxy": proxy})
    yield process
    process.stop()


def _entry(origin: Origin) -> dict[str, Any]:
    username, password = login_of("robot", origin.namespace)
    return {"remoteurls": [origin.recorder.url], "username": username, "password": password}


def host_of(namespace: str) -> str:
    return f"{namespace}.mirror.test"


@pytest.fixture(scope="module")
def names(mirror: MirrorProcess) -> Iterator[WebProxy]:
    """Who knows the host names by which the mirror is asked for each registry."""
    proxy = WebProxy({host_of(namespace): mirror.url for namespace in (QUAY, GITHUB)})
    yield proxy
    proxy.stop()


class _Podman(Podman):
    """podman, naming the mirror."""

    def log_in(self, host: str, login: Login) -> bool:
        words = ["--tls-verify=false", "-u", login[0], "-p", login[1]]
        return self.run(["podman", "login", *words, host]).ok

    def log_out(self, host: str) -> None:
        self.run(["podman", "logout", host])

    def get(self, ref: str) -> bool:
        return self.run(["podman", "pull", "--tls-verify=false", ref]).ok


class _Docker(Dockerd):
    """docker, naming the mirror."""

    def log_in(self, host: str, login: Login) -> bool:
        return self.run(self.docker("login", "-u", login[0], "-p", login[1], host)).ok

    def log_out(self, host: str) -> None:
        self.run(self.docker("logout", host))

    def get(self, ref: str) -> bool:
        return self.pull(ref).ok


Client = _Podman | _Docker


@pytest.fixture(scope="module", params=["podman", "docker"])
def person(request: pytest.FixtureRequest, space: Workspace, names: WebProxy) -> Iterator[Client]:
    """A client by which two people pull, one after the other."""
    proxy = f"http://{names.address}"
    if request.param == "podman":
        podman = _Podman(space, "http://127.0.0.1:1")
        podman.env["HTTP_PROXY"] = proxy
        yield podman
        return
    insecure = [host_of(namespace) for namespace in NAMESPACES]
    docker = _Docker(space, "http://127.0.0.1:1", insecure=insecure, http_proxy=proxy)
    yield docker
    docker.service.stop()
    docker.containerd.service.stop()


def by_digest(host: str, image: Image) -> str:
    return f"{host}/{image.name}@{image.digest}"


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_of_two_users_the_second_gets_nothing_of_what_is_the_firsts(
    person: Client, mirror: MirrorProcess, origins: dict[str, Origin], namespace: str
) -> None:
    """Though all of it is kept by then, and his own login is as good as hers for other things."""
    origin = origins[namespace]
    host = mirror.host if namespace == HUB else host_of(namespace)
    image, other = origin.catalog[PRIVATE], origin.catalog[OTHER]
    alice, eve = login_of("alice", namespace), login_of("eve", namespace)
    person.clear()
    assert not person.get(f"{host}/{PRIVATE}"), "nobody has logged in"
    assert person.log_in(host, alice), mirror.service.tail()
    assert person.get(f"{host}/{PRIVATE}"), mirror.service.tail()
    person.verify(image, f"{host}/{PRIVATE}")
    person.log_out(host)
    person.clear()
    assert not person.get(f"{host}/{PRIVATE}"), "she has logged out"
    assert not person.get(by_digest(host, image))
    assert person.log_in(host, eve) is (namespace != QUAY), "which does not know him"
    assert not person.get(f"{host}/{PRIVATE}")
    assert not person.get(by_digest(host, image))
    if namespace != QUAY:
        assert person.get(f"{host}/{OTHER}"), mirror.service.tail()
        person.verify(other, f"{host}/{OTHER}")
    person.log_out(host)
    theirs = {basic_auth(login_of(user, namespace)) for user in ("robot", "alice", "eve")}
    assert origin.sent() <= theirs | {"Basic Og=="}, "somebody's login of another registry came here"
    assert origin.sent() >= {basic_auth(alice), basic_auth(login_of("robot", namespace))}
    assert not any(word in mirror.log for word in (alice[1], eve[1], login_of("robot", namespace)[1]))
