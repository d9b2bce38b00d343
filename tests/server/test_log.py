"""The forms of the log, and what never gets into it."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirror import log

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    """The set-up is one for the process: put back what was there."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


def written(level: str = "info", formatter: str = "text", **fields: object) -> io.StringIO:
    """A stream that the log goes to from now on."""
    stream = io.StringIO()
    log.configure(level, formatter, fields, stream)
    return stream


def test_text_is_logrus_form() -> None:
    """Time, level, message, then the fields by name; quotes only where they are needed."""
    stream = written(service="mirror")
    structlog.get_logger().info("fill.started", size=3, digest="sha256:ab", path="/a-b_c.d", ok=True, no=None)
    line = (
        rf'time="{TIME}" level=info msg="fill\.started" digest="sha256:ab" no=null ok=true '
        r"path=/a-b_c\.d service=mirror size=3" + "\n"
    )
    assert re.fullmatch(line, stream.getvalue())


def test_json_is_flat_and_logstash_has_its_names() -> None:
    """As distribution's formatters."""
    stream = written(formatter="json", service="mirror")
    structlog.get_logger().warning("a.b", size=3)
    event = json.loads(stream.getvalue())
    assert re.fullmatch(TIME, event.pop("time"))
    assert event == {"level": "warning", "msg": "a.b", "service": "mirror", "size": 3}
    stream = written(formatter="logstash")
    structlog.get_logger().error("a.b", size=3)
    event = json.loads(stream.getvalue())
    assert re.fullmatch(TIME, event.pop("@timestamp"))
    assert event == {"@version": "1", "level": "error", "message": "a.b", "size": 3}


@pytest.mark.parametrize(
    ("level", "expected"),
    [("error", 1), ("warn", 2), ("INFO", 3), ("debug", 4)],
)
def test_a_level_shows_itself_and_what_is_above(level: str, expected: int) -> None:
    """By distribution's names, in any case."""
    stream = written(level)
    logger = structlog.get_logger()
    for method in ("debug", "info", "warning", "error"):
        getattr(logger, method)("a.b")
    assert len(stream.getvalue().splitlines()) == expected


def test_nothing_is_formatted_below_the_level() -> None:
    """A debug event costs nothing in production."""

    class Expensive:
        def __str__(self) -> str:
            raise AssertionError("formatted")

    stream = written("info")
    structlog.get_logger().debug("a.b", value=Expensive())
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("level", "formatter"), [("loud", "text"), ("info", "xml"), ("", "text")])
def test_an_unknown_name_is_refused_with_the_known_ones(level: str, formatter: str) -> None:
    """For the error that the start ends with."""
    with pytest.raises(log.LogError, match="must be one of"):
        log.configure(level, formatter)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://s3.test/a?X-Amz-Signature=abc&n=5", "https://s3.test/a?X-Amz-Signature=REDACTED&n=5"),
        ("/v2/_catalog?n=5&last=a%2Fb", "/v2/_catalog?n=5&last=a%2Fb"),
        ("/token?service=r&scope=repository:a:pull", "/token?service=r&scope=repository:a:pull"),
        ("token=abc&n=1", "token=REDACTED&n=1"),
        ("https://user:pw@quay.test/v2/", "https://REDACTED@quay.test/v2/"),
        ("sent Authorization: Bearer abc.def-g", "sent Authorization: Bearer REDACTED"),
        ("basic dTpw", "basic REDACTED"),
        ("Basic authentication is needed", "Basic authentication is needed"),
        ('Bearer realm="https://auth.test/token"', 'Bearer realm="https://auth.test/token"'),
        ("got eyJhbGciOiJSUzI1NiJ9.eyJzdWIi.c2ln", "got REDACTED"),
    ],
)
def test_secrets_in_a_text_are_hidden(text: str, shown: str) -> None:
    """In any field's value, and what is harmless stays readable."""
    assert log.redact_text(text) == shown


def test_secrets_are_hidden_in_every_form_and_place() -> None:
    """By key, in nested values, in messages, in tracebacks."""
    for formatter in ("text", "json", "logstash"):
        stream = written("debug", formatter)
        logger = structlog.get_logger()
        logger.info("a.b", Authorization="hunter2", password=b"hunter2", detail={"x": [{"token": "hunter2"}]})
        logger.info("see https://h.test/?sig=hunter2", url="https://u:hunter2@h.test")
        logging.getLogger("library").warning("with %s", "Bearer hunter2")
        try:
            raise ValueError("https://h.test/?token=hunter2")
        except ValueError:
            logger.exception("a.b")
        assert len(stream.getvalue().splitlines()) == 4
        assert "hunter2" not in stream.getvalue()
        assert "ValueError" in stream.getvalue()


@settings(max_examples=100)
@example("\x7f", "\x7f", "text")
@example("\x7f", "\x7f", "json")
@given(st.text(), st.text(min_size=1), st.sampled_from(["text", "json", "logstash"]))
def test_whatever_is_logged_is_one_harmless_line(value: str, key: str, formatter: str) -> None:
    """No line break, escape sequence or direction mark of a client's making reaches a terminal."""
    stream = written("info", formatter)
    structlog.get_logger().info(value, **{key + "_": value, "nested": [value]})
    line = stream.getvalue()
    assert re.fullmatch(r"[ -~µ]+\n" if formatter == "text" else r"[ -~]+\n", line)


def test_a_micro_sign_is_itself_in_text_and_nothing_can_be_mistaken_for_one() -> None:
    """Durations are read by people; JSON escapes it, and a reader of JSON undoes that."""
    stream = written()
    structlog.get_logger().info("a.b", duration="876.791µs", other="\\u00b5", third="\u2026µ\n")
    assert stream.getvalue().endswith(r' duration="876.791µs" other="\\u00b5" third="\u2026µ\n"' + "\n")
    stream = written(formatter="json")
    structlog.get_logger().info("a.b", duration="876.791µs")
    assert r'"duration":"876.791\u00b5s"' in stream.getvalue()
    assert json.loads(stream.getvalue())["duration"] == "876.791µs"


def test_long_values_are_cut() -> None:
    """One field is not the whole log."""
    stream = written()
    structlog.get_logger().info("a.b", value="x" * 1_000_000, many=list(range(100_000)))
    assert len(stream.getvalue()) < 2 * log.VALUE_LIMIT


def test_the_standard_librarys_records_take_the_same_way() -> None:
    """With their logger's name and traceback, at their level."""
    stream = written("info", "json")
    logging.getLogger("aiohttp.server").error("boom %d", 7, exc_info=ValueError("why"))
    logging.getLogger("asyncio").debug("not shown")
    logging.getLogger("odd").log(35, "between")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["msg"], first["level"], first["logger"]) == ("boom 7", "error", "aiohttp.server")
    assert "ValueError: why" in first["exception"]
    assert (second["msg"], second["level"]) == ("between", "warning")


def test_a_log_that_cannot_be_written_fails_nobody() -> None:
    """A full disk, a closed stream."""
    stream = written()
    stream.close()
    structlog.get_logger().error("a.b")
