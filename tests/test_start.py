"""A start is short: what it imports, and what it does not look at before the first answer."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Collection, Sequence
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from mirror import app
from mirror.drivers.base import Entry
from mirror.drivers.filesystem import FilesystemDriver
from tests.bench import largetree
from tests.support.configs import load_text
from tests.support.mirror_process import ROOT
from tests.support.procs import NOWHERE

LIMIT = 60.0  # seconds for a process that starts and ends, on a busy machine; it takes one
IMAGE = "/v2/team0/app0"  # of those that largetree makes
SUFFIX_LIST = {"tldextract", "requests", "urllib3"}  # the list's library, and the HTTP client that it brings
S3 = {"aiobotocore", "botocore", "mirror.drivers.s3"}
AZURE = {"obstore", "azure.storage.blob", "azure.identity", "mirror.drivers.azure"}
GCS = {"google.auth", "mirror.drivers.gcs"}
SERVER = {"mirror.app", "aiohttp", "asyncio", "structlog"}
MODELS = {"mirror.config", "pydantic", "yaml"}

HELP = "from mirror.cli import cli; cli(['serve', '--help'], standalone_mode=False)"
CONFIG = "from mirror.cli import cli; cli(['config'], standalone_mode=False)"
# Up to where it listens, and not further; it says how it stands with the garbage collector.
SERVE = """
import gc
from mirror import app, cli
def listen(*_of):
    print('collector', gc.isenabled(), gc.get_freeze_count() > 10 * len(gc.get_objects()))
    raise app.StartError('far enough')
app.entrance = listen
cli.cli(['serve'], standalone_mode=False)
"""


def run(code: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """The code in a process of its own, which prints at its end what it has imported."""
    at_exit = "import atexit, sys; atexit.register(lambda: print('imported', *sys.modules))\n"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("REGISTRY_")}
    return subprocess.run(
        [sys.executable, "-c", at_exit + code],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT), "REGISTRY_HTTP_ADDR": "127.0.0.1:0", **environ},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def imported(done: subprocess.CompletedProcess[str]) -> set[str]:
    """The modules, as it printed them."""
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("imported "))
    return set(line.split()[1:])


def test_help_imports_neither_the_server_nor_the_models_of_the_configuration(tmp_path: Path) -> None:
    done = run(HELP, tmp_path)
    assert "Usage:" in done.stdout, done.stderr
    assert imported(done).isdisjoint(SERVER | MODELS | SUFFIX_LIST)


def test_the_configuration_is_read_without_the_server(tmp_path: Path) -> None:
    done = run(CONFIG, tmp_path, REGISTRY_PROXY_UPSTREAMS="{ghcr.io: {}}")
    assert "ghcr.io" in done.stdout, done.stderr
    assert imported(done) >= MODELS
    assert imported(done).isdisjoint(SERVER | SUFFIX_LIST)


def test_a_start_does_not_read_the_suffix_list(tmp_path: Path) -> None:
    done = run(SERVE, tmp_path, REGISTRY_PROXY_UPSTREAMS="{ghcr.io: {}}")
    assert "far enough" in done.stderr
    assert imported(done) >= SERVER | MODELS
    assert imported(done).isdisjoint(SUFFIX_LIST)


@pytest.mark.parametrize(
    ("name", "section", "modules"),
    [
        ("AZURE", "{container: images, accountname: abc, accountkey: a2V5}", AZURE),
        ("GCS", "{bucket: images}", GCS),
    ],
)
def test_a_start_imports_a_cloud_s_library_only_where_that_is_configured(
    name: str, section: str, modules: set[str], tmp_path: Path
) -> None:
    done = run(
        SERVE, tmp_path, **{f"REGISTRY_STORAGE_{name}": section, "REGISTRY_CACHE_FOLDER": str(tmp_path)}
    )
    assert "far enough" in done.stderr
    assert imported(done) >= modules
    assert imported(done).isdisjoint((S3 | AZURE | GCS) - modules)


def test_a_start_imports_the_library_for_s3_only_where_that_is_configured(tmp_path: Path) -> None:
    done = run(SERVE, tmp_path)
    assert "far enough" in done.stderr
    assert imported(done).isdisjoint(S3 | AZURE | GCS)
    bucket = "{bucket: images, regionendpoint: 'http://127.0.0.1:9', accesskey: a, secretkey: b}"
    done = run(SERVE, tmp_path, REGISTRY_STORAGE_S3=bucket, REGISTRY_CACHE_FOLDER=str(tmp_path))
    assert "far enough" in done.stderr
    assert imported(done) >= S3


@pytest.mark.parametrize("namespace", ["*", "*.example.com"])
def test_a_start_reads_the_suffix_list_where_a_namespace_asks_for_it(namespace: str, tmp_path: Path) -> None:
    """In the open mode before the first client asks: reading it would hold up everybody."""
    done = run(SERVE, tmp_path, REGISTRY_PROXY_UPSTREAMS=f"{{'{namespace}': {{}}}}")
    assert "far enough" in done.stderr
    assert imported(done) >= SUFFIX_LIST


def test_the_collector_works_once_all_is_imported_and_leaves_that_alone(tmp_path: Path) -> None:
    done = run(SERVE, tmp_path)
    assert "collector True True" in done.stdout, done.stdout[:100]


class Unwalkable(FilesystemDriver):
    """Whoever wants to see all that is below a folder waits until the end of the test."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, threads=4)
        self.asked = asyncio.Event()

    async def _wait(self) -> list[Entry]:
        self.asked.set()
        await asyncio.Event().wait()
        return []

    async def walk(self, path: str, leaves: Collection[str] = ()) -> AsyncGenerator[list[Entry], None]:
        yield await self._wait()

    async def find(self, path: str, patterns: Sequence[str]) -> AsyncGenerator[list[Entry], None]:
        yield await self._wait()


async def test_it_answers_from_a_full_folder_before_it_has_looked_at_it(tmp_path: Path) -> None:
    """The survey has begun, and got nowhere; the upstream is away."""
    largetree.make(tmp_path, images=1)
    text = f"""version: 0.1
storage: {{filesystem: {{rootdirectory: {tmp_path}}}}}
proxy: {{remoteurl: "{NOWHERE}"}}
"""
    driver = Unwalkable(tmp_path)
    server = TestServer(app.build(load_text(tmp_path, text).config, driver, tmp_path / app.SPOOL))
    async with asyncio.timeout(LIMIT), TestClient(server) as client:
        assert (await client.get("/v2/")).status == 200
        await driver.asked.wait()
        answer = await client.get(f"{IMAGE}/manifests/v0")
        assert answer.status == 200, await answer.text()
        layer = (await answer.json(content_type=None))["layers"][0]["digest"]
        assert (await client.get(f"{IMAGE}/blobs/{layer}")).status == 200


def test_full_collections_of_garbage_are_seldom_while_it_serves() -> None:
    """Each stops all answers for as long as it takes, which grows with what is kept in memory."""
    look = "import gc; from mirror.cli import SELDOM, _uncollected\nwith _uncollected(): import json\n"
    told = "print(gc.get_threshold() == SELDOM, SELDOM[2] > 50, gc.isenabled(), gc.get_freeze_count() > 1000)"
    done = subprocess.run(
        [sys.executable, "-c", look + told], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["True"] * 4
