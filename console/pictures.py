"""Pictures that pass through the console: photos made small enough for a ticket, evidence fetched from its host."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import cv2
import numpy as np

from alerts.evidence import MEDIA_TYPES
from alerts.tickets import PHOTO_BYTES, Evidence
from pipeline.exceptions import EvidenceError

__all__ = ["Fetched", "fetch", "photo"]

TIMEOUT_S = 8.0
BLOCK_BYTES = 64 * 1024
LONGEST_PX = 1600  # shows a number plate across a yard
QUALITIES = (85, 75, 65, 55)  # below 55 a smaller picture shows more
UPLOAD_BYTES = 20 * 1024 * 1024  # a phone's largest photo
_PIXELS = 60_000_000


def photo(data: bytes, limit: int = PHOTO_BYTES) -> str:
    """A photo as a JPEG of at most `limit` bytes, in base64.

    It is decoded and encoded anew: place, time and device that a phone writes into its pictures stay behind.

    Raises:
        EvidenceError: if it is no picture, or too large a one.
    """
    if len(data) > UPLOAD_BYTES:
        raise EvidenceError(f"photo: {len(data)} bytes, expected at most {UPLOAD_BYTES}")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise EvidenceError("photo: is no picture that can be read") from error
    if image is None or image.shape[0] * image.shape[1] > _PIXELS:
        raise EvidenceError("photo: is no picture that can be read")
    longest = min(LONGEST_PX, max(image.shape[:2]))
    while True:
        factor = longest / max(image.shape[:2])
        size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if factor < 1 else image
        for quality in QUALITIES:
            _, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])
            if encoded.nbytes <= limit:
                return base64.b64encode(encoded.tobytes()).decode()
        longest = longest * 3 // 4


@dataclass(frozen=True, slots=True)
class Fetched:
    """Evidence on its way from its host to a browser."""

    status: int
    headers: dict[str, str]
    body: Iterator[bytes]


def fetch(evidence: Evidence, asked: Mapping[str, str]) -> Fetched:
    """Evidence by its signed link.

    The page's readers need not reach the host, and the link, which is a key, stays with us.

    Args:
        evidence: With a link.
        asked: The browser's headers; a ``Range`` is passed on.

    Raises:
        EvidenceError: if the host does not answer, or not with this evidence.
    """
    url = urlsplit(evidence.url or "")
    # The link is what a host wrote into its ticket: no other path, no redirect, no other kind of file is followed.
    if url.scheme not in ("http", "https") or not url.hostname:
        raise EvidenceError("evidence: has no link")
    if not url.path.endswith("/" + quote(evidence.path)):
        raise EvidenceError("evidence: its link leads elsewhere")
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname, url.port, timeout=TIMEOUT_S)
    headers = {"Range": asked["range"]} if "range" in asked else {}
    try:
        connection.request("GET", f"{url.path}?{url.query}", headers=headers)
        response = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise EvidenceError(f"evidence: its host does not answer: {error}") from error
    media_type = response.headers.get_content_type()
    if response.status not in (200, 206) or media_type not in MEDIA_TYPES.values():
        connection.close()
        raise EvidenceError(f"evidence: its host answers {response.status} ({media_type})")
    passed = ("Content-Type", "Content-Length", "Content-Range", "Accept-Ranges")
    kept = {name: response.headers[name] for name in passed if name in response.headers}

    def body() -> Iterator[bytes]:
        try:
            while block := response.read(BLOCK_BYTES):
                yield block
        except (OSError, http.client.HTTPException):
            return  # the browser sees a short answer and asks for the rest
        finally:
            connection.close()

    return Fetched(response.status, kept, body())
