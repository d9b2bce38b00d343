"""The breaker's decisions: tables, and what holds for whatever happens to it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.upstream import breaker as rules
from mirror.upstream.breaker import FAILURES, PAUSE, PAUSE_LIMIT, PROBE, Breaker, State


def fail(breaker: Breaker, now: float, *, chance: float = 1.0, again: bool = False) -> float | None:
    """One request that is let through and fails at once."""
    assert breaker.admit(now) is None
    return breaker.failed(breaker.turn, now, chance, again=again)


def opened(now: float = 0.0) -> Breaker:
    """A breaker that has just opened, for PAUSE seconds."""
    breaker = Breaker()
    for _ in range(FAILURES):
        fail(breaker, now)
    return breaker


def test_five_failures_in_a_row_open_it_for_a_second() -> None:
    breaker = Breaker()
    assert [fail(breaker, 0.0) for _ in range(5)] == [None, None, None, None, 1.0]
    assert breaker.admit(0.0) == 1.0
    assert breaker.admit(0.75) == 0.25
    assert breaker.state(0.75) is State.OPEN
    assert breaker.state(1.0) is State.HALF_OPEN, "as the next request will find it"


def test_the_last_failure_is_known_until_an_answer_begins() -> None:
    """Also one that does not count, since it is about the same moment, or about the same thing."""
    breaker = Breaker()
    breaker.failed(breaker.turn, 1.0, 0.5, scope="a", cause="answered 500")
    breaker.failed(breaker.turn, 2.0, 0.5, again=True, cause="answered 502")
    breaker.failed(breaker.turn, 3.0, 0.5, scope="a", cause="answered 503")
    assert (breaker.failures, breaker.last) == (1, rules.Failure(3.0, "answered 503"))
    breaker.began(breaker.turn)
    assert (breaker.failures, breaker.last) == (1, None)
    breaker.failed(breaker.turn, 4.0, 0.5, cause="it broke off")
    breaker.succeeded(breaker.turn)
    assert breaker.last is None


def test_a_success_in_between_starts_the_count_anew() -> None:
    breaker = Breaker()
    for _ in range(20):
        for _ in range(FAILURES - 1):
            assert fail(breaker, 0.0) is None
        assert not breaker.succeeded(breaker.turn)
    assert breaker.is_closed


def test_the_further_attempts_of_one_request_do_not_count() -> None:
    breaker = Breaker()
    for _ in range(100):
        assert fail(breaker, 0.0, again=True) is None
    assert (breaker.is_closed, breaker.failures) == (True, 0)


def test_pauses_double_up_to_half_a_minute() -> None:
    breaker = opened()
    now, pauses = 0.0, [1.0]
    for _ in range(6):
        now += pauses[-1]
        pause = fail(breaker, now)
        assert pause is not None
        pauses.append(pause)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


@pytest.mark.parametrize(("chance", "pause"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_chance_shortens_a_pause_by_up_to_a_half(chance: float, pause: float) -> None:
    breaker = Breaker()
    assert [fail(breaker, 0.0, chance=chance) for _ in range(FAILURES)][-1] == pause


def test_after_the_pause_one_probe_goes_and_the_others_are_refused_at_once() -> None:
    breaker = opened()
    assert breaker.wait(1.0) is None, "a look takes nobody's place"
    assert breaker.admit(1.0) is None
    assert [breaker.admit(1.0), breaker.admit(1.5)] == [PAUSE, PAUSE]


def test_a_success_of_the_probe_closes_it_and_resets_the_pause() -> None:
    breaker = opened()
    fail(breaker, 1.0)  # the next pause would be 4 s
    assert breaker.admit(3.0) is None
    assert breaker.succeeded(breaker.turn)
    assert (breaker.is_closed, breaker.failures, breaker.admit(3.0)) == (True, 0, None)
    assert [fail(breaker, 3.0) for _ in range(FAILURES)][-1] == PAUSE


def test_a_probe_that_fails_opens_it_again_even_if_it_is_a_further_attempt() -> None:
    breaker = opened()
    assert fail(breaker, 1.0, again=True) == 2.0


def test_a_probe_without_a_verdict_makes_room_for_the_next_one() -> None:
    breaker = opened()
    assert breaker.admit(1.0) is None
    breaker.returned(breaker.turn)
    assert breaker.admit(1.0) is None
    assert breaker.admit(1.0) is not None


def test_a_probe_that_never_ends_is_replaced() -> None:
    breaker = opened()
    assert breaker.admit(1.0) is None
    lost = breaker.turn
    assert breaker.admit(1.0 + PROBE - 0.25) == 0.25
    assert breaker.admit(1.0 + PROBE) is None
    breaker.returned(lost)
    assert not breaker.succeeded(lost)
    assert breaker.admit(1.0 + PROBE) is not None, "one at a time, still"
    assert breaker.succeeded(breaker.turn)


def test_what_was_asked_before_the_last_change_has_no_say() -> None:
    breaker = Breaker()
    before = breaker.turn
    for _ in range(FAILURES):
        breaker.failed(before, 0.0, 1.0)
    assert not breaker.succeeded(before)
    assert breaker.admit(0.5) is not None, "a late answer does not close it"
    assert breaker.admit(1.0) is None
    breaker.returned(before)
    assert breaker.admit(1.0) is not None, "nor does a late end give the probe's place away"
    assert breaker.failed(before, 1.0, 1.0) is None, "nor does a late failure stand for the probe's"
    assert breaker.succeeded(breaker.turn)
    for _ in range(3 * FAILURES):
        assert breaker.failed(before, 1.0, 1.0) is None
    assert breaker.is_closed, "nor do a hundred requests that hung open it again"


def test_an_answer_that_has_only_begun_closes_it_on_trial() -> None:
    breaker = opened()
    assert breaker.admit(1.0) is None
    assert breaker.began(breaker.turn)
    assert breaker.admit(1.0) is None
    assert fail(breaker, 1.0) == 2.0, "the first failure opens it, for longer"
    assert breaker.admit(3.0) is None
    assert breaker.began(breaker.turn)
    assert not breaker.succeeded(breaker.turn), "it is closed already"
    assert fail(breaker, 3.0) is None, "once an answer was whole, all is well"


def test_an_answer_that_has_only_begun_does_not_end_a_row_of_failures() -> None:
    """Storage that sends headers and breaks off each time must open its breaker."""
    breaker = Breaker()
    for _ in range(FAILURES):
        assert breaker.admit(0.0) is None
        assert not breaker.began(breaker.turn)
        breaker.failed(breaker.turn, 0.0, 1.0)
    assert not breaker.is_closed


def test_a_pause_that_is_given_is_bounded() -> None:
    breaker = Breaker(failures=1, limit=60.0)
    assert breaker.failed(breaker.turn, 0.0, 0.0, pause=7.0) == 7.0
    assert breaker.admit(7.0) is None
    assert breaker.failed(breaker.turn, 7.0, 0.0, pause=3600.0) == 60.0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "succeed", "begin", "fail", "again", "return", "wait"]),
        st.integers(0, 9),  # which of the requests under way
        st.floats(0.0, 20.0),  # seconds that pass, or chance
    ),
    max_size=80,
)


@settings(max_examples=300)
@given(STEPS)
def test_whatever_happens_probes_come_one_at_a_time_and_nobody_waits_for_ever(
    steps: list[tuple[str, int, float]],
) -> None:
    breaker, now = Breaker(), 0.0
    under_way: list[int] = []  # the turns of the requests
    probed = -PROBE  # when the last one was let through that was no ordinary request
    for step, which, number in steps:
        turn = under_way.pop(which % len(under_way)) if step not in ("ask", "wait") and under_way else None
        match step:
            case "wait":
                now += number
            case "ask":
                expected, ordinary = breaker.wait(now), breaker.is_closed
                left = breaker.admit(now)
                assert left == expected
                if left is None:
                    assert ordinary or breaker.turn not in under_way or now >= probed + PROBE
                    probed = probed if ordinary else now
                    under_way.append(breaker.turn)
                else:
                    assert 0.0 < left <= PAUSE_LIMIT
            case "succeed" if turn is not None:
                known = turn == breaker.turn
                breaker.succeeded(turn)
                assert breaker.is_closed or not known
            case "begin" if turn is not None:
                breaker.began(turn)
            case "fail" | "again" if turn is not None:
                pause = breaker.failed(turn, now, number / 20.0, again=step == "again")
                assert pause is None or rules.PAUSE / 2 <= pause <= PAUSE_LIMIT
            case "return" if turn is not None:
                breaker.returned(turn)
    assert breaker.admit(now + max(PAUSE_LIMIT, PROBE)) is None
    assert breaker.succeeded(breaker.turn) or breaker.is_closed
