"""What travels with the code: the Dockerfiles, the nginx template, the page of a backend.

They lie in `images/` at the root of a checkout, and in `lbctl/images` of an installed wheel;
an installed lbctl builds its images, and configures its nginx processes, from its own files.
"""

from __future__ import annotations

import io
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from lbctl.errors import MachineError, UsageError

_PACKAGE = Path(__file__).resolve().parent
_PLACEHOLDER = re.compile(r"@([A-Z]+)@")
# Inside double quotes nginx still gives these a meaning, and `$` cannot be escaped at all.
_UNQUOTABLE = re.compile(r'["$\\\x00-\x1f]')


def images_directory() -> Path:
    """The directory of the images' files. Raises MachineError if the installation lacks it."""
    for candidate in (_PACKAGE / "images", _PACKAGE.parents[1] / "images"):
        if (candidate / "nginx" / "nginx.conf.template").is_file():
            return candidate
    raise MachineError("this lbctl was installed without its images/ files: install it again")


@dataclass(frozen=True, slots=True)
class NginxSite:
    """What differs between one nginx process and another.

    `public` and `admin` are what nginx listens on (`127.1.2.3:8080`); `directory` is the one
    it writes to, with `www/` and `tmp/` in it; `tokens` has one file for each valid token.
    The whole process is expected to run as the unprivileged user that owns the directory.
    """

    public: str
    admin: str
    directory: Path
    tokens: Path
    error_log: Path


def render_nginx(site: NginxSite) -> str:
    """The nginx configuration of a backend that runs as a plain process, without access log.

    Raises UsageError for a path that nginx cannot take.
    """
    for path in (site.directory, site.tokens, site.error_log):
        if _UNQUOTABLE.search(str(path)):
            raise UsageError(f"{str(path)!r}: nginx takes no path with a quote, $, or backslash")
    values = {
        "DIR": str(site.directory),
        "TOKENS": str(site.tokens),
        "PUBLIC": site.public,
        "ADMIN": site.admin,
        "ERROR": f'"{site.error_log}"',
        "ACCESS": "off",
    }
    template = (images_directory() / "nginx" / "nginx.conf.template").read_text(encoding="utf-8")
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def initial_files() -> dict[str, bytes]:
    """By name, what a backend's `www/` holds before the first list is published."""
    directory = images_directory() / "nginx" / "www"
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def build_context(image: str) -> bytes:
    """The tar archive from which the engine builds `image`, "nginx" or "lb".

    Laid out as the repository is, with the Dockerfile at `images/<image>/Dockerfile`. Equal
    files give equal bytes.
    """
    trees = [(images_directory() / name, f"images/{name}") for name in ("base", image)]
    if image == "lb":
        trees.append((_PACKAGE, "src/lbctl"))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for root, prefix in trees:
            for path in sorted(root.rglob("*")):
                inner = path.relative_to(root)
                # An installed package holds the images too: the lb builds none.
                of_package = root == _PACKAGE and inner.parts[0] == "images"
                if not path.is_file() or "__pycache__" in inner.parts or of_package:
                    continue
                data = path.read_bytes()
                entry = tarfile.TarInfo(f"{prefix}/{inner.as_posix()}")
                entry.size = len(data)
                entry.mode = 0o755 if path.suffix == ".sh" else 0o644
                archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
