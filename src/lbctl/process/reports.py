"""What workers tell the controller, read with suspicion: a worker is what strangers speak to, and
whoever has taken one over chooses what it says. He may lie in numbers, and do no other harm.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from lbctl.model import CODE_CLASSES, DURATION_BUCKETS_S

LINE_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""Of one report; one on 10,000 backends has four million."""
BACKENDS_LIMIT: Final = 20_000
_NAME = re.compile(r"(?:[a-z]/)?worker-[0-9]{1,4}")
_LIFE = re.compile(r"[0-9A-Za-z-]{1,64}")
_ID_LIMIT: Final = 256
_NAME_LIMIT: Final = 256
_WORDS_LIMIT: Final = 64  # reasons for a refusal or a retry
_WORD_LIMIT: Final = 64
_COUNT_LIMIT: Final = 1 << 53  # what a JSON number carries exactly


def read_hello(hello: Any) -> tuple[str, int, str]:
    """Name, pid and life. Raises ValueError, KeyError or TypeError."""
    name, pid, life = hello["name"], hello["pid"], hello["life"]
    if not _NAME.fullmatch(name) or not _LIFE.fullmatch(life):
        raise ValueError("no worker is called that")
    return name, _count(pid), life


def read_report(report: Any) -> dict[str, Any]:
    """The same document, if it is one that a worker would send. Raises ValueError, KeyError or
    TypeError.
    """
    backends = report["backends"]
    if len(backends) > BACKENDS_LIMIT:
        raise ValueError(f"counts of {len(backends)} backends")
    return {
        "revision": _count(report["revision"]),
        "everything": report["everything"] is True,
        "tasks": _count(report["tasks"]),
        "connections": {
            side: _count(report["connections"][side]) for side in ("downstream", "upstream")
        },
        "refused": _words(report["refused"]),
        "lost": read_lost(report),
        "backends": {
            _text(backend_id, _ID_LIMIT): read_counts(counts) | _of_a_pool(counts)
            for backend_id, counts in backends.items()
        },
    }


def read_counts(counts: Any) -> dict[str, Any]:
    """What was counted of one backend. Raises ValueError, KeyError or TypeError."""
    duration_s = counts["duration_sum_s"]
    if type(duration_s) not in (int, float) or not 0 <= duration_s < math.inf:
        raise ValueError(f"a duration of {duration_s!r}")
    return {
        "name": _text(counts["name"], _NAME_LIMIT),
        "codes": _counts(counts["codes"], len(CODE_CLASSES)),
        "buckets": _counts(counts["buckets"], len(DURATION_BUCKETS_S) + 1),
        "duration_sum_s": duration_s,
        "retries": _words(counts["retries"]),
    }


def read_refused(refused: Any) -> dict[str, int]:
    """How often the lb answered itself, by reason. Raises ValueError or AttributeError."""
    return _words(refused)


def read_lost(counted: Any) -> int:
    """Lines of the access log that there was no room for; none where a version of before counted.
    Raises ValueError or AttributeError.
    """
    return _count(counted.get("lost", 0))


def read_id(backend_id: Any) -> str:
    """Raises ValueError."""
    return _text(backend_id, _ID_LIMIT)


def _of_a_pool(counts: Any) -> dict[str, int]:
    return {"pool": _count(counts["pool"]), "in_flight": _count(counts["in_flight"])}


def _words(counted: Any) -> dict[str, int]:
    if len(counted) > _WORDS_LIMIT:
        raise ValueError(f"{len(counted)} reasons")
    return {_text(word, _WORD_LIMIT): _count(count) for word, count in counted.items()}


def _counts(counts: Any, length: int) -> list[int]:
    if not isinstance(counts, list) or len(counts) != length:
        raise ValueError(f"not {length} counts")
    return [_count(count) for count in counts]


def _count(count: Any) -> int:
    if type(count) is not int or not 0 <= count < _COUNT_LIMIT:
        raise ValueError("not a count")
    return count


def _text(text: Any, limit: int) -> str:
    if not isinstance(text, str) or not 0 < len(text) <= limit:
        raise ValueError("not a name")
    return text
