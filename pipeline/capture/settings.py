"""How one camera's stream is reached, and how its address is shown without its secrets."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from pipeline.units import Duration, Settings

__all__ = ["Pace", "StreamSettings", "redact"]

Pace = Literal["auto", "realtime", "virtual"]

_LIVE_SCHEMES = (
    "rtsp://",
    "rtsps://",
    "http://",
    "https://",
    "udp://",
    "rtp://",
    "rtmp://",
    "srt://",
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(.*)", re.DOTALL)
# Parameters in which cameras and gateways take a login (Hikvision, Dahua, Reolink, go2rtc).
_SECRET_QUERY = re.compile(
    r"([?&;/](?:[a-z_]*(?:password|passwd|passphrase|pwd|pass|token|secret|auth|apikey|api_key|key|user|username|usr|account|loginuse|loginpas)"
    r"|sig|signature|streamid))=([^&;/\s]*)",
    re.IGNORECASE,
)

Url = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


def redact(url: str) -> str:
    """`url` without user, password and login parameters; a path stays what it is.

    Everything before the last ``@`` that can belong to the login is removed, so a password that holds an unescaped
    ``@``, ``/``, ``?`` or ``#`` does not leak: a mistyped address shows less rather than more.
    """
    match = _SCHEME.fullmatch(url.strip())
    if match is None:
        return url
    scheme, rest = match[1], match[2]
    if "@" in rest:
        rest = "***@" + rest.rpartition("@")[2]
    return f"{scheme}://" + _SECRET_QUERY.sub(r"\1=***", rest)


class StreamSettings(Settings):
    """One camera's stream or streams.

    Attributes:
        url: ``rtsp://``, ``rtsps://``, ``http(s)://`` (MJPEG, MPEG-TS), a video file, a folder of pictures or a
            device such as ``/dev/video0``. Serves for both purposes below unless they are given.
        detect: Stream to analyse, usually the camera's small one.
        record: Stream to cut evidence clips from, usually its large one; it is read without being decoded.
        transport: Of RTSP. UDP loses packets under load, so TCP is the default.
        open_timeout: Seconds until connecting and reading the first stream data is given up.
        read_timeout: Seconds without any packet until a stream counts as stalled.
        analyse_width: Width in pixels to which larger pictures are scaled for analysis; never enlarged.
        pace: Of files: ``realtime`` (newest picture wins), ``virtual`` (as fast as they are taken, nothing is lost) or
            ``auto`` (what the program at hand prefers: real time in the daemon, virtual in the benchmark).
        loop: Whether a file begins again at its end; its time goes on.
        picture_interval: Seconds between the pictures of a folder.
        hwaccel: FFmpeg hardware decoder (``vaapi``, ``qsv``, ``cuda``, ...); decodes in software where it fails.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    url: Url | None = Field(default=None, repr=False)
    detect: Url | None = Field(default=None, repr=False)
    record: Url | None = Field(default=None, repr=False)
    transport: Literal["tcp", "udp"] = "tcp"
    open_timeout: Duration = Field(default=10.0, gt=0)
    read_timeout: Duration = Field(default=10.0, gt=0)
    analyse_width: int = Field(default=960, ge=64, le=7680)
    pace: Pace = "auto"
    loop: bool = False
    picture_interval: Duration = Field(default=1.0, gt=0)
    hwaccel: str | None = Field(default=None, pattern=r"^[a-z0-9]+$")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.url is None and self.detect is None:
            raise ValueError("expected a url (or detect and record), found none")
        if self.loop and is_live(self.analysed_url):
            raise ValueError("loop is for files, found a live stream")
        if self.record is not None and not (is_live(self.record) and self.live):
            raise ValueError("record is for live cameras, found a file")
        return self

    @property
    def analysed_url(self) -> str:
        """The stream that is analysed, with its secrets."""
        return self.detect or self.url or ""

    @property
    def recorded_url(self) -> str:
        """The stream that clips are cut from, with its secrets; may be the analysed one."""
        return self.record or self.url or self.detect or ""

    @property
    def live(self) -> bool:
        """Whether the analysed stream goes on without us (network or device) rather than waiting (file)."""
        return is_live(self.analysed_url)


def is_live(url: str) -> bool:
    """Whether `url` names a network stream or a device rather than a file or folder."""
    return url.lower().startswith(_LIVE_SCHEMES) or is_device(url)


def is_device(url: str) -> bool:
    """Whether `url` names a Video4Linux device."""
    return url.startswith("/dev/video")
