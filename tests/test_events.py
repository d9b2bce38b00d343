"""Every event that the log can have is explained in docs/events.md, at its level, and no other."""

from __future__ import annotations

import ast
import io
import logging
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from mirror import log

TOP = Path(__file__).resolve().parents[1]
LEVELS = {"exception": "error", "warn": "warning"}
METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
CHOSEN = {"level"}  # names of variables that hold one of the methods
NAME = re.compile(r"[a-z]+(\.[a-z_]+)+\Z")
ROW = re.compile(r"\| (`[^|]*`) \| ([a-z, ]+) \| ([^|]+) \|\Z")


def logged(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each event of a module, and its level; `log` where that is decided while it runs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Attribute(attr=method) if method in METHODS:
                    level = LEVELS.get(method, method)
                case ast.Name(id=name) if name in CHOSEN:
                    level = "log"
                case _:
                    continue
            for argument in node.args[:2]:
                if isinstance(argument, ast.Constant) and NAME.match(str(argument.value)):
                    yield str(argument.value), level
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                is_event = isinstance(key, ast.Constant) and key.value == "event"
                if is_event and isinstance(value, ast.Constant) and NAME.match(str(value.value)):
                    yield str(value.value), "log"


def in_the_source() -> dict[str, set[str]]:
    found = defaultdict(set)
    for path in (TOP / "mirror").rglob("*.py"):
        for event, level in logged(ast.parse(path.read_text(encoding="utf-8"))):
            found[event].add(level)
    return found


def in_the_docs(name: str) -> list[tuple[str, set[str], str]]:
    """The rows of the tables of events: name, levels, and what it means."""
    lines = (TOP / name).read_text(encoding="utf-8").splitlines()
    rows = [match.groups() for line in lines if (match := ROW.match(line))]
    return [
        (event, set(levels.split(", ")), text)
        for events, levels, text in rows
        for event in re.findall(r"`([^`]+)`", events)
    ]


def test_the_source_is_read_as_it_is_written() -> None:
    """This test would pass with an empty table if it found nothing."""
    code = (
        'log.info("a.b", x=1)\nlevel("c.d")\nlog.log(9, "e.f_g")\nlog.exception("h.i")\nlog.info("one word")'
    )
    assert list(logged(ast.parse(code))) == [
        ("a.b", "info"),
        ("c.d", "log"),
        ("e.f_g", "log"),
        ("h.i", "error"),
    ]
    assert list(logged(ast.parse('{"event": "log.dropped", "count": 1}'))) == [("log.dropped", "log")]


def test_every_event_is_explained_once_at_its_level_and_no_other() -> None:
    source, docs = in_the_source(), in_the_docs("docs/events.md")
    names = [event for event, _, _ in docs]
    assert sorted(names) == sorted(set(names))
    assert set(names) == set(source)
    for event, levels, text in docs:
        decided = source[event] - {"log"}
        assert levels == decided or ("log" in source[event] and levels >= decided), event
        assert len(text.strip()) > 10, event


def test_the_readme_names_events_that_there_are() -> None:
    rows = (TOP / "README.md").read_text(encoding="utf-8").split("| event |")[1].split("\n\n")[0]
    named = {name for name in re.findall(r"`([^`]+)`", rows) if NAME.match(name)}
    assert len(named) > 10
    assert named - set(in_the_source()) - {"proxy.ttl", "proxy.stale", "http.limits.perclient"} == set()


@pytest.mark.usefixtures("_log_restored")
def test_what_to_look_at_is_found_by_the_documented_commands() -> None:
    """In each form of the log, and without a line for each failed request."""
    text = (TOP / "docs" / "events.md").read_text(encoding="utf-8")
    (looked, but), (woken,) = [
        re.findall(r"grep -[Ev] '([^']+)'", line)
        for line in text.splitlines()
        if line.startswith("    journalctl")
    ]
    wake = expanded(woken)
    assert len(wake) == 8
    assert wake <= {event for event, levels, _ in in_the_docs("docs/events.md") if levels - {"info"}}
    for formatter in ("text", "json", "logstash"):
        stream = io.StringIO()
        log.configure("info", formatter, {}, stream)
        logger = structlog.get_logger()
        for event in (*sorted(wake), "response completed with error"):
            logger.error(event)
        logger.warning("config.warning")
        logger.info("mirror.started", level_of="warning")
        lines = stream.getvalue().splitlines()
        assert len(lines) == len(wake) + 3
        found = [line for line in lines if re.search(looked, line) and not re.search(but, line)]
        assert found == [*lines[: len(wake)], lines[-2]]
        assert [line for line in lines if re.search(woken, line)] == lines[: len(wake)]


def expanded(pattern: str) -> set[str]:
    """The events of `a.b|c.(d|e)`."""
    found = set()
    for head, several, plain in re.findall(r"([a-z.]+)\(([a-z_|]+)\)|([a-z._]+)", pattern):
        found |= {f"{head}{each}" for each in several.split("|")} if several else {plain}
    return found


@pytest.fixture
def _log_restored() -> Iterator[None]:
    """The set-up is one for the process: put back what was there."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)
