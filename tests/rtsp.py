"""The real RTSP server for tests; the soak benchmark runs the same."""

from benchmarks.rtsp_server import RtspServer, free_port, rtsp_missing

__all__ = ["RtspServer", "free_port", "rtsp_missing"]
