from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.config import LEAVES, MAX_REPLICAS, Config, load, project_name
from lbctl.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory without a file of settings."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def value_of(config: Config, name: str) -> Any:
    leaf = LEAVES[name]
    return getattr(getattr(config, leaf.section) if leaf.section else config, name)


def other_value(name: str) -> str:
    """A value of that leaf which is allowed and is not the default."""
    leaf = LEAVES[name]
    if leaf.kind is str:
        special = {
            "hash_key": "header:x-user",
            "trusted_proxies": "10.0.0.0/8, 192.0.2.7",
            "allow_networks": "10.0.0.0/8, 2001:db8::/32",
            "deny_networks": "192.0.2.7",
            "probe_path": "/up",
            "probe_status": "200,204",
            "probe_headers": "Host: site.example; X-Check: 1",
        }
        other = special.get(name, "other")
        return next((choice for choice in leaf.choices if choice != leaf.default), other)
    low = leaf.low if leaf.low is not None else 0
    candidate = low + 1 if low + 1 != leaf.default else low + 2
    if leaf.high is not None and candidate > leaf.high:
        candidate = leaf.high if leaf.high != leaf.default else low
    return f"{candidate:g}"


def test_nothing_given_is_every_default() -> None:
    assert load(environ={}) == Config()


def test_leaf_names_are_unique() -> None:
    def count(kind: Any) -> int:
        total = 0
        for item in dataclasses.fields(kind):
            made = item.default_factory
            is_section = made is not dataclasses.MISSING
            total += count(made) if is_section else 1
        return total

    assert count(Config) == len(LEAVES)


@pytest.mark.parametrize("name", LEAVES)
def test_every_leaf_can_be_set_in_each_way(name: str, elsewhere: Path) -> None:
    leaf, raw = LEAVES[name], other_value(name)
    quoted = f'"{raw}"' if leaf.kind is str else raw
    file = elsewhere / "lbctl.toml"
    expected = leaf.kind(raw)
    assert expected != leaf.default

    assert value_of(load({name: raw}, environ={}), name) == expected
    assert value_of(load(environ={leaf.variable: raw}), name) == expected
    file.write_text(f"{name} = {quoted}\n", encoding="utf-8")
    assert value_of(load(environ={}), name) == expected
    if leaf.section:
        file.write_text(f"[{leaf.section}]\n{name} = {quoted}\n", encoding="utf-8")
        assert value_of(load(environ={}), name) == expected


@pytest.mark.parametrize("name", LEAVES)
def test_every_leaf_has_a_help_and_a_default_in_range(name: str) -> None:
    leaf = LEAVES[name]
    assert leaf.help
    if leaf.default:  # 0 and "" may mean "not told"
        assert leaf.parse(leaf.default, name) == leaf.default


def test_precedence(elsewhere: Path) -> None:
    file = elsewhere / "lbctl.toml"
    file.write_text("port = 1001\nadmin_port = 1002\nworkers = 3\n", encoding="utf-8")
    config = load(
        {"port": "3001", "workers": None},
        environ={"LBCTL_PORT": "2001", "LBCTL_ADMIN_PORT": "2002"},
    )
    assert (config.port, config.admin_port, config.workers) == (3001, 2002, 3)


def test_a_named_file_must_be_there(elsewhere: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        load(environ={"LBCTL_CONFIG": str(elsewhere / "nowhere.toml")})
    named = elsewhere / "named.toml"
    named.write_text("port = 1001\n", encoding="utf-8")
    assert load(environ={"LBCTL_CONFIG": str(named)}).port == 1001


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("port = ", "lbctl.toml: "),
        ("prot = 1", "unknown setting 'prot'"),
        ("[limits]\nport = 1", "'port' stands in [limits], and belongs above all sections"),
        ("[limits]\nfall = 1", "'fall' stands in [limits], and belongs in [health]"),
        ("[limits]\nprot = 1", "unknown setting 'prot'"),
        ("[nowhere]\nport = 1", "unknown setting 'nowhere'"),
        ("port = true", "lbctl.toml: port: True is not a whole number"),
        ("port = 80.5", "lbctl.toml: port: 80.5 is not a whole number"),
        ('port = "http"', "'http' is not a whole number"),
        ("port = 0", "0 is out of range (1 to 65535)"),
        ("probe_jitter = nan", "nan is out of range"),
        ("connect_timeout_s = inf", "inf is out of range"),
        ('runtime = "k8s"', "'k8s' is none of auto, docker, local"),
        ('project = "A"', "project 'A'"),
    ],
)
def test_files_that_are_wrong(text: str, says: str, elsewhere: Path) -> None:
    (elsewhere / "lbctl.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load(environ={})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text(elsewhere: Path) -> None:
    (elsewhere / "lbctl.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError):
        load(environ={})


@pytest.mark.parametrize(
    "raw", ["0", "-1", str(MAX_REPLICAS + 1), "x", "", " ", "1.0", "1_0", "٣", "0x3", "+"]
)
def test_replicas_that_cannot_be(raw: str) -> None:
    with pytest.raises(UsageError, match=r"^--replicas: "):
        load({"replicas": raw}, environ={})


@given(st.integers(1, MAX_REPLICAS))
def test_replicas_that_can_be(replicas: int) -> None:
    assert load({"replicas": str(replicas)}, environ={}).deploy.replicas == replicas


@given(st.sampled_from(sorted(LEAVES)), st.text(max_size=30))
def test_any_text_is_a_value_in_range_or_a_usage_error(name: str, raw: str) -> None:
    leaf = LEAVES[name]
    value: Any = None
    said = "here: "
    try:
        value = leaf.parse(raw, "here")
    except UsageError as error:
        said = str(error)
    assert said.startswith("here: ")
    assert value is None or type(value) is leaf.kind
    if isinstance(value, int | float):
        assert leaf.low is None or value >= leaf.low
        assert leaf.high is None or value <= leaf.high
    if value is not None and leaf.choices:
        assert value in leaf.choices


@pytest.mark.parametrize("name", ["a", "lbctl", "0", "my-shop_2", "x" * 40])
def test_project_names(name: str) -> None:
    assert project_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "-a", "_a", "a b", "a/b", "..", "a\n", "é", "x" * 41])
def test_names_that_are_no_project(name: str) -> None:
    with pytest.raises(UsageError):
        project_name(name)


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [("hash_key", "cookie:", "name of a cookie"), ("hash_key", "url", "none of ip, header:NAME"),
     ("hash_key", "header:a b", "none of ip"), ("sticky_cookie", "a;b", "name of a cookie"),
     ("trusted_proxies", "10.0.0.0/33", "10.0.0.0/33"), ("trusted_proxies", "all", "'all'")],
)  # fmt: skip
def test_a_text_that_cannot_be_meant_is_refused_in_words(name: str, raw: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        load({name: raw}, environ={})
    assert str(raised.value).startswith("--" + name.replace("_", "-") + ": ")
