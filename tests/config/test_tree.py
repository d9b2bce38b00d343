"""YAML is read within bounds, keeps the text of its values, and every refusal names its line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.configtree import DEPTH_MAX, NODES_MAX, TEXT_LIMIT, Scalar, Table, TreeError, parse, resolved


def tree(text: str) -> Table:
    found = parse(text, "f.yml", lines=True)
    assert isinstance(found, Table)
    return found


@pytest.mark.parametrize("text", ["0123", "1e5", "yes", "1_000", "0x1f", "12:30", "2024-01-02", "1.10"])
def test_a_value_keeps_the_text_that_was_written(text: str) -> None:
    """The password 0123 is not the number 83."""
    value = tree(f"password: {text}").entries["password"]
    assert isinstance(value, Scalar)
    assert value.text == text


def test_each_part_knows_its_line() -> None:
    root = tree("version: 0.1\nhttp:\n  addr: :5000\n  headers:\n    X-A: [a,\n     b]\n")
    http = root.entries["http"]
    assert isinstance(http, Table)
    headers = http.entries["headers"]
    assert isinstance(headers, Table)
    assert [http.source, http.entries["addr"].source, headers.source] == ["f.yml:2", "f.yml:3", "f.yml:4"]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", (3, 1), "key 'a' is there twice, first in line 1"),
        ("x: {a: 1,\n a: 2}", (2, 2), "key 'a' is there twice, first in line 1"),
        ("a: *b", (1, 4), "an alias without its anchor; a value that begins with * needs single quotes"),
        ("a: &a [*a]", (1, 8), "an alias without its anchor"),
        ("a: &b\nc: 1", (1, 4), "an anchor on nothing; a value that begins with & needs single quotes"),
        ("a: 1\n---\nb: 2\n", (2, 1), "more than one document"),
        ("a: !!python/object:os.system x", (1, 4), "a tag that is not supported"),
        ("a: !!binary eA==", (1, 4), "a value that begins with ! needs single quotes"),
        ("? [a]\n: b", (1, 3), "a key that is itself a section or a list"),
        ("a:\n  <<: 1\n", (2, 3), "<< takes a section"),
        ("a: \x00", (1, 1), "not YAML: a control character"),
        ("a: " + "[" * (DEPTH_MAX + 1), (1, 36), f"nested deeper than {DEPTH_MAX} levels"),
        ("a: " + "[" * 100_000, (1, 36), f"nested deeper than {DEPTH_MAX} levels"),
        ("a: [" + "1," * NODES_MAX + "]", (1, 19999), f"more than {NODES_MAX} values"),
        ("a" * (TEXT_LIMIT + 1), (1, 1), "larger than 1 MiB"),
        # PyYAML's words, and before them the common cause
        ("a:\n\tb: 1", (2, 1), "not YAML: a tab; YAML is indented by spaces only (found character '\\t'"),
        ("a: %x", (1, 4), "not YAML: a value that begins with % needs single quotes (found character '%'"),
        ("a: @x", (1, 4), "a value that begins with @ needs single quotes"),
        ("a: `x", (1, 4), "a value that begins with ` needs single quotes"),
        ("a: * x", (1, 4), "a value that begins with * needs single quotes"),
        ("a: & x", (1, 4), "a value that begins with & needs single quotes"),
        ("a: ]x", (1, 4), "a value that begins with ] needs single quotes"),
        ("a: >x", (1, 4), "a value that begins with | or > needs single quotes"),
        ("a: !x!y z", (1, 4), "a value that begins with ! needs single quotes"),
        ("a: - b", (1, 4), "items of a list stand on lines of their own; a value that begins with -"),
        ("a:\n  b: 1\n c: 2", (3, 2), "a line that is not indented as the others of its section"),
        ("a: b: c", (1, 5), "a value with a colon and a space in it needs single quotes"),
        ("a: 1\n  b: 2", (2, 4), "a line that is indented too far, or the one above lacks a colon"),
        ("a\n  b: 2", (2, 4), "a line that is indented too far, or the one above lacks a colon"),
        ("x: 1\na\n", (2, 1), "a key without a colon and a space behind it"),
        ("a: 'b' c", (1, 8), "something behind a closing quote or bracket"),
        ('a: "\\q"', (1, 6), "in double quotes \\ begins an escape"),
        ("a: 'x\nb: 1\n", (1, 4), "a quote that is not closed"),
        ("a: [1\nb: 1\n", (1, 4), "not YAML: a { or [ that is not closed"),
    ],
)  # fmt: skip
def test_what_is_refused_names_line_column_and_reason(text: str, place: tuple[int, int], words: str) -> None:
    with pytest.raises(TreeError) as refused:
        parse(text, "f.yml", lines=True)
    assert words in str(refused.value)
    assert (refused.value.line, refused.value.column) == place
    assert "\n" not in str(refused.value)


def test_aliases_cannot_multiply() -> None:
    """The billion laughs: nine levels of nine aliases would be 9**9 values."""
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 9) + "]\n" for n in range(1, 10)
    )
    with pytest.raises(TreeError, match=f"more than {NODES_MAX} values"):
        parse(bomb, "f.yml", lines=True)


@pytest.mark.parametrize(
    "text",
    [
        "password: *hunter2",
        "password: !hunter2 x",
        "password: !hunter2!x y",
        "p: &hunter2",
        "p: {hunter2",
        "p: 'hunter2",
        "p: x: hunter2",
    ],
)
def test_no_refusal_shows_a_value(text: str) -> None:
    """To YAML some passwords are an alias, a tag or an anchor, and its name would be the password."""
    said = ""
    try:
        parse(text, "f", lines=True)
    except TreeError as error:
        said = str(error)
    assert "hunter2" not in said


def test_an_alias_is_a_copy_and_a_merge_yields_to_own_keys() -> None:
    root = tree("base: &b {x: 1, y: [2]}\nhere: {<<: *b, x: 3}\nboth: {<<: [{x: 4}, *b]}\nsame: *b\n")
    assert resolved(root) == {
        "base": {"x": 1, "y": [2]},
        "here": {"x": 3, "y": [2]},
        "both": {"x": 4, "y": [2]},
        "same": {"x": 1, "y": [2]},
    }
    assert root.entries["same"] is not root.entries["base"]


def test_values_without_a_schema_are_resolved_as_yaml_has_them() -> None:
    root = tree("a: [1, 1.5, true, null, x]\nf: '1'\ng: 2024-01-02\nh: !!int x\n'<<': {q: 1}")
    assert resolved(root) == {
        "a": [1, 1.5, True, None, "x"],
        "f": "1",
        "g": "2024-01-02",
        "h": "x",
        "<<": {"q": 1},
    }


def test_nothing_and_comments_are_no_tree() -> None:
    assert parse("", "f", lines=True) is None
    assert parse("# a: 1\n", "f", lines=True) is None


@given(st.text(alphabet=st.sampled_from("ab:-?[]{}&*!|>'\"%@`#,\n \t0.\\<~=é\x07"), max_size=60))
def test_no_text_fails_otherwise_than_by_treeerror(text: str) -> None:
    with contextlib.suppress(TreeError):
        parse(text, "f", lines=True)
