from __future__ import annotations

from pathlib import Path

from benchmarks.compare import backends
from benchmarks.compare.scenarios import SCENARIOS


def test_the_files_are_as_large_as_the_tables_say() -> None:
    sizes = {target: len(data) for target, data in backends.contents().items()}
    assert sizes["/list.txt"] == 45
    assert sizes["/64k.bin"] == 64 * 1024
    assert sizes["/10m.bin"] == 10 * 1024 * 1024


def test_every_scenario_asks_for_something_that_is_there() -> None:
    assert {scenario.target for scenario in SCENARIOS} <= set(backends.contents())


def test_contents_are_the_same_every_time_and_no_two_alike() -> None:
    assert backends.pseudorandom(64, "a") == backends.pseudorandom(64, "a")
    assert backends.pseudorandom(64, "a") != backends.pseudorandom(64, "b")


def test_the_configuration_names_its_own_places_only() -> None:
    text = backends.configuration(Path("HOME"), Path("WWW"), "127.77.1.2")
    assert "listen 127.77.1.2:8080 backlog=4096;" in text
    assert "root WWW;" in text
    assert "pid HOME/nginx.pid;" in text
    assert text.count("{") == text.count("}")
    assert "{{" not in text
