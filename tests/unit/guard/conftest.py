"""A fake engine behind a guard that runs."""

from tests.unit.runtime.fake_engine import engine, fake

__all__ = ["engine", "fake"]
