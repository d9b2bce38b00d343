"""Users of a file: who is let in, for how long, and what somebody who tries passwords costs the others."""

from __future__ import annotations

import asyncio
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from unittest import mock

import bcrypt
import pytest

from mirror.access import checks, htpasswd, users
from mirror.access.base import Asked, Refused
from mirror.access.htpasswd import Htpasswd
from mirror.oci.errors import ErrorCode
from tests.support.registries import basic_auth

BOB, EVE = ("bob", "a secret: word"), ("eve", "hunter3")


def line(login: tuple[str, str], cost: int = 4) -> bytes:
    return login[0].encode() + b":" + bcrypt.hashpw(login[1].encode(), bcrypt.gensalt(cost)) + b"\n"


def write(path: Path, body: bytes | None) -> None:
    """None: there is no file."""
    if body is None:
        path.unlink()
    else:
        path.write_bytes(body)


class Ticks:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    path.write_bytes(line(BOB))
    return path


@pytest.fixture
async def access(file: Path, ticks: Ticks) -> AsyncIterator[Htpasswd]:
    made = Htpasswd('the "realm"', file, ticks)
    yield made
    await made.close()


async def refusal(access: Htpasswd, authorization: str, address: str = "192.0.2.1") -> Refused:
    with pytest.raises(Refused) as refused:
        await access.authorize(Asked(authorization, address=address))
    return refused.value


@pytest.mark.parametrize(
    "authorization",
    ["", "x", "Bearer x", "Basic x", "Basic Og==", basic_auth(("bob", "hunter2")), basic_auth(EVE)],
)
async def test_who_is_not_known_is_told_how_to_log_in(access: Htpasswd, authorization: str) -> None:
    refused = await refusal(access, authorization)
    assert (refused.code.status, refused.challenges) == (401, ('Basic realm="the \\"realm\\""',))
    assert "hunter2" not in refused.reason
    assert EVE[1] not in refused.reason


async def test_a_right_password_is_checked_once_and_kept_as_a_hash(access: Htpasswd) -> None:
    with mock.patch.object(bcrypt, "checkpw", wraps=bcrypt.checkpw) as check:
        found = await asyncio.gather(*(access.authorize(Asked(basic_auth(BOB))) for _ in range(20)))
        assert {allowed.user for allowed in found} == {"bob"}
        await access.authorize(Asked(basic_auth(BOB)))
        assert check.call_count == 1
    kept = repr(vars(access)) + repr(list(access._logins.items()))
    assert BOB[1] not in kept
    assert basic_auth(BOB) not in kept


async def test_a_wrong_password_is_checked_each_time(access: Htpasswd) -> None:
    with mock.patch.object(bcrypt, "checkpw", wraps=bcrypt.checkpw) as check:
        for _ in range(3):
            await refusal(access, basic_auth(("bob", "x")))
        assert check.call_count == 3


async def test_a_name_that_is_not_there_costs_what_one_that_is_costs(file: Path, access: Htpasswd) -> None:
    """A check against a hash of a cost that the file has, the same for the same name."""
    write(file, line(BOB, 4) + line(("carl", "x"), 6))
    checked: list[bytes] = []

    def check(_password: bytes, hashed: bytes) -> bool:
        checked.append(hashed)
        return False

    names = [f"user{number}" for number in range(40)]
    with mock.patch.object(bcrypt, "checkpw", check):
        for name in names + names:
            await refusal(access, basic_auth((name, "x")))
    costs = [hashed[4:6] for hashed in checked]
    assert set(costs) == {b"04", b"06"}
    assert costs[:40] == costs[40:]


async def test_the_hash_that_nothing_fits_takes_as_long_as_a_real_one() -> None:
    """bcrypt refuses malformed ones at once, which would tell the names apart."""
    assert bcrypt.checkpw(b"", b"$2b$04$" + b"." * 53) is False
    with mock.patch.object(htpasswd, "DUMMY_COST", 4):
        access = Htpasswd("r", Path("/nowhere"))
        assert bcrypt.checkpw(b"x", access._dummy(users.Users({}), b"eve")) is False
        await access.close()


async def test_only_72_bytes_of_a_password_count_as_with_every_bcrypt(file: Path, access: Htpasswd) -> None:
    write(file, line(("bob", "a" * 72)))
    assert (await access.authorize(Asked(basic_auth(("bob", "a" * 200))))).user == "bob"
    await refusal(access, basic_auth(("bob", "a" * 71)))


@pytest.mark.parametrize("prefix", [b"$2$", b"$2a$", b"$2b$", b"$2y$"])
@pytest.mark.parametrize("last", [b"u", b"v", b"9"])
async def test_a_hash_that_is_written_otherwise_is_checked_as_go_does(
    file: Path, access: Htpasswd, prefix: bytes, last: bytes
) -> None:
    """A salt's last letter has four bits that mean nothing. Python's bcrypt raises where one is set."""
    hashed = bcrypt.hashpw(BOB[1].encode(), b"$2b$04$abcdefghijklmnopqrstuu")
    write(file, b"bob:" + prefix + b"04$abcdefghijklmnopqrstu" + last + hashed[29:] + b"\n")
    assert (await access.authorize(Asked(basic_auth(BOB)))).user == "bob"
    assert (await refusal(access, basic_auth(("bob", "x")))).code is ErrorCode.UNAUTHORIZED


async def test_a_change_of_the_file_counts_a_second_later(file: Path, access: Htpasswd, ticks: Ticks) -> None:
    """For whoever is in, and for whoever is new; leave that was given does not last beyond it."""
    allowed = await access.authorize(Asked(basic_auth(BOB)))
    assert allowed.holds is not None
    assert allowed.holds()
    write(file, line(EVE))
    ticks.now += htpasswd.LOOK
    assert not allowed.holds()  # before anybody has looked
    await refusal(access, basic_auth(BOB))
    assert not allowed.holds()
    assert (await access.authorize(Asked(basic_auth(EVE)))).user == "eve"


async def test_leave_goes_on_while_somebody_has_looked(file: Path, access: Htpasswd, ticks: Ticks) -> None:
    allowed = await access.authorize(Asked(basic_auth(BOB)))
    ticks.now += htpasswd.LOOK
    await access.authorize(Asked(basic_auth(BOB)))
    assert allowed.holds is not None
    assert allowed.holds()


async def test_a_remembered_login_ends(access: Htpasswd, ticks: Ticks) -> None:
    await access.authorize(Asked(basic_auth(BOB)))
    ticks.now += htpasswd.REMEMBERED + 1
    with mock.patch.object(bcrypt, "checkpw", wraps=bcrypt.checkpw) as check:
        await access.authorize(Asked(basic_auth(BOB)))
        assert check.call_count == 1


@pytest.mark.parametrize("body", [None, b"nonsense\n"])
async def test_a_file_that_is_gone_or_nonsense_lets_nobody_in(
    file: Path, access: Htpasswd, ticks: Ticks, body: bytes | None
) -> None:
    await access.authorize(Asked(basic_auth(BOB)))
    write(file, body)
    ticks.now += htpasswd.LOOK
    refused = await refusal(access, basic_auth(BOB))
    assert (refused.code, refused.challenges) == (ErrorCode.UNAVAILABLE, ())
    write(file, line(BOB))
    ticks.now += htpasswd.LOOK
    assert (await access.authorize(Asked(basic_auth(BOB)))).user == "bob"


def test_a_missing_file_is_made_with_one_login_that_nobody_else_can_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "htpasswd"
    password = htpasswd.create_if_missing(path)
    assert password is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    name, hashed = path.read_bytes().strip().split(b":")
    assert name == b"docker"
    assert bcrypt.checkpw(password.encode(), hashed)
    assert htpasswd.create_if_missing(path) is None
    assert path.read_bytes().startswith(name + b":" + hashed)


class Gate:
    """Work that ends when it is let; counts what runs at once, and in which order it began."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.lock = threading.Lock()
        self.begun: list[str] = []
        self.running = self.most = 0

    def work(self, client: str) -> bool:
        with self.lock:
            self.begun.append(client)
            self.running += 1
            self.most = max(self.most, self.running)
        self.open.wait(10)
        with self.lock:
            self.running -= 1
        return True


async def test_somebody_who_tries_passwords_keeps_nobody_waiting() -> None:
    """Who comes last with one check is next, though a hundred of somebody else's wait."""
    turns, gate = checks.Turns(2), Gate()
    attacker = [asyncio.ensure_future(turns.run("evil", lambda: gate.work("evil"))) for _ in range(50)]
    await asyncio.sleep(0)
    honest = asyncio.ensure_future(turns.run("good", lambda: gate.work("good")))
    async with asyncio.timeout(10):
        while "good" not in gate.begun:  # noqa: ASYNC110 - a thread's word, not an event
            await asyncio.sleep(0.001)
    assert gate.begun == ["evil", "good"]  # the attacker has one thread of two
    gate.open.set()
    assert await honest
    assert all(await asyncio.gather(*attacker))
    assert gate.most == 2
    await turns.close()


async def test_too_much_that_waits_is_refused_for_one_client_and_for_all() -> None:
    turns, gate = checks.Turns(2), Gate()
    one = [asyncio.ensure_future(turns.run("evil", lambda: gate.work("evil"))) for _ in range(100)]
    await asyncio.sleep(0)
    refused = [each for each in one if each.done()]
    assert len(refused) == 100 - 1 - checks.WAITING_EACH
    assert all(isinstance(each.exception(), checks.Busy) for each in refused)
    many = [
        asyncio.ensure_future(turns.run(f"10.0.0.{number % 250}", lambda: gate.work("x")))
        for number in range(600)
    ]
    await asyncio.sleep(0)
    assert sum(each.done() for each in many) == 600 - 1 - (checks.WAITING - checks.WAITING_EACH)
    gate.open.set()
    await asyncio.gather(*one, *many, return_exceptions=True)
    assert gate.most <= 2
    await turns.close()


async def test_who_leaves_takes_no_turn_and_work_that_fails_fails_its_own() -> None:
    turns, gate = checks.Turns(2), Gate()
    first = asyncio.ensure_future(turns.run("a", lambda: gate.work("a")))
    gone = asyncio.ensure_future(turns.run("a", lambda: gate.work("gone")))
    broken = asyncio.ensure_future(turns.run("b", lambda: bool(1 / 0)))
    with pytest.raises(ZeroDivisionError):
        await broken
    gone.cancel()
    await asyncio.sleep(0)
    gate.open.set()
    assert await first
    assert await turns.run("a", lambda: gate.work("last"))
    assert "gone" not in gate.begun
    await turns.close()
    with pytest.raises(checks.Busy):
        await turns.run("a", lambda: True)


async def test_too_many_logins_are_told_to_come_back(access: Htpasswd) -> None:
    gate = Gate()

    def check(_password: bytes, _hashed: bytes) -> bool:
        return gate.work("x")

    with mock.patch.object(bcrypt, "checkpw", check):
        asked = [
            asyncio.ensure_future(access.authorize(Asked(basic_auth(("bob", str(n))), address="192.0.2.9")))
            for n in range(100)
        ]
        async with asyncio.timeout(10):
            while not any(each.done() for each in asked):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        error = next(each.exception() for each in asked if each.done())
        assert isinstance(error, Refused)
        assert (error.code, error.retry_after) == (ErrorCode.TOOMANYREQUESTS, htpasswd.RETRY_AFTER)
        gate.open.set()
        await asyncio.gather(*asked, return_exceptions=True)


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1:a:b:c:d", "2001:db8:0:1::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("", ""),
    ],
)
def test_who_has_many_addresses_has_one_turn(address: str, client: str) -> None:
    assert checks.client_of(address) == client
