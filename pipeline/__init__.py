"""Capture and analysis: from RTSP packets to observations."""
