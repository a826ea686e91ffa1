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
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@asynccontextmanager
async def registry(name: str, layers: int, layer_bytes: int) -> AsyncIterator[str]:
    """The reference of an image `name` with so many layers of so many bytes, served meanwhile."""
    blobs: dict[str, bytes] = {}

    def kept(kind: str, blob: bytes) -> dict[str, str | int]:
        digest = _digest(blob)
        blobs[digest] = blob
        return {"mediaType": kind, "size": len(blob), "digest": digest}

    async def hello(_: web.Request) -> web.Response:
        return web.json_response({})

    async def get_manifest(_: web.Request) -> web.Response:
        digest = {"Docker-Content-Digest": _digest(manifest)}
        return web.Response(body=manifest, content_type=_MANIFEST, headers=digest)

    async def get_blob(request: web.Request) -> web.Response:
        return web.Response(body=blobs[request.match_info["digest"]])

    seed = random.Random(name)
    tars = [_tar(f"file-{number}", seed.randbytes(layer_bytes)) for number in range(layers)]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [_digest(tar) for tar in tars]},
    }
    document = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": kept(_CONFIG, json.dumps(config).encode()),
        "layers": [kept(_LAYER, gzip.compress(tar, 1)) for tar in tars],
    }
    manifest = json.dumps(document).encode()
    application = web.Application()
    application.router.add_get("/v2/", hello)
    application.router.add_get(f"/v2/{name}/manifests/{{reference}}", get_manifest)
    application.router.add_get(f"/v2/{name}/blobs/{{digest}}", get_blob)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}/{name}:1"
    finally:
        await runner.cleanup()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _tar(name: str, content: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return made.getvalue()
