"""benchmarks/faults/__main__.py"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from benchmarks.compare.results import Machine
from benchmarks.faults import __main__ as module
from benchmarks.faults.__main__ import main
from benchmarks.faults.results import Cell, from_document, to_document
from benchmarks.faults.stacks import Entry

from lbctl.errors import MachineError, OperationError
from tests.unit.benchmarks.faults.samples import cost, results

if TYPE_CHECKING:
    from pathlib import Path


def write(directory: Path, **cells: dict[str, Cell]) -> None:
    document = json.dumps(to_document(results(**cells)))
    (directory / "faults.json").write_text(document, encoding="utf-8")


def cells(directory: Path) -> dict[str, dict[str, Cell]]:
    found = from_document(json.loads((directory / "faults.json").read_bytes()))
    return {name: column.cells for name, column in found.columns.items()}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine, no stack: each cell costs one request, but where Traefik does not start."""

    async def run(stack: str, *_: object) -> object:
        if stack == "traefik":
            raise OperationError("it did not start")
        return cost(failed={"502": 1})

    def entry(name: str, _: object) -> Entry:
        lacks = {"scale": "it cannot"} if name == "haproxy" else {}
        return Entry(name, name.capitalize(), "1.2.3", lambda: name, lacks)  # type: ignore[arg-type, return-value]

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module, "entry", entry)
    monkeypatch.setattr(module, "docker", lambda *_: "20.10")
    monkeypatch.setattr(module, "end_properly", lambda: None)
    monkeypatch.setattr("benchmarks.compare.machine.look", lambda: Machine("a CPU", 2, "Linux 6.1"))


def test_a_part_is_run_and_the_rest_stays(tmp_path: Path) -> None:
    write(tmp_path, lbctl={"kill": Cell([cost()])}, haproxy={"stop": Cell([cost()])})
    words = ["--only", "lbctl", "--disturbances", "stop", "--rounds", "2", "--out", str(tmp_path)]
    assert main(words) == 0
    bad = cost(failed={"502": 1})
    assert cells(tmp_path) == {
        "lbctl": {"kill": Cell([cost()]), "stop": Cell([bad, bad])},
        "haproxy": {"stop": Cell([cost()])},
    }
    assert "| docker stop of a backend | 1 | 0 |" in (tmp_path / "faults.md").read_text("utf-8")


def test_what_cannot_be_had_is_not_run(tmp_path: Path) -> None:
    assert main(["--only", "haproxy", "--disturbances", "scale", "--out", str(tmp_path)]) == 0
    assert cells(tmp_path) == {"haproxy": {"scale": Cell([], lacks="it cannot")}}


def test_what_went_wrong_is_written_down_and_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--only", "traefik", "--disturbances", "stop", "--out", str(tmp_path)]) == 1
    assert cells(tmp_path) == {"traefik": {"stop": Cell([], problem="it did not start")}}
    assert "it did not start" in capsys.readouterr().err


def test_a_report_can_be_written_anew(tmp_path: Path) -> None:
    write(tmp_path, lbctl={"kill": Cell([cost()])})
    assert main(["--render", "--out", str(tmp_path)]) == 0
    assert "| docker kill of a backend | 0 |" in (tmp_path / "faults.md").read_text("utf-8")


@pytest.mark.parametrize("text", ["", "{}", "[]"])
def test_another_file_in_its_place_is_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "faults.json").write_text(text, encoding="utf-8")
    assert main(["--out", str(tmp_path)]) == 1
    assert (tmp_path / "faults.json").read_text("utf-8") == text


def test_nothing_to_render(tmp_path: Path) -> None:
    assert main(["--render", "--out", str(tmp_path)]) == 1


def test_a_missing_image_is_told_with_the_way_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def docker(*words: str) -> str:
        if words[0] == "image":
            raise OperationError("no such image")
        return "20.10"

    monkeypatch.setattr(module, "docker", docker)
    assert main(["--out", str(tmp_path)]) == MachineError.exit_status
    assert "`lbctl up` makes it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--only", "nginx"], ["--disturbances", "stop,flood"], ["--rounds", "0"]]
)
def test_wrong_usage(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--out", str(tmp_path)])
