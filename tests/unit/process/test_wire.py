"""What the processes say to each other survives the way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.model import Backend, Certificate, Snapshot
from lbctl.process import wire

backends = st.builds(
    Backend,
    id=st.text(min_size=1),
    name=st.text(),
    ip=st.ip_addresses(v=4).map(str),
    port=st.integers(1, 65_535),
    admin_port=st.integers(1, 65_535),
    weight=st.integers(1, 1000),
    publish=st.booleans(),
)


@given(st.integers(0), st.integers(0), st.lists(backends))
def test_a_snapshot_comes_back_as_it_was(
    revision: int, generation: int, routes: list[Backend]
) -> None:
    snapshot = Snapshot(revision, generation, tuple(routes))
    line = wire.encode(wire.snapshot_document(snapshot))
    assert line.count(b"\n") == 1
    assert wire.snapshot_of(wire.decode(line)) == snapshot


def test_certificates_come_back_without_their_names() -> None:
    shown = Certificate("shop", ("a.test",), 1, 2)
    line = wire.encode({"certificates": wire.certificate_rows([shown])})
    rows = wire.decode(line)["certificates"]
    assert wire.certificates_of(rows) == (Certificate("shop", (), 1, 2),)


@pytest.mark.parametrize("line", [b"", b"[]", b"1", b"{", b"\xff"])
def test_what_is_no_object_is_an_error(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire.decode(line)
