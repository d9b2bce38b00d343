"""Headers for an upstream: which can be sent, and that no message shows one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.configfile import ConfigError
from tests.support.configs import MINIMAL, load_text


def problems(folder: Path, text: str) -> list[str]:
    """The lines of the error that this `proxy` section leads to, without the file's line."""
    with pytest.raises(ConfigError) as refused:
        load_text(folder, f"{MINIMAL}proxy: {text}\n")
    return str(refused.value).replace(f"{folder}/config.yml:3: ", "").splitlines()


SINGLE = "wanted a single value; one with a colon and a space in it, or { or [ first, needs quotes"
LOGIN_KEYS = "the login has keys of its own, such as username and password"
SET_ANYWAY = "the mirror sets it as each request needs"


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ("{Authorization: hunter2}", f"headers.Authorization: not to be set here: {LOGIN_KEYS}"),
        ("{host: hunter2}", f"headers.host: not to be set here: {SET_ANYWAY}"),
        ("{Range: hunter2}", f"headers.Range: not to be set here: {SET_ANYWAY}"),
        ("{Accept: hunter2}", f"headers.Accept: not to be set here: {SET_ANYWAY}"),
        ("{If-None-Match: hunter2}", f"headers.If-None-Match: not to be set here: {SET_ANYWAY}"),
        ("{Transfer-Encoding: hunter2}", f"headers.Transfer-Encoding: not to be set here: {SET_ANYWAY}"),
        ("{X-A: hunter2, x-a: hunter2}",
         "headers.x-a: there twice, as case does not count in names of headers"),
        ('{X-A: "hunter2\\r\\nHost: b"}',
         "headers.X-A: wanted at most 4096 characters, and no line breaks or control characters"),
        ("{X-A: 'hunter2" + "x" * 4096 + "'}",
         "headers.X-A: wanted at most 4096 characters, and no line breaks or control characters"),
        ("{'X A': hunter2}", "headers: got the name 'X A', wanted one of letters, digits and - only"),
        ("{X-A: [hunter2]}",
         f"headers.X-A: got a list, {SINGLE}"),
        ("hunter2", "headers: got ***, wanted a section of keys"),
        ("{" + ", ".join(f"X-{n}: hunter2" for n in range(33)) + "}",
         "headers: at most 32 headers; here are 33"),
    ],
)  # fmt: skip
def test_headers_that_cannot_be_sent_are_refused_and_none_is_shown(
    tmp_path: Path, headers: str, said: str
) -> None:
    assert problems(tmp_path, f"{{remoteurl: 'https://a', headers: {headers}}}") == [f"proxy.{said}"]
    entry = f"{{upstreams: {{quay.io: {{headers: {headers}}}}}}}"
    assert problems(tmp_path, entry) == [f"proxy.upstreams.quay.io.{said}"]
