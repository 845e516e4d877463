"""The engine process: readers, scheduler, engine, tickets, broker; supervised by `gridwatch.daemon`."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import structlog

from alerts.dispatch import Dispatch
from alerts.evidence import EvidenceStore, load_key
from alerts.evidence_server import EvidenceServer
from alerts.mqtt import CommandReceiver, ConfigStatus, Publisher
from alerts.notify import Notifier, is_installed
from alerts.store import Store
from alerts.topics import Topics
from gridwatch.actuators import Actuators
from gridwatch.config import CameraSettings, Config
from gridwatch.daemon import RELOAD, RETREAT, START_ANEW, STARTING, CrashNotes, EngineLock
from gridwatch.engine import DetectorLike, Engine, Outcome
from gridwatch.logs import configure_logging
from gridwatch.metrics import Metrics, Reading
from gridwatch.recording import Recording, camera_header
from gridwatch.reload import (
    Candidate,
    ConfigWatch,
    Revision,
    compare,
    keep_accepted,
    read_accepted,
    read_revision,
)
from gridwatch.scheduler import BATCH, Scheduler
from gridwatch.warner import Warner
from pipeline.analyse.detector import Detector
from pipeline.analyse.scenario import load_scenario
from pipeline.analyse.weights import WeightsEntry, load_registry
from pipeline.capture.reader import CameraReader, ReaderState
from pipeline.capture.ring import PacketRing
from pipeline.capture.timeline import Clock, HostClock
from pipeline.exceptions import ConfigError, GridwatchError, ModelError
from pipeline.observation import Condition, Json

__all__ = ["Host", "load_detectors", "main", "models_needed"]

log = structlog.get_logger(__name__)

END_S = 3.0  # of the five seconds in which SIGTERM must end the daemon; the store's last fsync comes on top
ONCE_END_S = 60.0  # nobody waits behind the last file, and its clips are worth it
SILENT_AFTER_S = 2.0  # a camera without a frame for longer has a gap, whatever its state says
CHORES_S = 1.0  # heartbeat, statuses, silent cameras
SNAPSHOT_S = 1.0  # a kill -9 costs a dwell no more than this
UNKNOWN_AFTER_S = 5.0  # what is hidden for a moment is not worth a status
STATUS_S = 60.0  # statuses are repeated so that `silent for` stays current
RING_BYTES = 64 * 1024 * 1024  # 40 s of a 1080p camera at 12 Mbit/s
YOUNG_S = 600.0  # an engine that is over its memory limit sooner would be so again: a new one every time helps nobody
KEYFRAME_WARNING_S = 10.0  # longer intervals force full decoding and delay the first picture

_CAPTURE_COUNTERS = {
    "packets": "Packets read",
    "bytes": "Bytes read",
    "decoded": "Pictures decoded",
    "converted": "Pictures handed to analysis",
    "dropped": "Pictures replaced by a newer one before analysis",
    "corrupt": "Packets that could not be decoded",
    "reconnects": "Reconnects",
    "stalls": "Streams that went silent",
}


def models_needed(cameras: list[CameraSettings]) -> dict[str, list[str]]:
    """Camera ids by the model that their scenarios (or head blurring) need."""
    needed: dict[str, list[str]] = {}
    for camera in cameras:
        names = {
            load_scenario(name).model_for(parameters)
            for name, parameters in camera.scenarios.items()
        }
        if camera.privacy.blur_heads:
            names.add("vehicles")  # it knows persons
        for name in filter(None, names):
            needed.setdefault(name, []).append(camera.id)
    return needed


def load_detectors(
    config: Config, needed: Mapping[str, list[str]], *, quiet: bool = False
) -> tuple[dict[str, Detector], dict[str, WeightsEntry], dict[str, str]]:
    """Sessions and registry entries by model; a model that is unusable is named with its reason, the rest is loaded."""
    threads = config.runtime.threads or max(1, (os.cpu_count() or 2) - 1)
    registry = load_registry(Path(config.runtime.registry) if config.runtime.registry else None)
    detectors: dict[str, Detector] = {}
    faults: dict[str, str] = {}
    for name in sorted(needed):
        try:
            if name not in registry:
                known = ", ".join(sorted(registry)) or "none"
                raise ModelError(f"model {name!r} is not registered; found {known}")
            detectors[name] = Detector(registry[name], config.runtime.providers, threads)
        except ModelError as error:
            faults[name] = str(error)
            if not quiet:
                log.error("model unusable", model=name, reason=str(error), cameras=needed[name])
    return detectors, {n: registry[n] for n in detectors}, faults


class Host:
    """One camera host: everything between the cameras and the broker.

    Args:
        config: The site.
        folder: Where state lives.
        notes: The supervisor's crash notes.
        once: End when all file sources have ended.
        clock: The host's time.
        starting: Called before and after what may take minutes.
        watch: Tells of a changed cameras.yaml; None where it is not followed.
        status: Which cameras.yaml `config` is, for the host's status.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        notes: CrashNotes,
        *,
        once: bool = False,
        clock: Clock | None = None,
        starting: Callable[[], None] = lambda: None,
        watch: ConfigWatch | None = None,
        status: ConfigStatus | None = None,
    ) -> None:
        self.config = config
        self._folder = folder
        self._watch = watch
        self._status = status
        self._anew = False
        self._notes = notes
        self._once = once
        self._clock = clock or HostClock()
        self._cameras = [camera for camera in config.cameras if camera.enabled]
        self._files = [camera.id for camera in self._cameras if not camera.stream.live]
        if once and not self._files:
            raise ConfigError("--once: found no file among the cameras, expected at least one")
        self._detectors, self._weights, self.model_faults = load_detectors(
            config, models_needed(self._cameras)
        )
        detectors: dict[str, DetectorLike] = dict(self._detectors)
        self._quarantined = notes.quarantined()
        storage = config.storage
        self._recording = (
            Recording(folder / "detections", storage.detections_bytes, self._log_header)
            if storage.record_detections
            else None
        )
        self.engine = Engine(
            config,
            detectors,
            self._cameras,
            at_work=notes.analysing,
            quarantined=self._quarantined,
            recorder=self._recording,
        )
        self._ready = threading.Event()
        self.readers = {camera.id: self._reader(camera) for camera in self._cameras}
        virtual = all(camera.stream.pace == "virtual" for camera in self._cameras)
        self.scheduler = Scheduler(
            self.readers,
            self.engine.rate_hz,
            [camera.id for camera in self._cameras if "fire" in camera.scenarios],
            governed=not virtual,
            batch=1 if notes.suspicious else len(self._cameras) if virtual else BATCH,
        )
        self.metrics = Metrics(self._readings)
        topics = Topics(config.site.id)
        starting()
        self.store = Store(config.database_url())  # checks it from end to end
        self.store.claim(config.host)
        starting()
        self._evidence_server: EvidenceServer | None = None
        key = load_key(folder / "evidence.key") if config.evidence.url_base else None
        evidence = EvidenceStore(config.evidence, folder / "evidence", key, self._clock.now)
        if config.evidence.listen:
            key = key or load_key(folder / "evidence.key")
            self._evidence_server = EvidenceServer(
                evidence.folder, config.evidence.listen, key, self._clock.now
            )
        dispatch = Dispatch(config.dispatch)
        self.warner = Warner(
            config,
            self.store,
            evidence,
            topics,
            dispatch,
            self.engine,
            self.readers,
            self._weights,
            people=self._detectors.get("vehicles"),
            metrics=self.metrics,
            clock=self._clock,
            at_work=self._this_thread_runs,
            on_raised=lambda ticket: self._actuators.raised(ticket, self._clock.now()),
        )
        self.publisher = Publisher(
            config.broker,
            self.store,
            topics,
            config.host,
            commands=CommandReceiver(topics, self.warner.handle, self.warner.desk.refuse),
            clock=self._clock.now,
        )
        self._actuators = Actuators(
            {camera.id: camera.actuators for camera in self._cameras},
            {camera.id for camera in self._cameras if camera.stream.live},
            self.publisher.actuate,
        )
        self._notifier = self._calls_people(dispatch)
        self._started_t = self._clock.now()
        self._silent: set[str] = set()
        self._told: dict[str, tuple[object, ...]] = {}
        self._rare_keyframes: set[str] = set()
        self._unknown: dict[str, dict[str, tuple[float, Json]]] = {}
        self._status_due_s = 0.0
        self._begun_s = self._clock.monotonic()
        self._told_memory = False

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> bool:
        """Work until `stop` is set (or, with ``once``, until all files have ended), then end cleanly.

        Args:
            stop: Set by SIGTERM or by the supervisor's death.
            beat: Called about once a second while the loop turns.

        Returns:
            Whether a new engine shall follow: a changed configuration needs one, or this one outgrew its memory limit.
        """
        runtime = self.config.runtime
        if runtime.metrics_port is not None:
            self.metrics.serve(runtime.metrics_port, runtime.metrics_address)
        if self._evidence_server is not None:
            self._evidence_server.start()
        self.warner.start()
        if self._status is not None:
            self.publisher.publish_config(self._status)
        self.publisher.start()
        if self._notifier is not None:
            self._notifier.start()
        self.scheduler.start(self._clock.now())
        for camera in self._cameras:
            reader = self.readers[camera.id]
            if camera.id in self._quarantined:
                reader.quarantine(self._quarantined[camera.id])
                continue
            reader.start()
        log.info(
            "running",
            site=self.config.site.id,
            cameras=len(self._cameras),
            models=sorted(self._detectors),
        )
        if self._watch is not None:
            self._watch.start()
        try:
            self._loop(stop, beat)
        finally:
            if self._watch is not None:
                self._watch.close()
            self._end(patient=self._once and not stop.is_set())
        return self._anew and not stop.is_set()

    def _loop(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        chores_s = 0.0
        while not stop.is_set():
            now_s = self._clock.monotonic()
            if now_s >= chores_s:
                chores_s = now_s + CHORES_S
                beat()
                self._chores(now_s)
                if self._anew:
                    return
                if self.warner.fault is not None:
                    raise self.warner.fault
            frames = self.scheduler.next_batch(now_s)
            if not frames:
                if self._once and all(self.readers[name].finished for name in self._files):
                    return
                self._ready.wait(0.1)
                self._ready.clear()
                continue
            if self._recording is not None:
                for frame in frames:
                    self._recording.prepare(frame.camera_id, frame.t)
            try:
                outcomes = self.engine.step(frames)
            except Exception:
                with contextlib.suppress(OSError):
                    self._notes.failed()
                raise
            self._notes.analysing(())
            for outcome in outcomes:
                self.warner.take(outcome)
                self._note_unknown(outcome)
            done_s = self._clock.monotonic()
            for frame in frames:
                self.metrics.frame_to_result.observe(done_s - frame.arrived_s)
                self.scheduler.analysed(frame)
                self._silent.discard(frame.camera_id)

    def _log_header(self, camera_id: str) -> dict[str, Any]:
        """What a detection log begins with, before its first frame is seen."""
        thresholds = {name: detector.thresholds for name, detector in self._detectors.items()}
        camera = next(camera for camera in self._cameras if camera.id == camera_id)
        return camera_header(camera, self.config.site.timezone, thresholds) | {
            "state": self.engine.state(camera_id),
            "rules": self.engine.rules.snapshot(camera_id),
        }

    def _chores(self, now_s: float) -> None:
        t = self._clock.now()
        for camera in self._cameras:
            reader = self.readers[camera.id]
            if camera.stream.live or camera.id in self._quarantined:
                self._look_for_silence(camera.id, reader, t)
        self.warner.remember(t)
        if self._watch is not None and (candidate := self._watch.take()) is not None:
            self._take_over(candidate, t)
        self._look_at_memory(now_s)
        repeat = now_s >= self._status_due_s
        if repeat:
            self._status_due_s = now_s + STATUS_S
        for camera in self._cameras:
            self._tell_status(camera.id, t, repeat=repeat)

    def _look_at_memory(self, now_s: float) -> None:
        """End for a new engine once this one has outgrown its limit; it is told once and goes on if it is young."""
        limit = self.config.runtime.memory_limit
        if limit is None or self._once or (held := _resident_bytes()) <= limit:
            return
        facts = {"memory_mib": round(held / 2**20), "limit_mib": round(limit / 2**20)}
        if now_s - self._begun_s >= YOUNG_S:
            log.warning("memory limit reached, a new engine takes over", **facts)
            self._anew = True
        elif not self._told_memory:
            self._told_memory = True
            log.error("memory limit is below what these cameras need", **facts)

    def _note_unknown(self, outcome: Outcome) -> None:
        """Which scenarios cannot tell at present, and why: a river camera that is warming up is not normal."""
        unknown = self._unknown.setdefault(outcome.camera_id, {})
        known = {o.scenario for o in outcome.observations if o.condition is not Condition.UNKNOWN}
        for observation in outcome.observations:
            scenario, reason = observation.scenario, observation.detail.get("reason")
            if scenario in known:
                unknown.pop(scenario, None)
            elif reason:
                since_t, _ = unknown.get(scenario, (outcome.t, None))
                unknown[scenario] = since_t, reason

    def _take_over(self, candidate: Candidate, t: float) -> None:
        """Apply a changed configuration, or refuse it, or end for an engine that can start with it."""
        if candidate.config is None:
            self._refuse(candidate, candidate.problems)
            return
        difference = compare(self.config, candidate.config)
        if difference.refused:
            keys = ", ".join(difference.refused)
            self._refuse(candidate, [f"{keys}: cannot change under a running daemon; restart it"])
            return
        if difference.restart:
            log.info("configuration changed, a new engine starts", because=difference.restart)
            self._anew = True
            return
        for camera in difference.cameras:
            if camera.id not in self.readers:
                continue
            try:
                self.engine.reconfigure(camera)
                if self._recording is not None:
                    self._recording.restart(camera.id)
            except Exception as error:  # a plug-in may fail in any way
                log.exception("camera keeps its former settings", camera=camera.id)
                self._refuse(candidate, [f"camera {camera.id}: {type(error).__name__}: {error}"])
                return
            self.warner.reconfigure(camera)
        self.config = candidate.config
        self._cameras = [camera for camera in self.config.cameras if camera.enabled]
        keep_accepted(self._folder, candidate.revision)
        self._status = ConfigStatus(sha256=candidate.revision.sha256, since=round(t, 3))
        self.publisher.publish_config(self._status)
        log.info("configuration applied", cameras=[camera.id for camera in difference.cameras])

    def _refuse(self, candidate: Candidate, problems: Sequence[str]) -> None:
        log.error(
            "configuration refused, the former goes on",
            problem=problems[0],
            problems=len(problems),
        )
        if self._status is not None:
            news = {"refused_sha256": candidate.revision.sha256, "problem": problems[0]}
            self._status = self._status.model_copy(update=news)
            self.publisher.publish_config(self._status)

    def _look_for_silence(self, camera_id: str, reader: CameraReader, t: float) -> None:
        last_t = reader.last_t
        period_s = 1.0 / max(self.scheduler.granted_hz(camera_id), 0.01)
        patience_s = max(SILENT_AFTER_S, 2.0 * period_s, 1.5 * (reader.keyframe_interval_s or 0.0))
        if last_t is not None and t - last_t < patience_s:
            return
        if camera_id not in self._silent:
            self._silent.add(camera_id)
            if last_t is not None:
                self.warner.take(self.engine.interrupt(camera_id, last_t))
        reason = self._quarantined.get(camera_id) or reader.reason or reader.state.value
        since_s = t - (self._started_t if last_t is None else last_t)
        self.warner.take(self.engine.camera_silent(camera_id, t, since_s, reason))

    def _tell_status(self, camera_id: str, t: float, *, repeat: bool) -> None:
        reader = self.readers[camera_id]
        interval_s = reader.keyframe_interval_s
        if interval_s is not None:
            self._judge_keyframes(camera_id, interval_s)
        unknown = {
            scenario: reason
            for scenario, (since_t, reason) in self._unknown.get(camera_id, {}).items()
            if t - since_t >= UNKNOWN_AFTER_S
        }
        told = (reader.state, reader.reason, reader.level, camera_id in self._silent, *unknown)
        if self._told.get(camera_id) == told and not repeat:
            return
        self._told[camera_id] = told
        status: dict[str, Json] = {
            "state": reader.state.value,
            "reason": reader.reason,
            "t": round(t, 3),
            "host": self.config.host,
            "last_frame_t": None if reader.last_t is None else round(reader.last_t, 3),
            "decode_level": reader.level.value,
            "keyframe_interval_s": None if interval_s is None else round(interval_s, 2),
            "rate_wanted_hz": round(self.scheduler.wanted_hz(camera_id), 2),
            "rate_hz": round(self.scheduler.granted_hz(camera_id), 2),
            "reconnects": reader.counters.reconnects,
            "faults": dict(self.engine.faults(camera_id)),
            "unknown": unknown,
        }
        self.publisher.publish_status(camera_id, status)

    def _judge_keyframes(self, camera_id: str, interval_s: float) -> None:
        if interval_s <= KEYFRAME_WARNING_S:
            self._rare_keyframes.discard(camera_id)
        elif camera_id not in self._rare_keyframes:
            self._rare_keyframes.add(camera_id)
            log.warning(
                "camera sends key frames rarely, so every picture must be decoded",
                camera=camera_id,
                keyframe_interval_s=round(interval_s, 1),
            )

    def _end(self, *, patient: bool) -> None:
        """Stop in the order in which data flows, so that nothing that was seen is lost."""
        end_s = self._clock.monotonic() + (ONCE_END_S if patient else END_S)

        def left_s(share: float) -> float:
            return max(0.2, share * (end_s - self._clock.monotonic()))

        if not patient:
            self.store.lose_patience()
        for reader in self.readers.values():
            threading.Thread(target=reader.stop, daemon=True).start()
        self.warner.close(left_s(0.6), finish_clips=patient)
        if self.warner.fault is not None:
            log.error("not everything was stored", reason=str(self.warner.fault))
        if self._notifier is not None:
            self._notifier.close(left_s(0.3))
        self.publisher.flush(left_s(0.5))
        self.publisher.close(left_s(0.5))
        if self._evidence_server is not None:
            self._evidence_server.close()
        self.store.close()
        if self._recording is not None:
            self._recording.close()
        self.metrics.close()
        log.info("ended")

    def _calls_people(self, dispatch: Dispatch) -> Notifier | None:
        settings = dispatch.settings
        if not settings.escalation.run or not any(one.contacts for one in settings.people):
            return None
        if not is_installed():
            log.error("nobody is called, the extra notify is missing", people=len(settings.people))
            return None
        zone = self.config.timezone
        return Notifier(self.store, dispatch, self.config.host, zone, clock=self._clock.now)

    def _reader(self, camera: CameraSettings) -> CameraReader:
        evidence = self.config.evidence
        ring = (
            PacketRing(evidence.pre_roll + evidence.post_roll + 10.0, RING_BYTES)
            if evidence.clip
            else None
        )
        return CameraReader(
            camera.id,
            camera.stream,
            clock=self._clock,
            ring=ring,
            on_frame=lambda _reader: self._ready.set(),
            on_state=lambda *_state: self._ready.set(),
            on_thread=partial(self._this_thread_runs, camera.id),
        )

    def _this_thread_runs(self, camera_id: str | None) -> None:
        with contextlib.suppress(OSError):  # on a full disk a camera still runs
            self._notes.thread_runs(threading.get_ident(), camera_id)

    def _readings(self) -> list[Reading]:
        readings: list[Reading] = []

        def add(kind: str, name: str, text: str, value: float, camera_id: str = "") -> None:
            labels = {"camera": camera_id} if camera_id else {}
            readings.append((kind, f"gridwatch_{name}", text, labels, value))

        for camera_id, reader in self.readers.items():
            for name, text in _CAPTURE_COUNTERS.items():
                add("counter", name, text, getattr(reader.counters, name), camera_id)
            up = float(reader.state is ReaderState.RUNNING)
            wanted_hz = self.scheduler.wanted_hz(camera_id)
            granted_hz = self.scheduler.granted_hz(camera_id)
            add("gauge", "camera_up", "1 while packets arrive", up, camera_id)
            add("gauge", "rate_wanted_hz", "Frames per second wanted", wanted_hz, camera_id)
            add("gauge", "rate_hz", "Frames per second granted", granted_hz, camera_id)
        broker = self.publisher.status()
        scale = self.scheduler.governor.scale
        add("gauge", "rate_scale", "Below 1 while overload lowers all rates", scale)
        add("gauge", "broker_up", "1 while connected to the broker", float(broker.connected))
        add("gauge", "outbox_rows", "Messages that wait for the broker", self.store.pending_count())
        add("gauge", "memory_bytes", "Resident memory of the engine", _resident_bytes())
        add("counter", "messages_published", "Confirmed by the broker", broker.published)
        add("counter", "tickets_raised", "Tickets raised since the start", self.warner.raised)
        return readings


def _resident_bytes() -> float:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return float(pages) * os.sysconf("SC_PAGE_SIZE")


def main(arguments: list[str] | None = None) -> int:
    """Run the engine process: ``python -m gridwatch.host cameras.yaml [--once] [--retreat=FOLDER] [--set=KEY=VALUE]``.

    Returns:
        The exit status: 0, 2 for an error that was said on standard error, or `START_ANEW`.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    once = "--once" in arguments
    overrides = [a.removeprefix("--set=") for a in arguments if a.startswith("--set=")]
    file = Path(next(argument for argument in arguments if not argument.startswith("--")))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        retreat = next((a for a in arguments if a.startswith(RETREAT)), None)
        accepted = None if retreat is None else read_accepted(Path(retreat.removeprefix(RETREAT)))
        problem: str | None = None
        if accepted is not None:
            known, problem = _refused(file, overrides)
            revision = accepted
        else:
            revision = known = read_revision(file, overrides)
        config = revision.parse(file, overrides)
        configure_logging(config.runtime.log_format)
        folder = config.state_folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = EngineLock(folder)
        lock.acquire()
        notes = CrashNotes(folder)
        watch = None
        if not once:
            watch = ConfigWatch(file, known, overrides, poll=config.runtime.reload)
        cv2.setNumThreads(1)  # OpenCV's own pool would fight with inference for two cores
        with notes.report.open("w") as report:
            faulthandler.enable(report)
            threading.Thread(target=_follow_supervisor, args=(stop, watch), daemon=True).start()
            host = Host(
                config,
                folder,
                notes,
                once=once,
                starting=partial(_beat, STARTING),
                watch=watch,
                status=_config_status(revision, known, problem),
            )
            keep_accepted(folder, revision)  # it can be started with
            anew = host.run(stop, _beat)
            faulthandler.disable()
    except GridwatchError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"error: {line}\n")
        return 2
    return START_ANEW if anew else 0


def _refused(file: Path, overrides: Sequence[str]) -> tuple[Revision, str]:
    """What stands in the file, and why the engine before us could not start with it."""
    revision = Revision.of(b"")
    try:
        revision = read_revision(file, overrides)
        revision.parse(file, overrides)
    except ConfigError as error:
        return revision, error.problems[0]
    return revision, f"{file}: the engine could not start with it; the log says why"


def _config_status(revision: Revision, known: Revision, problem: str | None) -> ConfigStatus:
    status = ConfigStatus(sha256=revision.sha256, since=round(time.time(), 3))
    if problem is None:
        return status
    return status.model_copy(update={"refused_sha256": known.sha256, "problem": problem})


def _follow_supervisor(stop: threading.Event, watch: ConfigWatch | None) -> None:
    """End when the supervisor's end of our standard input closes: an orphan must not run beside its successor."""
    with contextlib.suppress(OSError):
        while told := os.read(0, 64):
            if RELOAD in told and watch is not None:
                watch.ask()
    stop.set()
    time.sleep(10.0)
    os._exit(1)


def _beat(kind: bytes = b".") -> None:
    with contextlib.suppress(OSError):
        os.write(1, kind)


if __name__ == "__main__":
    raise SystemExit(main())
