"""The mirror under test between real clients and a recorded upstream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.support.clients import Client, Podman, Skopeo
from tests.support.daemons import Containerd, Dockerd
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace
from tests.support.recorder import Recorder
from tests.support.registries import Registry
from tests.support.tokenserver import TokenServer

LOGIN = ("reader", "a secret: word")


@dataclass(frozen=True, slots=True)
class Source:
    """An upstream that keeps a list of what it was asked."""

    recorder: Recorder
    tokens: TokenServer | None  # of an upstream that wants tokens
    login: tuple[str, str] | None

    def clear(self) -> None:
        """Forget what was asked."""
        self.recorder.clear()
        if self.tokens is not None:
            self.tokens.requests.clear()

    def asked(self) -> Counter[str]:
        """How often each `METHOD path` was asked for and not refused for want of a token."""
        exchanges = self.recorder.exchanges
        return Counter(f"{e.method} {e.target}" for e in exchanges if e.status != 401)


@pytest.fixture(scope="session")
def open_source(space: Workspace, upstream: Registry) -> Source:
    recorder = Recorder(upstream.url)
    space.on_close(recorder.stop)
    return Source(recorder, None, None)


@pytest.fixture(scope="session")
def token_source(space: Workspace, upstream: Registry) -> Source:
    tokens = TokenServer(space.folder("tokens"), LOGIN)
    space.on_close(tokens.stop)
    # The same images, as two docker-registries may read one storage.
    registry = Registry(space, "token-upstream", auth=tokens.auth, storage=upstream.storage)
    recorder = Recorder(registry.url)
    space.on_close(recorder.stop)
    return Source(recorder, tokens, LOGIN)


@pytest.fixture(params=["open", "token"])
def source(request: pytest.FixtureRequest) -> Source:
    """An upstream for everybody, then one that wants tokens; nothing was asked of it yet."""
    found: Source = request.getfixturevalue(f"{request.param}_source")
    found.clear()
    return found


@pytest.fixture(scope="session")
def mirror(space: Workspace, upstream: Registry) -> MirrorProcess:
    """The mirror that `client` is set up for; a test begins with `mirror.fresh(...)`."""
    return MirrorProcess(space, upstream.url)


@pytest.fixture(scope="session")
def skopeo(space: Workspace, mirror: MirrorProcess) -> Skopeo:
    return Skopeo(space, mirror.url)


@pytest.fixture(scope="session")
def podman(space: Workspace, mirror: MirrorProcess) -> Podman:
    return Podman(space, mirror.url)


@pytest.fixture(scope="session")
def containerd(space: Workspace, mirror: MirrorProcess) -> Containerd:
    return Containerd(space, mirror.url)


@pytest.fixture(scope="session")
def dockerd(space: Workspace, mirror: MirrorProcess) -> Dockerd:
    return Dockerd(space, mirror.url)


@pytest.fixture(scope="session", params=["skopeo", "podman", "containerd", "dockerd"])
def client(request: pytest.FixtureRequest) -> Client:
    """Each client in turn, pulling Docker Hub's images through `mirror`; started once."""
    found: Client = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def start_mirror(space: Workspace) -> Iterator[Callable[..., MirrorProcess]]:
    """Start mirrors that stop with the test; the arguments are MirrorProcess's, without the workspace."""
    started: list[MirrorProcess] = []

    def start(remote_url: str, **options: object) -> MirrorProcess:
        started.append(MirrorProcess(space, remote_url, **options))  # type: ignore[arg-type] # passed on
        return started[-1]

    yield start
    for each in started:
        each.stop()
