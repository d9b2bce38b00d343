"""The rules of who may pull: `auth`, `proxy.rights`, `allow` and `deny`; those that need more than one value.

What is required is judged on the tree, so that all of it is said at once, with lines. Files of keys are read:
a mirror that lets nobody in is not what anybody wants to find out later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mirror.access import keys, users
from mirror.access.token import SHARED
from mirror.configauth import Auth
from mirror.confignames import is_anybodys
from mirror.configproblems import Problem, Warning_, find, is_given, joined, show_path
from mirror.configproxy import CALLER, Proxy
from mirror.configschema import nearest, slip
from mirror.configtree import Scalar, Table, is_null
from mirror.configupstream import sections
from mirror.configvalues import parse_flag

KINDS: Final = ("none", "silly", "htpasswd", "token")
_REQUIRED: Final = {
    "silly": {"realm": "a text that names this mirror", "service": "a text that names this mirror"},
    "htpasswd": {
        "realm": "a text that names this mirror to people",
        "path": "the file of users and passwords, as `htpasswd -B` makes it",
    },
    "token": {
        "realm": "the URL of the token server",
        "service": "the name of this mirror, which tokens have as their audience",
        "issuer": "the token server's name, as its tokens have it",
    },
}


def check_auth(tree: Table) -> list[Problem]:
    """One kind at most, one that exists, and all that it needs."""
    auth, source = find(tree, ("auth",))
    if not isinstance(auth, Table):
        return []  # nothing, or of the wrong shape, which is reported elsewhere
    unknown = [kind for kind in auth.entries if kind not in KINDS]
    for kind in unknown[:1]:
        near = nearest(kind, KINDS)
        hint = f"; did you mean {near}?" if near else ""
        text = f"got {kind[:100]!r}, wanted one of {', '.join(KINDS)}{hint}"
        return [Problem(auth.entries[kind].source, "auth", text)]
    if len(auth.entries) > 1:
        text = f"got {' and '.join(auth.entries)}, wanted exactly one kind"
        return [Problem(source, "auth", f"{text}; remove the other, which may come from a variable")]
    return [problem for kind in auth.entries for problem in _check_kind(kind, auth)]


def _check_kind(kind: str, auth: Table) -> list[Problem]:
    section = auth.entries[kind]
    if not isinstance(section, Table) and not is_null(section):
        return []  # of the wrong shape
    entries = section.entries if isinstance(section, Table) else {}
    problems = []
    for key, what in _REQUIRED.get(kind, {}).items():
        given = is_given(entries.get(key)) or any(slip(other, [key]) for other in entries if other != key)
        if not given and not (key == "realm" and _is_on(entries.get("autoredirect"))):
            problems.append(Problem(section.source, joined("auth", kind, key), f"missing, wanted {what}"))
    if kind == "token" and not any(is_given(entries.get(key)) for key in ("rootcertbundle", "jwks")):
        text = "missing, wanted the keys that sign tokens: certificates here, or a key set in auth.token.jwks"
        problems.append(Problem(section.source, "auth.token.rootcertbundle", text))
    return problems


def _is_on(tree: object) -> bool:
    try:
        return isinstance(tree, Scalar) and parse_flag(tree.text)
    except ValueError:
        return False


def check_auth_files(auth: Auth, tree: Table) -> list[Problem]:
    """What `auth` names must be there and make sense; a file of users is made when it is missing."""
    problems = []
    if auth.htpasswd is not None and auth.htpasswd.path is not None:
        problems += _problem(("auth", "htpasswd", "path"), auth.htpasswd.path, tree, _check_users)
    if auth.token is not None:
        for key, check in (("rootcertbundle", _check_bundle), ("jwks", _check_jwks)):
            path: Path | None = getattr(auth.token, key)
            if path is not None:
                problems += _problem(("auth", "token", key), path, tree, check)
        if not set(auth.token.signingalgorithms) - set(SHARED):
            at = ("auth", "token", "signingalgorithms")
            text = f"got only {', '.join(SHARED)}, wanted one for public keys too, such as RS256 or ES256"
            problems.append(Problem(find(tree, at)[1], joined(*at), text))
    return problems


def doubtful_auth(auth: Auth, tree: Table) -> list[Warning_]:
    """What can be used as it stands, and lets somebody in or out unexpectedly."""
    warnings = []
    if auth.silly is not None:
        text = "anybody who sends an Authorization header, whatever is in it, may pull"
        warnings.append(Warning_(find(tree, ("auth", "silly"))[1], "auth.silly", text))
    if auth.htpasswd is not None and auth.htpasswd.path is not None:
        text = _doubtful_users(auth.htpasswd.path)
        if text:
            at = ("auth", "htpasswd", "path")
            warnings.append(Warning_(find(tree, at)[1], joined(*at), text))
    if auth.token is not None:
        shared = [name for name in auth.token.signingalgorithms if name in SHARED]
        if shared:
            at = ("auth", "token", "signingalgorithms")
            text = f"{', '.join(shared)}: never accepted, as tokens are checked by public keys only"
            warnings.append(Warning_(find(tree, at)[1], joined(*at), text))
    return warnings


def check_rights(proxy: Proxy, auth: Auth, tree: Table) -> list[Problem]:
    """`rights: caller` needs the client's own login, and the mirror's not to stand in for it."""
    problems = []
    for at, upstream in sections(proxy):
        if upstream.rights != CALLER:
            continue
        key = (*at, "rights")
        source = find(tree, key)[1] if find(tree, key)[0] is not None else find(tree, ("proxy", "rights"))[1]
        text = ""
        if auth.is_on:
            text = (
                "not beside auth: a client sends one login, and it is either for this mirror or for the "
                "registry; wanted auth: none"
            )
        elif upstream.clientcert is not None:
            text = (
                f"not beside {joined(*at, 'clientcert')}: the registry would know the mirror by it, and not "
                "the client"
            )
        elif len(at) > 1 and is_anybodys(at[-1]):
            text = (
                f'not for "{at[-1]}": clients\' logins would be sent to whatever host somebody names; '
                "wanted rights: shared there"
            )
        if text:
            problems.append(Problem(source, joined(*key), f"got '{CALLER}', {text}"))
    return problems


def _problem(at: tuple[str, ...], path: Path, tree: Table, check: object) -> list[Problem]:
    assert callable(check)
    closed = False
    try:
        check(path)
    except OSError as error:
        text = f"which cannot be read: {error.strerror}"
        closed = isinstance(error, PermissionError)
    except (keys.KeysError, users.UsersError) as error:
        text = str(error)
    else:
        return []
    return [Problem(find(tree, at)[1], joined(*at), f"got {show_path(path)}, {text}", closed)]


def _check_bundle(path: Path) -> None:
    keys.certificates(keys.read(path))


def _check_jwks(path: Path) -> None:
    keys.parse_jwks(keys.read(path))


def _users(path: Path) -> users.Users | None:
    """None for no file. Raises OSError, UsersError."""
    try:
        with path.open("rb") as file:
            body = file.read(users.FILE_LIMIT + 1)
    except FileNotFoundError:
        return None
    return users.parse(body)


def _doubtful_users(path: Path) -> str:
    """Who cannot log in, though the file names him: the registry passes over all but bcrypt, too."""
    try:
        found = _users(path)
    except (OSError, users.UsersError):
        return ""  # said already
    if found is None or (found.hashes and not found.unusable):
        return ""
    if not found.unusable:
        return f"got {str(path)!r}, in which there is no user: nobody can log in"
    who = "these users cannot" if found.hashes else "and so nobody can"
    lines = found.passed_over
    return (
        f"got {str(path)!r}, where no bcrypt hash is on lines {lines}: {who} log in; htpasswd -B makes such"
    )


def _check_users(path: Path) -> None:
    """A file that is not there is made at the start; one that is there must be such a file."""
    try:
        _users(path)
    except users.UsersError as error:
        raise users.UsersError(
            f"wanted lines of the form name:hash, as htpasswd -B makes them: {error}"
        ) from None
