"""Every cause, as the rotation itself brings it about, has a sentence of its own, and says what
would change it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.core import explain as module
from lbctl.core.ejection import Terms
from lbctl.core.explain import Explanation, Rules, explain
from lbctl.model import Cause, EngineHealth, Failure, Phase, ProbeResult, State
from lbctl.runtime.containers import instance_of
from tests.unit.core.test_membership import Driver, instance

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbctl.model import BackendStatus, Instance

DOCKER = Rules("shop", "docker")
LOCAL = replace(DOCKER, runtime="local")
REFUSED = ProbeResult("connection refused", 0.001)


def driver_with(*names: str) -> Driver:
    driver = Driver()
    driver.up(*names)
    return driver


def well() -> Driver:
    return driver_with("a", "b", "c")


def open_() -> Driver:
    driver = driver_with("a")
    driver.fall("a")
    return driver


def spared() -> Driver:
    driver = driver_with("a")
    driver.accuse("a", cause=Failure.TIMEOUT)
    return driver


def falling() -> Driver:
    driver = well()
    driver.probe("a", result=REFUSED)
    return driver


def lagging() -> Driver:
    driver = well()
    driver.rotation.drain("b", "drained by hand")
    driver.step()
    driver.refuse("a", "timed out after 1 s")
    return driver


def unfit() -> Driver:
    driver = Driver()
    problem = 'label lbctl.port="0" is not a whole number from 1 to 65535'
    driver.observe(instance("a", backend=None, problem=problem))
    return driver


def displaced() -> Driver:
    driver = Driver()
    driver.observe(instance("a", "10.0.0.9"))
    driver.observe(instance("a", "10.0.0.9"), instance("b", "10.0.0.9"))
    return driver


def unchecked() -> Driver:
    driver = Driver()
    driver.observe(instance("a"))
    return driver


def unproven() -> Driver:
    driver = unchecked()
    driver.probe("a", result=REFUSED)
    return driver


def enrolling() -> Driver:
    driver = unchecked()
    driver.probe("a")
    return driver


def refusing() -> Driver:
    driver = enrolling()
    driver.refuse("a", "it refused the token")
    return driver


def entering() -> Driver:
    driver = enrolling()
    driver.take("a")
    return driver


def joining() -> Driver:
    driver = entering()
    driver.wait()
    return driver


def seen(**changes: Any) -> Callable[[], Driver]:
    def make() -> Driver:
        driver = driver_with("a", "b", "c")
        driver.observe(instance("a", **changes), instance("b"), instance("c"))
        return driver

    return make


def failing() -> Driver:
    driver = well()
    driver.fall("a")
    return driver


def rising() -> Driver:
    driver = failing()
    driver.probe("a")
    return driver


def ejected(cause: Failure = Failure.CONNECT) -> Driver:
    driver = well()
    driver.accuse("a", cause=cause)
    return driver


def drained() -> Driver:
    driver = well()
    driver.rotation.drain("a", "drained by hand at 2026-11-22 10:00:00 UTC")
    driver.step()
    return driver


def leaving() -> Driver:
    driver = well()
    driver.rotation.drain("a", "it leaves: scaled down", Cause.LEAVING)
    driver.step()
    return driver


CASES: list[tuple[State, Cause, Callable[[], Driver], str, str]] = [
    (State.UP, Cause.WELL, well, "its last check passed, and it holds list 1",
     "lbctl drain a takes it out"),
    (State.UP, Cause.OPEN, open_, "no backend is fit.*: its checks fail: connection refused",
     "goes out as soon as another one is fit"),
    (State.UP, Cause.SPARED, spared, r"requests in a row failed on it \(no answer in time\).*50 %",
     "this is forgotten in 30 s"),
    (State.UP, Cause.FALLING, falling, "1 of the 3 failed checks .*: connection refused",
     "2 more failed checks in a row, 2 s apart, take it out"),
    (State.UP, Cause.LAGGING, lagging, "has list 1, not 2: timed out after 1 s",
     "writes the list again, every 5 s at the latest"),
    (State.INVALID, Cause.UNFIT, unfit, 'label lbctl.port="0" is not',
     "start it anew with another lbctl.port, or without it"),
    (State.INVALID, Cause.DISPLACED, displaced, "10.0.0.9 belongs to b now", "when the other one"),
    (State.PROBING, Cause.UNCHECKED, unchecked, "first check is under way",
     "one passed check on port 8080"),
    (State.PROBING, Cause.UNPROVEN, unproven, "never passed a check: connection refused",
     "one passed check on port 8080; it is checked every 0.1 s for the first 10 s, then every 2 s"),
    (State.ENROLLING, Cause.SENDING, enrolling, "the present list is being written",
     "nothing to do"),
    (State.ENROLLING, Cause.REFUSING, refusing, "does not take the list: it refused the token",
     "-v shop_token:/run/lbctl:ro"),
    (State.ENROLLING, Cause.ENTERING, entering, "waits for others", "the next list names it"),
    (State.JOINING, Cause.SENDING, joining, "a list that names it is being written",
     "nothing to do"),
    (State.DOWN, Cause.EXITED, seen(phase=Phase.EXITED, problem="exited, exit status 1"),
     "exited, exit status 1", "docker start a"),
    (State.DOWN, Cause.PAUSED, seen(phase=Phase.PAUSED), "it is paused", "docker unpause a"),
    (State.DOWN, Cause.UNHEALTHY, seen(health=EngineHealth.UNHEALTHY), "HEALTHCHECK",
     "docker inspect --format"),
    (State.DOWN, Cause.FAILING, failing, "3 checks in a row failed: connection refused",
     "2 passed checks in a row, 2 s apart"),
    (State.DOWN, Cause.RISING, rising, "1 of the 2 that bring it back", "1 more passed check"),
    (State.EJECTED, Cause.ACCUSED, ejected,
     r"5 requests in a row failed on it \(no connection, .*\); ejected for 30 s",
     "it is ejected until 00:17:10 UTC, in 30 s; sooner: 2 passed checks in a row, 2 s apart"),
    (State.DRAINING, Cause.STOPPING, seen(phase=Phase.STOPPING), "was told to stop",
     "still runs after 15 s"),
    (State.DRAINING, Cause.BY_HAND, drained, "drained by hand at 2026", "lbctl undrain a"),
    (State.DRAINING, Cause.LEAVING, leaving, "it leaves: scaled down", "after 10 s at the latest"),
]  # fmt: skip


def said_of(driver: Driver, name: str = "a", rules: Rules = DOCKER) -> Explanation:
    return explain(driver.status(name), rules, driver.at)


@pytest.mark.parametrize(
    ("state", "cause", "make", "why", "change"), CASES, ids=lambda value: getattr(value, "name", "")
)
def test_every_case(
    state: State, cause: Cause, make: Callable[[], Driver], why: str, change: str
) -> None:
    driver = make()
    status = driver.status("a")
    assert (status.state, status.cause) == (state, cause)
    said = said_of(driver)
    assert re.search(why, said.why), said
    assert re.search(re.escape(change), "; ".join(said.changes)), said


def test_every_state_and_every_cause_is_visited() -> None:
    assert {state for state, *_ in CASES} == set(State)
    assert {cause for _, cause, *_ in CASES} == set(Cause)


@pytest.mark.parametrize(("make"), [make for _, _, make, _, _ in CASES])
@pytest.mark.parametrize("rules", [DOCKER, LOCAL, replace(LOCAL, heal="off", eject_failures=0)])
def test_sentences_are_whole(make: Callable[[], Driver], rules: Rules) -> None:
    said = said_of(make(), rules=rules)
    for sentence in (said.what, said.why, *said.changes):
        assert sentence
        assert sentence == sentence.strip()
        assert not sentence.endswith((".", ":", ",", ";"))
        assert "None" not in sentence
        assert "  " not in sentence
    assert len(set(said.changes)) == len(said.changes) > 0
    if rules.runtime == "local" and said.what:
        assert "docker start" not in str(said)
        assert "/run/lbctl" not in str(said)


def ejections(times: int, cause: Failure) -> BackendStatus:
    """One that was ejected so often, each time as soon as it was back."""
    driver = well()
    for count in range(1, times + 1):
        driver.accuse("a", cause=cause)
        assert driver.status("a").state is State.EJECTED
        if count == times:
            break
        driver.wait(Terms().base_s * count)
        driver.take("a")
        driver.wait()
        driver.take("a")
    return driver.status("a")


def test_an_ejection_says_which_it_is_until_when_and_how_it_may_end_sooner() -> None:
    status = ejections(2, Failure.TIMEOUT)
    assert status.ejection is not None
    said = explain(status, DOCKER, status.ejection.ends_at - timedelta(seconds=41.4))
    assert "ejected the 2nd time, for 60 s" in said.why
    end = f"{status.ejection.ends_at:%H:%M:%S}"
    assert said.changes[0] == f"it is ejected until {end} UTC, in 41 s"
    assert said.changes[1].startswith("sooner: 2 passed checks")


def test_an_ejection_for_5xx_ends_by_time_alone() -> None:
    said = explain(ejections(1, Failure.ANSWER), DOCKER, datetime(2026, 11, 22, tzinfo=UTC))
    assert said.changes[1] == "nothing but time: checks do not see answers of 5xx"


def test_passed_checks_count_towards_the_end_of_an_ejection() -> None:
    driver = ejected()
    driver.probe("a")
    assert "sooner: 1 more passed check" in said_of(driver).changes


@pytest.mark.parametrize(("cause", "said"), [(Failure.ANSWER, True), (Failure.CONNECT, False)])
def test_one_that_is_down_says_if_it_is_ejected_beside_that(cause: Failure, said: bool) -> None:
    still = "then it is ejected still, until 00:17:10 UTC, in 30 s"
    driver = ejected(cause)
    driver.fall("a")
    assert driver.status("a").cause is Cause.FAILING
    assert (still in said_of(driver).changes) is said
    driver.probe("a")
    assert driver.status("a").cause is Cause.RISING
    assert (still in said_of(driver).changes) is said


def test_times_are_told_in_words_that_exist() -> None:
    words = [module._nth(count) for count in (1, 2, 3, 4, 11, 12, 13, 21, 22, 103, 111)]
    assert words == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "103rd", "111th",
    ]  # fmt: skip


def container(labels: dict[str, str], *, connected: bool = True) -> Instance:
    networks = {"shop": {"IPAddress": "10.0.0.1"}} if connected else {}
    facts = {
        "Id": "a", "Names": ["/a"], "State": "running", "Status": "Up 3 seconds", "Image": "x",
        "Labels": labels, "NetworkSettings": {"Networks": networks},
    }  # fmt: skip
    return instance_of(facts, "shop")


@pytest.mark.parametrize(
    ("found", "change"),
    [
        (container({"lbctl.port": "http"}), "start it anew with another lbctl.port, or"),
        (container({"lbctl.weight": "-1"}), "start it anew with another lbctl.weight, or"),
        (container({"lbctl.probe": "x"}), "start it anew with another lbctl.probe, or"),
        (container({"lbctl.publish": "no"}), "start it anew with another lbctl.publish, or"),
        (container({"lbctl.port": "80", "lbctl.admin-port": "80"}), "two different ports in"),
        (container({}, connected=False), "docker network connect shop a"),
    ],
)
def test_what_cannot_be_a_backend_is_told_which_label_or_network(
    found: Instance, change: str
) -> None:
    driver = Driver()
    driver.observe(found)
    assert driver.status("a").state is State.INVALID
    assert change in said_of(driver).changes[0]


@pytest.mark.parametrize(
    ("refusal", "hints"),
    [
        ("it refused the token", ["-v shop_token:/run/lbctl:ro", "lbctl.publish=false"]),
        ("it answered 404 to PUT /ips.json", ["lbctl.publish=false", "lbctl.admin-port=PORT"]),
        ("connection refused", ["lbctl.publish=false", "lbctl.admin-port=PORT"]),
        (
            "it refused its token: mount the project's token volume at /run/lbctl, "
            "and use an image of this version",
            ["-v shop_token:/run/lbctl:ro", "lbctl.publish=false"],
        ),
        ("its token cannot be made known to it: Read-only file system", ["volume shop_token"]),
        ("cannot read the token publish-secret: Permission denied", ["lbctl token rotate"]),
        ("timed out after 1 s", []),
    ],
)
def test_who_does_not_take_the_list_is_told_what_it_lacks(refusal: str, hints: list[str]) -> None:
    driver = enrolling()
    driver.refuse("a", refusal)
    said = said_of(driver)
    assert said.why == f"it does not take the list: {refusal}"
    text = "; ".join(said.changes)
    assert all(hint in text for hint in hints), text
    assert hints or "lbctl.publish" not in text


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        ("answered 404, not 200-299", "lbctl.probe, or the setting probe_path"),
        ("connection refused", "another port than 8080: start it with lbctl.port=PORT"),
        ("timed out after 1 s", ""),
    ],
)
def test_who_fails_its_checks_is_told_what_may_be_meant(error: str, hint: str) -> None:
    driver = unchecked()
    driver.probe("a", result=ProbeResult(error, 0.001))
    text = "; ".join(said_of(driver).changes)
    assert hint in text
    assert hint or "lbctl.p" not in text


@pytest.mark.parametrize(
    ("revision", "heal", "says"),
    [
        (0, "on", "lbctl did not start it, and so does not replace it"),
        (1, "on", "else healing replaces it, when it has been out for 30 s"),
        (1, "off", "healing is off, so nothing replaces it: lbctl reload --heal on"),
    ],
)
def test_what_healing_does_about_it(revision: int, heal: str, says: str) -> None:
    status = replace(failing().status("a"), revision=revision)
    said = explain(status, replace(DOCKER, heal=heal), datetime(2026, 11, 22, tzinfo=UTC))
    assert said.changes[-1] == says


def test_one_that_takes_no_list_is_not_said_to_hold_one() -> None:
    driver = Driver()
    one = instance("a")
    assert one.backend is not None
    driver.observe(replace(one, backend=replace(one.backend, publish=False)))
    driver.probe("a")
    driver.wait()
    assert driver.status("a").state is State.UP
    said = said_of(driver)
    assert said.what == "in rotation: it gets its share of the requests, and no list"
    assert "lbctl.publish=false" in said.why
