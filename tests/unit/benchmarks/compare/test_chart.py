from __future__ import annotations

import dataclasses
from xml.etree import ElementTree as ET

import pytest
from benchmarks.compare import chart

from tests.unit.benchmarks.compare.samples import results, run

SVG = "{http://www.w3.org/2000/svg}"


def parsed(document: str) -> ET.Element:
    return ET.fromstring(document)  # noqa: S314 - our own


def texts(document: str) -> list[str]:
    return ["".join(one.itertext()) for one in parsed(document).iter(f"{SVG}text")]


def test_it_is_well_formed_and_all_its_text_is_text() -> None:
    shown = texts(chart.render(results()))
    assert {"45 bytes", "lbctl", "25.0 µs", "HAProxy", "Caddy & <co>", "400 µs"} <= set(shown)


def test_it_can_be_read_on_dark_ground() -> None:
    assert "prefers-color-scheme: dark" in chart.render(results())


def test_bars_are_as_long_as_their_figures() -> None:
    runs = [run("lbctl", 1, 10.0), run("haproxy", 1, 20.0)]
    bars = list(parsed(chart.render(results(runs))).iter(f"{SVG}rect"))
    mine, theirs = (float(bar.attrib["width"]) for bar in bars)
    assert mine * 2 == pytest.approx(theirs)


def test_one_giant_does_not_shrink_all_others() -> None:
    assert chart.limit([20.0, 25.0, 1000.0]) == 25.0
    assert chart.limit([20.0, 25.0, 100.0]) == 100.0
    root = parsed(
        chart.render(
            results([run("lbctl", 1, 20.0), run("haproxy", 1, 25.0), run("caddy", 1, 1000.0)])
        )
    )
    assert len(list(root.iter(f"{SVG}rect"))) == 2
    assert len(list(root.iter(f"{SVG}path"))) == 1


def test_everything_is_inside() -> None:
    many = {name: name for name in ("small", "64k", "10m")}
    runs = [
        run(peer, 1, 20.0, scenario=name) for name in many for peer in ("lbctl", "haproxy", "caddy")
    ]
    root = parsed(chart.render(dataclasses.replace(results(runs), scenarios=many)))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for bar in root.iter(f"{SVG}rect"):
        assert 0 <= float(bar.attrib["x"]) + float(bar.attrib["width"]) < width
        assert 0 <= float(bar.attrib["y"]) + float(bar.attrib["height"]) < height


def test_who_was_not_measured_has_no_bar() -> None:
    assert "Envoy" not in texts(chart.render(results()))
