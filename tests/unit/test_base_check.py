"""`images/base/check.sh`, which the Dockerfiles run: a base that is another one ends the build."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPT = Path(__file__).parents[2] / "images" / "base" / "check.sh"


def check(root: Path, expected: str = "any") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(SCRIPT), expected, str(root)], capture_output=True, text=True, check=False
    )


def checksum(root: Path) -> str:
    done = check(root)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small base."""
    for name in ("bin", "etc", "tmp", "lib/a space"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "bin/busybox").write_text("program")
    (tmp_path / "bin/sh").symlink_to("/bin/busybox")
    (tmp_path / "etc/hosts").write_text("")
    return tmp_path


def test_the_same_base_has_the_same_checksum(root: Path) -> None:
    found = checksum(root)
    assert len(found) == 64
    assert check(root, found).returncode == 0
    # What the engine mounts, and where the script itself lies while it runs.
    (root / "etc/hosts").write_text("127.0.0.1 localhost")
    (root / "tmp/check.sh").write_text("")
    assert checksum(root) == found


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "bin/busybox").write_text("Program"),
        lambda root: (root / "bin/busybox").unlink(),
        lambda root: (root / "bin/more").write_text(""),
        lambda root: (root / "lib/a space/one more").write_text(""),
        lambda root: (root / "bin/busybox").rename(root / "bin/box"),
        lambda root: (root / "bin/ls").symlink_to("busybox"),
        lambda root: [(root / "bin/sh").unlink(), (root / "bin/sh").symlink_to("/tmp/evil")],
    ],
)
def test_another_base_has_another(root: Path, change: Callable[[Path], object]) -> None:
    before = checksum(root)
    change(root)
    assert checksum(root) != before
    done = check(root, before)
    assert done.returncode == 1
    assert "this is not alpine:3.10 as released" in done.stderr
    assert "--build-arg BASE_SHA256=any" in done.stderr


def test_without_a_word_it_is_the_release_that_counts(root: Path) -> None:
    assert check(root, "").returncode == 1
