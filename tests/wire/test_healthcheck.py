"""The container image's health check, against a mirror that listens in each of the ways there are."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mirror import configfile
from mirror.config import Http
from tests.support.certificates import self_signed
from tests.support.mirror_process import ROOT, MirrorProcess
from tests.support.procs import Workspace, client_env, wait_until

NOWHERE = "http://127.0.0.1:9"  # the check asks no upstream


@pytest.fixture(scope="module")
def check() -> ModuleType:
    """docker/healthcheck.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("healthcheck", ROOT / "docker" / "healthcheck.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def http_of(mirror: MirrorProcess) -> Http:
    """As the check reads it."""
    return configfile.load(mirror.folder / "config.yml", {}).config.http


def tls(folder: Path, **more: Any) -> dict[str, Any]:
    pair = self_signed(folder, "server")
    return {"tls": {"certificate": str(pair[0]), "key": str(pair[1]), **more}}


@pytest.mark.parametrize("minimum", ["tls1.2", "tls1.3"])
@pytest.mark.parametrize("kind", ["plain", "tls", "clients"])
def test_a_mirror_that_serves_is_healthy(
    check: ModuleType,
    space: Workspace,
    tmp_path: Path,
    kind: str,
    minimum: str,
) -> None:
    """In TLS, too, also where clients need a certificate, which the check has none of."""
    more: dict[str, Any] = {"minimumtls": minimum}
    if kind == "clients":
        more["clientcas"] = [str(self_signed(tmp_path, "clients")[0])]
    http_ = {} if kind == "plain" else tls(tmp_path, **more)
    mirror = MirrorProcess(space, NOWHERE, name=f"health-{kind}", config={"http": http_})
    said = http_of(mirror)
    assert check.trouble(said) == ""
    mirror.stop()
    assert "refused" in check.trouble(said)


def test_one_whose_check_fails_is_not(check: ModuleType, space: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "maintenance"
    config = {"health": {"file": [{"file": str(out), "interval": "100ms"}]}}
    mirror = MirrorProcess(space, NOWHERE, name="health-file", config=config)
    said = http_of(mirror)
    assert check.trouble(said) == ""
    out.touch()
    wait_until(lambda: "answers 503" in check.trouble(said), "the check of the file fails")


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_one_at_a_unix_socket_is_healthy(
    check: ModuleType, space: Workspace, tmp_path: Path, secure: bool
) -> None:
    folder = space.folder("hs")
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {"net": "unix", "addr": str(folder / "m.sock"), **(tls(tmp_path) if secure else {})},
        "proxy": {"remoteurl": NOWHERE},
    }
    file = folder / "config.yml"
    file.write_text(json.dumps(config))
    said = configfile.load(file, {}).config.http
    assert "No such file" in check.trouble(said)
    env = {**client_env(folder), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    service = space.start(folder, [sys.executable, "-m", "mirror", "serve", str(file)], env)
    wait_until(lambda: "mirror.started" in service.log.read_text(), "the mirror", service=service)
    assert check.trouble(said) == ""
