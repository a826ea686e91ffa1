from __future__ import annotations

import json

import pytest
from benchmarks.capacity.results import from_document, to_document

from tests.unit.benchmarks.capacity.samples import results


def test_what_is_kept_is_what_was_measured() -> None:
    kept = json.loads(json.dumps(to_document(results())))
    assert from_document(kept) == results()


@pytest.mark.parametrize("broken", [{}, {"machine": {}}, {"more": 1}])
def test_another_document_is_refused(broken: dict[str, object]) -> None:
    document = to_document(results()) | broken if broken else {}
    with pytest.raises((TypeError, KeyError)):
        from_document(document)
