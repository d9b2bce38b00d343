"""The set-up of structlog, called once: where events go, what they look like, what never gets into them.

Every room logs by `structlog.get_logger()` with a fixed dotted event name and fields. The forms are those of
distribution (logrus): `text`, `json`, `logstash`, sorted by key, so that a team's log pipeline still fits.
Records of the standard library's logging (aiohttp, asyncio) take the same way.

Redaction is the last step before rendering and covers every field, the traceback included: values of keys
that name a secret, userinfo and query values in URLs (but for the few that are known to be harmless),
Authorization headers and JSON Web Tokens. What is not understood is hidden, not shown.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from mirror.logwriter import Lines, Lost, lines_to

LEVELS: Mapping[str, int] = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
REDACTED = "REDACTED"

VALUE_LIMIT = 8 << 10  # characters of one field; a header line that a client may send us has as many at most
TRACEBACK_LIMIT = 64 << 10  # characters; the end of a traceback says what happened, so the end is kept
DEPTH_LIMIT = 4  # levels of a nested value, such as an upstream's error detail
ITEM_LIMIT = 100  # items of one nested value

Step = Callable[[WrappedLogger, str, EventDict], EventDict]
Renderer = Callable[[WrappedLogger, str, EventDict], str]

_SECRET_KEY = re.compile(r"(?i)authori[sz]ation|passw|secret|token|credential|cookie|signature|api_?key")
_HARMLESS_FIELDS = frozenset(
    {"account", "artifactType", "digest", "from", "last", "mount", "n", "ns", "scope", "service"}
)
_QUERY = re.compile(r"((?:^|[?&])([\w.~%+-]{1,200})=)([^&#\s\"'<>]*)")
_USERINFO = re.compile(r"://[^/\s@\"'<>]{0,2000}@")
# A scheme with credentials; the words after it that make it plain prose ("Basic authentication") are not.
_CREDENTIALS = re.compile(
    r"(?i)\b(bearer|basic)(\s+)(?!auth|challenge|credential|realm|scheme|token)[\w.~+/=-]{4,}"
)
_JWT = re.compile(r"\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?")
_quoted = json.encoder.encode_basestring_ascii  # what json.dumps makes of a text, after some looks at it
_PLAIN = re.compile(r"[A-Za-z0-9\-._/@^+]+\Z")  # what logrus leaves without quotes


@dataclass(frozen=True, slots=True)
class Form:
    """How an event becomes a line: for those who make many lines of one event (`logprepared`)."""

    processors: Sequence[Processor]  # all of them, as structlog has them
    before: Sequence[Step]  # those before level and time are added
    render: Renderer
    quote: Callable[[str], str]  # a text as it stands in the line in the place of a plain word
    threshold: int
    lines: Lines


class LogError(ValueError):
    """A level or a formatter that does not exist; `str()` names those that do."""


def configure(
    level: str = "info",
    formatter: str = "text",
    fields: Mapping[str, Any] | None = None,
    stream: TextIO | None = None,
) -> None:
    """Send every event of `level` and above to `stream` (standard error), each with `fields`.

    Raises LogError unless level is error, warn, info or debug and formatter text, json or logstash.
    """
    render = _RENDERERS.get(formatter)
    if render is None:
        raise LogError(f"unknown log formatter {formatter!r}, must be one of {', '.join(_RENDERERS)}")
    renderer, quote = render
    threshold = LEVELS.get(level.lower())
    if threshold is None:
        raise LogError(f"unknown log level {level!r}, must be one of {', '.join(LEVELS)}")
    constant = dict(fields or {})

    def add_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**constant, **event} if constant else event

    def lost(count: int) -> str:
        event = add_fields(None, "warning", {"event": "log.dropped", "count": count})
        return renderer(None, "warning", _add_level_and_time(None, "warning", event)) + "\n"

    global _form  # noqa: PLW0603 - as structlog's own configuration, which it describes
    lines = lines_to(stream if stream is not None else sys.stderr)
    sink = _Sink(lines, lost)
    before: list[Step] = [structlog.contextvars.merge_contextvars, add_fields, _add_exception, redact]
    processors: list[Processor] = [*before, _add_level_and_time, renderer]
    _form = Form(processors, before, renderer, quote, threshold, lines)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(threshold),  # below it, a call does nothing
        logger_factory=lambda *_args: sink,
        cache_logger_on_first_use=False,  # a second call of configure must reach the loggers of the first
    )
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(threshold)


def configure_for_people(level: str, render: Renderer, say: Callable[[str], None]) -> None:
    """Hand every event of `level` and above to `say`, as the text that `render` makes of it."""
    global _form  # noqa: PLW0603 - as in `configure`
    _form = None
    threshold = LEVELS[level]
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _add_exception, redact, _add_level, render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_args: _Speaker(say),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(threshold)


def form() -> Form | None:
    """What `configure` has set; None where it was not called, or something else was set since."""
    if _form is None or structlog.get_config()["processors"] is not _form.processors:
        return None
    return _form


class _Sink:
    """What structlog hands each rendered event to."""

    def __init__(self, lines: Lines, lost: Lost) -> None:
        self._lines, lines.lost = lines, lost

    def msg(self, line: str) -> None:
        self._lines.write(line + "\n")

    debug = info = warning = warn = error = critical = exception = log = fatal = msg


class _Speaker:
    """The same, for `configure_for_people`."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def msg(self, text: str) -> None:
        self._say(text)

    debug = info = warning = warn = error = critical = exception = log = fatal = msg


class _Bridge(logging.Handler):
    """Records of the standard library's logging, as events."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            structlog.get_logger().log(
                _level(record.levelno), record.getMessage(), logger=record.name, exc_info=record.exc_info
            )
        except Exception:  # noqa: BLE001 - a library's broken record must not break the library
            self.handleError(record)


def _level(number: int) -> int:
    """A level that structlog has a method for."""
    return max((known for known in LEVELS.values() if known <= number), default=logging.DEBUG)


def _add_exception(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """`exc_info` (True, an exception or a triple) -> `exception`, the traceback as text."""
    given = event.pop("exc_info", None) or (method == "exception")
    if not given:
        return event
    error = given if isinstance(given, BaseException) else None
    if error is None:
        triple = given if isinstance(given, tuple) else sys.exc_info()
        error = triple[1]
    if error is not None:
        event["exception"] = "".join(traceback.format_exception(error)).rstrip()[-TRACEBACK_LIMIT:]
    return event


def _add_level(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    event["level"] = {"warn": "warning", "exception": "error", "critical": "error"}.get(method, method)
    return event


def _add_level_and_time(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    _add_level(_logger, method, event)
    event["time"] = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return event


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Hide secrets in every field; see the head of the module."""
    return {key: _redacted(key, value, DEPTH_LIMIT) for key, value in event.items()}


def redact_text(text: str) -> str:
    """A text without userinfo, query values, credentials and JSON Web Tokens."""
    if "=" in text:
        text = _QUERY.sub(_redact_field, text)
    if "@" in text:
        text = _USERINFO.sub(f"://{REDACTED}@", text)
    if " " in text and ("earer" in (lowered := text.lower()) or "asic" in lowered):
        text = _CREDENTIALS.sub(_redact_credentials, text)
    return _JWT.sub(REDACTED, text) if "eyJ" in text else text


def _redact_credentials(found: re.Match[str]) -> str:
    return found[1] + found[2] + REDACTED


def _redact_field(found: re.Match[str]) -> str:
    return found[0] if found[2] in _HARMLESS_FIELDS or not found[3] else found[1] + REDACTED


@lru_cache(maxsize=1024)  # there are some dozens of keys, and each event asks for a dozen
def _is_secret(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


def _redacted(key: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _is_secret(key):
        return REDACTED
    if isinstance(value, Mapping) and depth:
        items = list(value.items())[:ITEM_LIMIT]
        return {str(name): _redacted(str(name), inner, depth - 1) for name, inner in items}
    if isinstance(value, list | tuple) and depth:
        return [_redacted(key, inner, depth - 1) for inner in value[:ITEM_LIMIT]]
    text = value if isinstance(value, str) else str(value)
    return redact_text(text) if key == "exception" else redacted_value(text)


def redacted_value(text: str) -> str:
    """A field's text, without secrets, and not longer than it may be."""
    return redact_text(text if len(text) <= VALUE_LIMIT else text[:VALUE_LIMIT] + "…")


def escape(text: str) -> str:
    """The text as the inside of a quoted ASCII string: no line break or control character is left."""
    return _quoted(text)[1:-1]


def _text(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """logrus' text form: `time="…" level=info msg="…"`, then the fields in the order of their names."""
    time, level, message = event.pop("time"), event.pop("level"), event.pop("event", "")
    parts = [f'time="{time}" level={level} msg="{escape(str(message))}"']
    parts += [f"{_plain(key)}={_plain(_flat(event[key]))}" for key in sorted(event)]
    return " ".join(parts)


def _plain(text: str) -> str:
    if _PLAIN.match(text):
        return text
    # Durations are Go's, `876.791µs`; logrus leaves what can be printed, and this one can do no harm.
    return '"' + "µ".join(escape(part) for part in text.split("µ")) + '"'


def _flat(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | Mapping | list):
        return _dump(value)
    return str(value)


def _json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """logrus' JSON form: one flat object."""
    event["msg"] = event.pop("event", "")
    return _dump(event)


def _logstash(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """logstash's event form, version 1."""
    event["message"] = event.pop("event", "")
    event["@timestamp"] = event.pop("time")
    event["@version"] = "1"
    return _dump(event)


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


_RENDERERS: Mapping[str, tuple[Renderer, Callable[[str], str]]] = {
    "text": (_text, _plain),
    "json": (_json, escape),
    "logstash": (_logstash, escape),
}
_form: Form | None = None
