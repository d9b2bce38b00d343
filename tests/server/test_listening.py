"""Unix sockets and systemd's: what is taken away, and what is left alone."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mirror.server import listening


def test_a_socket_is_there_while_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening.at_path(path) as made, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        made.accept()[0].close()
    assert not path.exists()


def test_what_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    with listening.at_path(path):
        assert path.is_socket()


def test_one_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening.at_path(path):
        with pytest.raises(OSError, match="somebody answers there") as refused:
            listening.bound(path)
        assert refused.value.errno == errno.EADDRINUSE
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_one_whose_queue_is_full_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "s"
    busy = socket.socket(socket.AF_UNIX)
    busy.bind(str(path))
    busy.listen(0)
    clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for client in clients:
        client.setblocking(False)
        try:
            client.connect(str(path))
        except BlockingIOError:
            break
    with pytest.raises(OSError, match="somebody answers there"):
        listening.bound(path)
    for each in (busy, *clients):
        each.close()


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(OSError, match="no socket") as refused:
        listening.bound(path)
    assert refused.value.errno == errno.EEXIST
    assert path.read_text() == "mine"


def test_a_successors_socket_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening.at_path(path) as made:
        made.close()
        with listening.at_path(path):
            aside = tmp_path / "aside"
            path.rename(aside)
            path.touch()
        assert path.exists()


def test_a_path_that_is_too_long_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="at most 107 bytes"):
        listening.bound(tmp_path / ("a" * 107))


PASSED = """
import os, sys
from mirror.server import listening
os.environ["LISTEN_PID"] = str(os.getpid()) if {mine} else "1"
try:
    found = listening.activated(os.environ)
    print(found and found.getsockname()[1], found and os.get_inheritable(found.fileno()))
except listening.ActivationError as error:
    print(error)
print([name for name in os.environ if name.startswith("LISTEN")])
"""


def passed(files: list[int], number: str | None, *, mine: bool = True) -> list[str]:
    """What a process says that got these descriptors from 3 on."""

    def put() -> None:
        for at, file in enumerate(files, 3):
            os.dup2(file, at, inheritable=True)

    env = {**os.environ, "LISTEN_FDNAMES": "a"} | ({} if number is None else {"LISTEN_FDS": number})
    done = subprocess.run(
        [sys.executable, "-c", PASSED.format(mine=mine)],
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        close_fds=False,
        preexec_fn=put,
    )
    return done.stdout.splitlines()


def test_systemds_socket_is_taken_and_not_passed_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        port = given.getsockname()[1]
        assert passed([given.fileno()], "1") == [f"{port} False", "[]"]


@pytest.mark.parametrize(("number", "mine"), [(None, True), ("0", True), ("1", False)])
def test_none_is_passed_to_somebody_else(number: str | None, mine: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        assert passed([given.fileno()], number, mine=mine) == ["None None", "[]"]


@pytest.mark.parametrize("number", ["2", "x"])
def test_several_are_refused(number: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        said = passed([given.fileno(), given.fileno()], number)[0]
        assert said == f"systemd has passed {number} sockets, wanted one: one Listen… line"


def test_what_does_not_listen_is_refused(tmp_path: Path) -> None:
    left, right = socket.socketpair()
    with left, right:
        assert "does not listen" in passed([left.fileno()], "1")[0]
    with (tmp_path / "f").open("w") as file:
        assert "no socket" in passed([file.fileno()], "1")[0]
