"""Asks the running mirror for a long operation, and hands on what it tells."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from mirror.explain import AskError, Connection, cannot_connect
from mirror.server.operations import HEARTBEAT, LAST, LINE_LIMIT, Event

SILENCE: Final = 6 * HEARTBEAT  # seconds without a line; the mirror says every HEARTBEAT that it goes on
REFUSAL_LIMIT: Final = 64 << 10  # bytes; a refusal is a sentence


class NobodyThereError(Exception):
    """No mirror runs with this data folder, or none that could be asked."""


def operate(path: Path, operation: str, options: Mapping[str, str]) -> Iterator[Event]:
    """What the mirror that listens at `path` tells; the last event is its result, or an error.

    Raises NobodyThereError before anything was done; AskError. Who closes this stops the operation.
    """
    connection = Connection(path, SILENCE)
    try:
        _connect(connection, path)
        connection.request("POST", f"/{operation}?{urlencode(options)}", headers={"Content-Length": "0"})
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise AskError(_refusal(path, response.status, response.read(REFUSAL_LIMIT)))
        yield from _events(path, response)
    except http.client.RemoteDisconnected as error:
        raise AskError(f"the mirror at {path} takes no more questions now: try again in a moment") from error
    except TimeoutError as error:
        text = f"the mirror at {path} has said nothing for {SILENCE:g} s: its disk may hang, or it is stopped"
        raise AskError(text) from error
    except (http.client.HTTPException, OSError) as error:
        raise AskError(_broken_off(path)) from error
    finally:
        connection.close()


def _connect(connection: Connection, path: Path) -> None:
    try:
        connection.connect()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NobodyThereError(cannot_connect(path, error)) from error
    except OSError as error:
        if error.errno is None and not isinstance(error, TimeoutError):
            # longer than a socket's name may be: so no mirror listens there either
            raise NobodyThereError(cannot_connect(path, error)) from error
        raise AskError(cannot_connect(path, error)) from error


def _events(path: Path, response: http.client.HTTPResponse) -> Iterator[Event]:
    while True:
        line = response.readline(LINE_LIMIT + 1)
        try:
            event = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            event = None
        if not isinstance(event, dict):
            raise AskError(_broken_off(path))
        yield event
        if event.get("event") in LAST:
            return


def _broken_off(path: Path) -> str:
    return f"the mirror at {path} broke off: its log says why; what was done so far stays done"


def _refusal(path: Path, status: int, body: bytes) -> str:
    """The mirror's own words, where they are such."""
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    if isinstance(content, dict) and "error" in content:
        return str(content["error"])
    if status in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.METHOD_NOT_ALLOWED):
        return f"the mirror at {path} runs in a version that cannot do this: restart it with this one"
    return f"what answers at {path} is no mirror of this version"
