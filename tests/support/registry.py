"""A registry with one image, on loopback, where engines ask for no TLS: what pulling from it shows
is the engine's own doing (https://distribution.github.io/distribution/spec/api/).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web

if TYPE_CHECKING:
    from types import TracebackType

_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry:
    """Serves image `ref` with so many layers of so many bytes, while the block lasts."""

    def __init__(self, name: str, layers: int, layer_bytes: int) -> None:
        self._name = name
        self._blobs: dict[str, bytes] = {}
        seed = random.Random(name)
        tars = [_tar(f"file-{number}", seed.randbytes(layer_bytes)) for number in range(layers)]
        packed = [self._keep(gzip.compress(tar, 1)) for tar in tars]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [_digest(tar) for tar in tars]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._described(_CONFIG, self._keep(json.dumps(config).encode())),
            "layers": [self._described(_LAYER, one) for one in packed],
        }
        self._manifest = json.dumps(manifest).encode()
        application = web.Application()
        application.router.add_get("/v2/", self._hello)
        application.router.add_get(f"/v2/{name}/manifests/{{reference}}", self._get_manifest)
        application.router.add_get(f"/v2/{name}/blobs/{{digest}}", self._get_blob)
        self._runner = web.AppRunner(application)
        self._port = 0

    @property
    def ref(self) -> str:
        return f"127.0.0.1:{self._port}/{self._name}:1"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()

    def _keep(self, blob: bytes) -> str:
        digest = _digest(blob)
        self._blobs[digest] = blob
        return digest

    def _described(self, kind: str, digest: str) -> dict[str, str | int]:
        return {"mediaType": kind, "size": len(self._blobs[digest]), "digest": digest}

    async def _hello(self, _: web.Request) -> web.Response:
        return web.json_response({})

    async def _get_manifest(self, _: web.Request) -> web.Response:
        digest = {"Docker-Content-Digest": _digest(self._manifest)}
        return web.Response(body=self._manifest, content_type=_MANIFEST, headers=digest)

    async def _get_blob(self, request: web.Request) -> web.Response:
        blob = self._blobs.get(request.match_info["digest"])
        if blob is None:
            raise web.HTTPNotFound
        return web.Response(body=blob, content_type="application/octet-stream")


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _tar(name: str, content: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return made.getvalue()
