"""Why a backend is in or out of rotation, and what would change that, in plain sentences.

Everything that is said here follows from one row of the status, the settings, and the time. Each
cause belongs to one state, but for SENDING, and has one sentence "why" and at least one of what
would change it. Reasons that somebody else worded (a check, a write) are passed on as they are;
those that are known by their beginning get a hint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lbctl.model import (
    LABEL_ADMIN_PORT,
    LABEL_PORT,
    LABEL_PROBE,
    LABEL_PUBLISH,
    Cause,
    Failure,
    State,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbctl.model import BackendStatus


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides: the stack's project and runtime, and the settings of the same names."""

    project: str
    runtime: str
    fall: int = 3
    rise: int = 2
    probe_interval_s: float = 2.0
    first_probe_interval_s: float = 0.1
    first_probe_period_s: float = 10.0
    eject_failures: int = 5
    eject_base_s: float = 30.0
    eject_floor_percent: float = 50.0
    publish_retry_max_s: float = 5.0
    drain_timeout_s: float = 10.0
    stopping_period_s: float = 15.0
    heal: str = "on"
    heal_after_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """Sentences without a full stop: what it is, why, and what would change that."""

    what: str
    why: str
    changes: tuple[str, ...]


def explain(status: BackendStatus, rules: Rules, now: datetime) -> Explanation:
    """`now` is the time of day that ends of ejections are counted from."""
    case = _Case(status, rules, now)
    why, changes = _CASES[status.cause](case)
    return Explanation(_what(status), why, (*changes, *_healing(case)))


@dataclass(frozen=True, slots=True)
class _Case:
    """What every sentence may speak of."""

    status: BackendStatus
    rules: Rules
    now: datetime

    @property
    def name(self) -> str:
        return self.status.name

    @property
    def containers(self) -> bool:
        return self.rules.runtime == "docker"

    @property
    def port(self) -> int:
        return self.status.port


_Said = tuple[str, tuple[str, ...]]

_PLACES = {
    State.UP: "in rotation: it is on every list, and gets its share of the requests",
    State.INVALID: "out of rotation: it cannot be a backend as it is",
    State.PROBING: "out of rotation: it runs, and has not passed a check since it came",
    State.ENROLLING: "out of rotation, on its way in: its checks pass, the list comes next",
    State.JOINING: "on the list, and gets its first request as soon as it holds that list",
    State.DOWN: "out of rotation: it is down",
    State.EJECTED: "out of rotation for a while: requests failed on it",
    State.DRAINING: "out of rotation: it gets no new request, those in flight may finish",
}


def _what(status: BackendStatus) -> str:
    if status.state is State.UP and not status.publish:
        return "in rotation: it gets its share of the requests, and no list"
    return _PLACES[status.state]


# In rotation


def _well(case: _Case) -> _Said:
    status, rules = case.status, case.rules
    count = status.checks_in_a_row if status.checks_passed else 0
    passed = f"its last {count} checks passed" if count > 1 else "its last check passed"
    holds = (
        f"it holds list {status.published_generation}"
        if status.publish
        else f"its label {LABEL_PUBLISH}=false says that it takes no list"
    )
    return f"{passed}, and {holds}", (
        f"lbctl drain {case.name} takes it out",
        f"so would {_in_a_row(rules.fall, 'failed check')}{_apart(rules, rules.fall)}"
        f"{_or_requests(rules)}",
    )


def _open(case: _Case) -> _Said:
    back = "it is fit again after " + _passes_left(case)
    if case.status.ejection is not None:
        back = f"its ejection ends {_moment(case)}"
    return f"no backend is fit, so all that still run are served: {_inner(case)}", (
        "it goes out as soon as another one is fit and in rotation",
        back,
    )


def _spared(case: _Case) -> _Said:
    floor = f"{case.rules.eject_floor_percent:g} % of the known backends"
    return (
        f"{_accusation(case)}; it would be ejected, but fewer than {floor} would be left",
        (
            f"this is forgotten {_moment(case)}",
            "one more such row ejects it, if enough others are in rotation by then",
        ),
    )


def _falling(case: _Case) -> _Said:
    status, rules = case.status, case.rules
    left = max(1, rules.fall - status.checks_in_a_row)
    return (
        f"{status.checks_in_a_row} of the {rules.fall} failed checks that take it out: "
        f"{status.last_check}",
        (
            f"{_more(left, 'failed check')}{_apart(rules, left)}"
            f"{' takes' if left == 1 else ', take'} it out",
            "one passed check makes it well again",
        ),
    )


def _lagging(case: _Case) -> _Said:
    return f"it serves, though it {case.status.reason}", (
        f"the lb writes the list again, every {case.rules.publish_retry_max_s:g} s at the latest",
        *_list_hints(case, case.status.reason.partition(": ")[2]),
    )


# Not a backend


def _unfit(case: _Case) -> _Said:
    problem = case.status.reason
    why = f"it {problem}" if problem.startswith("has ") else f"its {problem}"
    for pattern, hint in _PROBLEMS:
        found = re.match(pattern, problem)
        if found is not None:
            return why, (found.expand(hint).replace("NAME", case.name),)
    return problem, ("start it anew without that",)


_PROBLEMS = (
    (
        r'label (lbctl\.[\w-]+)="',
        r"start it anew with another \1, or without it: labels of a container cannot be changed",
    ),
    (
        r"(lbctl\.port) and (lbctl\.admin-port) are both",
        r"start it anew with two different ports in \1 and \2",
    ),
    (r"has no address on network (\S+)", r"docker network connect \1 NAME"),
)


def _displaced(case: _Case) -> _Said:
    return (
        f"two containers claim its address, which counts for the one that came last: "
        f"{case.status.reason}",
        ("it comes in when the other one is gone, or when it gets an address of its own",),
    )


# On its way


def _unchecked(case: _Case) -> _Said:
    return "it came just now, and its first check is under way", (
        f"one passed check {_probe(case)} lets it go on",
    )


def _unproven(case: _Case) -> _Said:
    rules = case.rules
    pace = (
        f"it is checked every {rules.first_probe_interval_s:g} s for the first "
        f"{rules.first_probe_period_s:g} s, then every {rules.probe_interval_s:g} s"
    )
    return f"it has never passed a check: {case.status.last_check}", (
        f"one passed check {_probe(case)}; {pace}",
        *_check_hints(case),
    )


def _sending(case: _Case) -> _Said:
    if case.status.state is State.JOINING:
        why = "a list that names it is being written to it"
    else:
        why = "it passed its checks, and the present list is being written to it"
    return why, (
        "nothing to do: it goes on when it has taken the list, mostly within a tenth of a second",
        f"where the write fails, the lb tries again, every {case.rules.publish_retry_max_s:g} s "
        "at the latest",
    )


def _refusing(case: _Case) -> _Said:
    refusal = case.status.reason.partition(": ")[2]
    return f"it does not take the list: {refusal}", (
        f"one list that it takes; the lb tries every {case.rules.publish_retry_max_s:g} s at the "
        "latest",
        *_list_hints(case, refusal),
    )


def _entering(_case: _Case) -> _Said:
    why = "it has taken the list, and waits for others that come in at the same time"
    return why, ("nothing to do: the next list names it, within a tenth of a second",)


# Out


def _exited(case: _Case) -> _Said:
    if not case.containers:
        return f"its nginx does not run: {case.status.reason}", (
            "the lb starts it again by itself; lbctl logs shows what it says",
        )
    again = (
        "the engine starts it again, unless somebody stopped it: " if case.status.revision else ""
    )
    return f"its container does not run: {case.status.reason}", (
        f"{again}docker start {case.name}",
        f"docker logs {case.name} shows what it said last",
    )


def _paused(case: _Case) -> _Said:
    command = f"docker unpause {case.name}" if case.containers else "let its process go on"
    return "it is paused: it holds its connections, and answers none", (command,)


def _unhealthy(case: _Case) -> _Said:
    look = "docker inspect --format '{{json .State.Health.Log}}'"
    return "its image has a HEALTHCHECK, which says unhealthy", (
        "Docker calls it healthy again, when its own check passes",
        f"{look} {case.name} shows what that check says",
    )


def _failing(case: _Case) -> _Said:
    status = case.status
    failed = _in_a_row(status.checks_in_a_row, "check")
    return f"{failed} failed: {status.last_check}", (
        _passes_left(case),
        *_still_ejected(case),
        *_check_hints(case),
    )


def _still_ejected(case: _Case) -> tuple[str, ...]:
    """Of one that is down: answers of 5xx count for their time, whatever its checks say."""
    ejection = case.status.ejection
    if ejection is None or ejection.failure is not Failure.ANSWER:
        return ()
    return (f"then it is ejected still, until {_clock(ejection.ends_at)}, {_moment(case)}",)


def _rising(case: _Case) -> _Said:
    status, rules = case.status, case.rules
    return (
        f"its checks pass again: {status.checks_in_a_row} of the {rules.rise} that bring it back",
        (_passes_left(case), *_still_ejected(case), "one failed check starts the count anew"),
    )


def _ejected(case: _Case) -> _Said:
    ejection, rules = case.status.ejection, case.rules
    if ejection is None:  # an end that came between two looks
        return case.status.reason, ("nothing to do: it is over",)
    again = f"the {_nth(ejection.times)} time, " if ejection.times > 1 else ""
    why = f"{_accusation(case)}; ejected {again}for {ejection.lasts_s:g} s"
    if ejection.failure is Failure.ANSWER:
        changes = ["nothing but time: checks do not see answers of 5xx"]
    else:
        left = max(1, rules.rise - ejection.passes)
        changes = [f"sooner: {_more(left, 'passed check', ejection.passes)}{_apart(rules, left)}"]
    back = f"it is ejected until {_clock(ejection.ends_at)}, {_moment(case)}"
    return why, (back, *changes)


def _stopping(case: _Case) -> _Said:
    asked = "docker stop, or a signal" if case.containers else "lbctl, or a signal"
    return f"it was told to stop ({asked})", (
        f"it exits; or it comes back by itself, if it still runs after "
        f"{case.rules.stopping_period_s:g} s",
    )


def _by_hand(case: _Case) -> _Said:
    return case.status.reason, (f"lbctl undrain {case.name}",)


def _leaving(case: _Case) -> _Said:
    return case.status.reason, (
        f"nothing: it is stopped when its last request is through, after "
        f"{case.rules.drain_timeout_s:g} s at the latest",
    )


_CASES: dict[Cause, Callable[[_Case], _Said]] = {
    Cause.WELL: _well,
    Cause.OPEN: _open,
    Cause.SPARED: _spared,
    Cause.FALLING: _falling,
    Cause.LAGGING: _lagging,
    Cause.UNFIT: _unfit,
    Cause.DISPLACED: _displaced,
    Cause.UNCHECKED: _unchecked,
    Cause.UNPROVEN: _unproven,
    Cause.SENDING: _sending,
    Cause.REFUSING: _refusing,
    Cause.ENTERING: _entering,
    Cause.EXITED: _exited,
    Cause.PAUSED: _paused,
    Cause.UNHEALTHY: _unhealthy,
    Cause.FAILING: _failing,
    Cause.RISING: _rising,
    Cause.ACCUSED: _ejected,
    Cause.STOPPING: _stopping,
    Cause.BY_HAND: _by_hand,
    Cause.LEAVING: _leaving,
}


# Healing and hints

_HEALED = frozenset(
    {
        Cause.UNPROVEN, Cause.REFUSING, Cause.EXITED, Cause.PAUSED, Cause.UNHEALTHY,
        Cause.FAILING,
    }
)  # fmt: skip


def _healing(case: _Case) -> tuple[str, ...]:
    """What lbctl does about it, where it lasts."""
    if case.status.cause not in _HEALED:
        return ()
    if not case.status.revision:
        return ("lbctl did not start it, and so does not replace it",)
    if case.rules.heal != "on":
        return ("healing is off, so nothing replaces it: lbctl reload --heal on",)
    return (f"else healing replaces it, when it has been out for {case.rules.heal_after_s:g} s",)


def _check_hints(case: _Case) -> tuple[str, ...]:
    said = case.status.last_check
    if said.startswith("answered "):
        other = f"its label {LABEL_PROBE}, or the setting" if case.containers else "the setting"
        return (f"if that path is not the one to ask for: {other} probe_path",)
    if "refused" in said and case.containers:
        return (f"if it serves another port than {case.port}: start it with {LABEL_PORT}=PORT",)
    return ()


def _list_hints(case: _Case, refusal: str) -> tuple[str, ...]:
    if not case.containers:
        return ()
    unlisted = f"{LABEL_PUBLISH}=false, to be balanced without a list"
    if "token" in refusal and "refused" in refusal:
        volume = f"-v {case.rules.project}_token:/run/lbctl:ro"
        return (f"start it anew with the token: {volume}", f"or with the label {unlisted}")
    if "made known" in refusal:
        return (f"the lbs must be able to write the volume {case.rules.project}_token",)
    if "token" in refusal:
        return ("lbctl token rotate makes a new one",)
    if refusal.startswith("it answered") or "refused" in refusal:
        return (
            "if its image takes no lists: start it anew with the label " + unlisted,
            f"if it takes them on another port than 9000: {LABEL_ADMIN_PORT}=PORT",
        )
    return ()


# Words


def _inner(case: _Case) -> str:
    """Why one that is served all the same should be out."""
    return case.status.reason.partition("; ")[2] or case.status.reason


def _accusation(case: _Case) -> str:
    ejection = case.status.ejection
    row = f"{case.rules.eject_failures} requests in a row failed on it"
    return row if ejection is None else f"{row} ({_FAILURES[ejection.failure]})"


_FAILURES = {
    Failure.CONNECT: "no connection, or one that ended without an answer",
    Failure.ANSWER: "5xx, or an answer that is no HTTP",
    Failure.TIMEOUT: "no answer in time",
}


def _probe(case: _Case) -> str:
    status = case.status
    return f"on port {status.port}" if status.port else "of it"


def _passes_left(case: _Case) -> str:
    status = case.status
    done = status.checks_in_a_row if status.checks_passed else 0
    left = max(1, case.rules.rise - done)
    return _more(left, "passed check", done) + _apart(case.rules, left)


def _or_requests(rules: Rules) -> str:
    if not rules.eject_failures:
        return ""
    return f", or {rules.eject_failures} requests in a row that fail"


def _apart(rules: Rules, count: int) -> str:
    return f", {rules.probe_interval_s:g} s apart" if count > 1 else ""


def _rows(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _in_a_row(count: int, noun: str) -> str:
    return _rows(count, noun) + (" in a row" if count > 1 else "")


def _more(count: int, noun: str, done: int = 1) -> str:
    """So many are left; `done` are behind it already."""
    return _in_a_row(count, f"more {noun}" if done else noun)


def _nth(count: int) -> str:
    ending = "th" if 10 <= count % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
    return f"{count}{ending}"


def _clock(at: datetime) -> str:
    return f"{at.astimezone(UTC):%H:%M:%S} UTC"


def _moment(case: _Case) -> str:
    ejection = case.status.ejection
    left_s = 0.0 if ejection is None else (ejection.ends_at - case.now).total_seconds()
    return f"in {left_s:.0f} s" if left_s >= 1 else "in a moment"
