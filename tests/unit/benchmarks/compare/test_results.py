from __future__ import annotations

import json

from benchmarks.compare.results import from_document, to_document

from tests.unit.benchmarks.compare.samples import results


def test_what_is_written_is_what_is_read() -> None:
    document = json.loads(json.dumps(to_document(results())))
    assert from_document(document) == results()
