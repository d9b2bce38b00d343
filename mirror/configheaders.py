"""Which headers an upstream may be given in every request. Their values are secrets: no message shows one."""

from __future__ import annotations

from typing import Final

from mirror.confighosts import HEADER_NAME, HEADER_VALUE
from mirror.configproblems import Problem, joined, text_of
from mirror.configtree import Table

HEADERS_MAX: Final = 32  # of one upstream; with the mirror's own they must fit into what servers take
VALUE_MAX: Final = 4096  # characters; servers take some 8 KiB for all headers of a request

_LOGIN: Final = "the login has keys of its own, such as username and password"
_OURS: Final = "the mirror sets it as each request needs"
_TAKEN: Final = {
    "authorization": _LOGIN,
    "proxy-authorization": "the proxy's login stands in httpproxy",
    **dict.fromkeys(("accept", "accept-encoding", "content-length", "content-type", "host", "range"), _OURS),
    **dict.fromkeys(("if-match", "if-modified-since", "if-none-match", "if-range"), _OURS),
    "if-unmodified-since": _OURS,
    # of one connection only (RFC 9110 §7.6.1)
    **dict.fromkeys(("connection", "expect", "keep-alive", "proxy-connection", "te", "trailer"), _OURS),
    **dict.fromkeys(("transfer-encoding", "upgrade"), _OURS),
}


def check_headers(headers: Table, at: tuple[str, ...]) -> list[Problem]:
    """The `headers` section of the upstream at this path."""
    problems = []
    section = joined(*at, "headers")
    if len(headers.entries) > HEADERS_MAX:
        text = f"at most {HEADERS_MAX} headers; here are {len(headers.entries)}"
        return [Problem(headers.source, section, text)]
    seen: set[str] = set()
    for name, entry in headers.entries.items():
        lower, value = name.lower(), text_of(entry) or ""
        if HEADER_NAME.match(name) is None:
            text = f"got the name {name[:100]!r}, wanted one of letters, digits and - only"
            problems.append(Problem(entry.source, section, text))
        elif lower in _TAKEN:
            text = f"not to be set here: {_TAKEN[lower]}"
            problems.append(Problem(entry.source, f"{section}.{name}", text))
        elif lower in seen:
            text = "there twice, as case does not count in names of headers"
            problems.append(Problem(entry.source, f"{section}.{name}", text))
        elif HEADER_VALUE.match(value) is None or len(value) > VALUE_MAX:
            text = f"wanted at most {VALUE_MAX} characters, and no line breaks or control characters"
            problems.append(Problem(entry.source, f"{section}.{name}", text))
        seen.add(lower)
    return problems
