"""The `auth` section: who may pull from this mirror. One kind of it, or none."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from pydantic import AfterValidator, PlainValidator

from mirror.access.token import ALGORITHMS, AUTOREDIRECT_PATH, SHARED
from mirror.confighosts import HEADER_VALUE
from mirror.configsections import Section
from mirror.configvalues import Flag, PathValue, at_most, one_of, parse_text

ALGORITHMS_MAX: Final = 16  # there are 13
QUOTED_MAX: Final = 1000  # characters of what stands in a challenge; docker's limit for all of it is 10 KiB


def parse_quoted(value: object) -> str:
    """What can stand in a header: one line, printable."""
    text = parse_text(value)
    if len(text) > QUOTED_MAX or HEADER_VALUE.match(text) is None:
        raise ValueError(f"a line of at most {QUOTED_MAX} characters")
    return text


def parse_url_path(value: object) -> str:
    """The path of a URL, with its first slash."""
    text = parse_quoted(value)
    if not text.startswith("/") or text.startswith("//") or not text.isascii() or " " in text:
        raise ValueError("a path such as /auth/token")
    return text


Quoted = Annotated[str, PlainValidator(parse_quoted)]


class Silly(Section):
    realm: Quoted = ""
    service: Quoted = ""


class Htpasswd(Section):
    realm: Quoted = ""
    path: PathValue | None = None


class Token(Section):
    """`realm` "" is: made of the request's host and `autoredirectpath`, where `autoredirect` says so."""

    realm: Quoted = ""
    issuer: Quoted = ""
    service: Quoted = ""
    rootcertbundle: PathValue | None = None
    jwks: PathValue | None = None
    signingalgorithms: Annotated[
        tuple[Annotated[str, PlainValidator(one_of(*ALGORITHMS, *SHARED))], ...],
        AfterValidator(at_most(ALGORITHMS_MAX, "algorithms")),
    ] = ALGORITHMS
    autoredirect: Flag = False
    autoredirectpath: Annotated[str, PlainValidator(parse_url_path)] = AUTOREDIRECT_PATH


class Nobody(Section):
    """`none`: everybody may pull."""


class Auth(Section):
    """At most one of them is given."""

    go_map: ClassVar[bool] = True

    none: Nobody | None = None
    silly: Silly | None = None
    htpasswd: Htpasswd | None = None
    token: Token | None = None

    @property
    def is_on(self) -> bool:
        """Whether who asks must say who he is."""
        return any(each is not None for each in (self.silly, self.htpasswd, self.token))
