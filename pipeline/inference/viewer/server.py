"""The page's server: on this machine's loopback address, behind a random path, and nothing but the page and its cases.

Other users of the machine can reach the port, and any web page can send the browser there. So the first part of every
path is a random token, and the `Host` header must be this server's own: a foreign name that resolves to 127.0.0.1 does
not count. Everything else is 404.
"""

import json
import re
import secrets
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

from challenge.contract import Structure
from challenge.files import read_regular
from challenge.nifti import CaseError
from pipeline.inference.viewer.cases import CaseFiles, ViewedCase, colours, read_viewed_case
from pipeline.inference.viewer.niivue import BUNDLE, STATIC

ADDRESS = "127.0.0.1"
_JSON = "application/json"
_NIFTI = "application/octet-stream"
_SCRIPT = "text/javascript; charset=utf-8"
# What the page consists of: path -> file, type.
_PAGE = {
    "": (STATIC / "page.html", "text/html; charset=utf-8"),
    "page.css": (STATIC / "page.css", "text/css; charset=utf-8"),
    "page.js": (STATIC / "page.js", _SCRIPT),
    "outlines.js": (STATIC / "outlines.js", _SCRIPT),
    "niivue.js": (BUNDLE, _SCRIPT),
    "licences.txt": (STATIC / "niivue-licences.txt", "text/plain; charset=utf-8"),
}
_MAX_PAGE_BYTES = 16 * 2**20
_CASE_PATH = re.compile(r"cases/(\d{1,6})/(case\.json|scan\.nii|prediction\.nii|reference\.nii)")
_HEADERS = {
    # The page runs its own scripts and talks to its own server. NiiVue's font is an image inside its script.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Answer = tuple[str, bytes]


class ViewerServer(ThreadingHTTPServer):
    """Serves the page and the cases that it was given. A case is read when the page asks for it.

    Attributes:
        url: of the page, with the token.
    """

    daemon_threads = True

    def __init__(
        self, cases: Sequence[CaseFiles], structures: Sequence[Structure], tell: Callable[[str], None], port: int = 0
    ) -> None:
        """Listen, on a free port unless one is given; `tell` is called with what is wrong with a case.

        Raises:
            OSError: the port is taken or not allowed.
        """
        super().__init__((ADDRESS, port), _Handler)
        self._cases, self._structures, self._tell = cases, structures, tell
        self._token = secrets.token_urlsafe(24)
        self._lock = Lock()
        self._last: tuple[int, ViewedCase | CaseError] | None = None
        self.url = f"http://{ADDRESS}:{self.server_port}/{self._token}/"

    def is_own(self, host: str | None) -> bool:
        """Tell whether a `Host` header names this server."""
        return host in {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}

    def answer(self, path: str) -> Answer | None:
        """Return what lies at a path, with its type; None where there is nothing."""
        token, slash, name = path.removeprefix("/").partition("/")
        if not slash or not secrets.compare_digest(token.encode(), self._token.encode()):
            return None
        if name in _PAGE:
            file, kind = _PAGE[name]
            return kind, read_regular(file, _MAX_PAGE_BYTES)
        if name == "cases.json":
            return _JSON, _json(self._overview())
        named = _CASE_PATH.fullmatch(name)
        if named is None or int(named[1]) >= len(self._cases):
            return None
        return self._of_case(int(named[1]), named[2])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over a browser that hangs up."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def _overview(self) -> dict[str, Any]:
        return {
            "cases": [files.case for files in self._cases],
            "labels": [structure.label for structure in self._structures],
            "titles": [structure.title for structure in self._structures],
            "colours": colours(self._structures),
        }

    def read(self, number: int) -> ViewedCase | CaseError:
        """Read a case, or what is wrong with it. The last stays in memory: its files are asked for one by one."""
        with self._lock:
            if self._last is None or self._last[0] != number:
                self._last = None  # not two in memory
                case: ViewedCase | CaseError
                try:
                    case = read_viewed_case(self._cases[number], self._structures)
                except CaseError as error:
                    case = error
                self._last = number, case
            return self._last[1]

    def _of_case(self, number: int, name: str) -> Answer | None:
        case = self.read(number)
        if name == "case.json":
            if isinstance(case, CaseError):
                self._tell(f"{self._cases[number].case}: {case}")
                return _JSON, _json({"error": str(case)})
            return _JSON, _json(case.description | {"roles": list(case.volumes)})
        voxels = None if isinstance(case, CaseError) else case.volumes.get(name.removesuffix(".nii"))
        return None if voxels is None else (_NIFTI, voxels)


class _Handler(BaseHTTPRequestHandler):
    server: ViewerServer
    protocol_version = "HTTP/1.1"
    timeout = 60
    server_version, sys_version = "crossmoda-grl", ""

    def do_GET(self) -> None:
        """Answer with a part of the page or of a case, or with 404."""
        found = self.server.answer(self.path) if self.server.is_own(self.headers["Host"]) else None
        kind, content = found or ("text/plain; charset=utf-8", b"404\n")
        self.send_response(HTTPStatus.OK if found else HTTPStatus.NOT_FOUND)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **_HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Keep requests off the terminal."""


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False).encode()
