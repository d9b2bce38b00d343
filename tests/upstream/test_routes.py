"""Which registry a request means: tables, attacks, and the property that no two repositories share a name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository
from mirror.registry import RegistryError
from mirror.upstream.routes import Names, Route, Routes, Target

HUB = Names("docker.io", ("hub",), hub=True)
ECR = "*.dkr.ecr.*.amazonaws.com"
OTHERS = (
    Names("ghcr.io", ("gh", "github.mirror.example")),
    Names("quay.io", ("q",)),
    Names("localhost:5555"),
    Names("eu.quay.io"),
    Names(ECR),
)
MIRROR = "mirror.example:5000"

several = Routes(HUB, OTHERS, strict=True)
opened = Routes(HUB, (*OTHERS, Names("*")), strict=True)
plain = Routes(Names("quay.io"), strict=False)  # as registry:2 with proxy.remoteurl


def ask(routes: Routes, ns: str | None, host: str, name: str) -> Route:
    """The route, of which `split` says the same."""
    route = routes.route(ns, host, Repository.parse(name))
    assert routes.locate(ns, host, Repository(name)) == route.qualified
    assert routes.split(route.qualified) == Target(route.namespace, route.repository)
    assert routes.entry(route.namespace) == route.entry
    assert Repository.parse(route.qualified.name) == route.qualified
    return route


def refuse(routes: Routes, ns: str | None, host: str, name: str) -> str:
    with pytest.raises(RegistryError) as caught:
        routes.locate(ns, host, Repository(name))
    assert caught.value.code is ErrorCode.NAME_UNKNOWN
    assert caught.value.status == 404
    return caught.value.message


@pytest.mark.parametrize(
    ("ns", "host", "name", "qualified", "by"),
    [
        # docker names nobody
        (None, MIRROR, "library/alpine", "library/alpine", "default"),
        (None, MIRROR, "alpine", "library/alpine", "default"),
        (None, MIRROR, "org/app", "org/app", "default"),
        (None, "", "org/app", "org/app", "default"),
        (None, MIRROR, "quay.io", "library/quay.io", "default"),  # nothing would be left
        # ?ns= comes first
        ("docker.io", MIRROR, "alpine", "library/alpine", "ns"),
        ("Docker.IO", MIRROR, "org/app", "org/app", "ns"),
        ("registry-1.docker.io", MIRROR, "org/app", "org/app", "ns"),
        ("quay.io", MIRROR, "org/app", "quay.io/org/app", "ns"),
        ("quay.io", MIRROR, "app", "quay.io/app", "ns"),
        ("q", MIRROR, "org/app", "quay.io/org/app", "ns"),
        ("quay.io", "ghcr.io.mirror.example", "org/app", "quay.io/org/app", "ns"),
        ("quay.io", MIRROR, "ghcr.io/app", "quay.io/ghcr.io/app", "ns"),
        ("localhost:5555", MIRROR, "app", "localhost_5555/app", "ns"),
        ("1.dkr.ecr.eu.amazonaws.com", MIRROR, "app", "1.dkr.ecr.eu.amazonaws.com/app", "ns"),
        # ... also where containerd's override_path says it once more
        ("quay.io", MIRROR, "quay.io/org/app", "quay.io/org/app", "ns"),
        ("quay.io", MIRROR, "quay.io/quay.io/app", "quay.io/quay.io/app", "ns"),
        ("docker.io", MIRROR, "docker.io/alpine", "library/alpine", "ns"),
        ("docker.io", MIRROR, "hub/library/alpine", "library/alpine", "ns"),
        ("localhost:5555", MIRROR, "localhost_5555/app", "localhost_5555/app", "ns"),
        (
            "1.dkr.ecr.eu.amazonaws.com",
            MIRROR,
            "1.dkr.ecr.eu.amazonaws.com/a",
            "1.dkr.ecr.eu.amazonaws.com/a",
            "ns",
        ),
        # ... but a plain word may be a user there
        ("docker.io", MIRROR, "hub/tool", "hub/tool", "ns"),
        ("quay.io", MIRROR, "q/app", "quay.io/q/app", "ns"),
        # the host
        (None, "ghcr.io.mirror.example", "org/app", "ghcr.io/org/app", "host"),
        (None, "GHCR.io.mirror.example.:5000", "org/app", "ghcr.io/org/app", "host"),
        (None, "ghcr.io", "org/app", "ghcr.io/org/app", "host"),
        (None, "github.mirror.example:443", "org/app", "ghcr.io/org/app", "host"),
        (None, "docker.io.mirror.example", "alpine", "library/alpine", "host"),
        (None, "eu.quay.io.mirror.example", "app", "eu.quay.io/app", "host"),
        (None, "quay.io.mirror.example", "quay.io/org/app", "quay.io/org/app", "host"),
        (
            None,
            "1.dkr.ecr.eu.amazonaws.com.mirror.example",
            "app",
            "1.dkr.ecr.eu.amazonaws.com/app",
            "host",
        ),
        # hosts that say nothing
        (None, "1.dkr.ecr.eu.amazonaws.com", "app", "library/app", "default"),  # it may be this mirror's own
        (None, "127.0.0.1:5000", "org/app", "org/app", "default"),
        (None, "[::1]:5000", "org/app", "org/app", "default"),
        (None, "localhost:5555", "org/app", "org/app", "default"),
        (None, "xghcr.io.mirror.example", "org/app", "org/app", "default"),
        (None, "gh.mirror.example", "org/app", "org/app", "default"),
        (None, "mirror.example.ghcr.io", "org/app", "org/app", "default"),
        (None, "ghcr.io/../quay.io", "org/app", "org/app", "default"),
        (None, "x" * 5000, "org/app", "org/app", "default"),
        # the path
        (None, MIRROR, "quay.io/org/app", "quay.io/org/app", "path"),
        (None, MIRROR, "q/org/team/app", "quay.io/org/team/app", "path"),
        (None, MIRROR, "hub/alpine", "library/alpine", "path"),
        (None, MIRROR, "docker.io/library/alpine", "library/alpine", "path"),
        (None, MIRROR, "index.docker.io/alpine", "library/alpine", "path"),
        (None, MIRROR, "localhost_5555/app", "localhost_5555/app", "path"),
        (None, MIRROR, "localhost_5556/app", "localhost_5556/app", "default"),
        (None, MIRROR, "1.dkr.ecr.eu.amazonaws.com/app", "1.dkr.ecr.eu.amazonaws.com/app", "path"),
        (None, MIRROR, "quay.io/quay.io/app", "quay.io/quay.io/app", "path"),
    ],
)
def test_a_registry_is_named_by_ns_then_by_the_host_then_by_the_path(
    ns: str | None, host: str, name: str, qualified: str, by: str
) -> None:
    route = ask(several, ns, host, name)
    assert (route.qualified.name, route.by) == (qualified, by)
    if by != "path":  # `/v2/` has none
        assert several.registry(ns, host) == route.namespace


@pytest.mark.parametrize(
    ("routes", "ns", "host", "namespace"),
    [
        (several, "nobody.example", "quay.io.mirror.example", "docker.io"),
        (several, "", MIRROR, "docker.io"),
        (several, "Q", MIRROR, "quay.io"),
        (opened, "gcr.io", MIRROR, "gcr.io"),
        (opened, "10.0.0.1", MIRROR, "docker.io"),
        (plain, "ghcr.io", "ghcr.io.mirror.example", "quay.io"),
        (several, "x" * 5000, MIRROR, "docker.io"),
    ],
)
def test_v2_itself_means_the_registry_that_is_named_or_else_the_default(
    routes: Routes, ns: str, host: str, namespace: str
) -> None:
    assert routes.registry(ns, host) == namespace
    assert routes.entry(namespace)


@pytest.mark.parametrize(
    ("ns", "name", "namespace", "repository", "entry", "routed_by"),
    [
        ("quay.io", "org/app", "quay.io", "org/app", "quay.io", "?ns=quay.io"),
        ("hub", "alpine", "docker.io", "library/alpine", "docker.io", "?ns=hub (docker.io)"),
        (
            "2.dkr.ecr.us.amazonaws.com",
            "app",
            "2.dkr.ecr.us.amazonaws.com",
            "app",
            ECR,
            f"?ns=2.dkr.ecr.us.amazonaws.com ({ECR})",
        ),
        (None, "q/org/app", "quay.io", "org/app", "quay.io", "first component q of the path (quay.io)"),
        (None, "gcr.io/a/b", "gcr.io", "a/b", "*", "first component gcr.io of the path (*)"),
        (None, "alpine", "docker.io", "library/alpine", "docker.io", "default upstream"),
    ],
)
def test_a_route_says_whose_the_repository_is_and_why(
    ns: str | None, name: str, namespace: str, repository: str, entry: str, routed_by: str
) -> None:
    route = ask(opened, ns, MIRROR, name)
    assert (route.namespace, route.repository.name, route.entry) == (namespace, repository, entry)
    assert route.routed_by == routed_by


@pytest.mark.parametrize(
    "ns",
    [
        "gcr.io",
        "quay.io:443",
        "quay.io.",
        ".quay.io",
        "quay.io/org",
        "quay.io ",
        "quay.io\n",
        "quay.io\0",
        "quay.io@evil.test",
        "https://quay.io",
        "localhost_5555",
        "",
        "*",
        ECR,
        "*.dkr.ecr.eu.amazonaws.com",
        ".dkr.ecr.eu.amazonaws.com",
        "1.dkr.ecr..amazonaws.com",
        "1.dkr.ecr.eu.amazonaws.com:443",
        "1.dkr.ecr.eu_1.amazonaws.com",
        "1.dkr.ecr.eu.amazonaws.com.evil.test",
        "1/.dkr.ecr.eu.amazonaws.com",
        "-1.dkr.ecr.eu.amazonaws.com",
        "é.dkr.ecr.eu.amazonaws.com",
        "a" * 64 + ".dkr.ecr.eu.amazonaws.com",
        "a." * 200 + "dkr.ecr.eu.amazonaws.com",
        "x" * 100_000,
    ],
)
def test_an_ns_that_no_upstream_has_is_refused_in_few_printable_words(ns: str) -> None:
    message = refuse(several, ns, MIRROR, "org/app")
    assert message.isprintable()
    assert message.isascii()
    assert len(message) < 300
    assert message.endswith("; it serves docker.io, ghcr.io, quay.io, localhost:5555, eu.quay.io and 1 more")


@pytest.mark.parametrize(
    "host",
    [
        "registry",
        "localhost",
        "localhost:5000",
        "a.localhost",
        "printer.local",
        "metadata.google.internal",
        "kubernetes.default.svc",
        "grafana.monitoring",
        "box.lan",
        "router.home.arpa",
        "1.0.0.127.in-addr.arpa",
        "abcdef.onion",
        "127.0.0.1",
        "169.254.169.254",
        "127.1",
        "0x7f.1",
        "1.0x7f000001",
        "foo.0x",
        "2130706433",
        "0177.0.0.1",
        "example.123",
        "[::1]",
        "::1",
        "fe80::1%eth0",
        "gcr.io:443",
        "gcr.io:22",
        "co.uk",
        "io",
        "gcr..io",
        "gcr.io.",
        "g_cr.io",
        "gcr.io/x",
        "user@gcr.io",
        "gcr.io#x",
        "x." * 126 + "io",
    ],
)
def test_open_mode_takes_no_address_no_port_and_no_name_of_this_network(host: str) -> None:
    assert "does not serve" in refuse(opened, host, MIRROR, "org/app")


@pytest.mark.parametrize(
    "host", ["gcr.io", "registry.k8s.io", "a.b.co.uk", "xn--e1afmkfd.xn--p1ai", "1.gcr.io"]
)
def test_open_mode_takes_public_hosts(host: str) -> None:
    route = ask(opened, host.upper(), MIRROR, "org/app")
    assert (route.qualified.name, route.entry) == (f"{host}/org/app", "*")
    assert ask(opened, None, MIRROR, f"{host}/org/app").qualified == route.qualified
    assert ask(opened, None, f"{host}.mirror.example", "org/app").by == "default"


def test_docker_hub_gets_library_wherever_it_is() -> None:
    entry = Routes(Names("reg.example:5000"), [Names("docker.io", hub=True)], strict=True)
    assert ask(entry, None, MIRROR, "alpine").qualified.name == "alpine"
    assert ask(entry, "docker.io", MIRROR, "alpine").qualified.name == "docker.io/library/alpine"
    assert ask(entry, "index.docker.io", MIRROR, "alpine").qualified.name == "docker.io/library/alpine"
    anybody = Routes(Names("reg.example:5000"), [Names("*")], strict=True)
    for ns in ("docker.io", "registry-1.docker.io"):
        assert ask(anybody, ns, MIRROR, "alpine").qualified.name == "docker.io/library/alpine"


def test_without_any_new_key_a_request_is_taken_as_registry_2_takes_it() -> None:
    for ns in (None, "ghcr.io", "quay.io", "no such thing/\n", "x" * 10_000):
        for name in ("alpine", "quay.io/org/app", "ghcr.io/org/app"):
            route = ask(plain, ns, "ghcr.io.mirror.example", name)
            assert (route.namespace, route.qualified.name, route.by) == ("quay.io", name, "default")


def test_where_it_is_not_strict_an_unknown_ns_means_the_default() -> None:
    routes = Routes(Names("reg.example"), OTHERS, strict=False)
    assert ask(routes, "gcr.io", "ghcr.io", "org/app").qualified.name == "org/app"
    assert ask(routes, "quay.io", "ghcr.io", "org/app").qualified.name == "quay.io/org/app"


@pytest.mark.parametrize("name", ["quay.io/org/app", "localhost_5555/app", "1.dkr.ecr.eu.amazonaws.com/app"])
def test_a_name_of_the_default_upstream_is_never_taken_for_anothers(name: str) -> None:
    assert "another registry's" in refuse(several, "docker.io", MIRROR, name)
    assert "another registry's" in refuse(several, None, "docker.io.mirror.example", name)
    assert "another registry's" in refuse(several, None, MIRROR, f"docker.io/{name}")
    assert (
        ask(several, "docker.io", MIRROR, "q/app").qualified.name == "q/app"
    )  # an alias begins no name inside


def test_a_qualified_name_has_at_most_255_characters() -> None:
    fits = "a" * (255 - len("quay.io/"))
    assert len(ask(several, "quay.io", MIRROR, fits).qualified.name) == 255
    assert "too long" in refuse(several, "quay.io", MIRROR, fits + "a")


def test_the_pattern_that_says_more_counts() -> None:
    routes = Routes(
        HUB, [Names("*.example.com"), Names("*.eu.example.com"), Names("*.us.*.com")], strict=True
    )
    assert ask(routes, "a.eu.example.com", MIRROR, "x").entry == "*.eu.example.com"
    assert ask(routes, "a.example.com", MIRROR, "x").entry == "*.example.com"
    assert ask(routes, "a.us.example.com", MIRROR, "x").entry == "*.example.com"


def test_a_pattern_may_have_a_port_and_then_stands_for_that_port_only() -> None:
    routes = Routes(HUB, [Names("*.corp.example:5000")], strict=True)
    assert ask(routes, "a.corp.example:5000", MIRROR, "x").qualified.name == "a.corp.example_5000/x"
    assert ask(routes, None, MIRROR, "a.corp.example_5000/x").namespace == "a.corp.example:5000"
    refuse(routes, "a.corp.example", MIRROR, "x")
    refuse(routes, "a.corp.example:50000", MIRROR, "x")
    refuse(routes, "a:1.corp.example:5000", MIRROR, "x")


def test_a_pattern_never_means_an_address() -> None:
    routes = Routes(HUB, [Names("10.*")], strict=True)
    refuse(routes, "10.0.0.1", MIRROR, "x")
    assert ask(routes, "10.example", MIRROR, "x").entry == "10.*"


def test_the_longest_registry_that_a_host_name_begins_with_counts() -> None:
    routes = Routes(HUB, [Names("a.example"), Names("a.example.com"), Names("*.b.example.com")], strict=True)
    assert ask(routes, None, "a.example.com.mirror.test", "x").namespace == "a.example.com"
    assert ask(routes, None, "a.example.org.mirror.test", "x").namespace == "a.example"
    assert ask(routes, None, "a.b.example.com.b.example.com.test", "x").namespace == "a.b.example.com"


@pytest.mark.parametrize("pattern", ["mirror.*", "*.com", "m*com", "*.com:5000"])
def test_a_pattern_that_could_mean_this_mirrors_own_host_name_says_nothing_there(pattern: str) -> None:
    routes = Routes(HUB, [Names(pattern)], strict=True)
    for host in ("mirror.com.example.com", "mirror.corp.example.com:5000"):
        assert ask(routes, None, host, "org/app").by == "default"


def test_the_default_upstream_may_have_a_name_that_no_client_can_write() -> None:
    for namespace in ("my_registry:5000", "[::1]:5000"):
        routes = Routes(Names(namespace), OTHERS, strict=True)
        assert ask(routes, None, MIRROR, "org/app").namespace == namespace
        assert ask(routes, None, MIRROR, "my_registry_5000/a").qualified.name in ("a", "my_registry_5000/a")
        kept = Repository("my_registry_5000/a")  # by a registry:2 that had this data folder before
        assert routes.split(kept) == Target(namespace, kept)


@pytest.mark.parametrize(
    "others",
    [
        [Names("quay.io"), Names("quay.io")],
        [Names("quay.io"), Names("x.io", ("quay.io",))],
        [Names("x.io", ("Hub",))],
        [Names("a_b.example")],
        [Names("a/b")],
        [Names("")],
        [Names("x.io", ("a b",))],
        [Names("*.x", ("alias",))],
        [Names("x.io:*")],
        [Names("*_x.io")],
        [Names("x.*", hub=True)],
    ],
)
def test_names_that_are_none_or_claimed_twice_stop_the_start(others: list[Names]) -> None:
    with pytest.raises(ValueError):
        Routes(HUB, others, strict=True)


_COMPONENTS = st.sampled_from(
    [
        "a",
        "app",
        "library",
        "hub",
        "q",
        "docker.io",
        "index.docker.io",
        "quay.io",
        "ghcr.io",
        "gcr.io",
        "localhost_5555",
        "gcr.io_443",
        "a_b",
        "1.dkr.ecr.eu.amazonaws.com",
        "1.dkr.ecr.eu.amazonaws.com_5000",
        "b.corp.example_5000",
        "my_registry_5000",
        "reg.example_5000",
    ]
)
_REPOSITORIES = st.lists(_COMPONENTS, min_size=1, max_size=4).map("/".join).map(Repository.parse)
_HOSTS = st.one_of(_COMPONENTS.map(lambda text: text.replace("_", ":")), st.text(max_size=20))
_NS = st.one_of(st.none(), _HOSTS)
_ROUTES = st.sampled_from(
    [
        several,
        opened,
        plain,
        Routes(Names("my_registry:5000"), [Names("docker.io", ("hub",), hub=True)], strict=True),
        Routes(Names("reg.example:5000", ("a",)), [Names("*"), Names("*.corp.example:5000")], strict=False),
    ]
)


def _pair(routes: Routes, ns: str | None, host: str, repository: Repository) -> Route | None:
    try:
        return routes.route(ns, host, repository)
    except RegistryError:
        return None


@given(_ROUTES, _NS, _HOSTS, _REPOSITORIES)
def test_split_is_the_inverse_of_every_route(
    routes: Routes, ns: str | None, host: str, repository: Repository
) -> None:
    route = _pair(routes, ns, host, repository)
    if route is not None:
        assert routes.split(route.qualified) == Target(route.namespace, route.repository)
        assert routes.entry(route.namespace) == route.entry
        assert Repository.parse(route.qualified.name) == route.qualified


@given(_ROUTES, st.lists(st.tuples(_NS, _HOSTS, _REPOSITORIES), min_size=2, max_size=8))
def test_no_two_repositories_share_a_qualified_name(
    routes: Routes, requests: list[tuple[str | None, str, Repository]]
) -> None:
    seen: dict[Repository, Target] = {}
    for ns, host, repository in requests:
        route = _pair(routes, ns, host, repository)
        if route is not None:
            target = Target(route.namespace, route.repository)
            assert seen.setdefault(route.qualified, target) == target


@given(_ROUTES, _REPOSITORIES)
def test_every_name_that_is_kept_belongs_to_an_upstream(routes: Routes, repository: Repository) -> None:
    target = routes.split(repository)
    assert routes.entry(target.namespace)
    assert repository.name.endswith(target.repository.name)


def test_a_name_that_would_be_kept_under_another_is_no_folder() -> None:
    """Docker Hub has three names, of which one begins what is kept of it."""
    routes = Routes(Names("quay.io"), (Names("*"),), strict=True)
    other = Repository("index.docker.io/library/alpine")
    assert ask(routes, None, MIRROR, other.name).qualified == Repository("docker.io/library/alpine")
    assert routes.split(other) == Target("quay.io", other)


def test_a_pattern_without_a_port_fits_none_even_where_its_end_is_open() -> None:
    routes = Routes(HUB, (Names("registry.*"),), strict=True)
    assert ask(routes, "registry.example", MIRROR, "org/app").entry == "registry.*"
    assert "does not serve" in refuse(routes, "registry.example:5000", MIRROR, "org/app")


def test_a_path_that_begins_with_a_registry_that_is_not_served_is_not_asked_of_docker_hub() -> None:
    assert "does not serve gcr.io" in refuse(several, None, MIRROR, "gcr.io/org/app")
    assert ask(several, None, MIRROR, "org/app").namespace == "docker.io"
