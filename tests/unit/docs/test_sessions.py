"""Sessions in documents are found, and an answer that is not the documented one is noticed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.sessions import (
    ELSEWHERE,
    ON_DOCKER,
    ON_LOCAL,
    ROOT,
    Exchange,
    differences,
    exchanges,
    play,
)

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """
Said:

    $ one \\
        more
    a  1

    b
    $ two <<'END'
    x
    END

No session:

    $$ three
    $four
"""


def test_commands_and_answers_are_found() -> None:
    assert exchanges(TEXT) == [
        Exchange(4, "one \\\n    more", ["a  1", "b"]),
        Exchange(9, "two <<'END'\nx\nEND", []),
    ]


def test_every_document_with_a_session_has_somebody_who_runs_it() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    found = {str(page.relative_to(ROOT)) for page in pages if exchanges(page.read_text("utf-8"))}
    assert found == ON_LOCAL | ON_DOCKER | ELSEWHERE


def test_the_quick_start_shows_what_the_readme_does() -> None:
    readme, start = (
        [(one.command, one.answer) for one in exchanges((ROOT / name).read_text("utf-8"))]
        for name in ("README.md", "docs/quickstart.md")
    )
    assert start
    assert start == readme[: len(start)]


@pytest.mark.parametrize(
    ("documented", "printed"),
    [
        ("3 -> 7 in 1.2 s", "3 -> 7 in 0.9 s"),
        ("172.31.0.3", "172.17.0.12"),
        ("served by 127.42.0.1", "served by 127.42.0.3"),
        (
            "backend-1  172.31.0.5  up   1s  7  57.3  4.9  11",
            "backend-2  172.17.0.4  up  12s  0  0.0  -  9",
        ),
        ("2 of 2 in rotation, lb b leads", "2 of 2 in rotation, lb a leads"),
        ("Set-Cookie: lb=7ecbe9f9643a8248; Path=/", "Set-Cookie: lb=0000000000000000; Path=/"),
        ("    91 127.42.0.1", "101 127.42.0.3"),
    ],
)
def test_what_may_differ_does_not_count(documented: str, printed: str) -> None:
    assert differences([documented], [printed, ""]) == []


@pytest.mark.parametrize(
    ("documented", "printed"),
    [
        ("3 -> 7 in 1.2 s", "3 -> 7 after 1.2 s"),
        ("3 -> 7 in 1.2 s", "3 -> 7 in 1.2 min"),
        ("3 -> 7 in 1.2 s", "3 -> 5 in 1.2 s"),
        ("serving  http://x  (3 in rotation)", "serving  http://x  (0 in rotation)"),
        ("172.31.0.3", "no backend is in rotation"),
        ("served by 127.250.0.1", "served by 127.42.0.1"),
        ("serving  http://127.0.0.1:8080", "serving  http://127.0.0.1:8081"),
        ("lbctl-backend-1  up", "lbctl-backend-1  down"),
        ("lb=7ecbe9f9643a8248; Path=/", "lb=7ecb; Path=/"),
        ("DONE", "exit status 1"),
    ],
)
def test_what_may_not_differ_is_noticed(documented: str, printed: str) -> None:
    assert differences([documented], [printed]) == [
        f"documented: {documented}",
        f"printed:    {printed}",
    ]


def test_a_line_too_many_or_too_few_is_noticed() -> None:
    assert differences(["a"], [])
    assert differences(["a"], ["a", "a"])


def test_equal_shares_have_to_be_equal() -> None:
    equal = ["100 127.42.0.1", " 100 127.42.0.2"]
    assert differences(equal, equal) == []
    assert differences(["90 127.42.0.1", "110 127.42.0.2"], equal) == []
    assert differences(equal, ["99 127.42.0.1", "101 127.42.0.2"])


def test_a_session_is_played_in_one_shell_and_what_differs_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAKELEVEL", "1")  # a make in a make says which directory it enters
    (tmp_path / "Makefile").write_text("up:\n\t@echo serving 127.0.0.1:7\n")
    document = tmp_path / "document.md"
    document.write_text(
        "    $ make up\n    serving 127.0.0.1:8080\n"
        "    $ twice() { echo $1 $1; }\n"
        "    $ twice a\n    a a\n"
        "    $ echo 127.0.0.1:8080 | tr : ' '\n    127.0.0.1 7\n"
        "    $ false\n"
        "    $ cat <<'END'\n    text\n    END\n    text\n"
    )
    assert play(
        str(document), dict(os.environ), {"127.0.0.1:8080": "127.0.0.1:7"}, tmp_path, within=10
    ) == [
        f"{document}:8: false",
        "printed:    exit status 1",
    ]
