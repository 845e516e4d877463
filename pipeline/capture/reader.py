"""One thread per camera that keeps its stream alive and its newest picture ready."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import structlog

from pipeline.capture.backoff import Backoff
from pipeline.capture.decoder import (
    DecodeLevel,
    Decoder,
    KeyframeMeter,
    Picture,
    Sampler,
    decoder_for,
)
from pipeline.capture.mailbox import Mailbox
from pipeline.capture.ring import PacketRing
from pipeline.capture.settings import StreamSettings, redact
from pipeline.capture.source import (
    AvSource,
    Source,
    StalledError,
    StreamInfo,
    open_source,
)
from pipeline.capture.timeline import Clock, FileTimeline, HostClock, LiveTimeline, Timeline
from pipeline.exceptions import CaptureError
from pipeline.frame import Frame

__all__ = ["CameraReader", "CaptureCounters", "ReaderState"]

log = structlog.get_logger(__name__)

# A stream that ran this long was no lucky reconnect: the next failure is waited for briefly again.
STABLE_S = 30.0
# A decoder that is fed for so long without a picture will not recover by itself (changed parameters, lost state).
BARREN_S = 15.0
# Gaps of a file played in real time are cut to this.
LONGEST_PAUSE_S = 5.0
# `stop` promises two seconds; what hangs in a system call longer than this is left to its own time-out.
STOP_S = 1.5

OnFrame = Callable[["CameraReader"], None]
OnState = Callable[["ReaderState", str, float], None]


class ReaderState(StrEnum):
    """Where a reader is."""

    CONNECTING = "connecting"
    RUNNING = "running"
    STALLED = "stalled"
    BACKING_OFF = "backing_off"
    ENDED = "ended"
    QUARANTINED = "quarantined"


@dataclass(slots=True)
class CaptureCounters:
    """Totals since the start, for metrics; written by the reader's thread only."""

    packets: int = 0
    bytes: int = 0
    keyframes: int = 0
    decoded: int = 0
    converted: int = 0
    dropped: int = 0
    corrupt: int = 0
    reconnects: int = 0
    stalls: int = 0


class CameraReader:
    """Reads one camera for ever: connects, decodes what is needed, and after any failure backs off and tries again.

    Args:
        camera_id: The camera's id in cameras.yaml.
        settings: Its stream.
        clock: The host's time; share one among all cameras.
        rate_hz: Pictures per second wanted at first; see `set_rate`.
        pace: What ``pace: auto`` means for files. ``virtual``: the reader waits until its picture was taken
            and `take` is called again, so nothing is lost and every run sees the same pictures.
        start_t: Unix time of a file's first picture; the present if None.
        ring: Keeps the last packets for clips; of the record stream where there is one.
        on_frame: Called by the reader's thread when a picture is ready to be taken; must be quick.
        on_state: Called by the reader's thread with the new state, the reason in one line and the stream time.
        on_thread: Called by each of its threads (there is a second one for a record stream) before it opens a stream.
        rng: Source of the back-off's jitter.
    """

    def __init__(
        self,
        camera_id: str,
        settings: StreamSettings,
        *,
        clock: Clock | None = None,
        rate_hz: float = 5.0,
        pace: Literal["realtime", "virtual"] = "realtime",
        start_t: float | None = None,
        ring: PacketRing | None = None,
        on_frame: OnFrame | None = None,
        on_state: OnState | None = None,
        on_thread: Callable[[], None] = lambda: None,
        rng: random.Random | None = None,
    ) -> None:
        self.camera_id = camera_id
        self.settings = settings
        self.counters = CaptureCounters()
        self.ring = ring
        self._clock = clock or HostClock()
        self._virtual = (
            not settings.live and (settings.pace if settings.pace != "auto" else pace) == "virtual"
        )
        self._start_t = start_t
        self._on_frame = on_frame
        self._on_state = on_state
        self._on_thread = on_thread
        self._mailbox = Mailbox()
        self._sampler = Sampler(rate_hz)
        self._rate_hz = rate_hz
        self._meter = KeyframeMeter()
        self._backoff = Backoff(rng=rng)
        self._timeline: Timeline | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._recorder: _Recorder | None = None
        self._state = ReaderState.CONNECTING
        self._reason = ""
        self._epoch = -1
        self._level = DecodeLevel.ALL
        self._info: StreamInfo | None = None
        self._last_t: float | None = None
        self._paced_from: tuple[float, float] | None = None
        self._last_packet_s = self._clock.monotonic()
        self._failing = False

    # -- what others ask -------------------------------------------------------------------------------------------

    @property
    def state(self) -> ReaderState:
        """Where the reader is."""
        return self._state

    @property
    def reason(self) -> str:
        """Why it is there, in one line without secrets; empty while all is well."""
        return self._reason

    @property
    def finished(self) -> bool:
        """Whether no frame is left and none will come."""
        over = self._state in (ReaderState.ENDED, ReaderState.QUARANTINED)
        return over and not self._mailbox.waiting

    @property
    def waiting(self) -> bool:
        """Whether a frame lies ready to be taken."""
        return self._mailbox.waiting

    @property
    def waiting_since_s(self) -> float | None:
        """Since when (monotonic clock) frames have lain ready without being taken; None if none does."""
        return self._mailbox.waiting_since_s

    @property
    def ident(self) -> int | None:
        """Identifier of its Python thread, by which a native crash is attributed to this camera."""
        return None if self._thread is None else self._thread.ident

    @property
    def native_id(self) -> int | None:
        """The same thread's identifier in the kernel."""
        return None if self._thread is None else self._thread.native_id

    @property
    def epoch(self) -> int:
        """Number of reconnects; -1 before the first connection."""
        return self._epoch

    @property
    def level(self) -> DecodeLevel:
        """How much of the stream is decoded at present."""
        return self._level

    @property
    def keyframe_interval_s(self) -> float | None:
        """Measured seconds between key frames; None until two have come. Tell the operator if it is beyond 10 s."""
        return self._meter.interval_s

    @property
    def info(self) -> StreamInfo | None:
        """What the container says of the stream; None before the first connection."""
        return self._info

    @property
    def last_t(self) -> float | None:
        """Stream time of the last frame handed over; None before the first."""
        return self._last_t

    @property
    def silent_s(self) -> float:
        """Seconds since the last packet (or since the start); true even while the thread hangs in a system call."""
        return max(0.0, self._clock.monotonic() - self._last_packet_s)

    @property
    def rate_hz(self) -> float:
        """Pictures per second wanted now."""
        return self._rate_hz

    # -- what others do --------------------------------------------------------------------------------------------

    def set_rate(self, rate_hz: float) -> None:
        """Say how many pictures per second the scenarios need now; 0 for none, infinity for all.

        Any thread may call it. In virtual pace call it before `done` or the next `take`: then the sequence of pictures
        does not depend on timing.
        """
        if not rate_hz >= 0:  # NaN too
            raise ValueError(f"expected a rate of zero or more, found {rate_hz}")
        self._rate_hz = rate_hz

    def start(self) -> None:
        """Start the thread."""
        if self._thread is not None:
            raise RuntimeError(f"camera {self.camera_id}: the reader was started already")
        self._thread = threading.Thread(
            target=self._run, name=f"capture-{self.camera_id}", daemon=True
        )
        self._thread.start()
        record, analysed = self.settings.recorded_url, self.settings.analysed_url
        if self.ring is not None and record != analysed:
            self._recorder = _Recorder(
                self.camera_id, self.settings, self._clock, self.ring, self._on_thread
            )
            self._recorder.start()

    def take(self, timeout_s: float | None = 0.0) -> Frame | None:
        """The newest frame, or None if there is none within `timeout_s` seconds (None: wait for one or the end).

        Taking says that the frame taken before is dealt with; in virtual pace the reader goes on only then.
        """
        return self._mailbox.take(timeout_s)

    def done(self) -> None:
        """Say that the frame taken last is dealt with; in virtual pace the reader then prepares the next one."""
        self._mailbox.done()

    def stop(self) -> bool:
        """Stop and return within two seconds; False if the thread still hangs in a system call.

        Such a thread ends by itself at its time-out, closes the connection and touches nothing else.
        """
        self._stop.set()
        self._mailbox.close()
        if self._recorder is not None:
            self._recorder.stop()
        ended = True
        for thread in (self._thread, self._recorder.thread if self._recorder else None):
            if thread is not None and thread is not threading.current_thread():
                thread.join(STOP_S if ended else 0.1)
                ended = ended and not thread.is_alive()
        return ended

    def quarantine(self, reason: str) -> None:
        """Mark the camera as set aside by the supervisor, instead of starting it."""
        self._stop.set()
        self._mailbox.close()
        self._enter(ReaderState.QUARANTINED, reason)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            self._on_thread()
            self._enter(ReaderState.CONNECTING, self._reason)
            started_s = self._clock.monotonic()
            try:
                self._session()
            except CaptureError as error:
                if not self.settings.live:
                    self._finish(str(error))
                    return
                failure = error
            except (
                Exception
            ) as error:  # whatever breaks here must not end this camera's supervision
                log.exception("reader failed", camera=self.camera_id)
                failure = CaptureError(f"{self._place}: reading failed: {type(error).__name__}")
                if not self.settings.live:
                    self._finish(str(failure))
                    return
            else:
                if not self.settings.live:
                    if self.settings.loop and not self._stop.is_set():
                        continue
                    self._finish("")
                    return
                failure = CaptureError(f"{self._place}: the camera ended the stream")
            if self._stop.is_set():
                break
            if self._clock.monotonic() - started_s >= STABLE_S:
                self._backoff.reset()
            if isinstance(failure, StalledError):
                self.counters.stalls += 1
                self._enter(ReaderState.STALLED, str(failure))
            delay_s = self._backoff.next(retryable=failure.retryable)
            self._enter(ReaderState.BACKING_OFF, str(failure))
            self._stop.wait(delay_s)
        self._finish(self._reason)

    @property
    def _place(self) -> str:
        return redact(self.settings.analysed_url)

    def _finish(self, reason: str) -> None:
        self._enter(ReaderState.ENDED, reason)
        self._mailbox.close()
        if self._on_frame is not None:
            self._on_frame(self)  # wakes a scheduler that waits for this camera

    def _enter(self, state: ReaderState, reason: str) -> None:
        if (state, reason) == (self._state, self._reason) and state is not ReaderState.CONNECTING:
            return
        self._state, self._reason = state, reason
        lost = state is ReaderState.BACKING_OFF or (state is ReaderState.ENDED and reason != "")
        if lost and not self._failing:
            self._failing = True
            log.warning("camera lost", camera=self.camera_id, reason=reason)
        elif state is ReaderState.RUNNING and self._failing:
            self._failing = False
            log.info("camera back", camera=self.camera_id, reconnects=self.counters.reconnects)
        if self._on_state is not None:
            live = self.settings.live or self._last_t is None
            self._on_state(state, reason, self._clock.now() if live else self._last_t or 0.0)

    def _session(self) -> None:
        """One connection, from opening to its end."""
        source = open_source(self.settings, self.settings.analysed_url)
        try:
            if self._stop.is_set():
                return
            self._info = source.info
            self._begin(source)
            decoder = decoder_for(source)
            self._read(source, decoder)
            if not self.settings.live and not self._stop.is_set():
                self._deliver(decoder.flush(), self._clock.monotonic(), self._clock.now())
        finally:
            source.close()

    def _begin(self, source: Source) -> None:
        looped = not self.settings.live and self._timeline is not None
        if self._timeline is None:
            if self.settings.live:
                self._timeline = LiveTimeline()
            else:
                start_t = self._start_t if self._start_t is not None else self._clock.now()
                self._timeline = FileTimeline(start_t, source.info.rate_hz)
        self._timeline.restart()
        self._meter.restart()
        self._paced_from = None
        if not looped:
            self._epoch += 1
            self.counters.reconnects = max(0, self._epoch)
        if self.ring is not None and self._recorder is None and isinstance(source, AvSource):
            self.ring.begin(source.stream)

    def _read(self, source: Source, decoder: Decoder) -> None:
        timeline = self._timeline
        assert timeline is not None  # noqa: S101 - made by _begin
        fed_since_s: float | None = None
        known_corrupt = decoder.corrupt
        for packet in source.packets():
            arrived_s = self._clock.monotonic()
            now = self._clock.now()
            if self._stop.is_set():
                return
            self._last_packet_s = arrived_s
            counters = self.counters
            counters.packets += 1
            counters.bytes += packet.size
            counters.keyframes += packet.keyframe
            t = timeline.packet(packet.pts_s, now)
            # Only pictures carry the time of a file without stamps on, so that all of them are decoded.
            if packet.pts_s is not None or self.settings.live:
                self._meter.packet(t, keyframe=packet.keyframe)
            if self.ring is not None and self._recorder is None:
                self.ring.add(packet, t)
            if self._state is not ReaderState.RUNNING:
                self._enter(ReaderState.RUNNING, "")
            self._sampler.set_rate(self._rate_hz)
            if self._rate_hz == 0:
                if not self.settings.live and not self._virtual:
                    self._wait_until(t)
                continue
            self._level = self._meter.level(self._sampler.period_s)
            pictures = decoder.decode(packet, self._level, wanted=self._sampler.is_due(t))
            self._meter.decoded(self._level, len(pictures))
            counters.corrupt += decoder.corrupt - known_corrupt
            known_corrupt = decoder.corrupt
            if pictures:
                fed_since_s = None
                self._deliver(pictures, arrived_s, now)
            elif self.settings.live and self._level is not DecodeLevel.KEYFRAMES:
                fed_since_s = arrived_s if fed_since_s is None else fed_since_s
                if arrived_s - fed_since_s > max(BARREN_S, 2 * (self._meter.interval_s or 0.0)):
                    raise CaptureError(
                        f"{self._place}: packets arrive, but none of them could be decoded"
                    )

    def _deliver(self, pictures: list[Picture], arrived_s: float, now: float) -> None:
        timeline = self._timeline
        assert timeline is not None  # noqa: S101 - made by _begin
        for picture in pictures:
            self.counters.decoded += 1
            t = timeline.frame(picture.pts_s, now)
            if not self._sampler.is_due(t) or self._stop.is_set():
                continue
            if not self.settings.live and not self._virtual:
                if not self._wait_until(t):
                    return
                arrived_s = (
                    self._clock.monotonic()
                )  # held back by us, it has not been waiting for anybody
            image = picture.scaled(self.settings.analyse_width)
            self.counters.converted += 1
            self._sampler.taken(t)
            self._last_t = t
            frame = Frame(
                self.camera_id,
                t,
                image,
                arrived_s,
                picture.keyframe,
                self._epoch,
                picture.full_size,
            )
            self._hand_over(frame)
            self._sampler.set_rate(self._rate_hz)

    def _hand_over(self, frame: Frame) -> None:
        self.counters.dropped += self._mailbox.put(frame)
        if self._on_frame is not None:
            self._on_frame(self)
        if self._virtual:
            self._mailbox.wait_until_done()

    def _wait_until(self, t: float) -> bool:
        """Hold a file back to real time; False if stopped meanwhile."""
        now_s = self._clock.monotonic()
        if self._paced_from is None:
            self._paced_from = (t, now_s)
        start_t, start_s = self._paced_from
        ahead_s = start_s + (t - start_t) - now_s
        if ahead_s > LONGEST_PAUSE_S:
            self._paced_from = (
                t,
                now_s,
            )  # a gap in the recording: time jumps, the viewer need not wait
            ahead_s = LONGEST_PAUSE_S
        return not self._stop.wait(max(0.0, ahead_s))


class _Recorder:
    """Keeps the packets of the record stream without decoding them."""

    def __init__(
        self,
        camera_id: str,
        settings: StreamSettings,
        clock: Clock,
        ring: PacketRing,
        on_thread: Callable[[], None],
    ) -> None:
        self._camera_id = camera_id
        self._settings = settings
        self._clock = clock
        self._ring = ring
        self._on_thread = on_thread
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"record-{camera_id}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stop.set()

    def _run(self) -> None:
        backoff = Backoff()
        place = redact(self._settings.recorded_url)
        timeline = LiveTimeline()
        failing = False
        while not self._stop.is_set():
            started_s = self._clock.monotonic()
            self._on_thread()
            try:
                source = AvSource(self._settings, self._settings.recorded_url)
                try:
                    timeline.restart()
                    self._ring.begin(source.stream)
                    for packet in source.packets():
                        if self._stop.is_set():
                            return
                        self._ring.add(packet, timeline.packet(packet.pts_s, self._clock.now()))
                        if failing:
                            log.info("record stream back", camera=self._camera_id)
                            failing = False
                finally:
                    source.close()
                failure = CaptureError(f"{place}: the camera ended the stream")
            except CaptureError as error:
                failure = error
            if self._stop.is_set():
                return
            if not failing:
                log.warning("record stream lost", camera=self._camera_id, reason=str(failure))
                failing = True
            if self._clock.monotonic() - started_s >= STABLE_S:
                backoff.reset()
            self._stop.wait(backoff.next(retryable=failure.retryable))
