"""Shows evidence over HTTP to whoever holds a signed link that has not expired, and nothing else to anybody."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import structlog

from alerts.evidence import MEDIA_TYPES, verify
from pipeline.exceptions import EvidenceError

__all__ = ["EvidenceServer"]

log = structlog.get_logger(__name__)

BLOCK_BYTES = 64 * 1024
IDLE_S = 30.0  # a client that says nothing for so long is cut off
CLIENTS = 16  # at a time; each is a thread on a host that has better things to do


class EvidenceServer:
    """A read-only file server. It binds in the constructor and answers after `start`.

    Args:
        folder: The evidence folder.
        listen: Address and port, e.g. ``127.0.0.1:8089``; port 0 takes a free one.
        key: The secret that signed the links.
        clock: Seconds since the epoch.

    Raises:
        EvidenceError: if the address cannot be bound.
    """

    def __init__(
        self, folder: Path, listen: str, key: bytes, clock: Callable[[], float] = time.time
    ) -> None:
        host, _, port = listen.rpartition(":")
        slots = threading.BoundedSemaphore(CLIENTS)

        class Handler(_Handler):
            root = folder
            secret = key
            now = staticmethod(clock)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
                if slots.acquire(blocking=False):
                    super().process_request(request, client_address)
                else:
                    self.shutdown_request(request)

            def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
                try:
                    super().process_request_thread(request, client_address)
                finally:
                    slots.release()

            def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
                log.debug("evidence client broke off", client=client_address[0])

        try:
            self._server = Server((host.strip("[]"), int(port)), Handler)
        except OSError as error:
            raise EvidenceError(f"evidence.listen: {listen}: {error.strerror}") from error
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.2},
            name="evidence-server",
            daemon=True,
        )

    @property
    def port(self) -> int:
        """The TCP port that it is bound to."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    root: Path
    secret: bytes
    now: Callable[[], float]
    protocol_version = "HTTP/1.1"
    server_version = "gridwatch"
    sys_version = ""
    timeout = IDLE_S

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        file = self._allowed()
        if file is None:
            # One answer for all refusals: a guess must not learn what exists.
            self.send_error(HTTPStatus.FORBIDDEN, "No valid link")
            return
        try:
            stream = file.open("rb")
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND, "Evidence no longer kept")
            return
        with stream:
            size = file.stat().st_size
            asked = self.headers.get("Range")
            span = _span(asked, size) if asked else (0, size)
            if span is None:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start, end = span
            partial = end - start < size
            self.send_response(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK)
            if partial:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Type", MEDIA_TYPES[file.suffix])
            self.send_header("Content-Length", str(end - start))
            self.send_header("Cache-Control", "private, no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Referrer-Policy", "no-referrer")
            self.end_headers()
            if with_body:
                stream.seek(start)
                left = end - start
                while left > 0 and (block := stream.read(min(BLOCK_BYTES, left))):
                    self.wfile.write(block)
                    left -= len(block)

    def _allowed(self) -> Path | None:
        """The file behind a link that is signed, has not expired and stays within the folder."""
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        path = unquote(url.path).removeprefix("/")
        signature = query.get("signature", [""])[0]
        expires = query.get("expires", [""])[0]
        if not re.fullmatch(r"\d{1,12}", expires, re.ASCII):
            return None
        if not verify(path, int(expires), signature, self.secret, self.now()):
            return None
        if "\0" in path:
            return None
        # Also of what we signed ourselves nothing outside is shown, not even through a symbolic link.
        file = (self.root / path).resolve()
        if not file.is_relative_to(self.root.resolve()) or file.suffix not in MEDIA_TYPES:
            return None
        return file

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401
        """Nothing: a link in a log would be a key in a log."""


def _span(header: str, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last of a Range header; everything for one that we do not follow.

    None if it lies outside the file.
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip(), re.ASCII)
    if match is None or not (match[1] or match[2]):
        return 0, size  # several ranges, or another unit: RFC 9110 lets us send it all
    if not match[1]:
        length = int(match[2])
        return (max(0, size - length), size) if length and size else None
    start = int(match[1])
    end = min(size, int(match[2]) + 1) if match[2] else size
    return (start, end) if start < end else None
