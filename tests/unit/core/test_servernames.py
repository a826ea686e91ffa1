"""Which certificate is for whom."""

from __future__ import annotations

import pytest

from lbctl.core.servernames import ServerNames
from lbctl.model import Certificate

NAMES = ServerNames(
    Certificate(name, names, 0, 0)
    for name, names in (
        ("z-late", ("www.shop.test", "only.late.test")),
        ("a-first", ("shop.test", "www.shop.test")),
        ("m-wild", ("*.shop.test", "*.deep.shop.test", "shop.test")),
        ("n-wild", ("*.shop.test", "*.other.test")),
        ("o-odd", ("*", "w*w.odd.test", "a.*.odd.test", "")),
    )
)


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("shop.test", "a-first"),  # of those that have a name, the first by its own
        ("www.shop.test", "a-first"),  # a name itself goes before a wildcard
        ("WWW.Shop.TEST", "a-first"),
        ("www.shop.test.", "a-first"),
        ("only.late.test", "z-late"),
        ("img.shop.test", "m-wild"),
        ("a.deep.shop.test", "m-wild"),
        ("x.other.test", "n-wild"),
        # RFC 6125, section 6.4.3: a wildcard is one label, and no less than one.
        ("a.b.shop.test", None),
        ("other.test", None),
        (".shop.test", None),
        ("deep.shop.test", "m-wild"),
        # No wildcard that is more or less than the whole first label.
        ("www.odd.test", None),
        ("a.b.odd.test", None),
        ("test", None),
        ("*.shop.test", "m-wild"),  # nobody is called so, and nobody is harmed
        ("", None),
        ("127.0.0.1", None),
    ],
)
def test_the_certificate_for_a_host(asked: str, chosen: str | None) -> None:
    assert NAMES.choose(asked) == chosen
