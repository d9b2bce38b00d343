"""Real clients that must log in: to the mirror, or through it to the registry."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator

import pytest

from tests.clients.conftest import LOGIN, Source
from tests.support.clients import Podman, hub_ref
from tests.support.daemons import Containerd, Dockerd
from tests.support.images import Catalog, Image
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace
from tests.support.registries import Registry, basic_auth, htpasswd
from tests.support.tokenserver import SERVICE, TokenServer

pytestmark = pytest.mark.clients

WRONG = (LOGIN[0], "hunter2")
Start = Callable[..., MirrorProcess]


@pytest.fixture(scope="module")
def image(catalog: Catalog) -> Image:
    return catalog["library/small:1"]


@pytest.fixture(params=["htpasswd", "token", "silly"])
def guarded(
    request: pytest.FixtureRequest, space: Workspace, upstream: Registry, start_mirror: Start
) -> Iterator[MirrorProcess]:
    """A mirror that wants a login of its own, with each kind of `auth`.

    `silly` takes any token there is: who gets one, the token server says.
    """
    if request.param == "htpasswd":
        auth = htpasswd(space.folder("own-users"), LOGIN)
        yield start_mirror(upstream.url, name="guarded", config={"auth": auth})
        return
    tokens = TokenServer(space.folder("own-tokens"), LOGIN)
    auth = tokens.auth
    if request.param == "silly":
        auth = {"silly": {"realm": tokens.realm, "service": SERVICE}}
    yield start_mirror(upstream.url, name="guarded", config={"auth": auth})
    tokens.stop()


def ref_of(mirror: MirrorProcess, image: Image) -> str:
    """The image by the mirror's own name."""
    return f"{mirror.host}/{image.ref}"


def test_podman_logs_in_to_the_mirror(podman: Podman, guarded: MirrorProcess, image: Image) -> None:
    podman.clear()
    pull = ["podman", "pull", "--tls-verify=false", ref_of(guarded, image)]
    login = ["podman", "login", "--tls-verify=false", "-u", LOGIN[0]]
    assert not podman.run(pull).ok
    assert not podman.run([*login, "-p", WRONG[1], guarded.host]).ok
    done = podman.run([*login, "-p", LOGIN[1], guarded.host])
    assert done.ok, done.output
    done = podman.run(pull)
    assert done.ok, done.output
    podman.verify(image, ref_of(guarded, image))
    podman.ask(["podman", "logout", guarded.host])
    podman.clear()
    assert not podman.run(pull).ok
    assert LOGIN[1] not in guarded.log


def test_docker_logs_in_to_the_mirror(dockerd: Dockerd, guarded: MirrorProcess, image: Image) -> None:
    dockerd.clear()
    ref = ref_of(guarded, image)
    assert not dockerd.pull(ref).ok
    login = dockerd.docker("login", "-u", LOGIN[0], "-p")
    assert not dockerd.run([*login, WRONG[1], guarded.host]).ok
    done = dockerd.run([*login, LOGIN[1], guarded.host])
    assert done.ok, done.output
    done = dockerd.pull(ref)
    assert done.ok, done.output
    dockerd.verify(image, ref)
    dockerd.ask(dockerd.docker("logout", guarded.host))
    dockerd.clear()
    assert not dockerd.pull(ref).ok


def test_containerd_logs_in_to_the_mirror(
    containerd: Containerd, guarded: MirrorProcess, image: Image
) -> None:
    containerd.clear()
    ref = ref_of(guarded, image)
    pull = ["images", "pull", "--plain-http", "--snapshotter", "native"]
    assert not containerd.run(containerd.ctr(*pull, ref)).ok
    assert not containerd.run(containerd.ctr(*pull, "--user", ":".join(WRONG), ref)).ok
    done = containerd.run(containerd.ctr(*pull, "--user", ":".join(LOGIN), ref))
    assert done.ok, done.output
    containerd.verify(image, ref)


def test_containerd_sends_what_its_hosts_file_says(
    space: Workspace, upstream: Registry, start_mirror: Start, image: Image
) -> None:
    auth = htpasswd(space.folder("hosts-users"), LOGIN)
    mirror = start_mirror(upstream.url, name="hosts-guarded", config={"auth": auth})
    containerd = Containerd(space, mirror.url)
    try:
        assert not containerd.pull(hub_ref(image)).ok
        hosts = containerd.folder / "certs.d/docker.io/hosts.toml"
        header = f'[host."{mirror.url}".header]\n  Authorization = ["{basic_auth(LOGIN)}"]\n'
        hosts.write_text(hosts.read_text() + header)
        done = containerd.pull(hub_ref(image))
        assert done.ok, done.output
        containerd.verify(image, hub_ref(image))
    finally:
        containerd.service.stop()


@pytest.fixture
def through(start_mirror: Start, token_source: Source) -> MirrorProcess:
    """A mirror through which clients log in to the registry, each for himself."""
    token_source.clear()
    config = {"proxy": {"rights": "caller"}}
    return start_mirror(token_source.recorder.url, name="through", login=LOGIN, config=config)


def hub_login(login: tuple[str, str]) -> str:
    """docker's config.json with this login of Docker Hub."""
    word = base64.b64encode(":".join(login).encode()).decode()
    return json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": word}}})


def test_docker_gets_through_the_mirror_what_its_own_login_may_have(
    space: Workspace, through: MirrorProcess, image: Image
) -> None:
    """With `registry-mirrors`: it answers the registry's challenge by its login of Docker Hub."""
    dockerd = Dockerd(space, through.url)
    try:
        dockerd.write("cli/config.json", hub_login(LOGIN))
        done = dockerd.pull(hub_ref(image))
        assert done.ok, done.output
        dockerd.verify(image, hub_ref(image))
        dockerd.clear()
        dockerd.write("cli/config.json", hub_login(WRONG))
        assert not dockerd.pull(hub_ref(image)).ok  # though all of it is kept here
        dockerd.write("cli/config.json", "{}")
        assert not dockerd.pull(hub_ref(image)).ok
    finally:
        dockerd.service.stop()
        dockerd.containerd.service.stop()
    assert LOGIN[1] not in through.log


def test_containerd_gets_through_the_mirror_what_its_own_login_may_have(
    space: Workspace, through: MirrorProcess, image: Image
) -> None:
    containerd = Containerd(space, through.url)
    options = ["--hosts-dir", str(containerd.folder / "certs.d"), "--snapshotter", "native"]
    pull = ["images", "pull", *options]
    try:
        done = containerd.run(containerd.ctr(*pull, "--user", ":".join(LOGIN), hub_ref(image)))
        assert done.ok, done.output
        containerd.verify(image, hub_ref(image))
        containerd.clear()
        for user in (["--user", ":".join(WRONG)], []):
            assert not containerd.run(containerd.ctr(*pull, *user, hub_ref(image))).ok
    finally:
        containerd.service.stop()


def test_podman_gets_through_the_mirror_what_its_own_login_may_have(
    podman: Podman, through: MirrorProcess, image: Image
) -> None:
    podman.clear()
    pull = ["podman", "pull", "--tls-verify=false"]
    ref = ref_of(through, image)
    done = podman.run([*pull, "--creds", ":".join(LOGIN), ref])
    assert done.ok, done.output
    podman.verify(image, ref)
    podman.clear()
    for user in (["--creds", ":".join(WRONG)], []):
        assert not podman.run([*pull, *user, ref]).ok
