"""Lines leave in order, and a reader who stops reading stops nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest

from mirror import logwriter
from mirror.logwriter import Lines

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds
LINE = "x" * 1000


@contextmanager
def pipe() -> Iterator[tuple[int, TextIO]]:
    """The end to read from, and the stream to write to. Whoever waits to write is released by reading."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        yield reading, stream
    os.close(reading)


def lines_of(reading: int, end: bytes) -> list[str]:
    """All lines up to the one that is `end`."""
    data = b""
    while not data.endswith(end + b"\n"):
        data += os.read(reading, 1 << 20)
    return data.decode().splitlines()


def write_many(lines: Lines, name: int) -> None:
    """500 lines that say who wrote them and which they are."""
    for number in range(500):
        lines.write(f"{name} {number} é\n")


def test_every_line_leaves_in_order() -> None:
    """However many threads write."""
    with pipe() as (reading, stream):
        lines = Lines(stream)
        got: list[str] = []
        reader = threading.Thread(target=lambda: got.extend(lines_of(reading, b"end")))
        reader.start()
        writers = [threading.Thread(target=write_many, args=(lines, n)) for n in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        lines.write(LINE * 50 + "\n")  # longer than a pipe takes at once
        lines.write("end\n")
        reader.join(PATIENCE)
        assert lines.flush(PATIENCE)
    assert len(got) == 2002
    for n in range(4):
        assert [line for line in got if line.startswith(f"{n} ")] == [f"{n} {i} é" for i in range(500)]


def test_nobody_waits_for_a_reader_and_what_is_dropped_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is bounded; the first line that gets in again is followed by the number."""
    monkeypatch.setattr(logwriter, "QUEUE_LIMIT", 100_000)
    with pipe() as (reading, stream):
        lines = Lines(stream)
        lines.lost = lambda count: f"lost {count}\n"
        number = 0
        while lines.flush(0.1):  # until the pipe is full
            lines.write(f"{number} {LINE}\n")
            number += 1
        for more in range(number, number + 1000):
            lines.write(f"{more} {LINE}\n")
        data = b""
        while not lines.flush(0.01):
            data += os.read(reading, 1 << 20)
        lines.write("again\n")
        while b"lost" not in data:
            data += os.read(reading, 1 << 20)
    *first, again, lost = data.decode().splitlines()
    kept = len(first)
    assert first == [f"{number} {LINE}" for number in range(kept)]
    assert number < kept < number + 100
    assert (again, lost) == ("again", f"lost {number + 1000 - kept}")


def test_a_pipe_that_does_not_wait_gets_all() -> None:
    """As some process managers give."""
    with pipe() as (reading, stream):
        os.set_blocking(stream.fileno(), False)
        lines = Lines(stream)
        for number in range(300):
            lines.write(f"{number} {LINE}\n")
        lines.write("end\n")
        assert len(lines_of(reading, b"end")) == 301


def test_a_reader_that_is_gone_costs_only_the_lines() -> None:
    """No failure, and nothing waits."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        lines = Lines(stream)
        lines.write("x\n")
        assert lines.flush(PATIENCE)


def start(script: str) -> subprocess.Popen[str]:
    """A program whose output nobody reads so far."""
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


MANY = """
import structlog
from mirror import log
log.configure("info", "json")
for number in range({count}):
    structlog.get_logger().info("a.b", number=number, text="x" * 1000)
"""


def test_a_program_that_ends_has_written_all() -> None:
    """Right after the last line."""
    with start(MANY.format(count=2000)) as program:
        _out, errors = program.communicate(timeout=PATIENCE)
    assert [json.loads(line)["number"] for line in errors.splitlines()] == list(range(2000))


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_program_ends_though_nobody_reads(stream: str) -> None:
    """After a bounded wait, with its own status: no lock of a stream is held."""
    to = "import sys; from mirror.logwriter import lines_to\nlines = lines_to(sys.{stream})\n"
    with start(
        to.format(stream=stream) + "for _ in range(9000): lines.write('x' * 1000 + chr(10))"
    ) as program:
        assert program.wait(PATIENCE) == 0
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        program.stderr.close()
