"""Fixtures of the tests that talk to a fake engine."""

from __future__ import annotations

from tests.unit.runtime.fake_engine import engine, fake

__all__ = ["engine", "fake"]
