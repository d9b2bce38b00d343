"""The socket that the mirror's own commands ask: who gets it, what is answered, what cannot stop a start."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror.oci.errors import ErrorCode
from mirror.oci.reference import ImageError
from mirror.registry import RegistryError
from mirror.server import control
from tests.server.events import Events
from tests.server.raw import PATIENCE, Answer, parse


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """In a folder whose name is short enough for a socket, wherever the tests run."""
    folder = Path("/proc/self/fd")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield folder / str(descriptor) / "mirror" / "control.sock"
    os.close(descriptor)


def mode(path: Path) -> int | None:
    """Kind and permissions of what is there."""
    return path.lstat().st_mode if path.exists() else None


def inode(path: Path) -> int:
    return path.lstat().st_ino


def created(path: Path) -> int:
    """The inode of a new file."""
    path.parent.mkdir()
    path.touch()
    return inode(path)


def unlink(path: Path) -> None:
    path.unlink()


async def explain(image: str) -> dict[str, Any]:
    """Facts, or the failure that the image's name says."""
    failures: dict[str, Exception] = {
        "bad": ImageError("no image"),
        "unknown": RegistryError(ErrorCode.NAME_UNKNOWN, "this mirror does not serve it"),
        "defect": ZeroDivisionError("secret"),
    }
    if image in failures:
        raise failures[image]
    if image == "hangs":
        await asyncio.Event().wait()
    return {"image": image, "path": Path("/x"), "padding": "x" * (2 << 20 if image == "huge" else 0)}


async def ask(path: Path, target: str = "/explain?image=a", method: str = "GET") -> Answer:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE):
            return parse(await reader.read())
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("image", "status", "content"),
    [
        ("quay.io%2Fa%3A1", 200, {"image": "quay.io/a:1", "path": "/x", "padding": ""}),
        ("", 200, {"image": "", "path": "/x", "padding": ""}),
        ("bad", 400, {"error": "no image"}),
        ("unknown", 404, {"error": "this mirror does not serve it"}),
        ("defect", 500, {"error": "internal error, see the log of the mirror"}),
        ("huge", 500, {"error": "the answer is too large"}),
    ],
)
async def test_an_image_is_explained_in_json(
    image: str, status: int, content: dict[str, Any], path: Path, events: Events
) -> None:
    async with control.control(path, explain):
        answer = await ask(path, f"/explain?image={image}")
    assert (answer.status, json.loads(answer.body)) == (status, content)
    assert answer.one("Content-Type") == "application/json"
    assert len(events.named("control.failed")) == (image == "defect")


async def test_a_question_without_an_end_gets_an_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "EXPLAIN_TIMEOUT", 0.01)
    async with control.control(path, explain):
        answer = await ask(path, "/explain?image=hangs")
    assert (answer.status, json.loads(answer.body)) == (
        504,
        {"error": "no answer within 0.01 s: the disk may hang"},
    )


@pytest.mark.parametrize(("target", "method", "status"), [("/", "GET", 404), ("/explain", "POST", 405)])
async def test_nothing_else_is_there(target: str, method: str, status: int, path: Path) -> None:
    async with control.control(path, explain):
        assert (await ask(path, target, method)).status == status


async def test_the_socket_is_the_owners_and_goes_with_the_mirror(path: Path) -> None:
    async with control.control(path, explain):
        assert mode(path) == stat.S_IFSOCK | 0o600
    assert mode(path) is None


async def test_the_socket_of_a_dead_process_is_replaced(path: Path, events: Events) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    async with control.control(path, explain):
        assert (await ask(path)).status == 200
    assert events.named("control.off") == []


async def test_a_living_mirrors_socket_is_left_alone(path: Path, events: Events) -> None:
    """The second mirror serves without; its end takes nothing from the first."""
    async with control.control(path, explain):
        before = inode(path)
        async with control.control(path, explain):
            pass
        assert inode(path) == before
        assert (await ask(path)).status == 200
    [event] = events.named("control.off")
    assert (event["log_level"], event["path"]) == ("warning", str(path))
    assert event["reason"] == "another mirror runs on this folder, and answers there"


async def test_a_mirror_too_busy_to_accept_is_alive(path: Path, events: Events) -> None:
    """Its queue is full: nobody can connect, and nobody is dead."""
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        async with control.control(path, explain):
            pass
        assert mode(path) is not None
    assert events.named("control.off")[0]["reason"] == "another mirror runs on this folder, and answers there"


async def test_a_successors_socket_is_not_removed(path: Path) -> None:
    async with control.control(path, explain):
        unlink(path)
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
    assert mode(path) is not None


async def test_what_is_no_socket_is_left_alone(path: Path, events: Events) -> None:
    before = created(path)
    async with control.control(path, explain):
        pass
    assert inode(path) == before
    assert events.named("control.off")[0]["reason"] == "there is a file of that name that is no socket"


async def test_a_path_that_no_socket_can_have_stops_nothing(tmp_path: Path, events: Events) -> None:
    async with control.control(tmp_path / ("a" * 120) / "control.sock", explain):
        pass
    assert events.named("control.off")[0]["reason"] == "a socket's path has at most 107 bytes"


async def test_a_folder_that_cannot_be_written_stops_nothing(path: Path, events: Events) -> None:
    """A file where a folder should be stands for it: root may write everywhere."""
    path.parent.write_text("")
    async with control.control(path, explain):
        pass
    assert events.named("control.off")[0]["log_level"] == "warning"


async def test_there_is_room_for_so_many_and_no_more(
    path: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one too many is closed at once; when one leaves, there is room again."""
    monkeypatch.setattr(control, "CONNECTIONS", 2)
    async with control.control(path, explain):
        held = [await asyncio.open_unix_connection(str(path)) for _ in range(2)]
        reader, writer = await asyncio.open_unix_connection(str(path))
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
        writer.close()
        held[0][1].write(b"GET /explain HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            assert (await held[0][0].read()).startswith(b"HTTP/1.1 200")
        held[0][1].close()
        assert (await ask(path)).status == 200
        held[1][1].close()
    assert events.named("client.refused")[0]["limit"] == 2


async def test_a_socket_that_was_deleted_is_made_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "LOOK", 0.01)
    async with control.control(path, explain):
        shutil.rmtree(path.parent)
        assert (await asyncio.wait_for(_answered(path), PATIENCE)).status == 200
    assert mode(path) is None


async def _answered(path: Path) -> Answer:
    while True:
        try:
            return await ask(path)
        except OSError:  # not there yet, or not listening
            await asyncio.sleep(0.01)
