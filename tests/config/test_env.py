"""REGISTRY_* variables, rule by rule, as the registry applies them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.configauth import Auth, Nobody
from mirror.configenv import QUOTE_INSIDE, overlay
from mirror.configfile import ConfigError
from mirror.confighosts import Address
from mirror.configschema import ROOT, Leaf, List, Map, Shape, Struct
from mirror.configtree import Table, resolved
from tests.support.configs import MINIMAL, load_env, load_text, remarks


def value_at(config: Any, path: str) -> Any:
    """What stands at `http.addr`, or `proxy.realms.0`, of a Config."""

    def step(at: Any, part: str) -> Any:
        if isinstance(at, tuple):
            return at[int(part)]
        return at[part] if isinstance(at, dict) else getattr(at, part)

    return reduce(step, path.split("."), config)


LOGIN = {"REGISTRY_PROXY_REMOTEURL": "https://a", "REGISTRY_PROXY_USERNAME": "u"}
EVENTS = "notifications.events.includereferences"


@pytest.mark.parametrize(
    ("environ", "path", "value"),
    [
        # one value
        ({"REGISTRY_HTTP_ADDR": ":80"}, "http.addr.port", 80),
        ({"REGISTRY_PROXY_REMOTEURL": "https://quay.io/"}, "proxy.remoteurl", "https://quay.io"),
        ({"REGISTRY_PROXY_DEADLINE": "2s"}, "proxy.deadline", 2.0),
        ({"REGISTRY_PROXY_TTL": "0"}, "proxy.ttl", 0.0),
        ({"REGISTRY_LOG_ACCESSLOG_DISABLED": "true"}, "log.accesslog.disabled", True),
        ({"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/x"}, "storage.filesystem.rootdirectory", Path("/x")),
        ({"REGISTRY_STORAGE_FILESYSTEM_MAXTHREADS": "'50'"}, "storage.filesystem.maxthreads", 50),
        ({"REGISTRY_STORAGE_DELETE_ENABLED": "true"}, "storage.delete.enabled", True),
        ({"REGISTRY_LOGLEVEL": "DEBUG"}, "log.level", "debug"),
        ({"REGISTRY_LOGLEVEL": "debug", "REGISTRY_LOG_LEVEL": "error"}, "log.level", "error"),
        # a section as YAML, and what is in it after it: REGISTRY_PROXY sorts before REGISTRY_PROXY_RETRIES
        ({"REGISTRY_PROXY": "{retries: 1, deadline: 3s}"}, "proxy.deadline", 3.0),
        ({"REGISTRY_PROXY_RETRIES": "7", "REGISTRY_PROXY": "{retries: 1}"}, "proxy.retries", 7),
        ({"REGISTRY_HTTP_HEADERS": "{X-A: [b]}"}, "http.headers", {"X-A": ("b",)}),
        ({"REGISTRY_PROXY_REALMS": "[a, b]"}, "proxy.realms", ("a", "b")),
        # strings stand for storage and auth
        ({"REGISTRY_STORAGE": "filesystem"}, "storage.filesystem.rootdirectory", Path("data")),
        ({"REGISTRY_AUTH": "none"}, "auth", Auth(none=Nobody())),
        # maps: keys are lower-cased, existing ones matched
        ({"REGISTRY_LOG_FIELDS_Service": "a"}, "log.fields", {"service": "a"}),
        ({"REGISTRY_LOG_FIELDS_A_B": "1"}, "log.fields", {"a": {"b": 1}}),
        ({"REGISTRY_LOG": "{fields: {Abc: 1}}", "REGISTRY_LOG_FIELDS_ABC": "2"}, "log.fields", {"Abc": 2}),
        ({"REGISTRY_LOG": "{fields: {a: [x]}}", "REGISTRY_LOG_FIELDS_A_0": "z"}, "log.fields", {"a": ["z"]}),
        # lists by number: sections, and plain values as the documentation promises
        ({"REGISTRY_PROXY_REALMS_0": "a", "REGISTRY_PROXY_REALMS_1": "b"}, "proxy.realms", ("a", "b")),
        ({"REGISTRY_PROXY_REALMS": "[a, b]", "REGISTRY_PROXY_REALMS_0": "c"}, "proxy.realms", ("c", "b")),
        ({"REGISTRY_HTTP_HEADERS_X-A_0": "b"}, "http.headers", {"x-a": ("b",)}),
        ({"REGISTRY_NOTIFICATIONS_ENDPOINTS_0_URL": "http://u"}, "notifications.endpoints.0.url", "http://u"),
        ({"REGISTRY_MIDDLEWARE_REGISTRY_0_OPTIONS_A": "1"}, "middleware.registry.0.options", {"a": 1}),
        # both spellings, and what the registry's source inlines
        ({"REGISTRY_HEALTH_FILECHECKERS_0_FILE": "/a"}, "health.file.0.file", Path("/a")),
        ({"REGISTRY_HEALTH_FILE_0_FILE": "/a"}, "health.file.0.file", Path("/a")),
        ({"REGISTRY_HEALTH_HTTPCHECKERS_0_URI": "http://u"}, "health.http.0.uri", "http://u"),
        ({"REGISTRY_HEALTH_HTTP": "[{uri: 'http://u', statuscode: 204}]"}, "health.http.0.statuscode", 204),
        ({"REGISTRY_HEALTH_STORAGEDRIVER_THRESHOLD": "3"}, "health.storagedriver.threshold", 3),
        ({"REGISTRY_HTTP_DEBUG_ADDR": ":5001"}, "http.debug.addr", Address("", 5001)),
        ({"REGISTRY_HTTP_DEBUG_PROMETHEUS_PATH": "/m"}, "http.debug.prometheus.path", "/m"),
        ({"REGISTRY_HEALTH_TCPCHECKERS_0_ADDR": "a:1"}, "health.tcp.0.addr", Address("a", 1)),
        ({"REGISTRY_NOTIFICATIONS_EVENTCONFIG": "{includereferences: true}"}, EVENTS, True),
        ({"REGISTRY_LOG_HOOKS_0_MAILOPTIONS_FROM": "a@b"}, "log.hooks.0.options.from_", "a@b"),
        ({"REGISTRY_COMPATIBILITY_SCHEMA1_TRUSTKEY": "/k"}, "compatibility.schema1.signingkeyfile", "/k"),
        ({"REGISTRY_REDIS_ADDRS": "[a]"}, "redis.addrs", ("a",)),
        ({"REGISTRY_REDIS_OPTIONS_ADDRS": "[a]"}, "redis.addrs", ("a",)),
        ({"REGISTRY_REDIS_ADDR": "a:1", "REGISTRY_REDIS_POOL_MAXIDLE": "3"}, "redis.pool.maxidle", 3),
        # nothing given: the default
        ({"REGISTRY_PROXY_USERNAME": "", "REGISTRY_PROXY_PASSWORD": ""}, "proxy.username", ""),
        ({"REGISTRY_HTTP_ADDR": "''"}, "http.addr.port", 5000),
        ({"REGISTRY_HTTP": "{addr: ':1', prefix: /x}", "REGISTRY_HTTP_PREFIX": "null"}, "http.prefix", ""),
    ],
)  # fmt: skip
def test_a_variable_takes_its_place(environ: dict[str, str], path: str, value: Any) -> None:
    assert value_at(load_env(environ).config, path) == value


def test_variables_win_over_the_file_and_leave_the_rest(tmp_path: Path) -> None:
    text = "version: 0.1\nstorage: {filesystem: {rootdirectory: /a}}\nhttp: {addr: ':1', prefix: /p}\n"
    config = load_text(
        tmp_path, text, REGISTRY_HTTP_ADDR=":2", REGISTRY_STORAGE_FILESYSTEM_MAXTHREADS="30"
    ).config
    assert (str(config.http.addr), config.http.prefix) == (":2", "/p")
    assert config.storage.filesystem is not None
    assert (config.storage.filesystem.rootdirectory, config.storage.filesystem.maxthreads) == (Path("/a"), 30)


def test_a_variable_changes_one_alias_and_not_the_other(tmp_path: Path) -> None:
    checks = "{uri: http://u, headers: &h {X: [1]}}, {uri: http://u, headers: *h}"
    text = f"{MINIMAL}log: {{fields: &f {{a: x}}}}\nhealth: {{http: [{checks}]}}\n"
    config = load_text(tmp_path, text, REGISTRY_HEALTH_HTTP_1_HEADERS_X_0="2").config
    assert [check.headers["X"] for check in config.health.http] == [("1",), ("2",)]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("REGISTRY_PROXY_REMOTEURI", "; did you mean REGISTRY_PROXY_REMOTEURL?"),
        ("REGISTRY_LOGS_LEVEL", "; did you mean REGISTRY_LOG_LEVEL?"),
        ("REGISTRY_PROXY_REMOTE_URL", "; did you mean REGISTRY_PROXY_REMOTEURL?"),
        ("REGISTRY_LOG_ACCESS_LOG_DISABLED", "; did you mean REGISTRY_LOG_ACCESSLOG_DISABLED?"),
        ("REGISTRY_LOGLEVELS", "; did you mean REGISTRY_LOGLEVEL?"),
        ("REGISTRY_PROXY_REALM_0", "; did you mean REGISTRY_PROXY_REALMS_0?"),
        ("REGISTRY_VERSIONS", ""),
        ("REGISTRY_PORT", ""),  # as Kubernetes sets for a service of the name "registry"
        ("REGISTRY_PORT_5000_TCP_ADDR", ""),
        ("REGISTRY_HTTP_ADDR_X", ""),
        ("REGISTRY_http_addr", "; did you mean REGISTRY_HTTP_ADDR?"),
        ("REGISTRY_", ""),
        ("REGISTRY__", ""),
        ("REGISTRY_HTTP__ADDR", ""),
        ("REGISTRY_LOG_FIELDS_" + "A_" * 50 + "A", ""),
    ],
)
def test_a_variable_without_a_place_is_ignored_with_a_warning(name: str, hint: str) -> None:
    loaded = load_env({name: "x"})
    assert [str(warning) for warning in loaded.warnings] == [f"{name}: unknown variable, ignored{hint}"]
    assert loaded.config == load_env({}).config


@pytest.mark.parametrize("name", ["REGISTRY_PORT", "REGISTRY_HTTP_PORT"])
def test_a_port_in_a_variable_of_its_own_gets_the_address_as_a_hint(name: str) -> None:
    """Kubernetes sets REGISTRY_PORT, too, for a service of that name: to tcp://10.0.0.1:5000."""
    assert [str(warning) for warning in load_env({name: "5001"}).warnings] == [
        f"{name}: unknown variable, ignored; did you mean REGISTRY_HTTP_ADDR=:5001?"
    ]


def test_other_variables_are_no_overrides() -> None:
    loaded = load_env({"REGISTRY_CONFIGURATION_PATH": "/x", "HTTP_ADDR": "x", "registry_http_addr": "x"})
    assert loaded.warnings == ()


def test_the_version_is_not_overridden(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, MINIMAL, REGISTRY_VERSION="9")
    assert loaded.config.version == "0.1"
    assert [warning.source for warning in remarks(loaded)] == ["REGISTRY_VERSION"]


@pytest.mark.parametrize("payload", ["0123", "1_000", "'0123'", "yes", "1e5"])
def test_a_password_keeps_its_text(payload: str) -> None:
    config = load_env({**LOGIN, "REGISTRY_PROXY_PASSWORD": payload}).config
    assert config.proxy.password is not None
    assert config.proxy.password.get_secret_value() == payload.strip("'")


def test_a_comment_in_a_value_is_not_lost_in_silence() -> None:
    loaded = load_env({"REGISTRY_LOG_FIELDS_A": "x #y"})
    assert loaded.config.log.fields == {"a": "x"}
    assert [str(warning) for warning in loaded.warnings] == [
        (
            "REGISTRY_LOG_FIELDS_A: log.fields.a: what follows ' #' in it is a comment in YAML; "
            "put the value in single quotes to keep it"
        )
    ]


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"REGISTRY_PROXY_PASSWORD": "#secret"},
            (
                "REGISTRY_PROXY_PASSWORD: proxy.password: got a comment, as # begins one in YAML, "
                f"wanted a value; {QUOTE_INSIDE}"
            ),
        ),
        (
            {"REGISTRY_PROXY_PASSWORD": "{secret"},
            (
                "REGISTRY_PROXY_PASSWORD: proxy.password: not YAML: a { or [ that is not closed; "
                "a value that begins with one needs single quotes (expected ',' or '}', but got "
                f"'<stream end>'); {QUOTE_INSIDE}"
            ),
        ),
        (
            {"REGISTRY_PROXY_PASSWORD": "sec: ret"},
            f"REGISTRY_PROXY_PASSWORD: proxy.password: got a section, wanted a single value; {QUOTE_INSIDE}",
        ),
        (
            {"REGISTRY_PROXY_REALMS_1": "a"},
            (
                "REGISTRY_PROXY_REALMS_1: proxy.realms: got '1', wanted "
                "an index of at most 0, the number of items that are there"
            ),
        ),
        (
            {"REGISTRY_PROXY_REALMS_X": "a"},
            (
                "REGISTRY_PROXY_REALMS_X: proxy.realms: got 'X', wanted "
                "the number of an item, from 0 to 0, in the variable's name"
            ),
        ),
        (
            {"REGISTRY_HTTP": "x"},
            "REGISTRY_HTTP: http: got 'x', wanted a section of keys",
        ),
        (
            {"REGISTRY_STORAGE_INMEMORY": "{}", "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/x"},
            (
                "REGISTRY_STORAGE_INMEMORY: storage: got filesystem and inmemory, wanted exactly "
                "one driver; "
                "remove the other, which may come from a REGISTRY_STORAGE_* variable"
            ),
        ),
        (
            {"REGISTRY_STORAGE_FILESYTEM_ROOTDIRECTORY": "/x"},
            (
                "REGISTRY_STORAGE_FILESYTEM_ROOTDIRECTORY: storage: got 'filesytem', wanted one of the "
                "drivers "
                "filesystem, inmemory, s3, azure, gcs, oss and swift; did you mean filesystem?"
            ),
        ),
    ],
)
def test_a_variable_that_cannot_be_used_stops_the_start(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_env(environ)
    assert str(refused.value) == message


def spellings(
    shape: Shape, names: tuple[str, ...], path: tuple[Any, ...]
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Each variable's name for each single value, and the place that it means."""
    if isinstance(shape, Leaf):
        yield "REGISTRY_" + "_".join(names), path
    elif isinstance(shape, Struct):
        for field in shape.fields.values():
            for part in field.parts:
                yield from spellings(field.shape, (*names, part), (*path, field.key))
    elif isinstance(shape, List):
        yield from spellings(shape.item, (*names, "0"), (*path, 0))
    elif isinstance(shape, Map):
        yield from spellings(shape.value, (*names, "KEY"), (*path, "key"))


SPELLINGS = [entry for entry in spellings(ROOT, (), ()) if entry[0] != "REGISTRY_VERSION"]


@given(st.sampled_from(SPELLINGS), st.from_regex(r"[A-Za-z][a-z0-9/]{0,9}z", fullmatch=True))
def test_each_single_value_has_a_variable_in_each_spelling(
    spelling: tuple[str, tuple[Any, ...]], text: str
) -> None:
    name, path = spelling
    tree = Table("test")
    assert overlay(tree, {name: text}) == ([], [])
    expected: Any = text
    for part in reversed(path):
        expected = [expected] if part == 0 else {part: expected}
    assert resolved(tree) == expected


PARTS = ["HTTP", "LOG", "FIELDS", "0", "7", "", "X", "STORAGE", "A", "HEALTH", "FILE"]


@given(st.lists(st.sampled_from(PARTS), max_size=8), st.text(alphabet="ab:{}[]#'\" 0", max_size=12))
def test_no_variable_fails_otherwise_than_by_a_problem(parts: list[str], payload: str) -> None:
    problems, warnings = overlay(Table("test"), {"REGISTRY_" + "_".join(parts): payload})
    assert len(problems) <= 1
    assert all("\n" not in str(said) for said in [*problems, *warnings])
