"""Composition roots: supervisor, controller and worker."""
