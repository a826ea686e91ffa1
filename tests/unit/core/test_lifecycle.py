"""Whom to start, whom to stop."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.lifecycle import Exchange, exchange, failed_start, plan, to_replace
from lbctl.model import Backend, BackendStatus, Instance, Phase, State

if TYPE_CHECKING:
    from collections.abc import Collection

AT = datetime(2026, 11, 22, tzinfo=UTC)


def instance(
    name: str, phase: Phase = Phase.RUNNING, problem: str = "", revision: int = 0
) -> Instance:
    backend = None if problem else Backend(name, name, "10.0.0.1")
    return Instance(name, name, phase, backend, problem, revision=revision)


def status(name: str, state: State = State.UP, age: int = 0) -> BackendStatus:
    since = AT - timedelta(seconds=age)
    return BackendStatus(name, name, "10.0.0.1", 8080, 1, state, "", since, 0)


def test_starts_what_is_missing() -> None:
    todo = plan(3, [instance("a", revision=1)], {"a": status("a")})
    assert (todo.start, todo.stop, todo.clear) == (2, (), ())


def test_the_newest_go_first() -> None:
    names = {"a": 30, "b": 10, "c": 20}
    todo = plan(1, [instance(n) for n in names], {n: status(n, age=s) for n, s in names.items()})
    assert todo.stop == ("b", "c")


def test_of_those_that_came_together_the_highest_number_goes_first() -> None:
    names = ["x-backend-9", "x-backend-10", "x-backend-2", "stranger"]
    statuses = {name: status(name, age=5) for name in names}
    later = statuses["x-backend-2"].since + timedelta(milliseconds=3)
    statuses["x-backend-2"] = replace(statuses["x-backend-2"], since=later)
    assert plan(0, list(map(instance, names)), statuses).stop == (
        "x-backend-10", "x-backend-9", "x-backend-2", "stranger",
    )  # fmt: skip


def test_those_not_in_rotation_go_before_the_newest() -> None:
    statuses = {
        "down": status("down", State.DOWN, age=99),
        "new": status("new", age=1),
        "old": status("old", age=50),
    }
    everyone = [instance(name) for name in ("old", "new", "down", "unseen")]
    assert plan(1, everyone, statuses).stop == ("down", "unseen", "new")


def test_strangers_count_too() -> None:
    assert plan(2, [instance("a", revision=1), instance("stranger")], {}).start == 0


def test_a_paused_one_counts() -> None:
    assert plan(1, [instance("a", Phase.PAUSED)], {}).start == 0


def test_exited_ones_of_our_own_are_cleared_away_and_replaced() -> None:
    everyone = [instance("mine", Phase.EXITED, revision=2), instance("theirs", Phase.EXITED)]
    todo = plan(1, everyone, {})
    assert (todo.start, todo.stop, todo.clear) == (1, (), ("mine",))


def test_leaving_ones_do_not_count_and_are_left_alone() -> None:
    everyone = [instance("stopping", Phase.STOPPING), instance("leaving")]
    todo = plan(1, everyone, {"leaving": status("leaving", State.DRAINING)})
    assert (todo.start, todo.stop) == (1, ())


def test_one_that_was_drained_by_hand_counts_and_goes_first() -> None:
    everyone = [instance("drained"), instance("up")]
    statuses = {"drained": status("drained", State.DRAINING, age=99), "up": status("up")}
    assert plan(2, everyone, statuses, {"drained"}).start == 0
    assert plan(1, everyone, statuses, {"drained"}).stop == ("drained",)


def test_a_stranger_that_cannot_be_a_backend_does_not_count_but_our_own_does() -> None:
    stranger = plan(1, [instance("liar", problem="port 0")], {})
    assert (stranger.start, stranger.stop) == (1, ())
    own = plan(1, [instance("new", problem="no address yet", revision=1)], {})
    assert (own.start, own.stop) == (0, ())


@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.sampled_from(Phase), st.booleans(), st.booleans()), max_size=8),
)
def test_the_plan_adds_up(replicas: int, drawn: list[tuple[Phase, bool, bool]]) -> None:
    everyone = [
        instance(str(n), phase, problem="" if valid else "bad", revision=int(mine))
        for n, (phase, valid, mine) in enumerate(drawn)
    ]
    todo = plan(replicas, everyone, {})
    counted = [
        i
        for i in everyone
        if i.phase in (Phase.RUNNING, Phase.PAUSED) and (i.backend is not None or i.revision)
    ]
    assert len(counted) + todo.start - len(todo.stop) == replicas
    assert not (todo.start and todo.stop)
    assert set(todo.stop) <= {i.id for i in counted}
    assert set(todo.clear) <= {i.id for i in everyone if i.revision}


# Rollouts: from three of revision 1 to three of revision 2.


class Rolling:
    """Takes the steps of a rollout; newcomers are up at once, except those in `sick`."""

    def __init__(
        self, *old: str, batch: int = 1, total: int = 0, sick: Collection[str] = ()
    ) -> None:
        self.instances = {name: instance(name, revision=1) for name in old}
        self.statuses = {name: status(name) for name in old}
        self.batch, self.total, self.sick = batch, total or len(old), sick
        self.made = 0
        self.steps: list[str] = []
        self.fewest = len(old)

    def step(self, revision: int) -> Exchange:
        found = exchange(
            revision, self.total, self.batch, list(self.instances.values()), self.statuses
        )
        for name in found.stop:
            self.steps.append(f"-{name}")
            del self.instances[name], self.statuses[name]
        for _ in range(found.start):
            self.made += 1
            name = f"n{self.made}"
            self.steps.append(f"+{name}")
            self.instances[name] = instance(name, revision=revision)
            self.statuses[name] = status(name, State.PROBING if name in self.sick else State.UP)
        self.fewest = min(self.fewest, sum(s.state is State.UP for s in self.statuses.values()))
        return found

    def run(self, revision: int = 2) -> Exchange:
        """Until there is nothing more to do but wait."""
        while (found := self.step(revision)).start or found.stop:
            pass
        return found


def test_one_comes_one_goes() -> None:
    rolling = Rolling("a", "b", "c")
    assert rolling.run() == Exchange(start=0, stop=(), waiting=(), ready=3)
    assert rolling.steps == ["+n1", "-a", "+n2", "-b", "+n3", "-c"]
    assert rolling.fewest == 3


def test_in_batches() -> None:
    rolling = Rolling("a", "b", "c", batch=2)
    rolling.run()
    assert rolling.steps == ["+n1", "+n2", "-a", "-b", "+n3", "-c"]


def test_one_that_is_not_ready_is_waited_for_and_nobody_leaves_for_it() -> None:
    rolling = Rolling("a", "b", "c", sick={"n2"})
    assert rolling.run() == Exchange(start=0, stop=(), waiting=("n2",), ready=1)
    assert rolling.steps == ["+n1", "-a", "+n2"]


def test_going_back_is_the_same_the_other_way_round() -> None:
    rolling = Rolling("a", "b", "c", sick={"n2"})
    rolling.run()
    assert rolling.run(revision=1).ready == 3
    assert rolling.steps[3:] == ["-n2", "+n3", "-n1"]
    assert rolling.fewest == 3


def test_those_that_serve_nobody_leave_first() -> None:
    rolling = Rolling("a", "b", "c")
    rolling.statuses["c"] = status("c", State.DOWN)
    rolling.run()
    assert rolling.steps[:2] == ["+n1", "-c"]


def test_what_is_missing_is_made_up_for() -> None:
    rolling = Rolling("a", total=3)
    rolling.run()
    assert rolling.steps == ["+n1", "+n2", "+n3", "-a"]


def test_after_an_interruption_between_any_two_steps_it_goes_on() -> None:
    for steps in range(8):
        rolling = Rolling("a", "b", "c", batch=2)
        for _ in range(steps):
            rolling.step(2)
        rolling.made += 10
        assert rolling.run().ready == 3
        assert len(rolling.instances) == 3
        assert rolling.fewest == 3


def test_a_rollout_touches_no_stranger_and_nobody_that_stops_already() -> None:
    there = [
        instance("stranger"),
        instance("stops", Phase.STOPPING, revision=1),
        instance("new", revision=2),
    ]
    assert exchange(2, 1, 1, there, {"new": status("new")}) == Exchange(0, (), (), 1)


def test_one_between_two_of_its_starts_is_not_forgotten() -> None:
    there = [instance("old", revision=1), instance("crashes", revision=2)]
    known = {"old": status("old"), "crashes": status("crashes", State.DRAINING)}
    assert exchange(2, 1, 1, there, known).waiting == ("crashes",)
    assert exchange(1, 1, 1, there, known).stop == ("crashes",)


def test_how_many_a_rollout_ends_with() -> None:
    own = [instance("a", revision=1), instance("b", Phase.EXITED, revision=1)]
    stranger = instance("s")
    assert to_replace(None, own, {}) == 2
    assert to_replace(5, [*own, stranger], {}) == 4
    assert to_replace(1, [stranger], {}) == 0
    assert to_replace(None, [stranger], {}) == 0


def test_which_newcomers_are_not_waited_for_any_longer() -> None:
    fine, gone = instance("n"), instance("n", Phase.EXITED, problem="exited, exit status 1")
    probing = replace(status("n", State.PROBING), reason="its check failed: timed out")
    assert failed_start(fine, probing, 59.9, 60) == ""
    assert failed_start(fine, probing, 60, 60) == (
        "did not come into rotation within 60 s: its check failed: timed out"
    )
    assert failed_start(gone, None, 4.9, 60) == ""
    assert failed_start(gone, None, 5, 60) == "does not stay up: exited, exit status 1"
    assert failed_start(gone, None, 1, 1) == "does not stay up: exited, exit status 1"
    # In one of its short lives when time is up.
    ended = "restarting, exit status 3"
    assert failed_start(fine, probing, 59.9, 60, ended) == ""
    assert failed_start(fine, probing, 60, 60, ended) == f"does not stay up: {ended}"
    # Its state may be of a moment before that list.
    assert failed_start(gone, probing, 5, 60) == "does not stay up: exited, exit status 1"
