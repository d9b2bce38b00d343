"""Fixtures that several rooms share. Processes start once a session, when the first test asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from mirror import loops
from tests.support import impatient
from tests.support.azurite import Azurite, Container
from tests.support.certificates import self_signed
from tests.support.gcs import GcsBucket, GcsServer
from tests.support.images import Catalog, generate
from tests.support.keystone import KeystoneServer
from tests.support.modes import ENVIRONMENT, MODES, UVLOOP
from tests.support.procs import Workspace
from tests.support.recorder import Recorder
from tests.support.registries import Registry, push
from tests.support.swift import SwiftServer

if TYPE_CHECKING:
    from tests.support.buckets import Bucket
    from tests.support.clouds import Cloud

# An example may take as long as it does: on a busy machine that says nothing of what is tested.
settings.register_profile("mirror", deadline=None)
settings.load_profile("mirror")

if UVLOOP:

    @pytest.hookimpl(optionalhook=True)  # of pytest-asyncio
    def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
        """The loop of all tests that run in one."""
        return {"uvloop": loops.factory("uvloop")}


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Who runs what, where there are several workers."""
    from tests.support.workers import AloneLast

    return AloneLast(config, log)


@pytest.fixture(params=list(MODES))
def each_mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mirrors that are started in the test are so in one mode, then in the other."""
    for name, value in MODES[request.param].items():
        monkeypatch.setitem(ENVIRONMENT, name, value)
    if request.param == "quick":
        impatient.segments(monkeypatch.setattr)


@pytest.fixture(scope="session")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A folder where processes work; all of them end with the session. Their logs stay in pytest's folder."""
    with Workspace(tmp_path_factory.mktemp("logs")) as workspace:
        yield workspace


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    """The images."""
    return generate()


@pytest.fixture(scope="session")
def upstream(space: Workspace, catalog: Catalog) -> Registry:
    """A docker-registry that has all the images."""
    registry = Registry(space, "upstream")
    push(registry.url, catalog)
    return registry


@pytest.fixture(scope="session")
def _recorder(space: Workspace, upstream: Registry) -> Recorder:
    recorder = Recorder(upstream.url)
    space.on_close(recorder.stop)
    return recorder


@pytest.fixture
def recorder(_recorder: Recorder) -> Recorder:
    """In front of `upstream`; with no rule and nothing recorded."""
    _recorder.clear()
    return _recorder


@pytest.fixture(scope="session")
def swift(space: Workspace) -> SwiftServer:
    """A real S3 server; its listings have few keys each, so that there are several."""
    return SwiftServer(space, page=100)


@pytest.fixture
def bucket(swift: SwiftServer) -> Bucket:
    """A place in it where nothing is yet."""
    from tests.support.buckets import Bucket  # its library takes a while to import

    return Bucket(swift)


@pytest.fixture(scope="session")
def old_swift(space: Workspace) -> SwiftServer:
    """That of the system: Debian 12 has one of 2022."""
    return SwiftServer(space, page=100, debian=True)


@pytest.fixture(scope="session")
def keystone(space: Workspace) -> KeystoneServer:
    """A real Keystone, and a Swift that asks it."""
    return KeystoneServer(space)


@pytest.fixture(scope="session")
def azurite(space: Workspace) -> Azurite:
    """A real Azure blob server."""
    return Azurite(space)


@pytest.fixture(scope="session")
def azurite_tls(space: Workspace) -> Azurite:
    """The same behind TLS, with logins by tokens."""
    return Azurite(space, self_signed(space.folder("azurite-tls"), "azurite"))


@pytest.fixture
def container(azurite: Azurite) -> Container:
    """A place in it where nothing is yet."""
    return Container(azurite)


@pytest.fixture(scope="session")
def gcs(space: Workspace) -> GcsServer:
    """An emulator of Google Cloud Storage."""
    return GcsServer(space)


@pytest.fixture
def gcs_bucket(gcs: GcsServer) -> GcsBucket:
    """A place in it where nothing is yet; the proxy before it has no rule, and nothing recorded."""
    return GcsBucket(gcs)


@pytest.fixture(params=["azure", "gcs"])
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """A place in each."""
    from tests.support import clouds  # their libraries take a while to import

    if request.param == "azure":
        yield from clouds.azure(request.getfixturevalue("container"))
    else:
        yield from clouds.gcs(request.getfixturevalue("gcs_bucket"))
