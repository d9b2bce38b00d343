"""Who fetches what: no byte twice, none left over, the nearest first."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.cache.extents import Extents
from mirror.cache.segments import LEAST, MOST, Claim, Plan, Settings, Want
from mirror.cache.spare import Spare

MIB = 1 << 20


def planned(size: int, *there: tuple[int, int], least: int = LEAST) -> tuple[Plan, Extents]:
    extents = Extents()
    for start, stop in there:
        extents.add(start, stop)
    plan = Plan(extents, least)
    plan.sized(size)
    return plan, extents


def ends(claim: Claim | None) -> tuple[int, int]:
    assert claim is not None
    return claim.start, claim.stop


def test_alone_all_is_asked_for_at_once() -> None:
    plan, _ = planned(300 * MIB)
    claim = plan.take([], 1)
    assert ends(claim) == (0, 300 * MIB)
    assert claim is not None
    assert claim.is_open
    assert plan.take([], 1) is None


def test_alone_the_first_gap_is_next_whatever_readers_want() -> None:
    """The rest comes by the same request, and an upstream without ranges would send all of it twice."""
    plan, _ = planned(256 * MIB, (0, 20 * MIB))
    claim = plan.take([Want(200 * MIB, 201 * MIB)], 1)
    assert ends(claim) == (20 * MIB, 256 * MIB)


def test_alone_a_gap_that_ends_before_the_blob_does_comes_in_bounded_parts() -> None:
    """Who comes to help finds something to do: nothing is taken from a request that ends by itself."""
    plan, _ = planned(400 * MIB, (300 * MIB, 310 * MIB))
    claim = plan.take([], 1)
    assert ends(claim) == (0, MOST)
    assert claim is not None
    assert not claim.is_open
    assert ends(plan.take([], 4))[0] == MOST


def test_who_comes_to_help_takes_from_what_the_first_one_has_not_come_to() -> None:
    plan, _ = planned(256 * MIB)
    first = plan.take([], 1)
    assert first is not None
    first.position = 10 * MIB
    second = plan.take([], 4)
    assert second is not None
    assert first.stop == second.start == 10 * MIB + 246 * MIB // 8, "half of its share of what is left"
    assert second.stop <= 256 * MIB
    assert not second.is_open
    assert ends(plan.take([], 4))[0] == second.stop, "in order, where nobody wants anything else"


def test_who_comes_to_help_leaves_what_a_thread_is_taking() -> None:
    plan, _ = planned(256 * MIB)
    first = plan.take([], 1)
    assert first is not None
    first.position, first.granted = 10 * MIB, 26 * MIB
    second = plan.take([], 4)
    assert second is not None
    assert first.stop == second.start == 26 * MIB + 230 * MIB // 8
    first.position, first.granted = first.stop, 0
    assert not plan.onward(first, 4)


def test_an_open_claim_goes_on_where_nobody_else_has_begun() -> None:
    plan, _ = planned(256 * MIB)
    first = plan.take([], 1)
    assert first is not None
    second = plan.take([], 4)
    assert second is not None
    first.position = first.stop
    assert not plan.onward(first, 4), "there the second one has begun"
    plan.drop(second)
    stop = first.stop
    assert plan.onward(first, 1)
    assert (first.start, first.position, first.stop) == (0, stop, 256 * MIB)


def test_an_open_claim_goes_on_for_its_share_where_there_are_others() -> None:
    plan, _ = planned(256 * MIB)
    first = plan.take([], 1)
    assert first is not None
    second = plan.take([], 4)
    assert second is not None
    plan.drop(second)
    stop = first.position = first.stop
    assert plan.onward(first, 4)
    assert first.stop - stop == (256 * MIB - stop) // 8


def test_a_rest_that_is_worth_no_request_comes_with_what_is_in_front_of_it() -> None:
    plan, _ = planned(9 * MIB)
    assert ends(plan.take([], 2)) == (0, 4 * MIB)
    assert ends(plan.take([], 2)) == (4 * MIB, 9 * MIB)


def test_an_open_claim_waits_for_the_next_one_until_something_of_that_has_come() -> None:
    plan, _ = planned(256 * MIB)
    first = plan.take([], 1)
    assert first is not None
    assert plan.ahead(first) is None, "it goes to the end"
    second, third = plan.take([], 4), plan.take([], 4)
    assert second is not None
    assert third is not None
    assert plan.ahead(first) is second
    assert plan.ahead(second) is None, "its request ends there"
    second.position += 1
    assert plan.ahead(first) is None
    plan.drop(second)
    assert plan.ahead(first) is None, "what is next is anybody's"
    first.skips = True
    assert plan.ahead(first) is third


def test_a_reader_lacks_what_is_neither_there_nor_somebody_s() -> None:
    plan, _ = planned(256 * MIB, (100 * MIB, 110 * MIB))
    first = plan.take([], 4)
    assert first is not None
    end = 256 * MIB
    for position in (0, first.stop - 1, 100 * MIB, 110 * MIB - 1):
        assert not plan.lacks([Want(position, end)])
    for position in (first.stop, 100 * MIB - 1, 110 * MIB, end - 1):
        assert plan.lacks([Want(0, end), Want(position, end)])
        assert not plan.lacks([Want(position, position), Want(end, end)]), "it wants nothing any more"


def test_an_upstream_without_ranges_sends_what_is_there_again_and_that_is_skipped() -> None:
    plan, extents = planned(100, (40, 60), least=1)
    claim = plan.first(0)
    assert ends(claim) == (0, 40)
    claim.is_open = claim.skips = True
    extents.add(0, 40)
    claim.position = 40
    assert plan.onward(claim, 1)
    assert (claim.position, claim.stop) == (60, 100)


def test_what_a_reader_comes_to_soonest_is_next() -> None:
    plan, _ = planned(256 * MIB, (0, 20 * MIB), (100 * MIB, 110 * MIB))
    wants = [Want(5 * MIB, 256 * MIB), Want(105 * MIB, 120 * MIB), Want(0, 0)]
    assert ends(plan.take(wants, 4))[0] == 110 * MIB, "5 MiB ahead of its reader; the other has 15"
    assert ends(plan.take(wants[:1], 4))[0] == 20 * MIB
    assert ends(plan.take([Want(200 * MIB, 201 * MIB)], 4))[0] == 200 * MIB
    assert ends(plan.take([Want(0, 256 * MIB)], 4))[0] > 20 * MIB


def test_a_reader_who_begins_a_little_behind_a_gap_has_it_fetched_from_its_beginning() -> None:
    plan, _ = planned(256 * MIB, (0, 20 * MIB))
    assert ends(plan.take([Want(21 * MIB, 30 * MIB)], 4))[0] == 20 * MIB


@given(st.integers(1, 2000 * MIB), st.integers(2, 12))
def test_claims_shrink_so_that_all_end_together(size: int, count: int) -> None:
    plan, _ = planned(size)
    lengths = []
    while (claim := plan.take([], count)) is not None:
        lengths.append(claim.stop - claim.start)
    assert sum(lengths) == size
    assert all(length <= MOST + LEAST // 2 for length in lengths)
    assert all(length >= LEAST for length in lengths[:-1])
    assert all(later <= earlier + LEAST // 2 for earlier, later in pairwise(lengths))


@settings(max_examples=200)
@given(st.data())
def test_whatever_happens_no_byte_is_asked_for_twice_and_none_is_forgotten(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 400))
    plan, there = planned(size, least=data.draw(st.integers(1, 20)))
    claims: list[Claim] = []

    def end(claim: Claim) -> None:
        claims.remove(claim)
        there.add(claim.start, claim.position)
        plan.drop(claim)

    for _ in range(400):
        busy = [each for each in claims if each.position < each.stop]
        kind = data.draw(st.sampled_from(["take", "come", "break"])) if busy else "take"
        count = data.draw(st.integers(1, 4))
        if kind == "take":
            at = data.draw(st.integers(0, size))
            claim = plan.take([Want(at, size)], count)
            if claim is not None:
                claims.append(claim)
            elif not claims:
                break
        elif kind == "come":
            claim = data.draw(st.sampled_from(busy))
            claim.position += data.draw(st.integers(1, claim.stop - claim.position))
            if claim.position == claim.stop and not plan.onward(claim, count):
                end(claim)
        else:
            end(data.draw(st.sampled_from(busy)))
        spans = sorted([*((each.start, each.stop) for each in claims), *there])
        assert all(before[1] <= after[0] for before, after in pairwise(spans)), spans
        assert all(each.start <= each.position <= each.stop <= size for each in claims)
    while claims:
        end(claims[-1])
    assert sum(stop - start for start, stop in there.gaps(0, size)) == size - there.total
    while (claim := plan.take([], 1)) is not None:
        claim.position = claim.stop
        there.add(claim.start, claim.stop)
        plan.drop(claim)
    assert list(there) == [(0, size)]


def test_small_blobs_that_may_come_in_segments_have_small_segments() -> None:
    assert Settings(least=64 << 10).claim == 8 << 10
    assert Settings().claim == Settings(least=1 << 40).claim == LEAST


def test_fills_share_what_an_upstream_has_to_spare() -> None:
    spare = Spare()
    with spare.wanting("a"):
        for own in range(3):
            assert spare.allows("a", own, 12)
            spare.take("a")
        with spare.wanting("a"), spare.wanting("a"), spare.wanting("a"), spare.wanting("a"):
            assert not spare.allows("a", 2, 12), "a fifth of twelve for each"
            assert spare.allows("a", 1, 12)
            assert not spare.leaves("a", 3, 12), "so one that has three gives one back"
            assert spare.leaves("a", 2, 12)
            assert spare.allows("b", 0, 12)
        assert spare.leaves("a", 3, 12)


def test_no_more_connections_are_taken_than_an_upstream_has_to_spare() -> None:
    spare = Spare()
    with spare.wanting("a"), spare.wanting("a"), spare.wanting("a"):
        for _ in range(2):
            assert spare.allows("a", 0, 2)
            spare.take("a")
        assert not spare.allows("a", 0, 2)
        assert not spare.leaves("a", 1, 0), "it has none any more"
        spare.give_back("a")
        assert spare.allows("a", 0, 2)
        assert not spare.allows("a", 0, 0)
