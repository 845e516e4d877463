"""The ticket desk: turns the rules' changes, evidence and people's commands into stored tickets and messages.

Everything that one step changes (ticket, audit event, outbox rows, decision records, open alarms, rule snapshot) is
one `Batch`, so that a kill at any moment leaves either all of it or nothing. An alarm is open from its raise to its
clear, and belongs to one ticket or is held back by storm control. Who disposes of a ticket does not end its alarm:
while the condition goes on holding, nothing new is raised; if it clears and comes again within the rule's cooldown
after the disposal it stays quiet until the cooldown is over; later it is a new ticket.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import structlog

from alerts.calls import CallReason
from alerts.dispatch import Dispatch
from alerts.escalation import Agenda, Facts, Wait, at_once, follow
from alerts.escalation import step as climbed
from alerts.photos import checked_photo
from alerts.rules import (
    SEVERITY_RANK,
    UPDATE_INTERVAL_S,
    AlarmKey,
    Change,
    ChangeKind,
    Decision,
    RuleBook,
)
from alerts.store import AlarmRow, Batch, Event, Message, Store
from alerts.storm import ACCURACY, HEALTH, Shelf, StormControl, Verdict
from alerts.tickets import (
    THUMBNAIL_CHARACTERS,
    Action,
    Analysed,
    Box,
    CameraRef,
    Captured,
    Command,
    Escalation,
    Evidence,
    Reply,
    Ticket,
    TicketCondition,
    Title,
    Warned,
    apply,
    instant,
    seconds,
    ticket_id,
    with_photos,
)
from alerts.topics import Topics
from pipeline.analyse.scenario import Severity
from pipeline.exceptions import CommandError, EvidenceError
from pipeline.observation import Condition, Json

__all__ = ["CameraInfo", "Description", "Picture", "RuleSnapshots", "TicketDesk"]

log = structlog.get_logger(__name__)

_STORM_STATE = "storm"
# The ticket travels whole: each photo's line in it has some 400 bytes.
_PHOTOS_OF_TICKET = 30
# A trail that strangers can write to must end; what they sent beyond is in the log.
_REFUSALS_KEPT = 50
_ESCALATIONS_OF_TICKET = 60  # of the newest; all are in the events
_CLIMB_AT_ONCE = (
    50  # tickets called upwards in one transaction; alarms wait no longer than it takes
)
_CALLED_AT_ONCE: Mapping[str, CallReason] = {
    "raised": "raised",
    Action.REOPEN: "reopened",
    Action.REASSIGN: "reassigned",
}
_CONDITIONS = {
    Condition.HOLDS: TicketCondition.HOLDING,
    Condition.CLEAR: TicketCondition.CLEARED,
    Condition.UNKNOWN: TicketCondition.UNKNOWN,
}


class RuleSnapshots(Protocol):
    """The rules, or what they said of themselves when a change was handed over."""

    def snapshot(self, camera_id: str) -> dict[str, Json]:
        """A camera's pending dwells and open alarms as JSON."""


@dataclass(frozen=True, slots=True)
class CameraInfo:
    """What a ticket says of its camera.

    Attributes:
        grid: Its micro-grid's path; empty for none.
    """

    id: str
    name: str
    grid: str = ""
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Description:
    """What a ticket says of its scenario.

    Attributes:
        severity: Unless the observation says otherwise.
        model: Name in the registry; None for scenarios without one.
        model_sha256: Of its weight file.
    """

    title: Title
    severity: Severity
    model: str | None = None
    model_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """The picture on which a change was decided.

    Attributes:
        t: Stream time in seconds.
        boxes: Everything detected in it that matters; without any, the change's own box is taken.
        thumbnail: JPEG in base64, 64 KB at most.
        evidence: Pictures that are on the disk already.
    """

    t: float
    stream: str = "detect"
    epoch: int = 0
    width_px: int | None = None
    height_px: int | None = None
    boxes: tuple[Box, ...] = ()
    thumbnail: str | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(slots=True)
class _Step:
    """What one step will store."""

    batch: Batch
    tickets: dict[str, Ticket] = field(default_factory=dict)
    storm_changed: bool = False


class TicketDesk:
    """All tickets that this host raised. Safe to use from any thread; every method returns when it is on the disk.

    Args:
        store: Where everything is kept.
        topics: Of the site.
        host: This host's id.
        cameras: By id.
        describe: What a change's ticket says of its scenario.
        storm: Its limits.
        dispatch: Which inboxes a version goes to, who is called and when; None for its own grid's inbox alone.
        keep_photo: Writes a photo (camera id, time, JPEG) to the disk; None where photos are not taken.

    Time is always passed in: `t` is the present in seconds since the epoch, on the timeline of the changes.
    """

    def __init__(
        self,
        store: Store,
        topics: Topics,
        host: str,
        cameras: Mapping[str, CameraInfo],
        describe: Callable[[Change], Description],
        storm: StormControl,
        dispatch: Dispatch | None = None,
        *,
        keep_photo: Callable[[str, float, bytes], Evidence] | None = None,
    ) -> None:
        self._store = store
        self._topics = topics
        self._host = host
        self._cameras = cameras
        self._describe = describe
        self._storm = storm
        self._dispatch = dispatch
        self._climbs = dispatch is not None and dispatch.settings.escalation.run
        self._agenda = Agenda()
        self._keep_photo = keep_photo
        self._lock = threading.RLock()
        self._alarms: dict[AlarmKey, str | None] = {}
        self._held: dict[AlarmKey, tuple[Change, Verdict]] = {}
        self._members: dict[str, set[AlarmKey]] = {}
        self._attached: dict[str, int] = {}
        self._unwell: dict[str, set[AlarmKey]] = {}
        self._unseen: set[AlarmKey] = set()
        self._load()

    def restore(self, rules: RuleBook, t: float) -> list[Ticket]:
        """Give the rules their pending dwells and open alarms back, as of the last stored step.

        Alarms of rules that cannot be restored end, for nothing would ever clear them; what still holds is raised
        anew. Alarms that were held back are not raised before they have been seen again.

        Args:
            rules: Those of all cameras, still empty.
            t: Now.

        Returns:
            The new versions of tickets.
        """
        lost: set[str] = set()
        for camera_id, state in self._store.rule_states().items():
            if camera_id not in self._cameras:
                continue
            try:
                rules.restore(camera_id, state)
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                log.warning("rule state is unreadable", camera=camera_id, error=repr(error))
                lost.add(camera_id)
        with self._lock:
            retired = self._retire(
                [key for key in self._alarms if key.camera_id in lost], t, "rule state unreadable"
            )
            self._unseen = set(self._held)
            for key in self._held:
                rules.ask(key)
            return retired

    def retire(self, is_watched: Callable[[str, str], bool], t: float) -> list[Ticket]:
        """End the alarms that nobody looks for any more, because their camera or scenario was taken out of the site.

        Their tickets stay open with an unknown condition. Held back ones are forgotten, and a camera whose health is
        no longer looked at holds nothing back.

        Args:
            is_watched: Whether a (camera id, scenario) is still looked at.
            t: Now.

        Returns:
            The new versions of tickets.
        """
        with self._lock:
            keys = [key for key in self._alarms if not is_watched(key.camera_id, key.scenario)]
            return self._retire(keys, t, "no longer configured")

    # From the analysis

    def take(
        self,
        changes: Iterable[Change],
        t: float,
        *,
        picture: Picture | None = None,
        rules: RuleSnapshots | None = None,
        scenario_states: Mapping[tuple[str, str], dict[str, Json]] | None = None,
    ) -> list[Ticket]:
        """Take in what the rules made of one moment.

        Args:
            changes: Of one camera if there is a `picture`.
            t: Now.
            picture: On which they were decided.
            rules: Their state is stored in the same transaction.
            scenario_states: The same for scenarios, by (camera id, scenario).

        Returns:
            The new versions of tickets; those at version 1 are new alarms.

        Raises:
            StoreError: nothing was stored; the desk is as it was.
        """
        changes = list(changes)
        if not changes and not scenario_states:
            return []
        with self._lock:
            step = _Step(Batch(t, scenario_states=dict(scenario_states or {})))
            for change in changes:
                self._take_one(step, change, t, picture)
            if rules is not None:
                for camera_id in sorted({change.key.camera_id for change in changes}):
                    step.batch.rule_states[camera_id] = rules.snapshot(camera_id)
            return self._commit(step)

    def checkpoint(
        self,
        t: float,
        rules: RuleSnapshots,
        camera_ids: Iterable[str],
        scenario_states: Mapping[tuple[str, str], dict[str, Json]] | None = None,
    ) -> Future[None]:
        """Store pending dwells and scenarios' states; call it every few seconds and at the end. Does not wait."""
        states = {camera_id: rules.snapshot(camera_id) for camera_id in camera_ids}
        batch = Batch(t, rule_states=states, scenario_states=dict(scenario_states or {}))
        future = self._store.commit(batch)
        future.add_done_callback(_report)
        return future

    def advance(self, t: float) -> list[Ticket]:
        """Time has come to `t`: alarms that were held back and still hold are judged again; call it every few seconds.

        Returns:
            The new versions of tickets.
        """
        with self._lock:
            self._storm.expire(t)
            step = _Step(Batch(t))
            due = [
                (key, held)
                for key, held in self._held.items()
                if held[1].retry_t <= t
                and held[0].condition is Condition.HOLDS
                and key not in self._unseen
            ]
            for key, (change, verdict) in due:
                self._open(step, key, change, t, None, before=verdict.code)
            return self._commit(step) if due else []

    def attach_evidence(
        self, ticket_id: str, evidence: Sequence[Evidence], t: float, thumbnail: str | None = None
    ) -> Ticket | None:
        """Pictures or clips that came later make the ticket's next version; None if there is no such ticket."""
        thumbnail = _fitting(thumbnail, ticket_id)
        with self._lock:
            ticket = self._store.ticket(ticket_id)
            if ticket is None:
                return None
            known = {item.path for item in ticket.evidence}
            fresh = tuple(item for item in evidence if item.path not in known)
            if not fresh and thumbnail in (None, ticket.thumbnail):
                return ticket
            step = _Step(Batch(t))
            ticket = ticket.next(
                t, evidence=ticket.evidence + fresh, thumbnail=thumbnail or ticket.thumbnail
            )
            added: list[Json] = [item.path for item in fresh]
            self._put(step, ticket, "evidence", t, {"added": added})
            self._commit(step)
            return ticket

    # From people

    def handle(self, command: Command, t: float) -> Reply | None:
        """Carry out a command and answer it on the reply topic; a repeat is answered as the first was.

        Returns:
            The answer; None if this host has no such ticket, for then it is another's to answer.
        """
        if self._store.ticket(command.ticket_id) is None:
            return None
        photos: list[bytes] | CommandError
        try:  # before the lock: nobody waits for another's pictures to be decoded
            photos = [
                checked_photo(text, f"ticket {command.ticket_id}: photos[{index}]")
                for index, text in enumerate(command.photos)
            ]
        except CommandError as error:
            photos = error
        with self._lock:
            ticket = self._store.ticket(command.ticket_id)
            if ticket is None:
                return None
            step = _Step(Batch(t))
            earlier = self._store.reply(command.user, command.command_id)
            if earlier is not None:
                step.batch.messages.append(self._reply_message(command.user, earlier))
                self._commit(step)
                return earlier
            try:
                after = apply(ticket, command, t)
                if isinstance(photos, CommandError):
                    raise photos
                self._check_grid(ticket, command.grid)
                after = self._with_photos(after, command, photos, t)
            except CommandError as error:
                reply = self._answer(command, ticket, t, error)
                self._record_refusal(step, ticket, command.user, command.command_id, error, t)
            else:
                said = _said(command)
                if after.grid != ticket.grid:
                    said |= {"grid": after.grid, "grid_before": ticket.grid}
                fresh = len(after.evidence) - len(ticket.evidence)
                if fresh:
                    said["photos"] = [item.path for item in after.evidence[-fresh:]]
                heard = self._inboxes(ticket) if after.grid != ticket.grid else ()
                self._put(step, after, command.action.value, t, said, command, also=heard)
                self._settle(step, after, command.action, t)
                reply = self._answer(command, after, t, None)
            step.batch.commands[command.user, command.command_id] = reply
            step.batch.messages.append(self._reply_message(command.user, reply))
            self._commit(step)
            return reply

    def refuse(
        self, user: str, ticket_id: str, command_id: str, error: CommandError, t: float
    ) -> None:
        """Answer a message that was no proper command, if its ticket is this host's."""
        with self._lock:
            ticket = self._store.ticket(ticket_id)
            if ticket is None:
                return
            reply = Reply(
                command_id=command_id,
                ticket_id=ticket_id,
                ok=False,
                code=error.code,
                message=str(error),
                version=ticket.version,
                state=ticket.state,
                time=instant(t),
            )
            step = _Step(Batch(t, messages=[self._reply_message(user, reply)]))
            self._record_refusal(step, ticket, user, command_id, error, t)
            self._commit(step)

    def climb(self, t: float, limit: int = _CLIMB_AT_ONCE) -> list[Ticket]:
        """Call upwards what nobody took, or disposed of, in time; call it every second or two.

        Args:
            t: Now.
            limit: At most so many tickets, the longest due first; the others at the next time.

        Returns:
            The new versions of tickets.
        """
        with self._lock:
            due = self._agenda.due(t, limit)
            if not due:
                return []
            step = _Step(Batch(t))
            for wait in due:
                self._climb(step, wait, t)
            return self._commit(step)

    def shelve(self, shelf: Shelf, t: float) -> None:
        """Mute a camera or a scenario until a time; in the past, end that."""
        with self._lock:
            self._storm.shelve(shelf)
            step = _Step(Batch(t), storm_changed=True)
            # What was held for the old shelf is judged by the new one at the next `advance`.
            for key, (change, verdict) in self._held.items():
                if verdict.code == "muted":
                    again = Verdict("hold", "muted", verdict.reason, retry_t=t)
                    self._held[key] = (change, again)
            self._commit(step)

    def shelves(self, t: float) -> list[Shelf]:
        """What is muted at `t` by operators."""
        with self._lock:
            return self._storm.shelves(t)

    # Inside; under the lock

    def _inboxes(self, ticket: Ticket) -> list[str]:
        if self._dispatch is None:
            return [ticket.grid] if ticket.grid else []
        return self._dispatch.inboxes(ticket)

    def _check_grid(self, ticket: Ticket, grid: str | None) -> None:
        if grid is None or self._dispatch is None:
            return
        problem = self._dispatch.settings.problem(grid)
        if problem is not None:
            raise CommandError(f"ticket {ticket.id}: grid: {problem}", code="malformed")

    def _follow(self, step: _Step, ticket: Ticket, kind: str, t: float) -> None:
        """Keep the ticket's position on its ladder, and call whom the beginning of a wait calls."""
        dispatch = self._dispatch
        if dispatch is None or not self._climbs:
            return
        waits = step.batch.waits
        before = waits[ticket.id] if ticket.id in waits else self._agenda.get(ticket.id)
        ladder = dispatch.ladder(ticket)
        begins = _CALLED_AT_ONCE.get(kind)
        after = follow(before, Facts.of(ticket), ladder, t, anew=begins is not None)
        if after != before:
            waits[ticket.id] = after
        if begins is not None:
            rungs = at_once(ladder, ticket.severity)
            step.batch.calls += dispatch.calls(ticket, rungs, begins, t)
        elif kind == Action.DISPATCH and ticket.dispose.dispatched is not None:
            step.batch.calls += dispatch.calls_to(ticket, ticket.dispose.dispatched.to, t)

    def _climb(self, step: _Step, wait: Wait, t: float) -> None:
        """Call the next rungs of one ticket."""
        ticket = self._ticket(step, wait.ticket_id)
        if ticket is None or self._dispatch is None:
            step.batch.waits[wait.ticket_id] = None
            return
        ladder = self._dispatch.ladder(ticket)
        done, after = climbed(wait, Facts.of(ticket), ladder, t)
        step.batch.waits[wait.ticket_id] = after
        paths = [] if done is None else self._dispatch.targets(ticket, done.rungs)
        if done is None or not paths:  # a ticket without a grid has nobody above it
            return
        after_s = done.rungs[0].after
        fresh = tuple(
            Escalation(grid=path, time=instant(t), reason=done.reason, after_s=after_s)
            for path in paths
        )
        escalations = (*ticket.warn.escalations, *fresh)[-_ESCALATIONS_OF_TICKET:]
        ticket = ticket.next(t, warn=ticket.warn.model_copy(update={"escalations": escalations}))
        calls = self._dispatch.calls(ticket, done.rungs, done.reason, t)
        step.batch.calls += calls
        said: dict[str, Json] = {
            "reason": done.reason,
            "after_s": after_s,
            "grids": list(paths),
            "calls": [call.person for call in calls],
        }
        self._put(step, ticket, "escalated", t, said)

    def _with_photos(
        self, ticket: Ticket, command: Command, photos: Sequence[bytes], t: float
    ) -> Ticket:
        """The ticket after the command, with its photos on the disk and in its evidence."""
        if not photos:
            return ticket
        place = f"ticket {ticket.id}"
        had = sum(item.kind == "photo" for item in ticket.evidence)
        if had + len(photos) > _PHOTOS_OF_TICKET:
            raise CommandError(
                f"{place}: has {had} photos already, expected at most {_PHOTOS_OF_TICKET}",
                code="too_large",
            )
        if self._keep_photo is None:
            raise CommandError(f"{place}: photos are not kept here", code="photo_not_stored")
        try:
            kept = tuple(self._keep_photo(ticket.camera.id, t, photo) for photo in photos)
        except EvidenceError as error:
            raise CommandError(
                f"{place}: photo cannot be kept ({error}); expected the command without it",
                code="photo_not_stored",
            ) from error
        disposal = with_photos(ticket.dispose, command.action, [item.path for item in kept])
        return ticket.model_copy(update={"evidence": ticket.evidence + kept, "dispose": disposal})

    def _record_refusal(
        self,
        step: _Step,
        ticket: Ticket,
        user: str,
        command_id: str,
        error: CommandError,
        t: float,
    ) -> None:
        """What was refused changed nothing, but it was tried."""
        if self._store.event_count(ticket.id, "refused") < _REFUSALS_KEPT:
            said: dict[str, Json] = {
                "command_id": command_id,
                "code": error.code,
                "message": str(error)[:500],
            }
            step.batch.events.append(
                Event(ticket.id, ticket.version, "refused", user[:64], t, "", said)
            )

    def _load(self) -> None:
        """Memory as the store has it."""
        # Read first: where the store cannot even be read, memory stays as it is.
        alarms, state = self._store.alarms(), self._store.meta(_STORM_STATE)
        self._alarms, self._held = {}, {}
        self._members, self._attached, self._unwell = {}, {}, {}
        for key, row in alarms.items():
            self._remember(key, row.ticket_id)
            if row.ticket_id is None:
                change = _change_of(key, row.document)
                self._held[key] = (change, Verdict("hold", str(row.document["code"]), ""))
        self._storm.restore(json.loads(state) if state is not None else {})
        waits = {wait.ticket_id: wait for wait in self._store.waits()} if self._climbs else {}
        self._agenda = Agenda()
        for ticket in self._store.open_tickets():
            if self._dispatch is not None and self._climbs:
                # Anew from what is configured now; where nothing was stored, from its last change.
                known, since_t = waits.get(ticket.id), seconds(ticket.updated)
                ladder = self._dispatch.ladder(ticket)
                self._agenda.put(ticket.id, follow(known, Facts.of(ticket), ladder, since_t))
            key = AlarmKey(ticket.camera.id, ticket.scenario, ticket.subject)
            self._storm.raised(key, ticket.id, seconds(ticket.warn.raised))
            others = len(self._members.get(ticket.id, set()) - {key})
            self._attached[ticket.id] = max(ticket.warn.attached, others)

    def _retire(self, keys: Iterable[AlarmKey], t: float, reason: str) -> list[Ticket]:
        """End alarms of which nobody knows whether they hold."""
        step = _Step(Batch(t))
        for key in sorted(keys):
            log.info("alarm ended", reason=reason, **key._asdict())
            step.batch.alarms[key] = None
            ticket_id, goes_on = self._forget(key)
            ticket = self._ticket(step, ticket_id) if ticket_id and not goes_on else None
            if ticket is not None and ticket.condition is TicketCondition.HOLDING:
                unknown = ticket.next(t, condition=TicketCondition.UNKNOWN)
                self._put(step, unknown, "updated", t, {"reason": reason})
        return self._commit(step) if step.batch.alarms else []

    def _remember(self, key: AlarmKey, ticket_id: str | None) -> None:
        self._alarms[key] = ticket_id
        if ticket_id is not None:
            self._members.setdefault(ticket_id, set()).add(key)
        if key.scenario == HEALTH and key.subject != ACCURACY:
            self._unwell.setdefault(key.camera_id, set()).add(key)

    def _forget(self, key: AlarmKey) -> tuple[str | None, bool]:
        """The alarm has ended; gives its ticket and whether that has other open alarms."""
        self._held.pop(key, None)
        self._unseen.discard(key)
        ticket_id = self._alarms.pop(key, None)
        if key.scenario == HEALTH:
            self._unwell.get(key.camera_id, set()).discard(key)
        if ticket_id is None:
            return None, False
        members = self._members.get(ticket_id, set())
        members.discard(key)
        if not members:
            self._members.pop(ticket_id, None)
        return ticket_id, bool(members)

    def _commit(self, step: _Step) -> list[Ticket]:
        if step.storm_changed:
            step.batch.meta[_STORM_STATE] = json.dumps(self._storm.state())
        future = self._store.commit(step.batch)
        # Records of what came to nothing need not stop the analysis for an fsync.
        batch = step.batch
        if not (batch.tickets or batch.alarms or batch.messages or batch.waits):
            future.add_done_callback(_report)
            return []
        try:
            future.result()
        except Exception:
            self._load()
            raise
        for name, wait in step.batch.waits.items():
            self._agenda.put(name, wait)
        return list(step.tickets.values())

    def _ticket(self, step: _Step, ticket_id: str) -> Ticket | None:
        return step.tickets.get(ticket_id) or self._store.ticket(ticket_id)

    def _take_one(self, step: _Step, change: Change, t: float, picture: Picture | None) -> None:
        match change.kind:
            case ChangeKind.RAISED if not self._is_known(step, change.key):
                # Its record is written with storm control's verdict on it.
                self._forget(change.key)
                self._open(step, change.key, change, t, picture, before=None)
                return
            case ChangeKind.RAISED | ChangeKind.UPDATED:
                self._renew(step, change, t)
            case ChangeKind.CLEARED:
                self._close(step, change, t)
            case ChangeKind.SUPPRESSED:
                pass
        if change.decision is not None:
            step.batch.decisions.append(change.decision)

    def _is_known(self, step: _Step, key: AlarmKey) -> bool:
        """Whether the alarm is open here already, for rules that lost their memory may raise it again."""
        if key not in self._alarms:
            return False
        owner = self._alarms[key]
        ticket = self._ticket(step, owner) if owner is not None else None
        return owner is None or (ticket is not None and ticket.is_open)

    def _open(
        self,
        step: _Step,
        key: AlarmKey,
        change: Change,
        t: float,
        picture: Picture | None,
        *,
        before: str | None,
    ) -> None:
        """A raised alarm, or one that was held back for the reason `before`, asks for a ticket."""
        about = self._describe(change)
        severity = _severity(change, about)
        now = change.t if before is None else t
        verdict = self._storm.judge(
            key, now, critical=severity == "critical", unwell=self._is_unwell
        )
        step.storm_changed = True
        if verdict.code != before and change.decision is not None:
            step.batch.decisions.append(_judged(change.decision, verdict, now))
        if verdict.action == "hold":
            self._held[key] = (change, verdict)
            self._own(step, key, None, _document(change, verdict.code))
            return
        self._held.pop(key, None)
        if verdict.ticket_id is not None:
            self._attach(step, key, change, verdict.ticket_id, severity, t)
            return
        ticket = self._new(change, now, t, about, picture)
        self._storm.raised(key, ticket.id, now)
        if self._store.ticket(ticket.id) is None:
            self._put(step, ticket, "raised", t)
        # Otherwise the same footage is played again into the same store: it is the same ticket.
        self._own(step, key, ticket.id)

    def _new(
        self, change: Change, raised_t: float, t: float, about: Description, picture: Picture | None
    ) -> Ticket:
        key = change.key
        camera = self._cameras[key.camera_id]
        picture = picture or Picture(change.t)
        boxes = picture.boxes
        if not boxes and change.box is not None:
            boxes = (Box(xyxy=change.box, confidence=change.confidence),)
        now, captured = instant(t), instant(picture.t)
        return Ticket(
            id=ticket_id(
                site=self._topics.site,
                host=self._host,
                camera_id=key.camera_id,
                scenario=key.scenario,
                subject=key.subject,
                since=change.since,
                t=raised_t,
            ),
            version=1,
            site=self._topics.site,
            host=self._host,
            camera=CameraRef(id=camera.id, name=camera.name),
            grid=camera.grid,
            scenario=key.scenario,
            subject=key.subject,
            severity=_severity(change, about),
            title=about.title,
            condition=_CONDITIONS[change.condition],
            capture=Captured(
                time=captured,
                stream=picture.stream,
                epoch=picture.epoch,
                width_px=picture.width_px,
                height_px=picture.height_px,
            ),
            analyse=Analysed(
                model=about.model,
                model_sha256=about.model_sha256,
                boxes=boxes,
                confidence=change.confidence,
                since=instant(change.since),
                detail=dict(change.detail or {}),
                decision=change.decision,
            ),
            warn=Warned(
                raised=instant(raised_t),
                rule=change.decision.reason if change.decision is not None else "",
                published=now,
                age_s=max(0.0, round((now - captured).total_seconds(), 3)),
            ),
            thumbnail=_fitting(picture.thumbnail, key.camera_id),
            evidence=picture.evidence,
            created=now,
            updated=now,
            simulated=camera.simulated,
        )

    def _attach(
        self,
        step: _Step,
        key: AlarmKey,
        change: Change,
        ticket_id: str,
        severity: Severity,
        t: float,
    ) -> None:
        self._own(step, key, ticket_id)
        self._attached[ticket_id] = count = self._attached.get(ticket_id, 0) + 1
        ticket = self._ticket(step, ticket_id)
        if ticket is None or not ticket.is_open:
            return
        worse = SEVERITY_RANK[severity] > SEVERITY_RANK[ticket.severity]
        # The first is news, and a worse one; the count of a storm can wait for the next version.
        if count == 1 or worse or t - seconds(ticket.updated) >= UPDATE_INTERVAL_S:
            ticket = ticket.next(
                t,
                severity=severity if worse else ticket.severity,
                condition=_CONDITIONS[change.condition],
                warn=ticket.warn.model_copy(update={"attached": count}),
            )
            said: dict[str, Json] = {"camera": key.camera_id, "subject": key.subject}
            self._put(step, ticket, "attached", t, said)

    def _renew(self, step: _Step, change: Change, t: float) -> None:
        key = change.key
        if key in self._held:
            _, verdict = self._held[key]
            # The newest sight of it, but the record of the raise.
            decision = change.decision or self._held[key][0].decision
            if change.condition is Condition.HOLDS:
                self._unseen.discard(key)
            renewed = replace(change, decision=decision)
            self._held[key] = (renewed, verdict)
            self._own(step, key, None, _document(renewed, verdict.code))
            return
        ticket_id = self._alarms.get(key)
        ticket = self._ticket(step, ticket_id) if ticket_id is not None else None
        if ticket is None or not ticket.is_open:
            return
        severity = _known_severity(change.severity, ticket.severity)
        worse = SEVERITY_RANK[severity] > SEVERITY_RANK[ticket.severity]
        own = key == AlarmKey(ticket.camera.id, ticket.scenario, ticket.subject)
        analyse = ticket.analyse
        if own and change.condition is Condition.HOLDS:
            analyse = analyse.model_copy(
                update={
                    "confidence": max(change.confidence, analyse.confidence),
                    "detail": dict(change.detail or {}),
                }
            )
        condition = _CONDITIONS[change.condition]
        if condition is TicketCondition.UNKNOWN and not own:
            condition = ticket.condition
        self._put(
            step,
            ticket.next(
                t,
                severity=severity if worse else ticket.severity,
                condition=condition,
                analyse=analyse,
                warn=self._counted(ticket),
            ),
            "updated",
            t,
            {"condition": change.condition.value, "confidence": change.confidence},
        )

    def _close(self, step: _Step, change: Change, t: float) -> None:
        ticket_id, goes_on = self._forget(change.key)
        step.batch.alarms[change.key] = None
        if ticket_id is None or goes_on:
            return
        ticket = self._ticket(step, ticket_id)
        if ticket is not None and ticket.is_open:
            warn = self._counted(ticket)
            ticket = ticket.next(t, condition=TicketCondition.CLEARED, warn=warn)
            self._put(step, ticket, "cleared", t)

    def _settle(self, step: _Step, ticket: Ticket, action: Action, t: float) -> None:
        """What a person's action means for the alarms of the ticket."""
        if action not in (Action.DISPOSE, Action.REOPEN):
            return
        own = AlarmKey(ticket.camera.id, ticket.scenario, ticket.subject)
        decision = ticket.analyse.decision
        cooldown_s = decision.parameters["cooldown"] if decision is not None else 0.0
        for key in sorted({own} | self._members.get(ticket.id, set())):
            if action is Action.REOPEN:
                self._storm.reopened(key)
            else:
                self._storm.disposed(key, ticket.id, t + cooldown_s)
        step.storm_changed = True

    def _counted(self, ticket: Ticket) -> Warned:
        count = max(ticket.warn.attached, self._attached.get(ticket.id, 0))
        return ticket.warn.model_copy(update={"attached": count})

    def _is_unwell(self, camera_id: str) -> bool:
        return bool(self._unwell.get(camera_id))

    def _own(
        self,
        step: _Step,
        key: AlarmKey,
        ticket_id: str | None,
        document: dict[str, Json] | None = None,
    ) -> None:
        self._remember(key, ticket_id)
        step.batch.alarms[key] = AlarmRow(ticket_id, document or {})

    def _put(
        self,
        step: _Step,
        ticket: Ticket,
        kind: str,
        t: float,
        said: dict[str, Json] | None = None,
        command: Command | None = None,
        also: Iterable[str] = (),
    ) -> None:
        """A ticket's version with its event and its messages, which go to the inboxes `also` too."""
        step.tickets[ticket.id] = ticket
        step.batch.tickets.append(ticket)
        who, source = (self._host, "") if command is None else (command.user, command.source)
        self._follow(step, ticket, kind, t)
        event = Event(ticket.id, ticket.version, kind, who, t, source, said or {})
        step.batch.events.append(event)
        step.batch.messages += self._messages(ticket, event, also)

    def _messages(self, ticket: Ticket, event: Event, also: Iterable[str]) -> list[Message]:
        topics = self._topics
        whole = ticket.to_json().encode()
        closing = event.kind == Action.DISPOSE
        detail = dict(event.document)
        told: dict[str, Json] = {
            "kind": event.kind,
            "ticket_id": ticket.id,
            "version": ticket.version,
            "state": ticket.state.value,
            "condition": ticket.condition.value,
            "severity": ticket.severity,
            "scenario": ticket.scenario,
            "camera": ticket.camera.id,
            "grid": ticket.grid,
            "host": ticket.host,
            "outcome": ticket.dispose.outcome.value if ticket.dispose.outcome else None,
            "time": ticket.model_dump(mode="json", include={"updated"})["updated"],
            "by": event.who,
            "from": event.source,
            **{name: detail.pop(name, None) for name in ("note", "to", "command_id")},
            "detail": {name: value for name, value in detail.items() if name != "outcome"},
        }

        def message(
            topic: str, payload: bytes, *, retain: bool = False, supersedes: bool = False
        ) -> Message:
            return Message(topic, payload, retain, 1, ticket.id, ticket.version, supersedes)

        own = topics.ticket(ticket.id)
        # Whoever connects between the two rows of a closing must find the closing state, not the open one.
        messages = [message(own, whole, retain=ticket.is_open or closing, supersedes=True)]
        if closing:
            messages.append(message(own, b"", retain=True))
        stage = topics.event(ticket.scenario, ticket.state.value)
        messages.append(message(stage, json.dumps(told, ensure_ascii=False).encode()))
        messages += [
            message(topics.inbox(grid), whole, supersedes=True)
            for grid in dict.fromkeys([*self._inboxes(ticket), *also])
        ]
        return messages

    def _answer(
        self, command: Command, ticket: Ticket, t: float, error: CommandError | None
    ) -> Reply:
        return Reply(
            command_id=command.command_id,
            ticket_id=ticket.id,
            ok=error is None,
            code="ok" if error is None else error.code,
            message=f"ticket {ticket.id} is {ticket.state}" if error is None else str(error),
            version=ticket.version,
            state=ticket.state,
            time=instant(t),
        )

    def _reply_message(self, user: str, reply: Reply) -> Message:
        topic = self._topics.reply(user, reply.command_id)
        return Message(topic, reply.model_dump_json().encode(), ticket_id=reply.ticket_id)


def _known_severity(hint: str | None, default: Severity) -> Severity:
    """A scenario's hint, if it is one of ours."""
    return cast(Severity, hint) if hint and hint in SEVERITY_RANK else default


def _severity(change: Change, about: Description) -> Severity:
    return _known_severity(change.severity, about.severity)


def _fitting(thumbnail: str | None, place: str) -> str | None:
    if thumbnail is not None and len(thumbnail) > THUMBNAIL_CHARACTERS:
        log.warning("thumbnail is too large and is left out", of=place, characters=len(thumbnail))
        return None
    return thumbnail


def _said(command: Command) -> dict[str, Json]:
    said = command.model_dump(mode="json", include={"command_id", "note", "outcome", "to"})
    return {name: value for name, value in said.items() if value}


def _judged(decision: Decision, verdict: Verdict, t: float) -> Decision:
    """The rule's record of a raise with storm control's verdict on it."""
    raised = verdict.action == "raise"
    if raised and t == decision.t:
        return decision
    reason = "was held back until now" if raised else verdict.reason
    return decision.model_copy(
        update={
            "outcome": "raised" if raised else "suppressed",
            "code": verdict.code,
            "reason": f"{decision.reason}; {reason}",
            "t": t,
        }
    )


def _document(change: Change, code: str) -> dict[str, Json]:
    """A change that is held back, as JSON."""
    decision = change.decision
    return {
        "code": code,
        "kind": change.kind.value,
        "since": change.since,
        "t": change.t,
        "condition": change.condition.value,
        "confidence": change.confidence,
        "box": list(change.box) if change.box is not None else None,
        "severity": change.severity,
        "detail": dict(change.detail or {}),
        "decision": decision.model_dump(mode="json") if decision is not None else None,
    }


def _change_of(key: AlarmKey, document: Mapping[str, Any]) -> Change:
    box, decision = document["box"], document["decision"]
    return Change(
        kind=ChangeKind(document["kind"]),
        key=key,
        since=document["since"],
        t=document["t"],
        condition=Condition(document["condition"]),
        confidence=document["confidence"],
        box=None if box is None else (box[0], box[1], box[2], box[3]),
        severity=document["severity"],
        detail=document["detail"],
        decision=None if decision is None else Decision.model_validate(decision),
    )


def _report(future: Future[None]) -> None:
    error = future.exception()
    if error is not None:
        log.error("records were not stored", error=str(error))
