"""Azure and Google Cloud Storage alike: a place in an emulator of each, with a recording proxy before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mirror.drivers.azure import BLOCK, AzureObjects
from mirror.drivers.azuresettings import AzureSettings
from mirror.drivers.gcs import GcsObjects
from mirror.drivers.gcssettings import GcsSettings
from mirror.drivers.objects import ObjectsDriver
from tests.support.azurite import ACCOUNT, CONTAINER, KEY, Container
from tests.support.gcs import BUCKET, GcsBucket, key
from tests.support.recorder import Recorder

LIFE = 1200.0  # seconds that URLs work
PART = 4 << 20  # bytes
assert PART == BLOCK


@dataclass(frozen=True, slots=True)
class Cloud:
    """`make`: a driver by way of the proxy, with other settings where they are given; in one attempt each."""

    name: str
    proxy: Recorder
    parameters: dict[str, Any]  # the registry's section
    make: Callable[..., ObjectsDriver]
    part: str  # what the requests of parts have in their targets


def azure_settings(place: Container, url: str, **others: Any) -> AzureSettings:
    """By way of `url`."""
    return AzureSettings(
        **{
            "container": CONTAINER,
            "account": ACCOUNT,
            "endpoint": f"{url}/{ACCOUNT}",
            "key": KEY,
            "root": place.root,
            **others,
        }
    )


def gcs_settings(place: GcsBucket, url: str, **others: Any) -> GcsSettings:
    """By way of `url`."""
    known = {"bucket": BUCKET, "key": key(), "endpoint": url, "root": place.root, "part_size": PART}
    return GcsSettings(**{**known, **others})


def azure(container: Container) -> Iterator[Cloud]:
    """The proxy ends with it."""
    proxy = Recorder(container.server.url)

    def make(life: float = LIFE, url: str = proxy.url, **others: Any) -> ObjectsDriver:
        settings = azure_settings(container, url, **{"retries": 0, **others})
        return ObjectsDriver(AzureObjects(settings), life)

    yield Cloud("azure", proxy, container.parameters(proxy.url), make, "comp=block&")
    proxy.stop()


def gcs(place: GcsBucket) -> Iterator[Cloud]:
    """Its proxy is the server's."""

    def make(life: float = LIFE, url: str = place.server.url, **others: Any) -> ObjectsDriver:
        return ObjectsDriver(GcsObjects(gcs_settings(place, url, **others)), life)

    yield Cloud("gcs", place.server.proxy, place.parameters(chunksize=PART), make, "upload_id=")
