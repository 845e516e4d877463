"""Stage one: streams become frames on the host's timeline."""

from pipeline.capture.decoder import DecodeLevel
from pipeline.capture.reader import CameraReader, CaptureCounters, ReaderState
from pipeline.capture.ring import Burn, Clip, PacketRing
from pipeline.capture.settings import StreamSettings, redact
from pipeline.capture.timeline import Clock, HostClock

__all__ = [
    "Burn",
    "CameraReader",
    "CaptureCounters",
    "Clip",
    "Clock",
    "DecodeLevel",
    "HostClock",
    "PacketRing",
    "ReaderState",
    "StreamSettings",
    "redact",
]
