"""The page at ``/``: files that lie beside this one, read once, sent as they are.

A browser that asks for HTML gets the page, everyone else the JSON list of endpoints. The policy of
its contents allows this origin's scripts and styles and nothing inline: text that a model wrote
reaches the page as text only.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from blatam_kv.bul.caller import Caller
from blatam_kv.server.gate import Door
from blatam_kv.server.prefix import prefix_of

FOLDER = Path(__file__).with_name("page")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",
    "Vary": "Accept, Accept-Encoding",
}


@dataclass(frozen=True, slots=True)
class _File:
    media_type: str
    content: bytes
    packed: bytes
    tag: str

    @classmethod
    def of(cls, suffix: str, content: bytes) -> _File:
        packed = gzip.compress(content, 9, mtime=0)
        return cls(_TYPES[suffix], content, packed, f'"{hashlib.sha256(content).hexdigest()[:16]}"')

    def answer(self, request: Request) -> Response:
        headers = _HEADERS | {"ETag": self.tag}
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        content = self.content
        if "gzip" in request.headers.get("accept-encoding", ""):
            content, headers = self.packed, headers | {"Content-Encoding": "gzip"}
        return Response(content, media_type=self.media_type, headers=headers)


class Page:
    """The files, and the doors to them. base: where BUL is from here; gateway: whether this is one.

    is_local: whether who asks may see the figures without a key, so that the page knows whether to ask.
    """

    def __init__(
        self, is_local: Callable[[Request], bool], *, base: str = "", gateway: bool = False
    ) -> None:
        self._is_local = is_local
        index = (FOLDER / "index.html").read_text(encoding="utf-8")

        def page(prefix: str, local: bool) -> _File:
            text = index.replace("{base}", prefix + base)
            text = text.replace("{gateway}", "yes" if gateway else "no")
            text = text.replace("{open}", "yes" if local and not gateway else "no")
            text = text.replace("{systems}", "yes" if local and gateway else "no")
            return _File.of(".html", text.encode())

        self._page = lru_cache(maxsize=8)(page)
        self._files = {
            path.name: _File.of(path.suffix, path.read_bytes())
            for path in sorted(FOLDER.iterdir())
            if path.suffix in _TYPES and path.name != "index.html"
        }

    def doors(self) -> list[Door]:
        """A door to each file, and the icon that browsers ask for unasked."""
        found = [
            Door(path=f"/page/{name}", answer=self._door(file), scope=None)
            for name, file in self._files.items()
        ]
        icon = self._door(self._files["icon.svg"])
        return [*found, Door(path="/favicon.ico", answer=icon, scope=None)]

    def wanted(self, request: Request) -> bool:
        """Whether a browser asks for something to look at."""
        return "text/html" in request.headers.get("accept", "")

    def index(self, request: Request) -> Response:
        """The page itself."""
        return self._page(prefix_of(request), self._is_local(request)).answer(request)

    @staticmethod
    def _door(file: _File) -> Callable[[Request, Caller, None], Awaitable[Response]]:
        # On the loop: the bytes are there, and ten threads for one page would wait for each other.
        async def answer(request: Request, caller: Caller, wanted: None) -> Response:
            return file.answer(request)

        answer.__doc__ = "A part of the page."
        return answer
