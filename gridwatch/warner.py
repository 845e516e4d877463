"""The warn stage's thread: from what the rules made of a frame to evidence on disk, a stored ticket and its clip.

Analysis must not wait for a disk, so it hands over and goes on. The order of the queue is the order of the store: a
checkpoint of the rules never overtakes the ticket of an alarm that it already calls raised.

Clips are cut by a thread of their own: where heads are blurred, one takes longer than the next fire may wait.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from alerts.desk import CameraInfo, Description, Picture, TicketDesk
from alerts.dispatch import Dispatch
from alerts.evidence import EvidenceStore
from alerts.privacy import Privacy
from alerts.rules import Change, ChangeKind
from alerts.store import Store
from alerts.storm import StormControl
from alerts.tickets import OPEN_STATES, Action, Command, Reply, Ticket, Title, seconds
from alerts.topics import Topics
from gridwatch.accuracy_watch import AccuracyWatch
from gridwatch.config import CameraSettings, Config
from gridwatch.engine import HEALTH, DetectorLike, Engine, Outcome
from gridwatch.metrics import Metrics
from pipeline.analyse.scenario import load_scenario
from pipeline.analyse.weights import WeightsEntry
from pipeline.capture.reader import CameraReader
from pipeline.capture.timeline import Clock
from pipeline.exceptions import EvidenceError, StoreError
from pipeline.frame import Frame, Image
from pipeline.observation import Json, RelativeBox

__all__ = ["Warner"]

log = structlog.get_logger(__name__)

IDLE_S = 0.5  # how often held-back alarms and due clips are looked at while nothing happens
ADVANCE_S = 2.0
SCENARIO_STATE_S = 10.0  # baselines change slowly; pending dwells are stored every second
TRIM_S = 3600.0
# While the store's server is away its queue grows. Pictures beyond this (6 MB each) would fill the memory: their
# tickets go out without one.
PICTURES_WAITING = 30
SNAPSHOTS_WAITING = 100
CLIP_GRACE_S = 10.0  # a stream that stalls after an alarm still gets the clip of what there is
LAST_CLIPS_S = (
    0.5  # of the seconds in which SIGTERM must end the daemon; a copied clip takes a tenth of that
)

_HEALTH_TITLES = {
    "dead": Title(zh="摄像机无画面", en="Camera sends no picture"),
    "frozen": Title(zh="摄像机画面冻结", en="Camera picture is frozen"),
    "covered": Title(zh="摄像机被遮挡", en="Camera is covered"),
    "accuracy": Title(zh="摄像机误报过多", en="Camera raises too many false alarms"),
    "turned": Title(zh="摄像机被移动", en="Camera was turned"),
}


@dataclass(frozen=True, slots=True)
class _Job:
    """One moment to be stored; `changes` may be empty for a checkpoint."""

    t: float
    frame: Frame | None
    changes: Sequence[Change]
    rules: _Snapshots
    scenario_states: dict[tuple[str, str], dict[str, Json]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Snapshots:
    """The rules' state at the moment of hand-over, so that the worker never reads rules that go on."""

    states: Mapping[str, dict[str, Json]]

    def snapshot(self, camera_id: str) -> dict[str, Json]:
        return self.states[camera_id]


@dataclass(frozen=True, slots=True)
class _ClipTask:
    give_up_s: float
    camera_id: str
    ticket_id: str
    t_from: float
    raised_t: float
    t_to: float


class Warner:
    """Takes outcomes from the analysis thread and owns the ticket desk.

    Args:
        config: The site.
        store: The ticket store.
        evidence: Pictures and clips.
        topics: Of the site.
        dispatch: Which inboxes a ticket goes to, and who is called.
        engine: Its rules and scenarios are restored from the store, and their state is kept there.
        readers: Their rings give the clips.
        weights: Registry entries of the loaded models.
        people: Detects persons for the blurring of heads; None where no camera asks for it.
        metrics: Takes latencies.
        clock: The host's time.
        at_work: Told by the thread that cuts clips for which camera it does from now on, or for none, so that a native
            crash can be attributed.
        on_raised: Told each ticket that was raised on a picture just now, once it is stored.

    Attributes:
        raised: Tickets raised since the start.
        fault: The error that made the store unusable; the host must end then.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        evidence: EvidenceStore,
        topics: Topics,
        dispatch: Dispatch,
        engine: Engine,
        readers: Mapping[str, CameraReader],
        weights: Mapping[str, WeightsEntry],
        *,
        people: DetectorLike | None,
        metrics: Metrics,
        clock: Clock,
        at_work: Callable[[str | None], None] = lambda _camera_id: None,
        on_raised: Callable[[Ticket], object] = lambda _ticket: None,
    ) -> None:
        self._on_raised = on_raised
        self._cameras: dict[str, CameraSettings] = {
            camera.id: camera for camera in config.cameras if camera.enabled
        }
        self._engine = engine
        self._readers = readers
        self._metrics = metrics
        self._clock = clock
        self._at_work = at_work
        self._store = store
        self._settings = config.evidence
        self._host_id = config.host
        self._evidence = evidence
        self._people = people
        self._privacy = {
            camera.id: Privacy(camera.privacy, people) for camera in self._cameras.values()
        }
        self._keep_s = config.storage.keep_days * 86400.0
        self._weights = weights
        storm = StormControl(
            config.storm, config.timezone, lambda camera_id: self._cameras[camera_id].group
        )
        self._infos = {camera.id: _info(camera) for camera in self._cameras.values()}
        self.desk = TicketDesk(
            store,
            topics,
            config.host,
            self._infos,
            self._describe,
            storm,
            dispatch,
            keep_photo=evidence.save_photo,
        )
        self._accuracy = AccuracyWatch(
            config.accuracy,
            store,
            self.desk,
            lambda: [camera.id for camera in self._cameras.values() if not camera.simulated],
        )
        self._restore()
        self.raised = 0
        self.fault: StoreError | None = None
        self._queue: queue.Queue[_Job | None] = queue.Queue()
        self._clips: list[_ClipTask] = []
        self._clips_lock = threading.Lock()
        self._clips_end = threading.Event()
        self._cutting: set[str] = set()  # a clip that may be on the disk and not yet in its ticket
        self._stored_states: dict[str, dict[str, Json]] = {}
        self._stored_scenarios: dict[tuple[str, str], dict[str, Json]] = {}
        self._scenarios_due_s = 0.0
        self._advance_due_s = 0.0
        self._trim_due_s = 0.0
        self._clips_until_s = float("inf")  # beyond this the end does not wait for another clip
        self._thread = threading.Thread(target=self._run, name="warner", daemon=True)
        self._cutter = threading.Thread(target=self._tend_clips, name="clips", daemon=True)

    # For the analysis thread

    def start(self) -> None:
        """Begin to store."""
        self._take_up_clips()
        self._thread.start()
        self._cutter.start()

    def take(self, outcome: Outcome) -> None:
        """Take what one frame led to; returns at once."""
        if outcome.changes:
            camera_id = outcome.camera_id
            rules = _Snapshots({camera_id: self._engine.rules.snapshot(camera_id)})
            # A raised alarm's subject must be known to its scenario after a restart, or nothing would ever clear it.
            raised = {c.key.scenario for c in outcome.changes if c.kind is ChangeKind.RAISED}
            scenarios = self._scenario_states([camera_id], raised) if raised else {}
            # Pictures are large, and only tickets have one.
            waiting = self._queue.qsize()
            frame = outcome.frame if raised and waiting < PICTURES_WAITING else None
            self._queue.put(_Job(self._clock.now(), frame, outcome.changes, rules, scenarios))

    def handle(self, command: Command, t: float) -> Reply | None:
        """Carry out a person's command; what it says of a camera's alarms is taken into account. From any thread."""
        reply = self.desk.handle(command, t)
        if reply is not None and reply.ok and command.action in (Action.DISPOSE, Action.REOPEN):
            ticket = self._store.ticket(command.ticket_id)
            if ticket is not None:
                self._accuracy.decided(ticket.camera.id)
        return reply

    def reconfigure(self, camera: CameraSettings) -> None:
        """Go on with other settings of a camera; what waits to be stored is described by the new ones."""
        self._cameras[camera.id] = camera
        self._privacy[camera.id] = Privacy(camera.privacy, self._people)
        self._infos[camera.id] = _info(camera)

    def remember(self, t: float) -> None:
        """Have pending dwells (and now and then the scenarios' baselines) stored, where they changed."""
        if self._queue.qsize() > SNAPSHOTS_WAITING:
            return  # the store is away; the newest is handed over when it is back
        now_s = self._clock.monotonic()
        states = {}
        for camera_id in self._cameras:
            state = self._engine.rules.snapshot(camera_id)
            if state != self._stored_states.get(camera_id):
                self._stored_states[camera_id] = states[camera_id] = state
        scenarios: dict[tuple[str, str], dict[str, Json]] = {}
        if now_s >= self._scenarios_due_s:
            self._scenarios_due_s = now_s + SCENARIO_STATE_S
            scenarios = self._scenario_states()
        if states or scenarios:
            self._queue.put(_Job(t, None, (), _Snapshots(states), scenarios))

    def close(self, timeout_s: float, *, finish_clips: bool = False) -> None:
        """Store what waits and end the threads within `timeout_s` seconds.

        Args:
            timeout_s: What is not stored by then is seen again after the next start: its dwell was stored before.
            finish_clips: Take all of that time for clips, also of alarms whose post-roll is not over: they are cut from
                what there is. Otherwise what takes longer than `LAST_CLIPS_S` is left out.
        """
        self.remember(self._clock.now())
        scenarios = self._scenario_states()
        if scenarios:
            self._queue.put(_Job(self._clock.now(), None, (), _Snapshots({}), scenarios))
        self._queue.put(None)
        end_s = self._clock.monotonic() + timeout_s
        self._thread.join(timeout_s)
        if not finish_clips:
            self._clips_until_s = self._clock.monotonic() + LAST_CLIPS_S
        self._clips_end.set()
        self._cutter.join(max(0.2, end_s - self._clock.monotonic()))

    # Inside

    def _restore(self) -> None:
        now = self._clock.now()
        self.desk.retire(self._engine.is_watched, now)
        self.desk.restore(self._engine.rules, now)
        by_camera: dict[str, dict[str, dict[str, Json]]] = {}
        for (camera_id, scenario), state in self._store.scenario_states().items():
            if camera_id in self._cameras:
                by_camera.setdefault(camera_id, {})[scenario] = state
        for camera_id, states in by_camera.items():
            self._engine.restore(camera_id, states)

    def _scenario_states(
        self, camera_ids: Iterable[str] | None = None, only: Container[str] | None = None
    ) -> dict[tuple[str, str], dict[str, Json]]:
        """States of scenarios that changed since they were last handed over."""
        changed: dict[tuple[str, str], dict[str, Json]] = {}
        for camera_id in self._cameras if camera_ids is None else camera_ids:
            for scenario, state in self._engine.state(camera_id).items():
                key = camera_id, scenario
                wanted = only is None or scenario in only
                if wanted and state and state != self._stored_scenarios.get(key):
                    self._stored_scenarios[key] = changed[key] = state
        return changed

    def _run(self) -> None:
        try:
            while True:
                try:
                    job = self._queue.get(timeout=IDLE_S)
                except queue.Empty:
                    pass
                else:
                    if job is None:
                        break
                    self._store_job(job)
                self._chores()
        except StoreError as error:
            self.fault = error
        except Exception as error:
            log.exception("warn stage failed")
            self.fault = StoreError(f"warn stage: {type(error).__name__}: {error}")

    def _tend_clips(self) -> None:
        try:
            while not self._clips_end.wait(IDLE_S):
                self._cut_clips()
            self._cut_clips(last=True)
        except StoreError as error:
            self.fault = error
        except Exception as error:
            log.exception("cutting clips failed")
            self.fault = StoreError(f"clips: {type(error).__name__}: {error}")

    def _chores(self) -> None:
        now_s = self._clock.monotonic()
        if now_s >= self._advance_due_s:
            self._advance_due_s = now_s + ADVANCE_S
            self._note(self.desk.advance(self._clock.now()), None)
            for ticket in self.desk.climb(self._clock.now()):
                called = ticket.warn.escalations[-1]
                log.info("ticket called upwards", ticket=ticket.id, reason=called.reason)
            self._note(self._accuracy.tend(self._clock.now()), None)
        if now_s >= self._trim_due_s:
            self._trim_due_s = now_s + TRIM_S
            self._store.trim(self._clock.now(), decisions_s=self._keep_s, disposed_s=self._keep_s)
            self._evidence.expire(self._clock.now(), self._open_paths())

    def _store_job(self, job: _Job) -> None:
        if not job.changes:
            self.desk.checkpoint(job.t, job.rules, job.rules.states, job.scenario_states)
            return
        news = [change for change in job.changes if change.kind is ChangeKind.RAISED]
        picture = self._picture(job.frame, news) if news and job.frame is not None else None
        tickets = self.desk.take(
            job.changes,
            job.t,
            picture=picture,
            rules=job.rules,
            scenario_states=job.scenario_states,
        )
        self._note(tickets, job.frame)

    def _note(self, tickets: Sequence[Ticket], frame: Frame | None) -> None:
        for ticket in tickets:
            if ticket.version != 1:
                continue
            self.raised += 1
            if frame is not None:
                self._on_raised(ticket)
                self._metrics.frame_to_ticket.observe(self._clock.monotonic() - frame.arrived_s)
            log.info(
                "ticket raised",
                ticket=ticket.id,
                scenario=ticket.scenario,
                camera=ticket.camera.id,
                severity=ticket.severity,
                confidence=round(ticket.analyse.confidence, 3),
            )
            self._want_clip(ticket)

    def _want_clip(self, ticket: Ticket) -> None:
        """Have the clip of a ticket cut as soon as its post-roll is recorded."""
        reader = self._readers.get(ticket.camera.id)
        if reader is None or reader.ring is None or ticket.scenario == HEALTH:
            return
        raised_t = seconds(ticket.warn.raised)
        task = _ClipTask(
            self._clock.monotonic() + self._settings.post_roll + CLIP_GRACE_S,
            ticket.camera.id,
            ticket.id,
            raised_t - self._settings.pre_roll,
            raised_t,
            raised_t + self._settings.post_roll,
        )
        with self._clips_lock:
            self._clips.append(task)

    def _take_up_clips(self) -> None:
        """Go on with the clips of an engine that was killed in a post-roll: its rest is better than nothing."""
        since_t = self._clock.now() - self._settings.post_roll - CLIP_GRACE_S
        for ticket in self._store.tickets(states=OPEN_STATES, raised_from=since_t):
            if ticket.host == self._host_id and all(e.kind != "clip" for e in ticket.evidence):
                self._want_clip(ticket)

    def _picture(self, frame: Frame, news: Sequence[Change]) -> Picture | None:
        camera_id = frame.camera_id
        boxes: list[RelativeBox] = [change.box for change in news if change.box is not None]
        image: Image | None = None
        try:
            image = self._privacy[camera_id].burn(frame.picture())
            evidence, thumbnail = self._evidence.save_picture(camera_id, frame.t, image, boxes)
        except EvidenceError as error:
            log.error("ticket goes out without its picture", camera=camera_id, reason=str(error))
            evidence, thumbnail = (), None
        reader = self._readers[camera_id]
        height_px, width_px = (frame.image if image is None else image).shape[:2]
        return Picture(
            t=frame.t,
            stream="detect" if reader.settings.detect else "main",
            epoch=frame.epoch,
            width_px=int(width_px),
            height_px=int(height_px),
            thumbnail=thumbnail,
            evidence=tuple(evidence),
        )

    def _cut_clips(self, *, last: bool = False) -> None:
        """Cut the clips whose post-roll has been recorded (all of them when `last`)."""
        now_s = self._clock.monotonic()
        with self._clips_lock:
            tasks, self._clips = self._clips, []
        waiting: list[_ClipTask] = []
        for task in tasks:
            reader = self._readers[task.camera_id]
            span = reader.ring.span if reader.ring is not None else None
            recorded = span is not None and span[1] >= task.t_to
            if recorded or reader.finished or now_s >= task.give_up_s or last:
                self._cut_clip(task, reader)
            else:
                waiting.append(task)
        with self._clips_lock:
            self._clips += waiting

    def _cut_clip(self, task: _ClipTask, reader: CameraReader) -> None:
        if reader.ring is None or reader.ring.span is None:
            log.error("ticket has no clip", ticket=task.ticket_id, reason="nothing was recorded")
            return
        privacy = self._privacy[task.camera_id]

        def burn(image: Image) -> Image:
            self._check_time_left()
            return privacy.burn(image)

        self._at_work(task.camera_id)
        try:
            self._check_time_left()
            path = self._evidence.clip_path(task.camera_id, task.t_from, task.ticket_id)
            self._cutting = {path.relative_to(self._evidence.folder).as_posix()}
            clip = reader.ring.clip(
                task.t_from, task.t_to, path, burn if privacy.active else None, task.raised_t
            )
            evidence = self._evidence.clip(path, clip.t_from, clip.t_to)
        except EvidenceError as error:
            log.error("ticket has no clip", ticket=task.ticket_id, reason=str(error))
            return
        finally:
            self._at_work(None)
        self.desk.attach_evidence(task.ticket_id, [evidence], self._clock.now())

    def _check_time_left(self) -> None:
        if self._clock.monotonic() > self._clips_until_s:
            raise EvidenceError("the daemon ends")

    def _open_paths(self) -> set[str]:
        cutting = self._cutting  # before the tickets are read: by then it may be in one of them
        return cutting | self._store.open_evidence()

    def _describe(self, change: Change) -> Description:
        camera = self._cameras[change.key.camera_id]
        if change.key.scenario == HEALTH:
            severity = camera.health.severity if camera.health is not None else "minor"
            return Description(_HEALTH_TITLES[change.key.subject], severity)
        scenario = load_scenario(change.key.scenario)
        parameters = camera.scenarios[change.key.scenario]
        model = scenario.model_for(parameters)
        entry = self._weights.get(model) if model is not None else None
        return Description(
            Title(zh=scenario.title["zh"], en=scenario.title["en"]),
            parameters.severity,
            model,
            entry.sha256 if entry is not None else None,
        )


def _info(camera: CameraSettings) -> CameraInfo:
    return CameraInfo(camera.id, camera.name, camera.grid, camera.simulated)
