"""Rows over TLS: the peers that speak it, each started once more with a certificate."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

from tests.bench.figures import Figure, Line, Row
from tests.bench.hits import FEW, MANY
from tests.bench.nginx import Nginx
from tests.bench.peers import MIRROR, STATIC, Peer
from tests.bench.stage import Stage
from tests.bench.usage import processor
from tests.bench.wrk import wrk
from tests.support.certificates import self_signed
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import HarnessError
from tests.support.registries import RegistryProcess

Files = tuple[Path, Path]  # certificate and key
ASK = 10.0  # seconds for one answer


def _mirror(stage: Stage, files: Files) -> Peer:
    config = {"log": {"level": "info"}, "http": {"tls": _section(files)}}
    process = MirrorProcess(stage.space, stage.direct.url, name="mirror-tls", config=config)
    return Peer(f"{MIRROR}, TLS", _https(process), process.service, stage.direct)


def _registry2(stage: Stage, files: Files) -> Peer:
    config = {
        "log": {"level": "info"},
        "proxy": {"remoteurl": stage.direct.url},
        "http": {"tls": _section(files)},
    }
    process = RegistryProcess(
        stage.space, "docker-registry-tls", ["docker-registry", "serve"], config, env={}
    )
    process.start()
    return Peer("docker-registry, TLS", _https(process), process.service, stage.direct)


def _nginx(stage: Stage, files: Files) -> Peer:
    nginx = Nginx(stage.space, "nginx-tls", tls=files)
    for image in (stage.small, stage.large):
        nginx.publish(image)
    return Peer(f"{STATIC}, TLS", nginx.url, nginx.service, None)


STARTERS: Mapping[str, Callable[[Stage, Files], Peer]] = {
    MIRROR: _mirror,
    "docker-registry": _registry2,
    STATIC: _nginx,
}


def _tls(stage: Stage, peer: Peer) -> Iterator[Figure]:
    """Both kinds of a hit, each answer checked once before."""
    try:
        secure = stage.also(f"{peer.name}, TLS", lambda: _start(stage, peer))
    except HarnessError as error:
        if "http.tls" not in str(error):
            raise
        yield Figure("tls-speed", "refuses http.tls")
        return
    if _speaks_plainly(secure):
        yield Figure("tls-speed", "speaks no TLS")
        return
    for image in (stage.small, stage.large):
        stage.warm(secure, image)
    seconds = stage.scale.load
    yield Figure("tls-rate", wrk(secure.url, stage.small.by_tag, connections=MANY, seconds=seconds).rate)
    before = processor(secure.pid)
    load = wrk(secure.url, stage.large.layer, connections=FEW, seconds=seconds)
    yield Figure("tls-speed", load.speed)
    yield Figure("tls-cost", (processor(secure.pid) - before) / (load.bytes / 1e9))


def _start(stage: Stage, peer: Peer) -> Peer:
    folder = stage.space.folder(f"certificate-{peer.service.process.pid}")
    return STARTERS[peer.name](stage, self_signed(folder, "bench"))


def _speaks_plainly(peer: Peer) -> bool:
    """Whether it answers HTTP where TLS was configured: it does not know that setting."""
    connection = HTTPConnection(peer.url.partition("://")[2], timeout=ASK)
    with suppress(OSError, ssl.SSLError):
        connection.request("GET", "/v2/")
        with suppress(Exception), connection.getresponse() as response:
            return response.status == 200
    return False


def _section(files: Files) -> dict[str, str]:
    certificate, key = files
    return {"certificate": str(certificate), "key": str(key)}


def _https(process: RegistryProcess) -> str:
    return f"https://{process.host}"


ROWS = [
    Row(
        "tls",
        _tls,
        [
            Line("tls-speed", "256 MB blob over TLS, warm, MB/s"),
            Line("tls-rate", "manifest by tag over TLS, warm, /s"),
            Line("tls-cost", "processor seconds per GB over TLS, warm", digits=2),
        ],
        runs=2,
        only=frozenset(STARTERS),
    )
]
