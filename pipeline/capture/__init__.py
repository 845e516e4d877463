"""Stage one: streams become frames on the host's timeline."""

from pipeline.capture.decoder import DecodeLevel
from pipeline.capture.health import CameraHealth, HealthParameters
from pipeline.capture.probe import StreamReport, probe
from pipeline.capture.reader import CameraReader, CaptureCounters, ReaderState
from pipeline.capture.ring import Burn, Clip, PacketRing
from pipeline.capture.settings import StreamSettings, redact
from pipeline.capture.timeline import Clock, HostClock

__all__ = [
    "Burn",
    "CameraHealth",
    "CameraReader",
    "CaptureCounters",
    "Clip",
    "Clock",
    "DecodeLevel",
    "HealthParameters",
    "HostClock",
    "PacketRing",
    "ReaderState",
    "StreamReport",
    "StreamSettings",
    "probe",
    "redact",
]
