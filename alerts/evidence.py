"""Pictures and clips on the host's disk: written whole or not at all, kept as long as agreed, shown by signed links.

    {folder}/{date}/{camera}/{moment}.jpg          the picture, masks and heads burned in
    {folder}/{date}/{camera}/{moment}-boxes.jpg    the same with what was detected drawn in
    {folder}/{date}/{camera}/{moment}-{ticket}.mp4 the clip
    {folder}/{date}/{camera}/{moment}-photo-{n}.jpg a person's photo

A file is synced to the disk before its path is given out, so that a ticket's row never names what is not there.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

import cv2
import structlog
from pydantic import Field, field_validator

from alerts.tickets import Evidence, instant
from pipeline.exceptions import EvidenceError
from pipeline.frame import Image
from pipeline.observation import RelativeBox
from pipeline.units import ByteSize, Duration, Settings

__all__ = [
    "MEDIA_TYPES",
    "EvidenceSettings",
    "EvidenceStore",
    "Expired",
    "encode_jpeg",
    "load_key",
    "sign",
    "thumbnail",
    "verify",
]

log = structlog.get_logger(__name__)

MEDIA_TYPES = {".jpg": "image/jpeg", ".mp4": "video/mp4"}
PICTURE_QUALITY = 90  # JPEG; what an operator zooms into
THUMBNAIL_BYTES = 64 * 1024  # of base64: a ticket travels whole, over links that may be a phone's
THUMBNAIL_WIDTH_PX = 480
THUMBNAIL_QUALITIES = (80, 65, 50, 35)  # below 35 a smaller picture shows more
BOX_COLOUR = (0, 220, 255)  # BGR amber: seen on grass, asphalt, fire and at night
UNFINISHED = ".part"
UNFINISHED_S = 3600.0  # no picture or clip takes that long to write: a crash left it


class EvidenceSettings(Settings):
    """Pictures and clips of alarms.

    Attributes:
        folder: Where they are kept; empty means ``evidence`` in the state folder.
        clip: Whether clips are recorded.
        pre_roll: A clip begins this long before the alarm, or at the key frame before that.
        post_roll: It ends this long after.
        keep_days: Of tickets that are disposed of, evidence older than this is deleted.
        keep_bytes: Above this, the oldest evidence of disposed tickets is deleted first.
        min_free: With less free space on its disk nothing is written, so that tickets still can be.
        url_base: Address under which `listen` is reached, e.g. ``http://10.0.0.7:8089``; empty for no links in tickets.
        listen: Address and port on which evidence is served; empty for not at all.
        url_ttl: How long a link works.
    """

    folder: str = ""
    clip: bool = True
    pre_roll: Duration = 5.0
    post_roll: Duration = 5.0
    keep_days: float = Field(default=30, gt=0)
    keep_bytes: ByteSize = 20 * 1024**3
    min_free: ByteSize = 200 * 1024**2
    url_base: str = Field(default="", pattern=r"^(https?://[^\s?#]+)?$")
    listen: str = ""
    url_ttl: Annotated[Duration, Field(gt=0)] = 7 * 86400.0

    @field_validator("listen")
    @classmethod
    def _address_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value and not (host and port.isdecimal() and int(port) <= 65535):
            raise ValueError(
                f"expected an address and port such as 127.0.0.1:8089, found {value!r}"
            )
        return value


def sign(path: str, expires: int, key: bytes) -> str:
    """The signature of a link: HMAC-SHA256 of path and expiry, 64 hexadecimal digits.

    Args:
        path: Relative to the evidence folder, with ``/``.
        expires: Seconds since the epoch.
        key: The host's secret.
    """
    return hmac.new(key, f"{expires}\n{path}".encode(), hashlib.sha256).hexdigest()


def verify(path: str, expires: int, signature: str, key: bytes, now: float) -> bool:
    """Whether a link is ours and still works at `now` (seconds since the epoch)."""
    genuine = hmac.compare_digest(sign(path, expires, key).encode(), signature.encode())
    return genuine and now < expires


def load_key(file: Path) -> bytes:
    """The secret that signs links, made on first use, readable by its owner alone.

    Raises:
        EvidenceError: if it cannot be read or written.
    """
    try:
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            key = file.read_bytes()
        else:
            key = secrets.token_bytes(32)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(key)
                stream.flush()
                os.fsync(stream.fileno())
    except OSError as error:
        raise EvidenceError(f"{file}: cannot be used: {error.strerror}") from error
    if len(key) < 32:
        raise EvidenceError(f"{file}: found {len(key)} bytes, expected a key of 32")
    return key


def thumbnail(image: Image, limit: int = THUMBNAIL_BYTES) -> str:
    """A JPEG of `image` in base64, at most `limit` characters: lower quality first, then smaller.

    Args:
        image: (h, w, 3) uint8 BGR.
        limit: In characters of base64.

    Raises:
        EvidenceError: if it cannot be encoded.
    """
    width = min(THUMBNAIL_WIDTH_PX, image.shape[1])
    while True:
        height = max(1, round(image.shape[0] * width / image.shape[1]))
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        for quality in THUMBNAIL_QUALITIES:
            text = base64.b64encode(encode_jpeg(small, quality)).decode()
            if len(text) <= limit:
                return text
        if width == 1:
            raise EvidenceError(f"thumbnail: {len(text)} characters, expected at most {limit}")
        width = max(1, width * 3 // 4)


@dataclass(frozen=True, slots=True)
class Expired:
    """What a retention run did.

    Attributes:
        deleted: Files deleted.
        freed_bytes: Their size.
        kept_bytes: What is left.
        over_bytes: By how much that is above the limit, all of it evidence of open tickets.
    """

    deleted: int
    freed_bytes: int
    kept_bytes: int
    over_bytes: int


class EvidenceStore:
    """The evidence folder of one host. Pictures that it is given have been through `Privacy.burn`.

    Args:
        settings: Retention and links.
        folder: Used unless the settings name another; it is made on first use.
        key: Signs links; None for tickets without links.
        clock: Seconds since the epoch, from which a link's life is counted.
    """

    def __init__(
        self,
        settings: EvidenceSettings,
        folder: Path,
        key: bytes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.folder = Path(settings.folder) if settings.folder else folder
        self._key = key
        self._clock = clock
        self._over = False

    def save_picture(
        self,
        camera_id: str,
        t: float,
        image: Image,
        boxes: Sequence[RelativeBox] = (),
        labels: Sequence[str] = (),
    ) -> tuple[tuple[Evidence, ...], str]:
        """Write a picture, plain and (where there are boxes) with the boxes drawn in.

        Args:
            camera_id: Of the camera.
            t: The picture's time in seconds since the epoch.
            image: (h, w, 3) uint8 BGR, already burned.
            boxes: What was detected, relative.
            labels: One for each box, in ASCII; or none.

        Returns:
            Its evidence, the plain picture first, and a thumbnail (JPEG in base64) that shows the boxes.

        Raises:
            EvidenceError: if it cannot be encoded or written (a full disk); nothing is left behind.
        """
        stem = self._path(camera_id, t, "")
        plain = stem.with_name(f"{stem.name}.jpg")
        number = 1
        while plain.exists():
            number += 1
            plain = stem.with_name(f"{stem.name}-{number}.jpg")
        evidence = [self._write(plain, encode_jpeg(image, PICTURE_QUALITY), t)]
        shown = image
        if boxes:
            shown = _draw(image, boxes, labels)
            drawn = plain.with_name(f"{plain.stem}-boxes.jpg")
            evidence.append(self._write(drawn, encode_jpeg(shown, PICTURE_QUALITY), t))
        return tuple(evidence), thumbnail(shown)

    def save_photo(self, camera_id: str, t: float, data: bytes) -> Evidence:
        """Write a person's photo of what a camera saw.

        Args:
            camera_id: Of the ticket.
            t: When it came, in seconds since the epoch.
            data: A whole JPEG; see `alerts.photos.checked_photo`.

        Raises:
            EvidenceError: if it cannot be written; nothing is left behind.
        """
        number = 1
        while (path := self._path(camera_id, t, f"-photo-{number}.jpg")).exists():
            number += 1
        return self._write(path, data, t, "photo")

    def clip_path(self, camera_id: str, t: float, name: str) -> Path:
        """Where a clip that begins at `t` is to be written; its folder exists.

        Raises:
            EvidenceError: if there is no room for it.
        """
        path = self._path(camera_id, t, f"-{_safe(name)}.mp4")
        self._make_room(path)
        return path

    def clip(self, path: Path, t_from: float, t_to: float) -> Evidence:
        """The evidence of a clip that was written at a `clip_path`, now on the disk for good.

        Raises:
            EvidenceError: if it is not there or cannot be synced.
        """
        digest, size = hashlib.sha256(), 0
        try:
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
                    size += len(block)
                os.fsync(stream.fileno())
            _sync_folder(path.parent)
        except OSError as error:
            raise EvidenceError(f"clip {path.name}: {error.strerror}") from error
        return self._evidence("clip", path, digest.hexdigest(), size, t_from, t_to)

    def url(self, path: str, now: float) -> str | None:
        """A link to the evidence at `path` that works from `now` for ``url_ttl``; None where links are not set up."""
        if self._key is None or not self.settings.url_base:
            return None
        expires = int(now + self.settings.url_ttl)
        base = self.settings.url_base.rstrip("/")
        return f"{base}/{quote(path)}?expires={expires}&signature={sign(path, expires, self._key)}"

    def expire(self, now: float, keep: Collection[str]) -> Expired:
        """Delete what is too old or too much, the oldest first, and what a crash left unfinished.

        Args:
            now: Seconds since the epoch.
            keep: Paths of the evidence of open tickets; never deleted.
        """
        files: list[tuple[float, int, Path]] = []
        for path in self.folder.rglob("*"):
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            if path.name.endswith(UNFINISHED):
                if status.st_mtime < now - UNFINISHED_S:
                    _delete(path)
            elif path.suffix in MEDIA_TYPES:
                files.append((status.st_mtime, status.st_size, path))
        files.sort()
        total = sum(size for _, size, _ in files)
        oldest = now - self.settings.keep_days * 86400
        deleted = freed = 0
        for written, size, path in files:
            if written >= oldest and total - freed <= self.settings.keep_bytes:
                break  # all that follow are younger
            if self._relative(path) not in keep and _delete(path):
                deleted, freed = deleted + 1, freed + size
        self._drop_empty_folders(now)
        left = total - freed
        over = max(0, left - self.settings.keep_bytes)
        if deleted:
            log.info("evidence expired", files=deleted, freed_bytes=freed, kept_bytes=left)
        if over and not self._over:
            log.warning("evidence of open tickets exceeds its limit", over_bytes=over)
        self._over = bool(over)
        return Expired(deleted, freed, left, over)

    def _drop_empty_folders(self, now: float) -> None:
        # Only old ones: a picture may be about to be written into a fresh one.
        for folder in sorted((p for p in self.folder.rglob("*") if p.is_dir()), reverse=True):
            try:
                if folder.stat().st_mtime < now - 86400:
                    folder.rmdir()
            except OSError:
                continue  # not empty, or gone

    def _path(self, camera_id: str, t: float, ending: str) -> Path:
        moment = instant(t)
        name = moment.strftime("%Y%m%dT%H%M%S") + f".{moment.microsecond // 1000:03d}Z{ending}"
        return self.folder / moment.strftime("%Y-%m-%d") / _safe(camera_id) / name

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _make_room(self, path: Path) -> None:
        folders = (path.parent, *path.parent.parents)
        try:
            fresh = [folder for folder in folders if not folder.exists()]
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            for folder in fresh:
                _sync_folder(folder.parent)
            disk = os.statvfs(path.parent)
        except OSError as error:
            raise EvidenceError(f"evidence folder {self.folder}: {error.strerror}") from error
        free = disk.f_bavail * disk.f_frsize
        if free < self.settings.min_free:
            raise EvidenceError(
                f"evidence folder {self.folder}: {free} bytes free, "
                f"expected at least {self.settings.min_free}"
            )

    def _write(
        self, path: Path, data: bytes, t: float, kind: Literal["picture", "photo"] = "picture"
    ) -> Evidence:
        self._make_room(path)
        unfinished = path.with_name(f".{path.name}{UNFINISHED}")
        try:
            with unfinished.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise EvidenceError(f"{kind} {path.name}: {error.strerror}") from error
        return self._evidence(kind, path, hashlib.sha256(data).hexdigest(), len(data), t, t)

    def _evidence(
        self,
        kind: Literal["picture", "clip", "photo"],
        path: Path,
        digest: str,
        size: int,
        t_from: float,
        t_to: float,
    ) -> Evidence:
        relative = self._relative(path)
        return Evidence(
            kind=kind,
            path=relative,
            sha256=digest,
            size_bytes=size,
            media_type=MEDIA_TYPES[path.suffix],
            start=instant(t_from),
            end=instant(t_to),
            url=self.url(relative, self._clock()),
        )


def _safe(name: str) -> str:
    """A name that is one harmless level of a path; camera ids may hold what file systems dislike."""
    cleaned = re.sub(r"[^\w\-]", "_", name)
    return (
        cleaned if cleaned == name else f"{cleaned}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    )


def _delete(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("evidence cannot be deleted", file=path.name, reason=error.strerror)
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """What was made or renamed in a folder is only on the disk when the folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def encode_jpeg(image: Image, quality: int) -> bytes:
    """The picture, (h, w, 3) uint8 BGR, as JPEG of this quality, 0..100.

    Raises:
        EvidenceError: if it cannot be encoded.
    """
    try:
        done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    except cv2.error as error:
        raise EvidenceError(f"picture of shape {image.shape}: {error.err}") from error
    if not done:
        raise EvidenceError(f"picture of shape {image.shape}: cannot be encoded as JPEG")
    return bytes(data)


def _draw(image: Image, boxes: Sequence[RelativeBox], labels: Sequence[str]) -> Image:
    drawn: Image = image.copy()
    height, width = image.shape[:2]
    thickness = max(1, round(min(height, width) / 300))
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        corner = (round(x1 * width), round(y1 * height))
        cv2.rectangle(drawn, corner, (round(x2 * width), round(y2 * height)), BOX_COLOUR, thickness)
        if index < len(labels):
            scale = min(height, width) / 900 + 0.3
            above = (corner[0], max(round(20 * scale), corner[1] - 2 * thickness))
            cv2.putText(
                drawn, labels[index], above, cv2.FONT_HERSHEY_SIMPLEX, scale, BOX_COLOUR, thickness
            )
    return drawn
