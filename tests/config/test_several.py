"""Several upstreams: what each comes to, and what does not go together."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mirror.config import Config
from mirror.configfile import ConfigError, dump
from mirror.confignames import NAME_FORM
from mirror.configproxy import Proxy, UpstreamEntry
from tests.support.configs import MINIMAL, load_env, load_text, remarks

HUB = "https://registry-1.docker.io"
OPEN_MODE = "any client can make the mirror connect to any public host on port 443, and fill the disk"
ONE_LOGIN = "wanted one login only: username and password, identitytoken, exec or dockerconfig"
COMMAND = "wanted a command such as docker-credential-ecr-login, with quotes in pairs"
NOT_OPEN = 'not for "*": it would be sent to whatever host a client names; use exec or dockerconfig'
NOT_PATTERN = "not for a pattern: each host that fits it is asked by its own name, by https"
ONE_HUB = "(docker.io, registry-1.docker.io, index.docker.io are one registry)"


def proxy_of(folder: Path, text: str, **environ: str) -> Proxy:
    """The `proxy` section that this YAML comes to, which has its own warnings only."""
    loaded = load_text(folder, f"{MINIMAL}proxy: {text}\n", **environ)
    assert [said for said in remarks(loaded) if said.text != OPEN_MODE] == []
    return loaded.config.proxy


def problems(folder: Path, text: str, **environ: str) -> list[str]:
    """The lines of the error that this `proxy` section leads to, without the file's line."""
    with pytest.raises(ConfigError) as refused:
        load_text(folder, f"{MINIMAL}proxy: {text}\n", **environ)
    return str(refused.value).replace(f"{folder}/config.yml:3: ", "").splitlines()


def test_an_entry_is_at_its_name_and_has_the_limits_of_the_default_upstream(tmp_path: Path) -> None:
    text = (
        "{timeouts: {connect: 3s}, retries: 5, connections: 7, username: u, password: p, ca: , "
        "remoteurl: 'https://a', realms: [r], headers: {X-A: b}, insecure: true, upstreams: {ghcr.io: , "
        "docker.io: {timeouts: {stall: 4s}, retries: 2}, 'localhost:5000': {remoteurl: 'http://localhost'}}}"
    )
    upstreams = proxy_of(tmp_path, text).upstreams
    assert {name: entry.remoteurls for name, entry in upstreams.items()} == {
        "ghcr.io": ("https://ghcr.io",),
        "docker.io": (HUB,),
        "localhost:5000": ("http://localhost",),
    }
    times = {
        name: (entry.timeouts.connect, entry.timeouts.stall, entry.retries)
        for name, entry in upstreams.items()
    }
    assert times == {"ghcr.io": (3.0, 30.0, 5), "docker.io": (3.0, 4.0, 2), "localhost:5000": (3.0, 30.0, 5)}
    assert upstreams["ghcr.io"].connections == 7
    kept_apart = {"username", "password", "realms", "headers", "insecure"}
    for entry in upstreams.values():
        assert {key: getattr(entry, key) for key in kept_apart} == {
            key: getattr(UpstreamEntry(), key) for key in kept_apart
        }


def test_either_key_for_urls_gives_both(tmp_path: Path) -> None:
    for text in ("remoteurl: 'https://a/'", "remoteurls: ['https://a']"):
        proxy = proxy_of(tmp_path, f"{{{text}, upstreams: {{ghcr.io: {{{text}}}}}}}")
        for upstream in (proxy, proxy.upstreams["ghcr.io"]):
            assert (upstream.remoteurl, upstream.remoteurls) == ("https://a", ("https://a",))
    proxy = proxy_of(tmp_path, "{remoteurls: ['https://a', 'http://b/c']}")
    assert (proxy.remoteurl, proxy.remoteurls) == ("https://a", ("https://a", "http://b/c"))
    assert Config().proxy.remoteurls == (HUB,)


def test_a_pattern_is_at_no_url(tmp_path: Path) -> None:
    for name, entry in proxy_of(tmp_path, "{upstreams: {'*': {}, '*.example.com': {}}}").upstreams.items():
        assert (name, entry.remoteurl, entry.remoteurls) == (name, "", ())


@pytest.mark.parametrize(
    ("text", "strict", "names"),
    [
        ("{remoteurl: 'https://quay.io'}", False, ("quay.io",)),
        ("{remoteurl: 'https://Quay.io:443/x', upstreams: {ghcr.io: }}", True, ("quay.io:443",)),
        ("{remoteurl: 'https://quay.io', aliases: [q]}", True, ("quay.io", "q")),
        (f"{{remoteurl: '{HUB}'}}", True, ("docker.io", "registry-1.docker.io", "index.docker.io")),
        (f"{{remoteurl: '{HUB}', aliases: [hub]}}", True,
         ("docker.io", "hub", "registry-1.docker.io", "index.docker.io")),
        ("{remoteurl: 'http://127.0.0.1:5001', aliases: [docker.io]}", True,
         ("docker.io", "registry-1.docker.io", "index.docker.io")),
    ],
)  # fmt: skip
def test_what_the_default_upstream_is_called_and_whether_other_names_are_refused(
    tmp_path: Path, text: str, strict: bool, names: tuple[str, ...]
) -> None:
    proxy = proxy_of(tmp_path, text)
    assert (proxy.strict, proxy.names(proxy.namespace)) == (strict, names)


def test_docker_hub_has_all_its_names_wherever_it_is(tmp_path: Path) -> None:
    text = "{remoteurl: 'https://a', upstreams: {docker.io: {remoteurl: 'http://b'}, c: {aliases: [x.y]}}}"
    upstreams = proxy_of(tmp_path, text).upstreams
    assert upstreams["docker.io"].is_hub("docker.io")
    assert not upstreams["c"].is_hub("c")
    assert upstreams["docker.io"].names("docker.io")[1:] == ("registry-1.docker.io", "index.docker.io")
    assert upstreams["c"].names("c") == ("c", "x.y")


@pytest.mark.parametrize("at", ["proxy", "proxy.upstreams.quay.io"])
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("remoteurls: ['https://b']", ["remoteurls: given beside {at}.remoteurl, wanted one of the two"]),
        ("username: u", ["password: missing, wanted beside {at}.username; for no login leave both out"]),
        ("password: p", ["username: missing, wanted beside {at}.password; for no login leave both out"]),
        ("username: u, password: p, exec: {command: sh}", ["exec: given beside {at}.username, " + ONE_LOGIN]),
        ("identitytoken: t, dockerconfig: /x",
         ["dockerconfig: given beside {at}.identitytoken, " + ONE_LOGIN,
          "dockerconfig: got '/x', which cannot be read: No such file or directory"]),
        ("exec: {command: sh}, identitytoken: t, username: u, password: p",
         ["identitytoken: given beside {at}.username, " + ONE_LOGIN,
          "exec: given beside {at}.username, " + ONE_LOGIN]),
        ("exec: {lifetime: 1h}", ["exec.command: missing, wanted the program that gives the login"]),
        ("exec: {command: '\"a'}",
         ["exec.command: got '\"a', " + COMMAND]),
        ("exec: {command: sh, lifetime: -1s}",
         ["exec.lifetime: got '-1s', wanted a duration from 0s to 596523h14m8s, such as 30s"]),
        ("clientkey: /dev/null", ["clientcert: missing, wanted beside {at}.clientkey"]),
        ("retries: 11", ["retries: got '11', wanted an integer from 0 to 10"]),
        ("aliases: [a, B]",
         [f"aliases[1]: got 'B', wanted {NAME_FORM}: write b"]),
        ("aliases: [" + ", ".join(f"a{n}" for n in range(33)) + "]",
         ["aliases: got a list, wanted at most 32 names; here are 33"]),
        ("pasword: p", ["pasword: unknown key; write {at}.password"]),
        ("remote_URL: p", ["remote_URL: unknown key; write {at}.remoteurl"]),
        ("timeouts: {stal: 1s}", ["timeouts.stal: unknown key; write {at}.timeouts.stall"]),
        ("exec: {comand: x}", ["exec.comand: unknown key; write {at}.exec.command"]),
    ],
)  # fmt: skip
def test_what_does_not_go_together_stops_the_start_in_each_upstream(
    tmp_path: Path, at: str, keys: str, said: list[str]
) -> None:
    section = f"{{remoteurl: 'https://a', {keys}}}"
    text = section if at == "proxy" else f"{{remoteurl: 'https://b', upstreams: {{quay.io: {section}}}}}"
    expected = {f"{at}.{line.replace('{at}', at)}" for line in said}
    assert set(problems(tmp_path, text)) == expected


def test_more_urls_than_anybody_has_are_refused(tmp_path: Path) -> None:
    urls = [f"'https://r{number}'" for number in range(9)]
    assert proxy_of(tmp_path, f"{{remoteurls: [{', '.join(urls[:8])}]}}").remoteurls[7] == "https://r7"
    assert problems(tmp_path, f"{{remoteurls: [{', '.join(urls)}]}}") == [
        "proxy.remoteurls: got a list, wanted at most 8 URLs; here are 9"
    ]


def test_more_upstreams_than_anybody_has_are_refused(tmp_path: Path) -> None:
    entries = [f"r{number}: {{}}" for number in range(257)]
    assert len(proxy_of(tmp_path, f"{{upstreams: {{{', '.join(entries[:256])}}}}}").upstreams) == 256
    assert problems(tmp_path, f"{{upstreams: {{{', '.join(entries)}}}}}") == [
        "proxy.upstreams: got a section, wanted at most 256 upstreams; here are 257"
    ]


def test_a_name_that_is_none_is_told_and_so_is_each_further_one(tmp_path: Path) -> None:
    said = problems(tmp_path, "{upstreams: {GHCR.io: {}, 'a b': {retries: x}}}")
    assert [line.partition(", wanted")[0] for line in said] == [
        "proxy.upstreams: got 'GHCR.io'",
        "proxy.upstreams: got 'a b'",
        "proxy.upstreams.a b.retries: got 'x'",
    ]


DEFAULT = "the default upstream, proxy.remoteurl"
BELOW_PROXY = ": write what is meant for this one directly below proxy"


@pytest.mark.parametrize(
    ("text", "at", "name", "owner"),
    [
        ("{upstreams: {q.io: {aliases: [q, x.y]}, x.y: {aliases: [q]}}}", "x.y", "x.y", "q.io"),
        ("{upstreams: {q.io: {aliases: [q]}, x.y: {aliases: [z, q]}}}", "x.y.aliases[1]", "q", "q.io"),
        ("{aliases: [q], upstreams: {q.io: {aliases: [q]}}}", "q.io.aliases[0]", "q", ""),
        ("{remoteurl: 'https://Q.io', upstreams: {q.io: {}}}", "q.io", "q.io", ""),
        ("{upstreams: {docker.io: {}}}", "docker.io", "docker.io", ""),
        ("{remoteurl: 'https://a', upstreams: {docker.io: {}, index.docker.io: {}}}",
         "index.docker.io", "index.docker.io", "docker.io"),
        (f"{{remoteurl: 'https://a', upstreams: {{docker.io: {{}}, x.y: {{remoteurl: '{HUB}'}}}}}}",
         "x.y", "docker.io", "docker.io"),
    ],
)  # fmt: skip
def test_a_name_that_two_upstreams_have_stops_the_start(
    tmp_path: Path, text: str, at: str, name: str, owner: str
) -> None:
    whose = f"proxy.upstreams.{owner}" if owner else DEFAULT
    hub = f" {ONE_HUB}" if "docker" in name else ""
    end = f"{hub}{'' if owner else BELOW_PROXY}"
    said = f"the name {name} is also that of {whose}; wanted one upstream for a name{end}"
    assert problems(tmp_path, text) == [f"proxy.upstreams.{at}: {said}"]


@pytest.mark.parametrize(
    ("keys", "refused"),
    [
        ("username: u, password: p", ["username", "password"]),
        ("identitytoken: t", ["identitytoken"]),
        ("headers: {X-A: b}", ["headers"]),
    ],
)
def test_no_secret_goes_to_whatever_host_a_client_names(
    tmp_path: Path, keys: str, refused: list[str]
) -> None:
    assert problems(tmp_path, f"{{upstreams: {{'*': {{{keys}}}}}}}") == [
        f"proxy.upstreams.*.{key}: {NOT_OPEN}" for key in refused
    ]
    entry = proxy_of(tmp_path, f"{{upstreams: {{'*.example.com': {{{keys}}}}}}}").upstreams["*.example.com"]
    assert getattr(entry, refused[0])


@pytest.mark.parametrize(
    ("namespace", "anybodys"),
    [
        ("*.github.io", True),
        ("*-registry.herokuapp.com", True),
        ("*.s3.amazonaws.com:5000", True),
        ("*.team.github.io", False),
        ("*-docker.pkg.dev", False),
        ("*.dkr.ecr.*.amazonaws.com", False),
    ],
)
def test_nor_to_hosts_that_anybody_can_have(tmp_path: Path, namespace: str, anybodys: bool) -> None:
    text = f"{{upstreams: {{'{namespace}': {{username: u, password: p}}}}}}"
    if not anybodys:
        assert proxy_of(tmp_path, text).upstreams[namespace].username == "u"
        return
    refused = NOT_OPEN.replace('"*"', f'"{namespace}"')
    assert problems(tmp_path, text) == [
        f"proxy.upstreams.{namespace}.{key}: {refused}" for key in ("username", "password")
    ]


def test_nor_does_a_client_certificate(tmp_path: Path) -> None:
    assert problems(tmp_path, "{upstreams: {'*': {clientcert: /none}}}")[0] == (
        f"proxy.upstreams.*.clientcert: {NOT_OPEN}"
    )


def test_logins_that_are_kept_by_host_may_stand_for_every_host(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auths": {}}')
    entry = proxy_of(tmp_path, f"{{upstreams: {{'*': {{dockerconfig: {tmp_path}/config.json}}}}}}")
    assert entry.upstreams["*"].dockerconfig == tmp_path / "config.json"
    program = proxy_of(
        tmp_path, "{upstreams: {'*': {exec: {command: sh, lifetime: 0}}}}", PATH="/usr/bin:/bin"
    )
    assert program.upstreams["*"].exec is not None
    assert (program.upstreams["*"].exec.command, program.upstreams["*"].exec.lifetime) == ("sh", 0.0)


@pytest.mark.parametrize("pattern", ["*", "*.example.com"])
@pytest.mark.parametrize("key", ["remoteurl: 'https://a'", "remoteurls: ['https://a']", "aliases: [a]"])
def test_a_pattern_is_no_one_registry(tmp_path: Path, pattern: str, key: str) -> None:
    assert problems(tmp_path, f"{{upstreams: {{'{pattern}': {{{key}}}}}}}") == [
        f"proxy.upstreams.{pattern}.{key.partition(':')[0]}: {NOT_PATTERN}"
    ]


def test_websites_are_told_wherever_they_stand(tmp_path: Path) -> None:
    text = (
        "{remoteurls: ['https://a', 'https://docker.io'], "
        "upstreams: {hub.docker.com: {}, b: {remoteurl: 'http://docker.com:80'}}}"
    )
    assert [
        (said.key, said.text.partition(" ")[0])
        for said in load_text(tmp_path, f"{MINIMAL}proxy: {text}\n").warnings
    ] == [
        ("proxy.remoteurls[1]", "docker.io"),
        ("proxy.upstreams.hub.docker.com.remoteurl", "hub.docker.com"),
        ("proxy.upstreams.b.remoteurl", "docker.com"),
    ]


ENTRY = "proxy.upstreams.quay.io"
OF_ALL = "not a key of one upstream; write {}, which is for all of them"
KEYS = (
    "aliases, allow, ca, clientcert, clientkey, connections, deny, dockerconfig, exec, headers, httpproxy, "
    "identitytoken, insecure, password, realms, remoteurl, remoteurls, retries, rights, timeouts, username"
)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            "deadline: 1s",
            "deadline: not a key of one upstream; write proxy.deadline, which is for all of them",
        ),
        (
            "upstreams: {}",
            "upstreams: not a key of one upstream; write proxy.upstreams, which is for all of them",
        ),
        ("pass: p, username: u", f"pass: unknown key; write {ENTRY}.password"),
        ("password: p, user: u", f"user: unknown key; write {ENTRY}.username"),
        ("URL: 'https://a'", f"URL: unknown key; write {ENTRY}.remoteurl"),
        ("passwd: p", f"passwd: unknown key; did you mean {ENTRY}.password?"),
        ("xyzzy: {a: 1}", f"xyzzy: unknown key; there are {KEYS}"),
        ("timeouts: {read: 1s}", "timeouts.read: unknown key; there are connect, firstbyte, stall"),
    ],
)
def test_every_unknown_key_of_an_entry_stops_the_start(tmp_path: Path, keys: str, said: str) -> None:
    """Nobody's old file has one there; and it is the only line."""
    assert problems(tmp_path, f"{{upstreams: {{quay.io: {{{keys}}}}}}}") == [f"{ENTRY}.{said}"]


def test_an_unknown_key_of_an_entry_that_stands_in_a_variable_stops_the_start() -> None:
    with pytest.raises(ConfigError, match=r"quay\.io\.pass: unknown key; write .*\.password\Z"):
        load_env({"REGISTRY_PROXY_UPSTREAMS": "{quay.io: {username: u, pass: p}}"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{upstreams: [quay.io]}", "a list -> {quay.io: {}}"),
        (
            "{upstreams: [ghcr.io, 'localhost:5000', '*.example.com', a b]}",
            'a list -> {ghcr.io: {}, "localhost:5000": {}, "*.example.com": {}}',
        ),
        ("{upstreams: [a, b, c, d, e, f]}", "a list -> {a: {}, b: {}, c: {}, d: {}, e: {}, …}"),
        ("{upstreams: ghcr.io}", "'ghcr.io' -> {ghcr.io: {}}"),
        ("{upstreams: [{quay.io: {password: hunter2}}]}", "a list -> {quay.io: {}}"),
    ],
)
def test_upstreams_that_are_no_section_are_shown_as_one(tmp_path: Path, text: str, said: str) -> None:
    got, _, written = said.partition(" -> ")
    assert problems(tmp_path, text) == [
        f"proxy.upstreams: got {got}, wanted a section of namespaces: write upstreams: {written}"
    ]


def test_the_names_that_a_list_of_upstreams_is_shown_with_load(tmp_path: Path) -> None:
    (said,) = problems(tmp_path, "{upstreams: [ghcr.io, 'localhost:5000', '*.example.com', '*']}")
    written = said.partition("write ")[2]
    loaded = load_text(tmp_path, f"{MINIMAL}proxy: {{{written}}}\n")
    assert list(loaded.config.proxy.upstreams) == ["ghcr.io", "localhost:5000", "*.example.com", "*"]


def test_an_entry_that_is_no_section_is_told_what_one_is(tmp_path: Path) -> None:
    wanted = "a section of keys, such as {remoteurl: https://…}, or {} where the name says it all"
    assert problems(tmp_path, "{upstreams: {quay.io: 'https://q.example'}}") == [
        f"{ENTRY}: got 'https://q.example', wanted {wanted}"
    ]


@pytest.mark.parametrize(
    ("urls", "number", "first"),
    [
        ("https://a, https://b, https://a", 2, 0),
        ("https://a, https://a/", 1, 0),
        ("https://b, https://a, https://A:443", 2, 1),
        ("http://a:80/x/, http://a/x", 1, 0),
    ],
)
@pytest.mark.parametrize("at", ["proxy", ENTRY])
def test_a_url_that_stands_twice_is_refused(
    tmp_path: Path, at: str, urls: str, number: int, first: int
) -> None:
    section = f"{{remoteurls: [{', '.join(repr(url) for url in urls.split(', '))}]}}"
    text = section if at == "proxy" else f"{{upstreams: {{quay.io: {section}}}}}"
    assert problems(tmp_path, text) == [
        f"{at}.remoteurls[{number}]: got the same as {at}.remoteurls[{first}], wanted each URL once"
    ]


def test_urls_that_differ_in_scheme_port_or_path_are_several(tmp_path: Path) -> None:
    urls = ("https://a", "http://a", "https://a:444", "https://a/x", "https://a/X")
    assert proxy_of(tmp_path, f"{{remoteurls: {list(urls)}}}").remoteurls == urls


def test_the_open_mode_is_told_at_each_start(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, f"{MINIMAL}proxy: {{upstreams: {{ghcr.io: , '*': }}}}\n")
    assert [str(said).partition(": ")[2] for said in remarks(loaded)] == [f"proxy.upstreams.*: {OPEN_MODE}"]


@pytest.mark.parametrize(
    "environ",
    [
        {"REGISTRY_PROXY_UPSTREAMS": "{ghcr.io: {username: u, password: p}, '*': }"},
        {
            "REGISTRY_PROXY_UPSTREAMS": "{ghcr.io: , '*': {}}",
            "REGISTRY_PROXY_UPSTREAMS_GHCR.IO": "{username: x}",
            "REGISTRY_PROXY_UPSTREAMS_GHCR.IO_PASSWORD": "p",
            "REGISTRY_PROXY_UPSTREAMS_GHCR.IO_USERNAME": "u",
        },
        {
            "REGISTRY_PROXY_UPSTREAMS_GHCR.IO_USERNAME": "u",
            "REGISTRY_PROXY_UPSTREAMS_GHCR.IO_PASSWORD": "p",
            "REGISTRY_PROXY_UPSTREAMS_*": "{}",
        },
    ],
    ids=["all at once", "laid over", "one by one"],
)
def test_upstreams_can_stand_in_variables(environ: dict[str, str]) -> None:
    upstreams = load_env(environ).config.proxy.upstreams
    assert set(upstreams) == {"ghcr.io", "*"}
    assert upstreams["ghcr.io"].username == "u"
    assert upstreams["ghcr.io"].password is not None
    assert upstreams["ghcr.io"].password.get_secret_value() == "p"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("QUAY_IO_PASSWORD", "QUAY.IO_PASSWORD"),
        ("REGISTRY_K8S_IO_EXEC_COMMAND", "REGISTRY.K8S.IO_EXEC_COMMAND"),
        ("LOCALHOST_5000_USERNAME", "LOCALHOST:5000_USERNAME"),
        ("QUAY.IO_REMOTE_URL", "QUAY.IO_REMOTEURL"),
        ("QUAY.IO_PASSWORT", "QUAY.IO_PASSWORD"),
    ],
)
def test_a_variable_of_an_upstream_without_its_dot_is_told(name: str, meant: str) -> None:
    prefix = "REGISTRY_PROXY_UPSTREAMS_"
    loaded = load_env({prefix + name: "x"})
    assert [str(said) for said in loaded.warnings] == [
        f"{prefix}{name}: unknown variable, ignored; did you mean {prefix}{meant}?"
    ]
    assert loaded.config.proxy.upstreams == {}


def test_what_is_shown_of_several_upstreams_loads_again_and_has_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    text = """{remoteurls: [https://a, https://b], username: u, password: hunter2, headers: {X-A: hunter2},
  httpproxy: 'http://u:hunter2@proxy:3128', retries: 5, quota: {reserve: 2.5%},
  upstreams: {ghcr.io: {timeouts: {stall: 7s}, dockerconfig: docker.json, httpproxy: direct},
    quay.io: {identitytoken: hunter2, headers: {token: hunter2}, remoteurls: [https://c, https://d]},
    '*.example.com': {exec: {command: sh -c, lifetime: 1h}}, '*': {}}}"""
    config = load_text(tmp_path, f"{MINIMAL}proxy: {text}\n", PATH="/usr/bin:/bin").config
    shown = dump(config)
    assert "hunter2" not in shown + repr(config)
    proxy = yaml.safe_load(shown)["proxy"]
    assert proxy["headers"] == {"X-A": "***"}
    assert proxy["httpproxy"] == "http://***@proxy:3128"
    assert proxy["upstreams"]["ghcr.io"]["dockerconfig"] == f"{tmp_path}/docker.json"
    assert not {"remoteurl", "remoteurls"} & set(proxy["upstreams"]["*.example.com"])
    again = load_text(tmp_path, shown, PATH="/usr/bin:/bin").config
    assert dump(again) == shown
    assert [entry.timeouts for entry in again.proxy.upstreams.values()] == [
        entry.timeouts for entry in config.proxy.upstreams.values()
    ]
    assert again.proxy.upstreams["*"] == config.proxy.upstreams["*"]


def test_the_environment_lays_one_url_over_several_only_if_they_go(tmp_path: Path) -> None:
    text = "{remoteurls: ['https://a', 'https://b']}"
    assert problems(tmp_path, text, REGISTRY_PROXY_REMOTEURL="https://c") == [
        "proxy.remoteurls: given beside proxy.remoteurl, wanted one of the two"
    ]
    proxy = proxy_of(tmp_path, text, REGISTRY_PROXY_REMOTEURL="https://c", REGISTRY_PROXY_REMOTEURLS="")
    assert proxy.remoteurls == ("https://c",)
