"""What is asked of an access controller, and what it may answer.

The forms are distribution's (registry/auth): access records, which become the `detail` of a 401 and the scope
of a challenge, and challenges quoted as Go quotes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository

AUTHORIZATION_LIMIT = 32 << 10  # characters; the server takes no longer header field


@dataclass(frozen=True, slots=True)
class Access:
    """One action on one thing: `repository:library/alpine:pull`, `registry:catalog:*`."""

    type: str
    name: str
    action: str

    @property
    def record(self) -> dict[str, str]:
        """As it stands in the `detail` of a refusal."""
        return {"Type": self.type, "Class": "", "Name": self.name, "Action": self.action}


CATALOG = Access("registry", "catalog", "*")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `authorization` is the header's text, "" where there is none; `address` is the peer's.

    `host` and `scheme` are as the client sees this mirror (`scheme` "" where nobody says it). `repository` is
    the one that is meant, by the mirror's own name for it, and `target` what of it: `manifests/1`; "" for
    what gives away nothing of it. Without one, `namespace` is the registry whose `/v2/` is meant.
    """

    authorization: str
    records: tuple[Access, ...] = ()
    host: str = ""
    scheme: str = ""
    address: str = ""
    repository: Repository | None = None
    target: str = ""
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Leave to go on. `user` is for the log, "" where nobody in particular asks.

    `holds` says whether the same request would be allowed now, without waiting for anything; None: always.
    """

    user: str = ""
    holds: Callable[[], bool] | None = None


NOBODY = Allowed()  # in particular


class Refused(Exception):
    """No leave. `challenges` are WWW-Authenticate lines; `reason` is for the log alone, without secrets.

    `message` is for the client; None: the code's own. `retry_after` is in seconds.
    """

    def __init__(
        self,
        reason: str,
        challenges: Iterable[str] = (),
        *,
        code: ErrorCode = ErrorCode.UNAUTHORIZED,
        message: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.reason = reason
        self.challenges = tuple(challenges)
        self.code = code
        self.message = message
        self.retry_after = retry_after
        super().__init__(reason)


class AccessController(Protocol):
    """Answers with Allowed, or raises Refused. `close` ends what runs; safe to call twice."""

    async def authorize(self, asked: Asked) -> Allowed:
        """Whether this request may be answered."""

    async def close(self) -> None:
        """Nothing is asked afterwards."""


_ACTIONS: Mapping[str, tuple[str, ...]] = {
    "GET": ("pull",),
    "HEAD": ("pull",),
    "POST": ("pull", "push"),
    "PUT": ("pull", "push"),
    "PATCH": ("pull", "push"),
    "DELETE": ("delete",),
}


def records(method: str, name: str, source: str = "") -> tuple[Access, ...]:
    """What a request needs of the repository `name`, and of `source`, from where a blob is to be mounted.

    None for other methods, as in distribution: they are let in or not by the credentials alone.
    """
    wanted = [Access("repository", name, action) for action in _ACTIONS.get(method, ())]
    if source:
        wanted.append(Access("repository", source, "pull"))
    return tuple(wanted)


def detail(wanted: Iterable[Access]) -> list[dict[str, str]] | None:
    """The `detail` of a refusal; None (which is written as `null`) where nothing in particular was wanted."""
    return [each.record for each in wanted] or None


def scope(wanted: Iterable[Access]) -> str:
    """`repository:a:pull,push repository:b:pull`: the scope that a token needs."""
    actions: dict[tuple[str, str], list[str]] = {}
    for each in wanted:
        actions.setdefault((each.type, each.name), []).append(each.action)
    return " ".join(f"{type_}:{name}:{','.join(given)}" for (type_, name), given in actions.items())


def challenge(scheme: str, **parameters: str) -> str:
    """`Bearer realm="…",service="…"`: a WWW-Authenticate line; values are quoted as Go's %q does it."""
    quoted = (f'{name}="{_escaped(value)}"' for name, value in parameters.items())
    return f"{scheme} {','.join(quoted)}"


def _escaped(text: str) -> str:
    """Whatever could end the quoted string, or the line, is escaped or left out."""
    kept = "".join(letter for letter in text if letter.isprintable())
    return kept.replace("\\", "\\\\").replace('"', '\\"')


def nothing_given(authorization: str) -> str:
    """The reason of a refusal, when no controller could read the header."""
    return "no credentials were sent" if not authorization else "credentials of another kind were sent"
