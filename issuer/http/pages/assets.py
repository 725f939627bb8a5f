"""GET /assets/{digest}/{name}: files that pages load.

The path contains a hash of the content, so a browser may keep the file for good: another content has another path.
"""

from __future__ import annotations

import gzip
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import status_problem

PATH: Final = "/assets/{digest}/{name}"
MEDIA_TYPES: Final = {"css": "text/css", "js": "text/javascript"}
KEPT: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Compressible:
    """Content that is sent with gzip to a client that accepts it. It is compressed once."""

    compressed: bytes
    media_type: str

    @classmethod
    def of(cls, content: bytes, media_type: str) -> Compressible:
        return cls(gzip.compress(content, mtime=0), media_type)

    @cached_property
    def content(self) -> bytes:
        return gzip.decompress(self.compressed)

    def response(self, request: Request, headers: dict[str, str] | None = None) -> Response:
        vary = {**(headers or {}), "vary": "Accept-Encoding"}
        if accepts_gzip(request.headers.get("accept-encoding", "")):
            vary["content-encoding"] = "gzip"
            return Response(self.compressed, media_type=self.media_type, headers=vary)
        return Response(self.content, media_type=self.media_type, headers=vary)


class Asset:
    """A file of a package, read at its first use. Its name ends with .gz where it is stored with gzip."""

    def __init__(self, package: str, file: str) -> None:
        self._file = files(package).joinpath(file)
        self.name = file.removesuffix(".gz")
        ASSETS[self.name] = self

    @cached_property
    def file(self) -> Compressible:
        media_type = MEDIA_TYPES[self.name.rpartition(".")[2]]
        make = Compressible if self._file.name.endswith(".gz") else Compressible.of
        return make(self._file.read_bytes(), media_type)

    @cached_property
    def path(self) -> str:
        """The path, which is the same in every process that has this file."""
        return PATH.format(digest=sha256(gzip.decompress(self.file.compressed)).hexdigest()[:16], name=self.name)


ASSETS: Final[dict[str, Asset]] = {}
"""Every file that pages load, by name."""


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding admits gzip (RFC 9110, section 12.5.3)."""
    weights: dict[str, float] = {}
    for item in accept_encoding.lower().split(","):
        coding, _, weight = item.partition(";")
        with suppress(ValueError):
            weights[coding.strip()] = float(weight.strip().removeprefix("q=") or 1)
    return weights.get("gzip", weights.get("*", 0)) > 0


async def get_asset(context: RequestContext) -> Response:
    asset = ASSETS.get(context.request.path_params["name"])
    if asset is None or asset.path != context.request.scope["path"]:
        raise status_problem(404)
    return asset.file.response(context.request, {"cache-control": KEPT})


OPERATIONS = (Operation("GET", PATH, get_asset, Access.PUBLIC, takes_slot=False),)
