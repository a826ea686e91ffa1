"""What happened: events, and what of them is kept.

Everything that is told of the past is an Event, new lists among them. The journal numbers and times
it, which makes it a Record. Records count up without a gap; a gap in what was kept is a loss.

A list is kept as what changed since the one before, and now and then whole, so that what is kept
grows with the changes and not with the fleet. `folded` makes all of them whole again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lbctl.core.iplist import address_key, timestamp
from lbctl.model import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbctl.core.membership import Transition
    from lbctl.model import Member, Membership, Process

TEXT_LIMIT = 2_000
"""Characters; a reason may quote what a backend answered."""
_END_MS = 253_402_300_800_000  # of the year 9999


class Kind(Enum):
    """What an event is about. The values are a contract with readers of the API."""

    GENERATION = "generation"  # a new list
    JOIN = "join"  # a backend is on the list from now on
    LEAVE = "leave"  # and from now on not
    SEEN = "seen"  # the runtime has a new one
    GONE = "gone"  # and this one no more
    UP = "up"  # gets clients
    DOWN = "down"
    EJECT = "eject"
    DRAIN = "drain"
    UNDRAIN = "undrain"
    INVALID = "invalid"
    PUBLISH = "publish"  # every backend in it holds the list
    SCALE = "scale"
    ROLLOUT = "rollout"
    HEAL = "heal"
    RELOAD = "reload"
    AUDIT = "audit"  # a change through the admin port
    LEADER = "leader"  # a controller decides from now on
    PROCESS = "process"  # one of an lb came or went
    HISTORY = "history"  # the history's own: a loss, a damaged file


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `subject` is the name of the backend or process it happened to.

    `data` is JSON. Of a new list, `membership` is what it says, and its time the event's.
    """

    kind: Kind
    text: str = ""
    subject: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    membership: Membership | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """An event as it is kept. `at_ms` is unix time; `generation` is None but for a list.

    `data` is JSON text. A list's has `joined`, `left` and `changed`, and `members` if it is whole.
    """

    seq: int
    at_ms: int
    kind: str
    subject: str
    text: str
    generation: int | None
    data: str

    @property
    def whole(self) -> bool:
        """Whether it has all members of a list."""
        return self.generation is not None and "members" in json.loads(self.data)

    @property
    def count(self) -> int:
        """How many members a list has; 0 where it does not say so."""
        count = json.loads(self.data).get("count")
        return count if type(count) is int else 0


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of the past. `members` are JSON objects as in ips.json."""

    record: Record
    members: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Which records somebody asks for: those with `after` < seq < `before`, of that time, both
    ends included; of more than `limit` the newest, or the oldest where `oldest` says so.
    """

    limit: int
    after: int | None = None
    before: int | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    oldest: bool = False
    lists: bool = False  # nothing else

    def has(self, record: Record) -> bool:
        """Whether this one is asked for."""
        return (
            (self.after is None or record.seq > self.after)
            and (self.before is None or record.seq < self.before)
            and (self.since_ms is None or record.at_ms >= self.since_ms)
            and (self.until_ms is None or record.at_ms <= self.until_ms)
            and (not self.lists or record.generation is not None)
        )


def unheard(_event: Event) -> None:
    """For whoever tells it to nobody."""


def to_ms(moment: datetime) -> int:
    """Unix milliseconds, rounded down as `timestamp` does."""
    seconds = moment.astimezone(UTC).replace(microsecond=0).timestamp()
    return int(seconds) * 1000 + moment.microsecond // 1000


def from_ms(at_ms: int) -> datetime:
    """The inverse. Raises ValueError or OverflowError outside the years 1 to 9999."""
    seconds, rest = divmod(at_ms, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000)


# Of the control plane's facts

_OUT = {
    State.DOWN: Kind.DOWN,
    State.EJECTED: Kind.EJECT,
    State.DRAINING: Kind.DRAIN,
    State.INVALID: Kind.INVALID,
}
_ON_ITS_WAY = (State.PROBING, State.ENROLLING, State.JOINING)


def transition_event(transition: Transition) -> Event | None:
    """A backend's change of state; None for a step on its way in, which is no news."""
    before, after = transition.before, transition.after
    if after is None:
        kind = Kind.GONE
    elif after is State.UP:
        kind = Kind.UP
    elif after in _OUT:
        kind = _OUT[after]
    elif before is None:
        kind = Kind.SEEN
    elif before is State.DRAINING and after in _ON_ITS_WAY:
        kind = Kind.UNDRAIN
    else:
        return None
    states = {"before": before and before.value, "after": after and after.value}
    text = transition.reason
    if before is None and kind is Kind.UP and not text:
        text = "it served before this controller decided"
    return Event(kind, text, transition.name, {"id": transition.id, **states})


def list_events(
    before: Membership, after: Membership, reasons: Mapping[str, str]
) -> Iterator[Event]:
    """A new list, then who joined and who left by it. `reasons` are those of who left, by id."""
    joined, left, changed = _difference(before.members, after.members)
    data = {
        "generation": after.generation,
        "count": len(after.members),
        "joined": [member_document(member) for member in joined],
        "left": [
            {**member_document(member), "reason": reasons.get(member.backend.id, "")}
            for member in left
        ],
        "changed": [member_document(member) for member in changed],
    }
    text = _in_words(joined, left, changed, reasons)
    yield Event(Kind.GENERATION, text, str(after.generation), data, after)
    for kind, members in ((Kind.JOIN, joined), (Kind.LEAVE, left)):
        for member in members:
            backend = member.backend
            yield Event(
                kind,
                reasons.get(backend.id, "") if kind is Kind.LEAVE else "",
                backend.name,
                {"id": backend.id, "ip": backend.ip, "generation": after.generation},
            )


def published(generation: int, holders: int, duration_s: float) -> Event:
    """Every backend on it, `holders` of them, has acknowledged the list."""
    duration_ms = round(duration_s * 1000, 1)
    text = f"{holders} hold list {generation} after {duration_ms:.0f} ms"
    data = {"generation": generation, "acknowledged": holders, "duration_ms": duration_ms}
    return Event(Kind.PUBLISH, text, str(generation), data)


def process_events(
    before: Iterable[Process], after: Iterable[Process], since: datetime
) -> Iterator[Event]:
    """Processes that came, went, or took another's place between two looks. A worker of before a
    reload has its successor's name, and is gone as far as anybody asks. One that runs since before
    `since`, when the looking began, has not come: it is only known now.

    An lb that is replaced has its successor's name too, and maybe its pids.
    """
    old, new = (
        {(one.name, one.started_at, one.pid): one for one in processes if one.role != "draining"}
        for processes in (before, after)
    )
    gone = {old[key].name: old[key] for key in old.keys() - new.keys()}
    for key in sorted(new.keys() - old.keys()):
        now = new[key]
        was = gone.pop(now.name, None)
        if was is not None:
            yield _process_event(now, f"started again, in the place of pid {was.pid}")
        elif now.started_at >= since:
            yield _process_event(now, "started")
    for name in sorted(gone):
        yield _process_event(gone[name], "ended")


def _process_event(one: Process, text: str) -> Event:
    data = {"role": one.role, "pid": one.pid, "restarts": one.restarts, "lb": one.lb}
    return Event(Kind.PROCESS, text, one.name, data)


def member_document(member: Member) -> dict[str, Any]:
    """As in ips.json."""
    backend = member.backend
    return {
        "ip": backend.ip,
        "id": backend.id,
        "name": backend.name,
        "since": _stamp(member.since),
    }


_stamp = lru_cache(maxsize=1024)(timestamp)  # many came at the same time


def _difference(
    before: Sequence[Member], after: Sequence[Member]
) -> tuple[list[Member], list[Member], list[Member]]:
    """Who joined, who left, and who is another in some way: each in the order of its list."""
    old = {member.backend.id: member for member in before}
    new = {member.backend.id: member for member in after}
    joined = [member for member in after if member.backend.id not in old]
    left = [member for member in before if member.backend.id not in new]
    changed = [member for member in after if old.get(member.backend.id, member) != member]
    return joined, left, changed


def _in_words(
    joined: Sequence[Member],
    left: Sequence[Member],
    changed: Sequence[Member],
    reasons: Mapping[str, str],
) -> str:
    """`+a, +b; -c, -d: it leaves: scaled down`"""
    by_reason: dict[str, list[str]] = {}
    for member in left:
        why = reasons.get(member.backend.id, "")
        by_reason.setdefault(why, []).append(f"-{member.backend.name}")
    parts = [
        _some([f"+{member.backend.name}" for member in joined]),
        *(_some(names) + (f": {why}" if why else "") for why, names in by_reason.items()),
        _some([f"{member.backend.name} changed" for member in changed]),
    ]
    return "; ".join(part for part in parts if part)


def _some(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# As it is kept


def record_of(event: Event, seq: int, at_ms: int, *, whole: bool = False) -> Record:
    """`whole`: with all members of a list."""
    data = dict(event.data)
    membership = event.membership
    if membership is not None and whole:
        data["members"] = [member_document(member) for member in membership.members]
    return Record(
        seq,
        max(0, at_ms if membership is None else to_ms(membership.updated_at)),
        event.kind.value,
        clean(event.subject),
        clean(event.text),
        None if membership is None else membership.generation,
        json.dumps(data, separators=(",", ":")),
    )


def clean(text: str) -> str:
    """Cut, and of characters that are: half a surrogate pair is none, and no file takes it."""
    return text[:TEXT_LIMIT].encode("utf-8", "replace").decode("utf-8")


def document(record: Record) -> dict[str, Any]:
    """As readers of the API get it."""
    data = json.loads(record.data)
    data.pop("members", None)
    return {
        "seq": record.seq,
        "at": timestamp(from_ms(record.at_ms)),
        "kind": record.kind,
        "subject": record.subject,
        "text": record.text,
        "data": data,
    }


_DATA = ', "data": '


def to_line(record: Record) -> str:
    """One line of JSON without its end."""
    head = {
        "seq": record.seq,
        "at_ms": record.at_ms,
        "kind": record.kind,
        "subject": record.subject,
        "text": record.text,
        "generation": record.generation,
    }
    return f"{json.dumps(head)[:-1]}{_DATA}{record.data}}}"  # which is JSON already


def from_line(line: str | bytes) -> Record:
    """The inverse. Raises ValueError for anything else."""
    try:
        text = line if isinstance(line, str) else line.decode("ascii")
        # Not in any text before it: a quotation mark within one is escaped.
        head, _, rest = text.rstrip("\n").partition(_DATA)
        record = Record(**json.loads(head + "}"), data=rest[:-1])
        if rest[-1:] != "}":
            raise ValueError("it is cut")
    except (ValueError, TypeError) as error:
        raise ValueError(f"no record: {error!r}") from None
    check(record)
    return record


def check(record: Record) -> None:
    """Raises ValueError for a record that was not made here."""
    counts = (record.seq, record.at_ms, record.generation or 0)
    texts = (record.kind, record.subject, record.text, record.data)
    if not all(type(one) is int and one >= 0 for one in counts):
        raise ValueError("no record: a number is none")
    if not all(isinstance(one, str) for one in texts) or record.at_ms >= _END_MS:
        raise ValueError("no record: a field is of another kind")
    try:
        data = json.loads(record.data)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise ValueError("no record: its data is no object")


def folded(records: Iterable[Record]) -> Iterator[Listed]:
    """Lists with all their members. The first one has to be whole; lists are in their order.

    Raises ValueError where one makes no sense, or they do not follow from one another.
    """
    members: dict[str, dict[str, Any]] | None = None
    for record in records:
        try:
            members = _members(record, members)
            listed = Listed(record, tuple(sorted(members.values(), key=_address)))
        except (KeyError, TypeError) as error:
            raise ValueError(f"list {record.generation} makes no sense: {error!r}") from None
        yield listed


def _members(
    record: Record, before: Mapping[str, dict[str, Any]] | None
) -> dict[str, dict[str, Any]]:
    """Those of a list, by id; `before` are those of the one before it."""
    data = json.loads(record.data)
    if "members" in data:
        return {one["id"]: one for one in data["members"]}
    if before is None:
        raise ValueError(f"list {record.generation} is not whole, and none before it is")
    members = dict(before)
    for one in data["left"]:
        members.pop(one["id"], None)
    for one in (*data["changed"], *data["joined"]):
        members[one["id"]] = one
    return members


def whole(listed: Listed) -> Record:
    """The record of a list with all members in it."""
    record = listed.record
    data = json.loads(record.data) | {"members": list(listed.members)}
    return Record(
        record.seq, record.at_ms, record.kind, record.subject, record.text, record.generation,
        json.dumps(data, separators=(",", ":")),
    )  # fmt: skip


def _address(member: Mapping[str, Any]) -> tuple[int, ...]:
    return address_key(str(member["ip"]))
