"""`images/base/unpack.sh` and its list: nothing is compiled into an image but what was listed."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

IMAGES = Path(__file__).parents[2] / "images"
SOURCES = (IMAGES / "base" / "sources.txt").read_text(encoding="utf-8")
# What the script's curl is here: it takes from ./web what it is asked for, by the last part.
CURL = """#!/bin/sh
while [ $# -gt 1 ]; do [ "$1" = -o ] && out=$2; shift; done
cp "web/${1##*/}" "$out"
"""


def archive(mode: str) -> bytes:
    """One file in a directory of another name, as releases have it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as packed:  # type: ignore[call-overload]
        entry = tarfile.TarInfo("thing-1.0/configure")
        entry.size = 4
        packed.addfile(entry, io.BytesIO(b"true"))
    return buffer.getvalue()


class Directory:
    """The script with a list and a web of the test's own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "web").mkdir()
        (path / "bin").mkdir()
        (path / "bin/curl").write_text(CURL)
        (path / "bin/curl").chmod(0o755)
        shutil.copy(IMAGES / "base" / "unpack.sh", path)
        (path / "sources.txt").write_text("# name, version, checksum, address\n")

    def publish(self, name: str, data: bytes, ending: str = "tar.gz", checksum: str = "") -> None:
        (self.path / f"web/{name}-1.0.{ending}").write_bytes(data)
        checksum = checksum or hashlib.sha256(data).hexdigest()
        with (self.path / "sources.txt").open("a") as out:
            out.write(f"{name}  1.0  {checksum}  https://example.org/{name}-1.0.{ending}\n")

    def unpack(self, *names: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "unpack.sh", *names],
            cwd=self.path,
            env={"PATH": f"{self.path}/bin:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def test_each_is_unpacked_under_its_name(directory: Directory) -> None:
    directory.publish("one", archive("w:gz"))
    directory.publish("two", archive("w:xz"), "tar.xz")
    done = directory.unpack("one", "two")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["one", "1.0"],
        ["two", "1.0"],
    ]
    for name in ("one", "two"):
        assert (directory.path / name / "configure").read_bytes() == b"true"
        assert not (directory.path / f"{name}.archive").exists()


def test_another_archive_than_the_one_listed_is_not_unpacked(directory: Directory) -> None:
    directory.publish("one", archive("w:gz"), checksum="0" * 64)
    done = directory.unpack("one")
    assert done.returncode == 1
    assert "expected was 000" in done.stderr
    assert not (directory.path / "one").exists()


def test_what_is_not_listed_is_not_fetched(directory: Directory) -> None:
    directory.publish("one", archive("w:gz"))
    done = directory.unpack("on")
    assert done.returncode == 1
    assert done.stderr.startswith("no on in ./sources.txt")


def test_an_archive_that_is_cut_off_ends_the_build(directory: Directory) -> None:
    directory.publish("one", archive("w:gz")[:60])
    assert directory.unpack("one").returncode != 0


@pytest.mark.parametrize(
    "line", [line for line in SOURCES.splitlines() if not line.startswith("#")]
)
def test_the_list(line: str) -> None:
    name, version, checksum, address = line.split()
    assert re.fullmatch(r"[a-z0-9]+", name)
    assert re.fullmatch(r"[0-9a-f]{64}", checksum)
    assert address.startswith("https://")
    assert address.endswith((".tar.gz", ".tar.xz"))
    if name != "sqlite":  # whose archives count otherwise
        assert version in address


def test_all_that_is_listed_is_used_and_nothing_else() -> None:
    used: set[str] = set()
    for script in sorted(IMAGES.glob("*/build-*.sh")):
        found = re.search(r'unpack\.sh" ([a-z0-9 ]+[a-z0-9])', script.read_text(encoding="utf-8"))
        assert found is not None, script
        used.update(found[1].split())
    listed = {line.split()[0] for line in SOURCES.splitlines() if not line.startswith("#")}
    assert used == listed
