"""Lines that are made of a prepared one: the same, byte for byte, that structlog would write."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from mirror import log as logs
from mirror.logprepared import SHAPES, Alike

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")

FIELDS: dict[str, Any] = {
    "http.request.host": "mirror.example:5000",
    "http.request.uri": "/v2/a/manifests/b?ns=quay.io&token=hidden&last=x",
    "http.request.useragent": 'docker/1 "quoted"\n\x1b[31m \u00e4 \ud800',
    "http.request.referer": "https://user:secret@host/x",
    "http.response.duration": "876.791\u00b5s",
    "http.response.status": 200,
    "http.response.written": 901,
    "vars.name": "library/" + "a" * 300,
    "vars.reference": "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.x",
    "long": "x" * (logs.VALUE_LIMIT + 5),
    "empty": "",
}


@pytest.fixture(params=["text", "json", "logstash"])
def stream(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    before = structlog.get_config()
    stream = io.StringIO()
    logs.configure("info", request.param, {"service": "a mirror", "number": 3}, stream)
    yield stream
    structlog.configure(**before)


def alike() -> Alike:
    return Alike("info", "response completed", ("http.response.written",), ("http.response.status",))


def written(lines: Alike, fields: dict[str, Any]) -> bool:
    form = logs.form()
    assert form is not None
    return lines.write(form, fields, 1_700_000_000.25)


def without_time(text: str) -> str:
    shown, count = _TIME.subn("TIME", text)
    assert count == 1
    return shown


def test_a_line_is_that_of_structlog(stream: io.StringIO) -> None:
    lines = alike()
    for status in (200, 206):
        fields = {**FIELDS, "http.response.status": status}
        structlog.get_logger().info("response completed", **fields)
        usual = stream.getvalue()
        for _ in range(2):  # texts that come again are not made again
            stream.seek(0)
            stream.truncate()
            assert written(lines, fields)
            assert without_time(stream.getvalue()) == without_time(usual)
        stream.seek(0)
        stream.truncate()


def test_other_fields_make_another_line(stream: io.StringIO) -> None:
    lines = alike()
    assert written(lines, {"http.response.status": 200, "http.response.written": 1})
    assert written(lines, {"http.response.status": 200, "http.response.written": 2, "auth.user.name": "u"})
    first, second = stream.getvalue().splitlines()
    assert "auth.user.name" not in first
    assert "auth.user.name" in second


def test_a_field_that_names_a_secret_is_left_to_structlog(stream: io.StringIO) -> None:
    fields = {"http.response.status": 200, "http.response.written": 1, "password": "hidden"}
    assert not written(alike(), fields)
    assert stream.getvalue() == ""


def test_the_time_is_that_of_the_answer(stream: io.StringIO) -> None:
    assert written(alike(), {"http.response.status": 200, "http.response.written": 1})
    assert "2023-11-14T22:13:20.250000Z" in stream.getvalue()


def test_shapes_are_bounded(stream: io.StringIO) -> None:
    lines = alike()
    for number in range(SHAPES + 20):
        assert written(lines, {"http.response.status": number, "http.response.written": 1})
        assert len(lines._shapes) <= SHAPES + 1
