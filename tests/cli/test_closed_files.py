"""Keys and logins that the mirror's user may read, and whoever looks at the configuration may not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mirror.cli import cli
from mirror.configfile import ConfigError, load
from tests.cli.kit import data_folder
from tests.support.certificates import self_signed

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read it")

NOBODY = 65534
CLOSED = {"http.tls.key", "auth.htpasswd.path", "proxy.dockerconfig"}


@contextmanager
def somebody_else() -> Iterator[None]:
    """The block runs as a user who owns nothing."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A configuration that everybody may read, of a key, a client's key and users that nobody else may."""
    certificate, key = self_signed(tmp_path, "tls")
    users, docker = tmp_path / "users", tmp_path / "config.json"
    users.write_text("")
    docker.write_text("{}")
    for closed in (key, users, docker):
        closed.chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    sections = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "data")}},
        "http": {"tls": {"certificate": str(certificate), "key": str(key)}},
        "auth": {"htpasswd": {"realm": "r", "path": str(users)}},
        "proxy": {"remoteurl": "https://a.example", "dockerconfig": str(docker)},
    }
    made = tmp_path / "mirror.yml"
    made.write_text(json.dumps(sections))
    with data_folder(tmp_path, monkeypatch):
        monkeypatch.delenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY")
        yield made


def run(*args: object) -> Result:
    """In this process, so that all modules are loaded when the user changes."""
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def test_config_and_explain_work_for_who_may_not_read_the_keys(file: Path) -> None:
    """They need none. What cannot be read is said, with the file and who may not read it."""
    for command in (("config",), ("explain", "alpine", "--config")):
        run(*command, file)
    with somebody_else():
        shown = run("config", file)
        asked = run("explain", "alpine", "--config", file)
    assert shown.exit_code == 0, shown.output
    assert "tls.key" in shown.stdout
    warned = [line for line in shown.stderr.splitlines() if line.startswith("warning: ")]
    assert {line.split(": ")[2] for line in warned} == CLOSED
    assert "user nobody (65534) may not read it" in shown.stderr
    assert "no mirror" in asked.output or "cannot be asked" in asked.output or "control.sock" in asked.output


def test_serve_needs_to_read_them(file: Path) -> None:
    """Before it begins anything, with a line for each."""
    assert load(file, {}).config.http.tls.key
    with somebody_else(), pytest.raises(ConfigError) as refused:
        load(file, {})
    assert {problem.key for problem in refused.value.problems if not isinstance(problem, str)} == CLOSED


def test_a_key_that_is_no_key_is_an_error_whoever_looks(file: Path) -> None:
    key = Path(json.loads(file.read_text())["http"]["tls"]["key"])
    key.write_text("nothing")
    assert run("config", file).exit_code == 1
