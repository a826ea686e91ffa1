"""Small JSON documents that outlive the controller."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Protocol

from lbctl.paths import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)


class Store(Protocol):
    """Keeps one document."""

    def load(self) -> Any:
        """What was saved last; None if nothing was, or it cannot be read."""

    def save(self, document: Any) -> None:
        """Replace it. A failure is logged and otherwise ignored: control must go on with a
        full disk, and the next save carries the whole truth again.
        """


class JsonFile:
    """A Store in one file, replaced in one step."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Any:
        try:
            return json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read, starting afresh: %s", self._path.name, error)
            return None

    def save(self, document: Any) -> None:
        try:
            write_atomically(self._path, json.dumps(document).encode(), 0o600)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path.name, error.strerror or error)
