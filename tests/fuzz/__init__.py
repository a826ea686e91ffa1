"""What must hold of the readers in core/ for any bytes.

checks.py says it, readers.py has two readers of the same bytes, http1.py drives them with
coverage-guided input (docs/testing.md); tests/unit/core/test_mutations.py does so briefly.
"""
