from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from benchmarks.compare import report
from benchmarks.compare.__main__ import PARTIAL, main
from benchmarks.compare.results import to_document

from tests.unit.benchmarks.compare.samples import results

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runner keeps its own way to end."""
    monkeypatch.setattr("benchmarks.compare.__main__.end_properly", lambda: None)


def test_a_report_is_written_again_from_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / report.RAW).write_text(json.dumps(to_document(results())))
    (tmp_path / report.NOTES).touch()
    assert main(["--render", str(tmp_path)]) == 0
    readme = (tmp_path / "README.md").read_text()
    assert readme == report.render(results(), notes=True)
    assert (tmp_path / report.CHART).read_text().startswith("<svg ")
    shown = capsys.readouterr().out
    assert "HAProxy" in shown
    assert "envoy is not installed" in shown


def test_figures_that_are_not_there_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--render", str(tmp_path)]) == 1
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--rounds", "0"], ["--seconds", "1.5"], ["--what"]])
def test_wrong_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


def test_an_unknown_proxy_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "haproxie"]) == 2
    assert "haproxie" in capsys.readouterr().err


def test_what_is_not_whole_is_written_where_nothing_is_published() -> None:
    assert PARTIAL.parts[-2:] == ("build", "benchmarks")
