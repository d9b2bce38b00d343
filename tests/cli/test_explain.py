"""`mirror explain` over a real Unix socket: what is printed, and what is said when nobody answers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mirror import explain
from mirror.cli import cli
from mirror.oci.errors import ErrorCode
from mirror.registry import RegistryError
from mirror.server.control import SOCKET
from tests.cli.kit import data_folder, listening

FACTS = {"image": "quay.io/org/app:1", "namespace": "quay.io", "next_pull": "one HEAD"}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The data folder that the configuration names."""
    with data_folder(tmp_path, monkeypatch) as folder:
        yield folder


@contextmanager
def running(path: Path) -> Iterator[list[str]]:
    """A mirror's control socket in a thread; the images that it was asked about."""
    asked: list[str] = []

    async def facts(image: str) -> dict[str, Any]:
        asked.append(image)
        if image.startswith("nobody.test/"):
            raise RegistryError(ErrorCode.NAME_UNKNOWN, "this mirror does not serve nobody.test")
        return FACTS

    with listening(path, facts):
        yield asked


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, ["explain", *args])


def test_an_image_is_told_in_lines(root: Path) -> None:
    with running(root / SOCKET) as asked:
        result = run("quay.io/org/app:1")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == ("image        quay.io/org/app:1\nupstream     quay.io\nnext pull    one HEAD\n")
    assert asked == ["quay.io/org/app:1"]


def test_json_is_what_the_mirror_said(root: Path) -> None:
    with running(root / SOCKET):
        result = run("alpine", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, FACTS)


def test_the_mirror_is_found_by_its_configuration(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option's file, the argument's, and the variable's, as `serve` finds it."""
    monkeypatch.delenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY")
    file = Path("config.yml")
    file.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}}}}}\nproxy: {{remoteurl: https://a.test}}\n"
    )
    with running(root / SOCKET) as asked:
        assert run("a", "--config", str(file)).exit_code == 0
        assert run("b", str(file)).exit_code == 0
        assert run(str(file), "c").exit_code == 0
        monkeypatch.setenv("REGISTRY_CONFIGURATION_PATH", str(file))
        assert run("d").exit_code == 0
    assert asked == ["a", "b", "c", "d"]


def test_what_the_mirror_refuses_is_one_line(root: Path) -> None:
    with running(root / SOCKET):
        result = run("nobody.test/x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "mirror: this mirror does not serve nobody.test\n"


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_what_is_no_image_is_refused_before_anybody_is_asked(root: Path, as_json: tuple[str, ...]) -> None:
    with running(root / SOCKET) as asked:
        result = run("Alpine", *as_json)
    assert (result.exit_code, result.stdout, asked) == (2, "", [])
    assert "'Alpine' is not an image reference: repository names are in lower case.\n" in result.stderr


def test_a_mirror_that_does_not_run_is_named_by_its_socket(root: Path) -> None:
    result = run("alpine")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"mirror: cannot ask: there is no socket {root / SOCKET}. Either no mirror runs with this "
        "configuration (see --config), or it could not make the socket (control.off in its log: a folder "
        "that it cannot write, for one)\n"
    )


def test_a_mirror_that_died_left_a_socket(root: Path) -> None:
    (root / SOCKET).parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(root / SOCKET))
    result = run("alpine")
    assert (result.exit_code, result.stderr) == (
        1,
        f"mirror: the mirror does not run: nobody answers at {root / SOCKET}\n",
    )


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            PermissionError(13, "Permission denied"),
            "not allowed to open {path}: ask as the user that the mirror runs as, or as root",
        ),
        (
            OSError("AF_UNIX path too long"),
            "the path of the mirror's socket is too long (AF_UNIX path too long): {path}",
        ),
        (OSError(5, "Input/output error"), "cannot ask at {path}: Input/output error"),
        (TimeoutError(), "the mirror at {path} did not answer within 30 s"),
    ],
)
def test_each_way_of_not_being_asked_has_its_line(
    error: OSError, text: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may do everything: the kernel's refusal is played."""

    def refuse(_self: object) -> None:
        raise error

    monkeypatch.setattr(explain.Connection, "connect", refuse)
    result = run("alpine")
    assert (result.exit_code, result.stderr) == (1, f"mirror: {text.format(path=root / SOCKET)}\n")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "takes no more questions now: try again in a moment"),
        (b"SSH-2.0-x\r\n", "is no mirror"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "is no mirror of this version"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{", "is no mirror of this version"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\n{}", "is no mirror of this version"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "is no mirror of this version"),
        (b"HTTP/1.1 200 OK\r\n\r\n{" + b" " * (2 << 20), "is no mirror of this version"),
    ],
)
def test_somebody_else_at_the_socket_is_not_believed(answer: bytes, text: str, root: Path) -> None:
    (root / SOCKET).parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(root / SOCKET))
        other.listen()
        thread = threading.Thread(target=_answer, args=(other, answer))
        thread.start()
        result = run("alpine")
        thread.join()
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith(f"{text}\n")
    assert result.stderr.count("\n") == 1


def _answer(listening: socket.socket, answer: bytes) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(4096)
        try:
            connection.sendall(answer)
        except BrokenPipeError:
            return  # it has read enough


def test_a_mirror_in_memory_cannot_be_asked(root: Path) -> None:
    Path("config.yml").write_text("version: 0.1\nstorage: {inmemory: {}}\n")
    result = CliRunner(env={"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": None}).invoke(
        cli, ["explain", "alpine", "--config", "config.yml"]
    )
    assert result.exit_code == 1
    assert "keeps images in memory" in result.stderr


def test_a_bad_configuration_is_told_as_at_the_start(root: Path) -> None:
    result = run("alpine", "--config", "none.yml")
    assert (result.exit_code, result.stderr) == (
        1,
        "mirror: none.yml: cannot be read: No such file or directory\n",
    )
