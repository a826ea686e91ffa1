"""The dashboard's files: read once, served from memory, under a policy that lets them load nothing
but each other.
"""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

_DIRECTORY = Path(__file__).with_name("dashboard")
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
INDEX = "index.html"


class Pages:
    """The page at / and the files that it names, below /assets/."""

    def __init__(self) -> None:
        self._files = {path.name: path.read_bytes() for path in sorted(_DIRECTORY.iterdir())}

    @property
    def assets(self) -> list[str]:
        """The names of all but the page."""
        return [name for name in self._files if name != INDEX]

    async def index(self, _request: web.Request) -> web.Response:
        return self._answer(INDEX)

    async def asset(self, request: web.Request) -> web.Response:
        """Only what was read at the start has a name here; no path is ever made of one."""
        name = request.match_info["file"]
        if name not in self.assets:
            raise web.HTTPNotFound
        return self._answer(name)

    def _answer(self, name: str) -> web.Response:
        kind = _TYPES[Path(name).suffix]
        response = web.Response(body=self._files[name], content_type=kind, charset="utf-8")
        response.headers["Content-Security-Policy"] = _POLICY
        return response
