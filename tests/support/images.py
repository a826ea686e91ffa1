"""The images for the docker tests: the product's own Dockerfiles, with ready files in place of
what a build would download.

The network is not in reach of every machine. Where the Dockerfiles would fetch and compile nginx
and CPython, and fetch the Python packages, this starts them (`--build-arg READY=...`) from
alpine:3.10 plus the running machine's own nginx, Python and site-packages, each with its glibc
loader and libraries beside it. docs/testing.md has the table of what is run and what replaced.

    python -m tests.support.images      makes all and says what it made

LBCTL_TEST_READY names another image to start from; `base` compiles everything, as users do.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lbctl import __version__, assets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BASE = "alpine:3.10"
INPUTS_LABEL = "lbctl.inputs"  # a digest of what an image was made from: equal, so is the image
STAND_IN_LABEL = "lbctl.stand-in"
# Of the standard library: what takes space and is not imported by anything here.
_SKIPPED = re.compile(
    r"tests?|idlelib|tkinter|turtledemo|lib2to3|ensurepip|config-.*|(site|dist)-packages"
    r"|.*\.opt-[12]\.pyc"
)
# Libraries that glibc or Python open by name, so that ldd does not show them.
_UNSEEN_LIBRARIES = (
    "librt.so.1", "libpthread.so.0", "libdl.so.2", "libutil.so.1", "libgcc_s.so.1",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ImageSet:
    """What there is now, and on which base: `alpine:3.10`, or `stand-in` for it."""

    base: str
    nginx: str
    lb: str


class BuildError(RuntimeError):
    """A build failed; the text ends in the engine's log."""


class _Tree:
    """The files of an image to be, by their path in it."""

    def __init__(self) -> None:
        self._sources: dict[str, Path] = {}

    def add(self, source: Path, target: str) -> None:
        self._sources[target.lstrip("/")] = source

    def add_directory(self, source: Path, target: str, skip: re.Pattern[str]) -> None:
        """Add the files below `source` of whose path `skip` matches no part."""
        for path in sorted(source.rglob("*")):
            inner = path.relative_to(source)
            if path.is_file() and not any(map(skip.fullmatch, inner.parts)):
                self.add(path, f"{target}/{inner.as_posix()}")

    def add_libraries(self) -> None:
        """Add the loader and the shared libraries of all binaries that are in it.

        The loader keeps its path, which is written into the binaries; the libraries go where
        that loader looks by itself.
        """
        binaries = [
            str(path)
            for target, path in self._sources.items()
            if re.search(r"\.so(\.|$)", path.name) or re.search(r"/s?bin/", f"/{target}")
        ]
        shown = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False)
        packaged = {path.resolve() for path in self._sources.values()}
        libraries: dict[str, Path] = {}
        for line in shown.stdout.splitlines():
            found = re.match(r"\s+(?:(\S+) => )?(/\S+) \(0x", line)
            if not found or (library := Path(found[2])).resolve() in packaged:
                continue
            if found[1]:
                libraries[found[1]] = library
            else:
                self.add(library, str(library))
        if "libc.so.6" not in libraries:
            return  # all are linked statically
        libc = libraries["libc.so.6"].parent
        for name in _UNSEEN_LIBRARIES:
            if (libc / name).exists():
                libraries[name] = libc / name
        for name, library in libraries.items():
            self.add(library, f"{libc}/{name}")

    def digest(self) -> str:
        """Of the paths, sizes and times: reading 80 MB at every start would take longer.

        Compiled modules do not count: whoever imports one first writes it.
        """
        lines = (
            f"{target} {(info := path.stat()).st_size} {info.st_mtime_ns}"
            for target, path in sorted(self._sources.items())
            if path.suffix != ".pyc"
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def archive(self, prefix: str, extra: Mapping[str, bytes]) -> Iterator[bytes]:
        """The tar archive in pieces, `extra` first."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w|", dereference=True) as archive:
            for name, data in extra.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
            for target, path in sorted(self._sources.items()):
                archive.add(path, f"{prefix}/{target}", recursive=False)
                if buffer.tell() > 1 << 20:
                    yield buffer.getvalue()
                    buffer.seek(0)
                    buffer.truncate()
        yield buffer.getvalue()


def _nginx_files() -> _Tree:
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if nginx is None:
        raise BuildError("no nginx on this machine to put into the image: install nginx-light")
    tree = _Tree()
    tree.add(Path(nginx).resolve(), "/usr/sbin/nginx")
    tree.add_libraries()
    return tree


def _python_files() -> _Tree:
    tree = _Tree()
    version = sysconfig.get_python_version()
    python = Path(sys.executable).resolve()
    tree.add(python, f"/usr/local/bin/python{version}")
    tree.add(python, "/usr/local/bin/python3")
    stdlib = Path(sysconfig.get_path("stdlib"))
    tree.add_directory(stdlib, f"/usr/local/lib/python{version}", _SKIPPED)
    lock = assets.images_directory() / "lb" / "requirements.txt"
    names = re.findall(r"^([\w.-]+)==", lock.read_text(encoding="utf-8"), re.MULTILINE)
    if sys.version_info < (3, 13):
        names.append("typing-extensions")  # what aiohttp needs on these, and the image does not
    for name in names:
        for file in importlib.metadata.files(name) or ():
            source = Path(str(file.locate()))
            if ".." not in file.parts and source.is_file():
                tree.add(source, f"/opt/lbctl/{file}")
    tree.add_libraries()
    return tree


class _Docker:
    """The few commands of the engine's client that are needed here."""

    def __init__(self, command: str) -> None:
        self._command = command

    def prune(self) -> None:
        """Remove the images that lost their tag to a newer one made here."""
        self._run("image", "prune", "-f", "--filter", f"label={INPUTS_LABEL}")

    def _run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self._command, *arguments], capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise BuildError(f"docker {arguments[0]}: {done.stderr.strip()[-2000:]}")
        return done

    def labels(self, image: str) -> dict[str, str] | None:
        """None if there is no such image."""
        shown = self._run("image", "inspect", "-f", "{{json .Config.Labels}}", image, check=False)
        return (json.loads(shown.stdout) or {}) if shown.returncode == 0 else None

    def image_id(self, image: str) -> str:
        return self._run("image", "inspect", "-f", "{{.Id}}", image).stdout.strip()

    def tag(self, image: str, name: str) -> None:
        self._run("tag", image, name)

    def pull(self, image: str) -> bool:
        return self._run("pull", "-q", image, check=False).returncode == 0

    def build(
        self,
        tag: str,
        dockerfile: str,
        context: Iterator[bytes],
        labels: Mapping[str, str],
        arguments: Mapping[str, str],
    ) -> None:
        command = [self._command, "build", "-q", "-t", tag, "-f", dockerfile]
        for name, value in labels.items():
            command += ["--label", f"{name}={value}"]
        for name, value in arguments.items():
            command += ["--build-arg", f"{name}={value}"]
        with tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as archive:
            for piece in context:
                archive.write(piece)
            archive.seek(0)
            done = subprocess.run(
                [*command, "-"], stdin=archive, stdout=log, stderr=log, check=False
            )
            log.seek(0)
            if done.returncode:
                raise BuildError(f"{tag}:\n{log.read().decode(errors='replace')[-4000:]}")


def _ensure_base(docker: _Docker) -> str:
    """Have alpine:3.10: there, pulled, or made up from Debian's busybox."""
    labels = docker.labels(BASE)
    if labels is None and not docker.pull(BASE):
        _make_stand_in(docker)
        labels = {STAND_IN_LABEL: "1"}
    return "stand-in" if STAND_IN_LABEL in (labels or {}) else BASE


def _make_stand_in(docker: _Docker) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        raise BuildError(
            f"no {BASE}, none to be pulled, no busybox to stand in for it: install busybox-static"
        )
    files = {
        "Dockerfile": (
            b"FROM scratch\nCOPY root/ /\n"
            b'RUN ["/bin/busybox", "--install", "-s", "/bin"]\n'
            b"RUN chmod 0755 /bin/busybox /sbin/* && mkdir -p /tmp && chmod 1777 /tmp\n"
            b'CMD ["/bin/sh"]\n'
        ),
        "root/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
        "root/etc/group": b"root:x:0:\n",
        # What Debian's busybox lacks. Called as the Dockerfiles do: the last word is the name.
        "root/sbin/addgroup": (
            b"#!/bin/sh\nwhile [ $# -gt 1 ]; do case $1 in -g) id=$2; shift ;; esac; shift; done\n"
            b'echo "$1:x:$id:" >> /etc/group\n'
        ),
        "root/sbin/adduser": (
            b"#!/bin/sh\nwhile [ $# -gt 1 ]; do case $1 in\n"
            b"-u) id=$2; shift ;; -[hsGg]) shift ;; esac; shift; done\n"
            b'echo "$1:x:$id:$id::/:/sbin/nologin" >> /etc/passwd\n'
        ),
    }
    tree = _Tree()
    tree.add(Path(busybox).resolve(), "/bin/busybox")
    tree.add_libraries()
    docker.build(BASE, "Dockerfile", tree.archive("root", files), {STAND_IN_LABEL: "1"}, {})


def _ensure_ready(docker: _Docker, name: str, tree: _Tree) -> str:
    """The base with the files of `tree` in it; returns its tag."""
    digest = hashlib.sha256(f"{docker.image_id(BASE)} {tree.digest()}".encode()).hexdigest()
    tag = f"lbctl-ready-{name}:{digest[:12]}"
    if docker.labels(tag) is None:
        dockerfile = f"FROM {BASE}\nCOPY root/ /\n"
        context = tree.archive("root", {"Dockerfile": dockerfile.encode()})
        docker.build(tag, "Dockerfile", context, {}, {})
    return tag


def _ensure(docker: _Docker, image: str, tag: str, ready: str, base: str) -> None:
    context = assets.build_context(image)
    start = ready if ready == "base" else docker.image_id(ready)
    inputs = hashlib.sha256(start.encode() + context).hexdigest()
    if (docker.labels(tag) or {}).get(INPUTS_LABEL) != inputs:
        labels = {INPUTS_LABEL: inputs}
        if ready != "base":
            labels[STAND_IN_LABEL] = "1"
        dockerfile = f"images/{image}/Dockerfile"
        arguments = {"READY": ready, "BASE_SHA256": "" if base == BASE else "any"}
        docker.build(tag, dockerfile, iter([context]), labels, arguments)


def ensure_images(
    docker: str = "docker",
    nginx: str = f"lbctl-nginx:{__version__}",
    lb: str = f"lbctl-lb:{__version__}",
) -> ImageSet:
    """Make the images that are missing or older than their inputs, under these tags.

    `docker` is the engine's command line client. Takes seconds, next to nothing if all are
    there. Raises BuildError.
    """
    # One at a time: test processes side by side would each build the same.
    lock = Path(tempfile.gettempdir()) / f"lbctl-images-{os.geteuid()}.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        engine = _Docker(docker)
        base = _ensure_base(engine)
        own = os.environ.get("LBCTL_TEST_READY", "")
        ready = own or _ensure_ready(engine, "nginx", _nginx_files())
        _ensure(engine, "nginx", nginx, ready, base)
        ready = own or _ensure_ready(engine, "python", _python_files())
        _ensure(engine, "lb", lb, ready, base)
        for tag in (nginx, lb):
            name, _, version = tag.rpartition(":")
            if version == __version__:
                engine.tag(tag, f"{name}:latest")
        engine.prune()
    return ImageSet(base, nginx, lb)


if __name__ == "__main__":
    print(ensure_images())
