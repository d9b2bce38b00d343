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
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "key 'a' is there twice"),
        ("x: {a: 1,\n a: 2}", 2, "key 'a' is there twice"),
        ("a: *b", 1, "an alias without its anchor"),
        ("a: &a [*a]", 1, "an alias without its anchor"),
        ("a: 1\n---\nb: 2\n", 2, "more than one document"),
        ("a: !!python/object:os.system x", 1, "a tag that is not supported"),
        ("a: !!binary eA==", 1, "a tag that is not supported"),
        ("? [a]\n: b", 1, "a key that is itself a section or a list"),
        ("a:\n  <<: 1\n", 2, "<< takes a section"),
        ("a:\n\tb: 1", 2, "not YAML: found character '\\t' that cannot start any token"),
        ("a: b: c", 1, "not YAML: mapping values are not allowed here"),
        ("a: [1", 1, "not YAML: expected ',' or ']'"),
        ("a: \x00", 1, "not YAML: a control character"),
        ("a: " + "[" * (DEPTH_MAX + 1), 1, f"nested deeper than {DEPTH_MAX} levels"),
        ("a: " + "[" * 100_000, 1, f"nested deeper than {DEPTH_MAX} levels"),
        ("a: [" + "1," * NODES_MAX + "]", 1, f"more than {NODES_MAX} values"),
        ("a" * (TEXT_LIMIT + 1), 1, "larger than 1 MiB"),
    ],
)  # fmt: skip
def test_what_is_refused_names_line_and_reason(text: str, line: int, words: str) -> None:
    with pytest.raises(TreeError) as refused:
        parse(text, "f.yml", lines=True)
    assert words in str(refused.value)
    assert refused.value.line == line
    assert "\n" not in str(refused.value)


def test_aliases_cannot_multiply() -> None:
    """The billion laughs: nine levels of nine aliases would be 9**9 values."""
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 9) + "]\n" for n in range(1, 10)
    )
    with pytest.raises(TreeError, match=f"more than {NODES_MAX} values"):
        parse(bomb, "f.yml", lines=True)


@pytest.mark.parametrize(
    "text", ["password: *hunter2", "password: !hunter2 x", "password: !hunter2!x y", "p: &hunter2"]
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
