"""External suites, pointed at the proxy: `python -m tests.conformance.SUITE --help`.

The suites themselves are other people's programs. Each driver takes the directory where its
suite was unpacked, or the suite's own command; nothing of them is kept here. They are run by
hand, not by pytest; docs/testing.md has the commands and what they printed.
"""
