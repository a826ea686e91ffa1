"""The admin port: API and metrics."""
