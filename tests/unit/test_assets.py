"""The files that travel with the code, from a checkout and from an installation."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

from lbctl import assets
from lbctl.errors import UsageError
from lbctl.paths import PROGRAM_UID, WORKER_UID

IMAGES = ("nginx", "lb")
ROOT = Path(__file__).parents[2]
SITE = assets.NginxSite(
    public="127.1.2.3:8080",
    admin="127.1.2.3:9000",
    directory=Path("/srv/a b"),
    tokens=Path("/srv/tokens"),
    error_log=Path("/srv/error.log"),
)


def members(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return {entry.name: entry for entry in opened}


def dockerfile(image: str) -> str:
    return (ROOT / "images" / image / "Dockerfile").read_text(encoding="utf-8")


def test_nginx_configuration_has_every_value_in_its_place() -> None:
    text = assets.render_nginx(SITE)
    assert not re.search(r"@[A-Z]+@", text)
    assert "listen 127.1.2.3:8080 default_server" in text
    assert "listen 127.1.2.3:9000 default_server" in text
    assert 'root "/srv/a b/www";' in text
    assert '(-f "/srv/tokens/$server_addr-$fingerprint")' in text
    assert 'error_log "/srv/error.log";' in text


@pytest.mark.parametrize("name", ['a"b', "a$b", "a\\b", "a\nb"])
def test_a_path_that_nginx_would_read_otherwise_is_refused(name: str) -> None:
    site = assets.NginxSite(
        SITE.public, SITE.admin, Path("/srv") / name, SITE.tokens, SITE.error_log
    )
    with pytest.raises(UsageError, match="nginx takes no path"):
        assets.render_nginx(site)


def test_a_backend_starts_with_an_empty_list() -> None:
    files = assets.initial_files()
    assert set(files) == {"index.html", "ips.json", "ips.txt"}
    assert files["ips.txt"] == b""


@pytest.mark.parametrize("image", IMAGES)
def test_build_context_is_laid_out_as_the_repository(image: str) -> None:
    archive = assets.build_context(image)
    inside = members(archive)
    assert f"images/{image}/Dockerfile" in inside
    for name in inside:
        assert (ROOT / name).is_file()
        assert "__pycache__" not in name
    assert ("src/lbctl/__init__.py" in inside) == (image == "lb")
    assert archive == assets.build_context(image)
    # What a Dockerfile copies is there.
    for source in re.findall(r"^COPY (?!--from)(\S+)", dockerfile(image), re.MULTILINE):
        assert any(name.startswith(source) for name in inside), source


def test_an_installed_lbctl_builds_from_its_own_files(tmp_path: Path) -> None:
    package = tmp_path / "lbctl"
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "lbctl", package, ignore=skip)
    shutil.copytree(ROOT / "images", package / "images")
    script = (
        "import hashlib, sys; from lbctl import assets;"
        "print(assets.images_directory());"
        "[print(hashlib.sha256(assets.build_context(i)).hexdigest()) for i in ('nginx', 'lb')]"
    )
    done = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for path in (tmp_path, ROOT / "src")
    ]
    assert done[0][0] == str(package / "images")
    assert done[0][1:] == done[1][1:]


@pytest.mark.parametrize("image", IMAGES)
def test_every_stage_comes_from_the_one_base(image: str) -> None:
    text = dockerfile(image)
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)", text, re.MULTILINE))
    stages = {"alpine:3.10"}
    for source, name in re.findall(r"^FROM (\S+)(?: AS (\S+))?$", text, re.MULTILINE):
        resolved = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], source)
        assert resolved in stages, source
        stages.add(name)
    # The engine's classic builder knows neither mounts nor here-documents.
    assert not re.search(r"^#\s*syntax|--mount|--chmod|--link|<<", text, re.MULTILINE)


def test_users_have_the_same_numbers_inside_and_outside_of_images() -> None:
    assert re.findall(r"-u (\d+)", dockerfile("lb")) == [str(WORKER_UID)]
    assert re.findall(r"-u (\d+)", dockerfile("nginx")) == [str(PROGRAM_UID)]
    assert f"USER {PROGRAM_UID}:{PROGRAM_UID}" in dockerfile("nginx")


def test_the_lock_covers_the_dependencies_and_pins_all() -> None:
    lock = (ROOT / "images" / "lb" / "requirements.txt").read_text(encoding="utf-8")
    entries = re.findall(
        r"^([a-z0-9-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)",
        lock,
        re.MULTILINE,
    )
    assert len(entries) == len(re.findall(r"==", lock))
    locked = {name: version for name, version, _ in entries}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for wanted in project["project"]["dependencies"]:
        assert re.split(r"[<>=~! ]", wanted, maxsplit=1)[0] in locked
    # The first version whose musl wheel needs a newer libc than the base has.
    assert tuple(map(int, locked["uvloop"].split("."))) < (0, 23)
    assert "http" not in re.sub(r"^#.*$|aiohttp", "", lock, flags=re.MULTILINE)
