"""What is wrong with a text that is not YAML, in plain words, where the cause is a common one."""

from __future__ import annotations

import re
from typing import Final, Protocol

import yaml

QUOTE_IT: Final = "a value that begins with {} needs single quotes"

# NB: no message may show a value: `password: *secret` is an alias to YAML, and its name the secret.
_QUOTED_VALUE = re.compile(r"\b(tag handle|alias|anchor) .*", re.DOTALL)
_BEGINS = re.compile(r"found character '(.)' that cannot start|expected the node content, but found '(.)'")
_SIGNS: Final = {  # what PyYAML was at, and the character that had set it off
    "while scanning an anchor": "&",
    "while scanning an alias": "*",
    "while scanning a tag": "!",
    "while scanning a directive": "%",
    "while scanning a block scalar": "| or >",
}


class Mark(Protocol):
    """A place in the text, counted from 0: PyYAML has one class for it in Python, and another in C."""

    line: int
    column: int
    index: int


def explain(error: yaml.MarkedYAMLError, text: str) -> tuple[Mark | None, str]:
    """Where, and why: in plain words, with PyYAML's behind them. Shows at most one character of `text`."""
    problem = _QUOTED_VALUE.sub(r"\1", error.problem or error.context or "")
    cause, mark = _cause(error, text)
    return mark, f"not YAML: {cause} ({problem})" if cause else f"not YAML: {problem}"


def _cause(error: yaml.MarkedYAMLError, text: str) -> tuple[str, Mark | None]:
    """In plain words, "" for none, and where to look."""
    problem, context = error.problem or "", error.context or ""
    here = error.problem_mark or error.context_mark
    start = error.context_mark or here  # of what is not closed; `here` is where that came out
    begins = _BEGINS.match(problem)
    sign = "!" if "tag handle" in problem else _SIGNS.get(context)
    if "'\\t'" in problem:
        return "a tab; YAML is indented by spaces only", here
    if begins is not None:
        return QUOTE_IT.format(begins.group(1) or begins.group(2)), here
    if sign is not None:
        return QUOTE_IT.format(sign), start
    if "escape" in problem:
        return "in double quotes \\ begins an escape; use single quotes", here
    if context.startswith(("while scanning a quoted", "while scanning a double-quoted")):
        return "a quote that is not closed", start
    if context.startswith("while parsing a flow"):
        return "a { or [ that is not closed; a value that begins with one needs single quotes", start
    if context == "while scanning a simple key":
        return "a key without a colon and a space behind it", start
    return _misplaced(problem, _line_before(text, here)), here


def _misplaced(problem: str, before: str) -> str:
    """The cause when something stands where it cannot, `before` being its line up to there."""
    if problem.startswith("mapping values"):
        if ": " in before:
            return "a value with a colon and a space in it needs single quotes"
        return "a line that is indented too far, or the one above lacks a colon and a space"
    if problem.startswith("sequence entries"):
        return "items of a list stand on lines of their own; " + QUOTE_IT.format("-")
    if problem.startswith("expected <block end>"):
        if before.strip():
            return "something behind a closing quote or bracket; put the whole value in single quotes"
        return "a line that is not indented as the others of its section"
    return ""


def _line_before(text: str, mark: Mark | None) -> str:
    return text[: mark.index].rpartition("\n")[2] if mark else ""
