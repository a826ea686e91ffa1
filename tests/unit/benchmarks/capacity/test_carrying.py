from __future__ import annotations

import re

import pytest
from benchmarks.capacity import carrying

from lbctl.errors import OperationError


@pytest.mark.parametrize(("rate", "most_ms"), [(10_000.0, 51), (256.0, 2000), (1e9, 1)])
def test_pauses_make_the_rate(rate: float, most_ms: int) -> None:
    script = carrying.paced(rate, 256)
    found = re.search(r"math\.random\(0, (\d+)\)", script)
    assert found
    assert int(found[1]) == most_ms
    assert "done = function" in script


def test_no_rate_is_no_load() -> None:
    with pytest.raises(OperationError, match="half"):
        carrying.paced(0, 256)
