from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.history import (
    TEXT_LIMIT,
    Event,
    Kind,
    Record,
    Span,
    document,
    folded,
    from_line,
    from_ms,
    list_events,
    process_events,
    published,
    record_of,
    to_line,
    to_ms,
    transition_event,
    unheard,
    whole,
)
from lbctl.core.membership import Transition
from lbctl.model import Backend, Member, Membership, Process, State

AT = datetime(2026, 11, 27, 17, 24, 30, 123_999, UTC)
AT_MS = to_ms(AT)


def member(name: str, **changes: Any) -> Member:
    return Member(Backend(f"id-{name}", name, f"10.0.0.{ord(name[-1])}", **changes), AT)


def listing(generation: int, *members: Member | str) -> Membership:
    made = [one if isinstance(one, Member) else member(one) for one in members]
    return Membership(generation, AT + timedelta(seconds=generation), tuple(made))


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (None, State.PROBING, Kind.SEEN),
        (None, State.DOWN, Kind.DOWN),
        (None, State.UP, Kind.UP),
        (State.JOINING, State.UP, Kind.UP),
        (State.UP, State.DOWN, Kind.DOWN),
        (State.UP, State.EJECTED, Kind.EJECT),
        (State.UP, State.DRAINING, Kind.DRAIN),
        (State.UP, State.INVALID, Kind.INVALID),
        (State.DRAINING, State.ENROLLING, Kind.UNDRAIN),
        (State.DRAINING, None, Kind.GONE),
        (State.DRAINING, State.UP, Kind.UP),
    ],
)
def test_changes_of_state_that_are_news(
    before: State | None, after: State | None, kind: Kind
) -> None:
    event = transition_event(Transition("i", "b-1", before, after, "why"))
    assert event is not None
    assert (event.kind, event.subject, event.text) == (kind, "b-1", "why")
    assert event.data == {
        "id": "i",
        "before": before and before.value,
        "after": after and after.value,
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (State.PROBING, State.ENROLLING),
        (State.ENROLLING, State.JOINING),
        (State.DOWN, State.PROBING),
    ],
)
def test_steps_on_the_way_in_are_none(before: State, after: State) -> None:
    assert transition_event(Transition("i", "b-1", before, after, "")) is None


def test_one_that_serves_as_the_controller_begins() -> None:
    event = transition_event(Transition("i", "b-1", None, State.UP, ""))
    assert event is not None
    assert event.text == "it served before this controller decided"


def test_a_new_list_then_who_joined_and_who_left() -> None:
    reasons = {"id-a": "it leaves: scaled down", "id-b": "it leaves: scaled down", "id-c": "paused"}
    events = list(list_events(listing(6, "a", "b", "c"), listing(7, "d"), reasons))
    assert [(one.kind, one.subject, one.text) for one in events] == [
        (Kind.GENERATION, "7", "+d; -a, -b: it leaves: scaled down; -c: paused"),
        (Kind.JOIN, "d", ""),
        (Kind.LEAVE, "a", "it leaves: scaled down"),
        (Kind.LEAVE, "b", "it leaves: scaled down"),
        (Kind.LEAVE, "c", "paused"),
    ]
    assert events[0].membership == listing(7, "d")
    assert events[0].data["left"][2]["reason"] == "paused"
    assert events[1].data == {"id": "id-d", "ip": "10.0.0.100", "generation": 7}


def test_a_weight_that_changed_is_told_too() -> None:
    (event,) = list_events(listing(6, "a"), listing(7, member("a", weight=5)), {})
    assert event.text == "a changed"
    assert [one["name"] for one in event.data["changed"]] == ["a"]


def test_a_long_reason_is_cut() -> None:
    (event, *rest) = list_events(listing(6), listing(7, *"abcdefghij"), {})
    assert event.text == "+a, +b, +c, +d, +e, +f, +g, +h and 2 more"
    assert len(rest) == 10


def process(name: str, pid: int, restarts: int = 0, after_s: float = 0.0) -> Process:
    return Process("worker", name, pid, restarts, AT + timedelta(seconds=after_s), "a")


def test_processes_that_came_went_and_came_again() -> None:
    before = [process("w-0", 10), process("w-1", 11), process("w-2", 12)]
    after = [process("w-0", 10), process("w-1", 21, 1), process("w-3", 13)]
    told = {one.subject: (one.kind, one.text) for one in process_events(before, after, AT)}
    assert told == {
        "w-1": (Kind.PROCESS, "started again, in the place of pid 11"),
        "w-2": (Kind.PROCESS, "ended"),
        "w-3": (Kind.PROCESS, "started"),
    }
    (again,) = [one for one in process_events(before, after, AT) if one.subject == "w-1"]
    assert again.data == {"role": "worker", "pid": 21, "restarts": 1, "lb": "a"}


def test_a_worker_that_drains_is_gone() -> None:
    drains = replace(process("w-0", 10), role="draining")
    (told,) = process_events([process("w-0", 10)], [process("w-0", 20), drains], AT)
    assert told.text == "started again, in the place of pid 10"
    assert list(process_events([process("w-0", 20), drains], [process("w-0", 20)], AT)) == []


def test_one_that_ran_before_anybody_looked_has_not_come() -> None:
    """A new leader hears of the other lb's a moment after it began."""
    old, new = process("w-0", 10), process("w-1", 11, after_s=2)
    (told,) = process_events([], [old, new], AT + timedelta(seconds=1))
    assert (told.subject, told.text) == ("w-1", "started")


def test_an_lb_that_is_replaced_by_one_with_its_names_and_pids() -> None:
    old, new = process("w-0", 1), process("w-0", 1, after_s=5)
    texts = [
        [one.text for one in process_events(before, after, AT)]
        for before, after in (([old], [old, new]), ([old, new], [new, old]), ([old, new], [new]))
    ]
    assert texts == [["started"], [], ["ended"]]
    (told,) = process_events([old], [new], AT)
    assert told.text == "started again, in the place of pid 1"


def test_a_list_that_everybody_holds() -> None:
    event = published(7, 3, 0.01234)
    assert (event.kind, event.text) == (Kind.PUBLISH, "3 hold list 7 after 12 ms")
    assert event.data == {"generation": 7, "acknowledged": 3, "duration_ms": 12.3}


def test_nobody_need_hear_it() -> None:
    unheard(Event(Kind.SCALE))


def test_milliseconds_there_and_back() -> None:
    assert from_ms(AT_MS) == AT.replace(microsecond=123_000)
    assert to_ms(datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)) == -1


# As it is kept


def kept(before: Membership, after: Membership, *, all_of_it: bool = False) -> Record:
    event = next(list_events(before, after, {}))
    return record_of(event, after.generation, AT_MS, whole=all_of_it)


def test_lists_are_made_whole_again() -> None:
    lists = [
        listing(1, "a", "b"),
        listing(2, "a", "c"),
        listing(3, member("a", weight=9), "b", "c"),
        listing(4),
        listing(5, "d"),
    ]
    records = [kept(listing(0), lists[0], all_of_it=True)]
    records += [kept(one, other) for one, other in pairwise(lists)]
    assert [record.whole for record in records] == [True, False, False, False, False]
    assert [record.count for record in records] == [len(one.members) for one in folded(records)]
    made = list(folded(records))
    assert [[one["name"] for one in made[i].members] for i in range(5)] == [
        ["a", "b"], ["a", "c"], ["a", "b", "c"], [], ["d"],
    ]  # fmt: skip
    assert made[1].members[0] == {
        "ip": "10.0.0.97", "id": "id-a", "name": "a", "since": "2026-11-27T17:24:30.123Z",
    }  # fmt: skip
    again = [whole(one) for one in made]
    assert next(folded(reversed(again))).members == made[4].members
    assert again[0] == records[0]


def test_a_list_without_what_it_builds_on() -> None:
    record = kept(listing(1, "a"), listing(2, "b"))
    with pytest.raises(ValueError, match="list 2 is not whole"):
        list(folded([record]))


def test_the_time_of_a_list_is_its_own() -> None:
    record = kept(listing(1, "a"), listing(2, "b"))
    assert record.at_ms == AT_MS + 2000
    assert record.generation == 2


def test_a_text_that_looks_like_the_rest_of_the_line() -> None:
    evil = '", "data": {}}\\'
    record = record_of(Event(Kind.DOWN, evil, evil, {evil: evil}), 7, AT_MS)
    assert from_line(to_line(record) + "\n") == record


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text() | st.integers()))
def test_a_line_comes_back_as_it_went(subject: str, text: str, data: dict[str, Any]) -> None:
    record = record_of(Event(Kind.DOWN, text, subject, data), 7, AT_MS)
    line = to_line(record)
    assert "\n" not in line
    assert line.isascii()
    assert from_line(line) == record
    assert document(record)["data"] == data
    assert document(record)["text"] == text[:TEXT_LIMIT]


def test_half_a_character_is_none() -> None:
    record = record_of(Event(Kind.DOWN, "\ud800", "\udfff", {"a": "\ud800"}), 7, AT_MS)
    assert (record.text, record.subject) == ("?", "?")
    record.text.encode()


@pytest.mark.parametrize("data", ["{}", '{"count":"3"}', '{"count":true}', '{"count":null}'])
def test_a_list_that_does_not_say_how_long_it_is(data: str) -> None:
    assert Record(1, 0, "generation", "1", "", 1, data).count == 0


def test_readers_are_not_given_a_whole_list_twice() -> None:
    told = document(kept(listing(0), listing(1, "a"), all_of_it=True))
    assert set(told["data"]) == {"generation", "count", "joined", "left", "changed"}
    assert told["at"] == "2026-11-27T17:24:31.123Z"
    assert (told["kind"], told["seq"]) == ("generation", 1)


LINE = to_line(record_of(Event(Kind.DOWN, "why", "b"), 7, AT_MS))


@pytest.mark.parametrize(
    "change",
    [
        {"seq": "7"}, {"seq": -1}, {"seq": True}, {"at_ms": 1.5}, {"at_ms": 10**18}, {"kind": None},
        {"text": 3}, {"generation": "x"}, {"data": []}, {"data": None}, {"more": 1},
    ],
)  # fmt: skip
def test_lines_that_are_no_records(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no record"):
        from_line(json.dumps(json.loads(LINE) | change))


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "{}", "null", "7", LINE[:-1], LINE + "x", LINE.replace("{}", "{"), b"\xff"],
)
def test_what_is_no_line(line: str | bytes) -> None:
    with pytest.raises(ValueError, match="no record"):
        from_line(line)


def test_which_records_a_span_has() -> None:
    record = replace(record_of(Event(Kind.DOWN), 7, AT_MS), at_ms=1_000)
    assert Span(1).has(record)
    assert Span(1, after=6, before=8, since_ms=1_000, until_ms=1_000).has(record)
    for missed in (
        Span(1, after=7), Span(1, before=7), Span(1, since_ms=1_001), Span(1, until_ms=999),
        Span(1, lists=True),
    ):  # fmt: skip
        assert not missed.has(record)
    assert Span(1, lists=True).has(replace(record, generation=3))
