"""Asks the running mirror about an image, over its Unix socket."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mirror.server.control import ANSWER_LIMIT, EXPLAIN_TIMEOUT

TIMEOUT = EXPLAIN_TIMEOUT + 10.0  # seconds; the mirror itself gives up earlier, and says so

WHO = "ask as the user that the mirror runs as, or as root"


class AskError(Exception):
    """There is no explanation; the text is one line that says why and what to do."""


def ask(path: Path, image: str) -> dict[str, Any]:
    """What the mirror that listens at `path` knows of the image. Raises AskError."""
    connection = Connection(path, TIMEOUT)
    try:
        connection.request("GET", f"/explain?image={quote(image, safe='')}")
        with connection.getresponse() as response:
            body = response.read(ANSWER_LIMIT + 1)
    except TimeoutError as error:
        raise AskError(f"the mirror at {path} did not answer within {TIMEOUT:g} s") from error
    except http.client.RemoteDisconnected as error:
        raise AskError(f"the mirror at {path} takes no more questions now: try again in a moment") from error
    except http.client.HTTPException as error:
        raise AskError(f"what answers at {path} is no mirror") from error
    except OSError as error:
        raise AskError(cannot_connect(path, error)) from error
    finally:
        connection.close()
    return _content(path, response.status, body)


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket. `timeout`: seconds between two bytes."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("mirror", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _content(path: Path, status: int, body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body) if len(body) <= ANSWER_LIMIT else None
    except ValueError:
        content = None
    if not isinstance(content, dict) or (status != http.HTTPStatus.OK and "error" not in content):
        raise AskError(f"what answers at {path} is no mirror of this version")
    if status != http.HTTPStatus.OK:
        raise AskError(str(content["error"]))
    return content


def cannot_connect(path: Path, error: OSError) -> str:
    """Why nobody can be asked at `path`, and what to do."""
    if isinstance(error, FileNotFoundError):
        return (
            f"cannot ask: there is no socket {path}. Either no mirror runs with this configuration (see "
            "--config), or it could not make the socket (control.off in its log: a folder that it cannot "
            "write, for one)"
        )
    if isinstance(error, ConnectionRefusedError):
        return f"the mirror does not run: nobody answers at {path}"
    if isinstance(error, PermissionError):
        return f"not allowed to open {path}: {WHO}"
    if isinstance(error, TimeoutError | BlockingIOError):  # nobody has accepted, and the queue is full
        return f"the mirror at {path} takes no connections: it is too busy, or it hangs (see its log)"
    if error.errno is None:  # the library's word for a path that does not fit into sockaddr_un
        return f"the path of the mirror's socket is too long ({error}): {path}"
    return f"cannot ask at {path}: {error.strerror}"
