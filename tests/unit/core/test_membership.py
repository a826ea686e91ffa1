"""The rotation: the way in, the way out, restarts, and what holds whatever happens."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbctl.core.health import Thresholds
from lbctl.core.iplist import address_key
from lbctl.core.membership import Debounce, Decision, Rotation
from lbctl.core.saved import Saved
from lbctl.model import (
    Backend,
    BackendStatus,
    EngineHealth,
    Failure,
    Instance,
    Member,
    Membership,
    Phase,
    ProbeResult,
    State,
)

EPOCH = datetime(2026, 11, 22, tzinfo=UTC)
PASSED = ProbeResult("", 0.003)
REFUSED = ProbeResult("connection refused", 0.001)


def instance(name: str, ip: str = "", **changes: Any) -> Instance:
    backend = Backend(name, name, ip or f"10.0.0.{ord(name[0]) - ord('a') + 1}")
    return replace(Instance(name, name, Phase.RUNNING, backend), **changes)


class Driver:
    """A rotation with a clock that stands still unless told otherwise."""

    def __init__(self, saved: Saved | None = None) -> None:
        self.now = 1000.0
        self.rotation = Rotation(Thresholds(), Debounce(), EPOCH, saved)
        self.decision: Decision | None = None
        self.routes: list[str] = []
        self.listed: list[str] = []

    @property
    def at(self) -> datetime:
        return EPOCH + timedelta(seconds=self.now)

    def step(self) -> Decision | None:
        decision = self.rotation.step(self.now, self.at)
        if decision is not None:
            self.decision = decision
            self.routes = [backend.id for backend in decision.snapshot.routes]
            self.listed = [member.backend.id for member in decision.membership.members]
        return decision

    def observe(self, *instances: Instance) -> None:
        self.rotation.observe(instances, self.at)
        self.step()

    def probe(self, *names: str, result: ProbeResult = PASSED) -> None:
        for name in names:
            self.rotation.probed(name, result)
        self.step()

    def fall(self, *names: str) -> None:
        """They fail so many checks that they go out, all in one step."""
        for name in names * 3:
            self.rotation.probed(name, REFUSED)
        self.step()

    def accuse(self, *names: str, cause: Failure = Failure.ANSWER) -> None:
        """Workers report a row of failures on each of these before the next step."""
        for name in names:
            self.rotation.failing(name, cause)
        self.step()

    def take(self, *names: str) -> None:
        for name in names:
            self.rotation.list_taken(name, self.rotation.membership.generation)
        self.step()

    def refuse(self, name: str, reason: str = "timed out after 1 s") -> None:
        self.rotation.list_refused(name, reason)
        self.step()

    def wait(self, seconds: float = 0.02) -> None:
        self.now += seconds
        self.step()

    def status(self, name: str) -> BackendStatus:
        return next(row for row in self.rotation.statuses() if row.id == name)

    def up(self, *names: str) -> None:
        """The whole way in."""
        self.observe(*(instance(name) for name in names))
        self.probe(*names)
        self.take(*names)
        self.wait()
        self.take(*names)
        assert self.routes == list(names)

    @property
    def generation(self) -> int:
        return self.rotation.membership.generation


def test_the_way_in_one_step_at_a_time() -> None:
    driver = Driver()
    assert driver.step() is None  # nothing is known, so nothing is decided
    driver.observe(instance("a"))
    assert driver.decision is not None
    assert driver.status("a").state is State.PROBING
    assert (list(driver.decision.checks), list(driver.decision.targets)) == (["a"], [])

    driver.probe("a")
    assert driver.status("a").state is State.ENROLLING
    assert list(driver.decision.targets) == ["a"]
    assert driver.generation == 0

    driver.take("a")
    assert driver.decision.wake_at == pytest.approx(driver.now + 0.02)
    assert (driver.status("a").state, driver.listed) == (State.ENROLLING, [])

    driver.wait()
    assert (driver.status("a").state, driver.listed, driver.routes) == (State.JOINING, ["a"], [])
    assert driver.generation == 1

    driver.take("a")
    assert (driver.status("a").state, driver.routes) == (State.UP, ["a"])
    assert driver.generation == 1
    assert driver.status("a").published_generation == 1
    assert driver.rotation.lagging() == []


def test_newcomers_enter_together_and_never_wait_longer_than_the_limit() -> None:
    driver = Driver()
    names = "abcdefgh"
    driver.observe(*(instance(name) for name in names))
    driver.probe(*names)
    for name in names[:6]:
        driver.take(name)
        driver.wait(0.0190)
    assert driver.generation == 1  # at the limit, 0.1 s after the first
    assert len(driver.listed) == 6
    driver.take("g", "h")
    driver.wait()
    assert (driver.generation, len(driver.listed)) == (2, 8)


def test_the_first_of_a_burst_waits_for_the_rest() -> None:
    driver = Driver()
    driver.observe(instance("a"), instance("b"))
    driver.probe("a", "b")
    driver.take("a")
    driver.wait(0.015)
    driver.take("b")
    driver.wait(0.015)
    assert driver.listed == []
    driver.wait(0.005)
    assert (driver.listed, driver.generation) == (["a", "b"], 1)


def test_one_that_does_not_take_the_list_never_enters_it() -> None:
    driver = Driver()
    driver.observe(instance("a"))
    driver.probe("a")
    for _ in range(5):
        driver.refuse("a", "it answered 404 to PUT /ips.json")
        driver.wait(1.0)
    assert (driver.generation, driver.listed) == (0, [])
    assert driver.status("a").state is State.ENROLLING
    assert "404" in driver.status("a").reason


def test_a_joining_one_that_fails_its_write_leaves_the_list_again() -> None:
    driver = Driver()
    driver.observe(instance("a"))
    driver.probe("a")
    driver.take("a")
    driver.wait()
    assert driver.status("a").state is State.JOINING
    driver.refuse("a")
    assert (driver.generation, driver.listed, driver.routes) == (2, [], [])
    assert driver.status("a").state is State.ENROLLING
    assert "timed out" in driver.status("a").reason


def test_one_in_rotation_that_fails_a_write_stays_and_is_named_as_lagging() -> None:
    driver = Driver()
    driver.up("a")
    driver.observe(instance("a"), instance("b"))
    driver.probe("b")
    driver.take("b")
    driver.wait()
    driver.refuse("a")
    assert driver.routes == ["a"]
    assert driver.rotation.lagging() == [("a", "has list 1, not 2: timed out after 1 s")]
    assert "timed out" in driver.status("a").reason
    driver.take("a")
    assert driver.status("a").reason == ""


def test_a_newcomer_needs_no_acknowledgement_of_the_others() -> None:
    driver = Driver()
    driver.up("a")
    driver.observe(instance("a"), instance("b"))
    driver.probe("b")
    driver.take("b")
    driver.wait()
    driver.take("b")
    assert driver.routes == ["a", "b"]
    assert driver.rotation.lagging() == [("a", "has list 1, not 2")]


def test_an_older_acknowledgement_does_not_let_a_joining_one_in() -> None:
    driver = Driver()
    driver.observe(instance("a"))
    driver.probe("a")
    driver.take("a")
    driver.wait()
    driver.rotation.list_taken("a", 0)
    driver.step()
    assert driver.status("a").state is State.JOINING


def test_without_publish_it_is_balanced_and_listed_but_sent_nothing() -> None:
    driver = Driver()
    stranger = instance("a")
    assert stranger.backend is not None
    stranger = replace(stranger, backend=replace(stranger.backend, publish=False))
    driver.observe(stranger)
    driver.probe("a")
    driver.wait()
    assert driver.decision is not None
    assert (driver.routes, driver.listed) == (["a"], ["a"])
    assert driver.decision.targets == {}
    assert driver.rotation.lagging() == []


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"phase": Phase.STOPPING}, State.DRAINING),
        ({"phase": Phase.PAUSED}, State.DOWN),
        ({"phase": Phase.EXITED}, State.DOWN),
        ({"health": EngineHealth.UNHEALTHY}, State.DOWN),
        ({"backend": None, "problem": "lbctl.port: 0 is no port"}, State.INVALID),
    ],
)
def test_the_way_out_is_one_step(changes: dict[str, Any], state: State) -> None:
    driver = Driver()
    driver.up("a", "b")
    driver.observe(instance("a", **changes), instance("b"))
    assert (driver.routes, driver.listed, driver.generation) == (["b"], ["b"], 2)
    assert driver.status("a").state is state
    assert driver.status("a").reason
    assert driver.rotation.lagging() == [("b", "has list 1, not 2")]


def test_how_one_ended_is_the_reason() -> None:
    driver = Driver()
    driver.up("a", "b")
    driver.observe(
        instance("a", phase=Phase.EXITED, backend=None, problem="exited, exit status 137"),
        instance("b", phase=Phase.EXITED, backend=None),
    )
    assert driver.status("a").reason == "exited, exit status 137"
    assert driver.status("b").reason == "it has exited"


def test_one_that_is_gone_is_gone_from_the_status_too() -> None:
    driver = Driver()
    driver.up("a", "b")
    driver.observe(instance("b"))
    assert (driver.routes, driver.listed) == (["b"], ["b"])
    assert [row.id for row in driver.rotation.statuses()] == ["b"]
    assert driver.decision is not None
    assert [(t.name, t.after) for t in driver.decision.transitions] == [("a", None)]


def test_fall_and_rise() -> None:
    driver = Driver()
    driver.up("a", "b")
    driver.probe("a", result=REFUSED)
    driver.probe("a", result=REFUSED)
    assert driver.routes == ["a", "b"]
    driver.probe("a", result=REFUSED)
    assert (driver.routes, driver.listed, driver.status("a").state) == (["b"], ["b"], State.DOWN)
    assert "connection refused" in driver.status("a").reason
    driver.probe("a")
    assert driver.status("a").reason == "passed 1 of 2 checks"
    driver.probe("a")
    assert driver.status("a").state is State.ENROLLING  # its old copy of the list is worth nothing
    driver.take("a")
    driver.wait()
    driver.take("a")
    assert driver.routes == ["a", "b"]


def test_drain_and_undrain() -> None:
    driver = Driver()
    driver.up("a", "b")
    driver.rotation.drain("a", "drained by hand")
    driver.step()
    assert (driver.routes, driver.listed) == (["b"], ["b"])
    assert driver.status("a").state is State.DRAINING
    assert driver.decision is not None
    assert "a" in driver.decision.targets  # it still serves whoever asks it directly
    driver.rotation.undrain("a")
    driver.wait()
    driver.wait()
    driver.take("a")
    assert driver.routes == ["a", "b"]


def test_one_drained_before_it_was_seen_does_not_enter() -> None:
    driver = Driver()
    driver.rotation.drain("a", "it leaves")
    driver.observe(instance("a"))
    driver.probe("a")
    driver.take("a")
    driver.wait()
    assert driver.listed == []


def test_leaving_and_entering_share_a_generation() -> None:
    driver = Driver()
    driver.up("a")
    driver.observe(instance("a"), instance("b"))
    driver.probe("b")
    driver.take("b")
    assert driver.listed == ["a"]
    driver.observe(instance("b"))
    assert (driver.listed, driver.generation) == (["b"], 2)


def test_docker_health_starting_does_not_keep_it_out() -> None:
    driver = Driver()
    driver.observe(instance("a", health=EngineHealth.STARTING))
    driver.probe("a")
    driver.take("a")
    driver.wait()
    assert driver.listed == ["a"]


@pytest.mark.parametrize("phase", [Phase.EXITED, Phase.PAUSED, Phase.STOPPING])
def test_one_that_runs_again_is_a_new_one(phase: Phase) -> None:
    driver = Driver()
    driver.up("a")
    assert driver.decision is not None
    before = driver.decision.checks["a"]
    driver.observe(instance("a", phase=phase))
    assert driver.decision.checks == driver.decision.targets == {}
    driver.rotation.list_taken("a", 1)  # late, of a write to the one before
    driver.observe(instance("a"))
    assert driver.status("a").state is State.PROBING
    assert driver.decision.checks["a"].number != before.number
    driver.probe("a")
    assert driver.status("a").state is State.ENROLLING
    assert driver.status("a").published_generation == 0


def test_an_acknowledgement_from_before_counts_for_nothing() -> None:
    """Facts are gathered: several may come in between two steps."""
    driver = Driver()
    driver.up("a")
    driver.rotation.observe([instance("a", phase=Phase.EXITED)], driver.at)
    driver.rotation.observe([instance("a")], driver.at)
    driver.rotation.list_taken("a", 1)
    driver.rotation.probed("a", PASSED)
    driver.step()
    driver.wait()
    assert (driver.routes, driver.listed) == ([], [])
    assert driver.status("a").reason == "it is being sent the list"


def test_another_address_makes_it_another_backend() -> None:
    driver = Driver()
    driver.up("a")
    driver.observe(instance("a", ip="10.0.0.99"))
    assert (driver.routes, driver.listed, driver.status("a").state) == ([], [], State.PROBING)


def test_a_new_name_does_not() -> None:
    driver = Driver()
    driver.up("a")
    assert driver.decision is not None
    renamed = instance("a")
    assert renamed.backend is not None
    driver.observe(replace(renamed, name="x", backend=replace(renamed.backend, name="x")))
    assert driver.decision.membership.members[0].backend.name == "x"
    assert (driver.routes, driver.generation) == (["a"], 2)


def test_an_address_belongs_to_who_came_last() -> None:
    driver = Driver()
    driver.up("a")
    driver.observe(instance("a"), instance("b", ip="10.0.0.1"))
    assert (driver.routes, driver.listed) == ([], [])
    assert driver.status("a").state is State.INVALID
    assert driver.status("a").reason == "10.0.0.1 belongs to b now"
    driver.probe("b")
    driver.take("a", "b")
    driver.wait()
    driver.take("b")
    assert driver.routes == ["b"]


def test_a_restored_membership_goes_on_without_a_check() -> None:
    before = Driver()
    before.up("a", "b")
    saved = Saved(before.rotation.membership, before.rotation.snapshot.revision)
    driver = Driver(saved)
    assert driver.step() is None
    driver.observe(instance("a"), instance("b"))
    assert driver.decision is not None
    assert (driver.routes, driver.generation) == (["a", "b"], saved.membership.generation)
    assert driver.decision.membership == saved.membership
    assert driver.decision.snapshot.revision > saved.revision
    assert driver.rotation.lagging() == [
        ("a", "has no list yet, not 1"),
        ("b", "has no list yet, not 1"),
    ]
    for _ in range(3):
        driver.probe("a", result=REFUSED)
    assert driver.routes == ["b"]


def test_of_a_restored_membership_only_those_that_still_run_there_stay() -> None:
    before = Driver()
    before.up("a", "b", "c", "d")
    saved = Saved(before.rotation.membership, before.rotation.snapshot.revision)
    driver = Driver(saved)
    driver.observe(instance("a"), instance("b", phase=Phase.EXITED), instance("c", ip="10.0.0.77"))
    assert (driver.routes, driver.listed, driver.generation) == (["a"], ["a"], 2)


def test_who_stays_is_in_rotation_since_before() -> None:
    before = Driver()
    before.up("a")
    before.wait(60)
    before.up("a", "b")
    members = before.rotation.membership.members
    since = {member.backend.id: member.since for member in members}
    assert since["b"] - since["a"] >= timedelta(seconds=60)
    driver = Driver(Saved(before.rotation.membership, before.rotation.snapshot.revision))
    driver.wait(600)
    driver.observe(instance("a"), instance("b"))
    assert {row.id: row.since for row in driver.rotation.statuses()} == since
    driver.fall("a")
    assert driver.status("a").since > since["b"]


def saved_of(*names: str) -> Saved:
    """What a controller leaves that had these in rotation."""
    before = Driver()
    before.up(*names)
    return Saved(before.rotation.membership, before.rotation.snapshot.revision)


def presumed(*names: str) -> Driver:
    """The next one, which nobody tells what runs."""
    driver = Driver(saved_of(*names))
    driver.rotation.presume(driver.at)
    driver.step()
    return driver


def test_while_nobody_tells_what_runs_the_members_of_before_are_checked_and_told() -> None:
    driver = presumed("a", "b")
    assert driver.decision is not None
    assert not driver.rotation.observed
    assert (driver.routes, driver.listed, driver.generation) == (["a", "b"], ["a", "b"], 1)
    assert list(driver.decision.checks) == list(driver.decision.targets) == ["a", "b"]
    driver.fall("a")
    assert (driver.routes, driver.listed, driver.generation) == (["b"], ["b"], 2)
    assert driver.status("a").state is State.DOWN
    driver.probe("a")
    driver.probe("a")
    driver.take("a", "b")
    driver.wait()
    driver.take("a", "b")
    assert driver.routes == ["a", "b"]


def test_what_is_told_then_counts() -> None:
    driver = presumed("a", "b", "c", "d")
    driver.observe(
        instance("a"), instance("b", phase=Phase.EXITED), instance("c", ip="10.0.0.77"),
        instance("e"),
    )  # fmt: skip
    assert driver.rotation.observed
    assert (driver.routes, driver.listed) == (["a"], ["a"])
    states = {row.id: row.state for row in driver.rotation.statuses()}
    assert states == {
        "a": State.UP, "b": State.DOWN, "c": State.PROBING, "e": State.PROBING,
    }  # fmt: skip


def test_one_that_had_fallen_meanwhile_is_new_and_needs_one_check() -> None:
    """It may not have run then, and run now."""
    driver = presumed("a", "b")
    driver.fall("a")
    driver.observe(instance("a"), instance("b"))
    assert driver.status("a").state is State.PROBING
    driver.probe("a")
    driver.take("a", "b")
    driver.wait()
    driver.take("a", "b")
    assert driver.routes == ["a", "b"]


def test_those_that_are_served_though_all_fell_stay_when_they_are_seen() -> None:
    """As after an engine was restarted: none goes out because another is well first."""
    driver = presumed("a", "b")
    driver.fall("a", "b")
    assert driver.routes == ["a", "b"]
    driver.observe(instance("a"), instance("b"))
    driver.probe("a")
    driver.wait()
    assert (driver.routes, driver.listed) == (["a", "b"], ["a", "b"])
    driver.fall("b")
    assert driver.routes == ["a"]


def test_nothing_is_presumed_of_no_list_nor_after_one() -> None:
    for driver in (Driver(), Driver(Saved(Membership(4, EPOCH, ()), 9))):
        driver.rotation.presume(driver.at)
        assert driver.step() is None
        assert driver.rotation.decides
        assert not driver.rotation.observed
    driver = Driver(saved_of("a", "b"))
    driver.observe(instance("a"))
    generation = driver.generation
    driver.rotation.presume(driver.at)
    assert driver.step() is None
    assert (driver.routes, driver.generation) == (["a"], generation)


def test_the_first_decision_is_a_new_revision_even_if_nobody_is_left() -> None:
    driver = Driver(Saved(Membership(4, EPOCH, ()), 9))
    driver.observe()
    assert driver.decision is not None
    assert (driver.decision.snapshot.revision, driver.generation) == (10, 4)


def test_a_member_that_comes_only_with_the_second_list_is_new() -> None:
    member = Member(Backend("a", "a", "10.0.0.1"), EPOCH)
    driver = Driver(Saved(Membership(1, EPOCH, (member,)), 1))
    driver.observe()
    driver.observe(instance("a"))
    assert (driver.routes, driver.status("a").state) == ([], State.PROBING)


def test_checks_that_say_nothing_new_cost_no_step() -> None:
    driver = Driver()
    driver.up("a")
    driver.rotation.probed("a", PASSED)
    assert driver.step() is None


# Ejection.


def test_one_that_live_requests_fail_on_goes_out_at_once_and_comes_back_list_first() -> None:
    driver = Driver()
    driver.up("a", "b", "c")
    driver.accuse("a")
    assert driver.decision is not None
    assert (driver.routes, driver.listed) == (["b", "c"], ["b", "c"])
    assert driver.status("a").state is State.EJECTED
    assert driver.status("a").reason == "ejected for 30 s: 5 requests in a row failed (5xx)"
    assert driver.decision.ejections == (("a", Failure.ANSWER),)
    assert driver.decision.wake_at == driver.now + 30
    assert "a" in driver.decision.targets  # it still serves whoever asks it directly
    driver.take("a", "b", "c")
    driver.wait(29.9)
    assert driver.status("a").state is State.EJECTED
    driver.wait(0.1)
    assert driver.status("a").state is State.ENROLLING
    driver.wait()
    assert driver.status("a").state is State.JOINING
    assert driver.routes == ["b", "c"]
    driver.take("a")
    assert driver.routes == ["a", "b", "c"]


def test_one_that_hung_is_back_when_its_checks_pass() -> None:
    driver = Driver()
    driver.up("a", "b")
    driver.accuse("a", cause=Failure.TIMEOUT)
    driver.probe("a")
    assert driver.status("a").state is State.EJECTED
    driver.probe("a")
    assert driver.status("a").state is State.ENROLLING


def test_one_that_is_ejected_and_fails_its_checks_says_the_latter() -> None:
    driver = Driver()
    driver.up("a", "b")
    driver.accuse("a")
    driver.fall("a")
    assert driver.status("a").state is State.DOWN
    driver.probe("a", "a")
    assert driver.status("a").state is State.EJECTED  # its time is not over


def test_half_of_those_known_stay_in_rotation() -> None:
    driver = Driver()
    driver.up("a", "b", "c", "d", "e")
    driver.accuse("e", "d", "c", "b")  # in one step
    assert driver.routes == ["a", "b", "c"]
    assert driver.decision is not None
    assert [name for name, _ in driver.decision.ejections] == ["e", "d"]
    assert driver.status("c").state is State.UP
    assert driver.status("c").reason == (
        "5 requests in a row failed (5xx); it stays, too few would be left"
    )
    driver.wait(30)
    assert driver.status("c").reason == ""


def test_those_that_are_out_for_other_reasons_count_against_the_floor() -> None:
    driver = Driver()
    driver.up("a", "b", "c", "d")
    driver.fall("a", "b")
    driver.accuse("c")
    assert driver.routes == ["c", "d"]


def test_those_that_are_not_wanted_or_never_passed_a_check_do_not() -> None:
    driver = Driver()
    driver.up("a", "b", "c")
    driver.rotation.drain("c", "drained by hand")
    driver.observe(*(instance(name) for name in "abcd"))
    driver.accuse("a")
    assert driver.routes == ["b"]


def test_one_that_is_routed_alone_is_never_ejected() -> None:
    driver = Driver()
    driver.up("a")
    driver.observe(instance("a"), instance("b"))
    driver.probe("b")
    driver.accuse("a")
    assert (driver.routes, driver.status("b").state) == (["a"], State.ENROLLING)


def test_one_that_was_spared_is_ejected_when_it_goes_on_and_others_are_back() -> None:
    driver = Driver()
    driver.up("a", "b", "c")
    driver.rotation.drain("c", "drained by hand")
    driver.fall("b")
    driver.accuse("a")
    assert driver.routes == ["a"]
    driver.rotation.undrain("c")
    driver.take("c")
    driver.wait()
    driver.take("c")
    driver.probe("b", "b")
    driver.take("b")
    driver.wait()
    driver.take("b")
    assert driver.routes == ["a", "b", "c"]
    driver.accuse("a")
    assert driver.routes == ["b", "c"]


def test_what_is_told_of_one_that_is_out_is_old() -> None:
    driver = Driver()
    driver.up("a", "b")
    driver.accuse("a")
    driver.wait(29)
    driver.accuse("a")
    driver.wait(1)
    assert driver.status("a").state is not State.EJECTED
    driver.accuse("stranger")


def test_one_that_starts_anew_has_no_past() -> None:
    driver = Driver()
    driver.up("a", "b")
    driver.accuse("a")
    driver.observe(instance("a", phase=Phase.EXITED), instance("b"))
    driver.observe(instance("a"), instance("b"))
    driver.probe("a")
    assert driver.status("a").state is State.ENROLLING


def test_an_ejection_does_not_outlive_its_controller() -> None:
    before = Driver()
    before.up("a", "b")
    before.accuse("a")
    driver = Driver(Saved(before.rotation.membership, before.rotation.snapshot.revision))
    driver.observe(instance("a"), instance("b"))
    assert (driver.routes, driver.status("a").state) == (["b"], State.PROBING)
    driver.probe("a")
    assert driver.status("a").state is State.ENROLLING


# Fail open.


def test_if_all_fall_at_once_all_stay_and_say_so() -> None:
    driver = Driver()
    driver.up("a", "b", "c")
    before = driver.rotation.membership
    driver.fall("a", "b", "c")
    assert driver.decision is not None
    assert driver.decision.fail_open
    assert driver.routes == ["a", "b", "c"]
    assert driver.rotation.membership is before
    assert {driver.status(name).state for name in "abc"} == {State.UP}
    assert driver.status("a").reason == (
        "served because no backend is fit; its checks fail: connection refused"
    )
    assert set(driver.decision.targets) == {"a", "b", "c"}


def test_if_they_fall_one_by_one_the_last_stays_until_the_others_are_back() -> None:
    driver = Driver()
    driver.up("a", "b")
    driver.fall("a")
    assert driver.routes == ["b"]
    driver.observe(instance("a"), instance("b", health=EngineHealth.UNHEALTHY))
    assert driver.decision is not None
    assert driver.decision.fail_open
    assert driver.routes == ["b"]
    assert driver.status("a").state is State.ENROLLING
    driver.take("a")
    driver.wait()
    assert (driver.routes, driver.listed) == (["b"], ["a", "b"])  # list first, as for everybody
    driver.take("a")
    assert driver.routes == ["a", "b"]
    assert "HEALTHCHECK" in driver.status("b").reason


def test_as_soon_as_one_is_fit_and_routed_the_others_go_out() -> None:
    driver = Driver()
    driver.up("a", "b")
    driver.fall("a", "b")
    driver.probe("a")
    assert driver.routes == ["a", "b"]
    driver.probe("a")
    assert driver.decision is not None
    assert (driver.routes, driver.listed, driver.decision.fail_open) == (["a"], ["a"], False)
    assert driver.status("a").reason == ""
    assert driver.status("b").state is State.DOWN


def test_a_newcomer_that_is_only_joining_does_not_empty_the_routes() -> None:
    driver = Driver()
    driver.up("a", "b")
    driver.observe(*(instance(name) for name in "abc"))
    driver.probe("c")
    driver.take("c")
    driver.wait()
    assert driver.status("c").state is State.JOINING
    driver.fall("a", "b")
    assert (driver.routes, driver.listed) == (["a", "b"], ["a", "b", "c"])
    driver.take("c")
    assert driver.routes == ["a", "b", "c"]
    assert driver.decision is not None
    assert driver.decision.wake_at == driver.now
    driver.step()
    assert (driver.routes, driver.listed) == (["c"], ["c"])


def test_nobody_that_is_not_there_is_served_so() -> None:
    driver = Driver()
    driver.up(*"abcde")
    driver.rotation.drain("d", "drained by hand")
    driver.observe(
        instance("a", health=EngineHealth.UNHEALTHY),
        instance("b", phase=Phase.EXITED),
        instance("c", phase=Phase.PAUSED),
        instance("d"),
        instance("e", phase=Phase.STOPPING),
        instance("f"),
    )
    driver.probe("f", result=REFUSED)
    assert (driver.routes, driver.listed) == (["a"], ["a"])
    assert driver.status("f").state is State.PROBING


def test_ejected_ones_are_served_rather_than_nobody() -> None:
    driver = Driver()
    driver.up("a", "b")
    driver.accuse("a")
    driver.fall("b")
    assert driver.routes == ["b"]
    driver.take("a")
    driver.wait()
    driver.take("a")
    assert driver.routes == ["a", "b"]
    assert "ejected for 30 s" in driver.status("a").reason
    driver.wait(30)  # now it is fit
    assert driver.routes == ["a"]


def test_one_without_publish_comes_in_for_those_that_are_not_fit() -> None:
    driver = Driver()
    driver.up("a")
    stranger = instance("b")
    assert stranger.backend is not None
    stranger = replace(stranger, backend=replace(stranger.backend, publish=False))
    driver.observe(instance("a"), stranger)
    driver.fall("a")
    driver.probe("b")
    driver.wait()
    assert driver.routes == ["a", "b"]
    driver.step()
    assert driver.routes == ["b"]


NAMES = "abcd"
PHASES = st.sampled_from([Phase.RUNNING, Phase.RUNNING, Phase.RUNNING, *Phase])
INSTANCES = st.builds(
    lambda name, ip, phase, health: instance(name, ip=ip, phase=phase, health=health),
    st.sampled_from(NAMES),
    st.sampled_from(["", "", "", "10.0.0.1", "10.0.0.10"]),
    PHASES,
    st.sampled_from([EngineHealth.NONE, EngineHealth.NONE, EngineHealth.UNHEALTHY]),
)
NAME = st.sampled_from(NAMES)
EVENTS = st.one_of(
    st.tuples(st.just("observe"), st.lists(INSTANCES, max_size=5)),
    st.tuples(st.just("pass"), NAME),
    st.tuples(st.just("pass"), NAME),
    st.tuples(st.just("fail"), NAME),
    st.tuples(st.just("take"), NAME, st.integers(0, 2)),
    st.tuples(st.just("take"), NAME, st.just(0)),
    st.tuples(st.just("refuse"), NAME),
    st.tuples(st.just("drain"), NAME),
    st.tuples(st.just("undrain"), NAME),
    st.tuples(st.just("failing"), NAME, st.sampled_from(Failure)),
    st.tuples(st.just("fall"), NAME),
    st.tuples(st.just("wait"), st.sampled_from([0.001, 0.02, 0.1, 30.0])),
    st.tuples(st.just("hold"), st.integers(1, 3)),  # so many facts come in before the next step
)
EVERYBODY_RUNS: tuple[Any, ...] = ("observe", [instance(name) for name in NAMES])
CALM: list[tuple[Any, ...]] = [
    ("wait", 1000.0),
    EVERYBODY_RUNS,
    *(("undrain", name) for name in NAMES),
]
for _ in range(3):
    CALM += [("pass", name) for name in NAMES] + [("take", name, 0) for name in NAMES]
    CALM.append(("wait", 0.1))
CALM += [("take", name, 0) for name in NAMES]


class Auditor:
    """Feeds events to a rotation and holds its decisions against the rules of the module."""

    def __init__(self) -> None:
        self.driver = Driver()
        self.seen: dict[str, Instance] = {}
        self.drained: set[str] = set()
        self.taken: dict[str, int] = {}  # best acknowledgement since it became a target
        self.numbers: dict[str, int] = {}
        self.entered: dict[str, int] = {}  # generation that brought a member in
        self.last: Decision | None = None
        self.held = 0

    def feed(self, event: tuple[Any, ...]) -> None:
        kind, argument = event[0], event[1]
        rotation = self.driver.rotation
        if kind == "observe":
            self.seen = {i.id: i for i in argument}
            self.drained &= {d for d in self.drained if d in self.seen or d not in self.numbers}
            rotation.observe(argument, self.driver.at)
        elif kind in ("pass", "fail"):
            rotation.probed(argument, PASSED if kind == "pass" else REFUSED)
        elif kind == "take":
            generation = max(0, rotation.membership.generation - event[2])
            if self.last is not None and argument in self.last.targets:
                self.taken[argument] = max(generation, self.taken.get(argument, -1))
            rotation.list_taken(argument, generation)
        elif kind == "fall":
            for _ in range(3):
                rotation.probed(argument, REFUSED)
        elif kind == "failing":
            rotation.failing(argument, event[2])
        elif kind == "refuse":
            rotation.list_refused(argument, "no")
        elif kind == "drain":
            rotation.drain(argument, "by hand")
            self.drained.add(argument)
        elif kind == "undrain":
            rotation.undrain(argument)
            self.drained.discard(argument)
        elif kind == "hold":
            self.held = argument
        else:
            self.driver.now += argument
        if self.held > 0:
            self.held -= 1
            return
        decision = self.driver.step()
        if decision is not None:
            self.check(decision)
            self.last = decision

    def check(self, decision: Decision) -> None:
        rows = {row.id: row for row in self.driver.rotation.statuses()}
        members = {m.backend.id: m.backend for m in decision.membership.members}
        routes = {backend.id: backend for backend in decision.snapshot.routes}
        for name, course in decision.checks.items():
            if self.numbers.get(name) != course.number:
                self.numbers[name] = course.number
                self.taken.pop(name, None)
        self.taken = {name: best for name, best in self.taken.items() if name in decision.targets}
        # the list is exactly who is in rotation or joining, in numeric order, no address twice
        assert set(members) == {r.id for r in rows.values() if r.state in (State.JOINING, State.UP)}
        assert set(routes) == {r.id for r in rows.values() if r.state is State.UP}
        ips = [m.backend.ip for m in decision.membership.members]
        assert ips == sorted(set(ips), key=address_key)
        for name, backend in members.items():
            assert self.seen[name].phase is Phase.RUNNING
            assert self.seen[name].backend == backend
            assert name not in self.drained
        # those that are not fit are served only where nobody is
        opened = {n for n in members if rows[n].reason.startswith("served because")}
        opened |= {n for n in members if self.seen[n].health is EngineHealth.UNHEALTHY}
        fit = routes.keys() - opened
        assert decision.fail_open == bool(routes.keys() & opened)
        assert not (opened and fit) or decision.wake_at == self.driver.now
        assert fit or not decision.ejections
        # nobody is silently out
        assert set(rows) == set(self.seen)
        assert all(row.reason for row in rows.values() if row.state is not State.UP)
        last = self.last
        before = {m.backend.id for m in last.membership.members} if last else set()
        generation = decision.membership.generation
        for name in members.keys() - before:
            self.entered[name] = generation
        # nobody is routed before it took a list that names it
        routed_before = {backend.id for backend in last.snapshot.routes} if last else set()
        for name in routes.keys() - routed_before:
            assert self.taken[name] >= self.entered[name]
        if last is None:
            return
        # nobody's health ever takes the last one out
        survivors = {
            name
            for name in routed_before - self.drained
            if name in decision.checks and decision.checks[name] == last.checks[name]
        }
        assert routes or not survivors
        # numbers grow by one with each change, and only then
        same_list = decision.membership.members == last.membership.members
        assert generation == last.membership.generation + (not same_list)
        same_routes = decision.snapshot.routes == last.snapshot.routes
        assert decision.snapshot.revision == last.snapshot.revision + (not same_routes)


@settings(max_examples=400, deadline=None)
@given(st.booleans(), st.lists(EVENTS, max_size=60))
def test_the_rules_hold_whatever_happens(in_rotation: bool, events: list[tuple[Any, ...]]) -> None:
    auditor = Auditor()
    for event in (*(CALM if in_rotation else [EVERYBODY_RUNS]), *events):
        auditor.feed(event)


@settings(max_examples=100, deadline=None)
@given(st.lists(EVENTS, max_size=40))
def test_it_always_comes_to_rest_with_everybody_in(events: list[tuple[Any, ...]]) -> None:
    """Level-triggered: whatever happened before, the present facts decide in the end."""
    auditor = Auditor()
    for event in (*events, *CALM):
        auditor.feed(event)
    assert auditor.driver.routes == list(NAMES)
    assert auditor.driver.rotation.lagging() == []
