"""The ticket: its schema, its identity and the table of what may be done with it.

A ticket has two axes. `state` is what people did (warned → acknowledged → dispatched → disposed); `condition` is what
the camera sees (holding, cleared, unknown). A cleared ticket is still open until somebody disposes of it with an
outcome.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)

from alerts.rules import Decision
from pipeline.analyse.scenario import Severity
from pipeline.exceptions import CommandError
from pipeline.observation import RelativeBox

__all__ = [
    "MAX_PHOTOS",
    "OPEN_STATES",
    "PHOTO_BYTES",
    "PHOTO_CHARACTERS",
    "THUMBNAIL_CHARACTERS",
    "TICKET_SCHEMA",
    "TRANSITIONS",
    "Act",
    "Action",
    "Analysed",
    "Box",
    "CameraRef",
    "Captured",
    "Command",
    "Disposed",
    "Escalation",
    "Evidence",
    "Instant",
    "Outcome",
    "Reply",
    "Ticket",
    "TicketCondition",
    "TicketState",
    "Title",
    "Warned",
    "apply",
    "instant",
    "json_schema",
    "last_act",
    "seconds",
    "ticket_id",
    "with_photos",
]

TICKET_SCHEMA = "gridwatch.ticket/1"

# A ticket travels whole with each version, over links that may be a phone's.
_THUMBNAIL_BYTES = 64 * 1024
THUMBNAIL_CHARACTERS = -(-_THUMBNAIL_BYTES // 3) * 4
# A phone's picture at a width that shows a number plate; three of them pass a broker that takes messages of 2 MB.
PHOTO_BYTES = 256 * 1024
PHOTO_CHARACTERS = -(-PHOTO_BYTES // 3) * 4
MAX_PHOTOS = 3
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def instant(t: float) -> datetime:
    """The moment `t` seconds after the epoch, in UTC, to the millisecond."""
    # By integers: a float of microseconds would round 1 ms off now and then.
    ms = round(t * 1000)
    return datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)


def seconds(moment: datetime) -> float:
    """Seconds since the epoch; the inverse of `instant`."""
    return round(moment.timestamp(), 3)


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


Instant: TypeAlias = Annotated[
    AwareDatetime,
    AfterValidator(lambda moment: instant(moment.timestamp())),
    PlainSerializer(_rfc3339, return_type=str, when_used="json"),
    WithJsonSchema(
        {"type": "string", "format": "date-time", "examples": ["2026-05-01T08:30:00.125Z"]}
    ),
]
"""A moment in UTC to the millisecond; RFC 3339 with ``Z`` in JSON."""


class TicketState(StrEnum):
    """What people did with it."""

    WARNED = "warned"
    ACKNOWLEDGED = "acknowledged"
    DISPATCHED = "dispatched"
    DISPOSED = "disposed"


class TicketCondition(StrEnum):
    """What the camera sees of it."""

    HOLDING = "holding"
    CLEARED = "cleared"
    UNKNOWN = "unknown"


class Outcome(StrEnum):
    """What it turned out to be."""

    CONFIRMED = "confirmed"
    FALSE_ALARM = "false_alarm"
    DUPLICATE = "duplicate"
    TEST = "test"


class Action(StrEnum):
    """What may be asked of a ticket."""

    ACKNOWLEDGE = "acknowledge"
    DISPATCH = "dispatch"
    DISPOSE = "dispose"
    REOPEN = "reopen"
    REASSIGN = "reassign"
    NOTE = "note"


_S = TicketState
OPEN_STATES = frozenset({_S.WARNED, _S.ACKNOWLEDGED, _S.DISPATCHED})

TRANSITIONS: Mapping[Action, Mapping[TicketState, TicketState]] = {
    Action.ACKNOWLEDGE: {_S.WARNED: _S.ACKNOWLEDGED},
    # Again from dispatched: to somebody else.
    Action.DISPATCH: dict.fromkeys(sorted(OPEN_STATES), _S.DISPATCHED),
    # From every open state: a false alarm is one click.
    Action.DISPOSE: dict.fromkeys(sorted(OPEN_STATES), _S.DISPOSED),
    Action.REOPEN: {_S.DISPOSED: _S.WARNED},
    # Whoever has it now has not seen it yet.
    Action.REASSIGN: dict.fromkeys(sorted(OPEN_STATES), _S.WARNED),
    Action.NOTE: {state: state for state in _S},
}


class _Part(BaseModel):
    # Readers of other versions of gridwatch meet fields that they do not know.
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class CameraRef(_Part):
    """A camera by its id in cameras.yaml and its name for people."""

    id: str
    name: str


class Title(_Part):
    """What it is, for people."""

    zh: str
    en: str


class Box(_Part):
    """What was seen where; `xyxy` as fractions of the picture's width and height."""

    xyxy: RelativeBox
    label: str = ""
    confidence: float | None = None


class Captured(_Part):
    """The picture on which the alarm was raised.

    Attributes:
        time: Of the picture.
        stream: Which of the camera's streams.
        epoch: Counts the camera's reconnects.
    """

    time: Instant
    stream: str = "detect"
    epoch: int = 0
    width_px: int | None = None
    height_px: int | None = None


class Analysed(_Part):
    """What the analysis made of it.

    Attributes:
        model: Name in the registry; None for scenarios without one.
        model_sha256: Of the weight file.
        confidence: 0..1, weighted by time over the dwell.
        since: When the condition was first seen to hold.
        detail: Measured reasons.
        decision: Why the alarm was raised.
    """

    model: str | None = None
    model_sha256: str | None = None
    boxes: tuple[Box, ...] = ()
    confidence: float
    since: Instant
    detail: dict[str, JsonValue] = {}
    decision: Decision | None = None


class Escalation(_Part):
    """Called upwards because nobody had acknowledged, or nobody had disposed of it, in time.

    Attributes:
        grid: Inbox that was called: a grid's path or ``departments/{name}``.
        reason: What was missing.
        after_s: The time of the rung on its ladder.
    """

    grid: str
    time: Instant
    reason: Literal["unacknowledged", "undisposed"] = "unacknowledged"
    after_s: float | None = None


class Warned(_Part):
    """The alarm and its publication.

    Attributes:
        raised: When the rule raised it.
        rule: In words.
        published: When this version was handed to the outbox.
        age_s: From the picture to that.
        attached: Further alarms that were grouped into this ticket instead of raising their own.
        escalations: Whom it was called upwards to since it was raised, reopened or reassigned.
    """

    raised: Instant
    rule: str
    published: Instant
    age_s: float
    attached: int = 0
    escalations: tuple[Escalation, ...] = ()


class Act(_Part):
    """What a person did.

    Attributes:
        source: From where: ``console``, ``cli``, ``mqtt`` or a device's name; ``from`` in JSON.
        to: Whom a ticket was dispatched to, or the grid that it was reassigned to.
        photos: Paths of the evidence that came with it.
        version: Of the ticket, that it made; None in tickets of older versions of gridwatch.
    """

    by: str
    time: Instant
    source: str = Field(default="", alias="from")
    note: str = ""
    to: str | None = None
    photos: tuple[str, ...] = ()
    version: int | None = None


class Disposed(_Part):
    """What people did and what it turned out to be; the full history is in the store's events."""

    acknowledged: Act | None = None
    dispatched: Act | None = None
    disposed: Act | None = None
    reopened: Act | None = None
    reassigned: Act | None = None
    outcome: Outcome | None = None
    # Bounded, for the ticket travels whole; older ones are in the events.
    notes: Annotated[tuple[Act, ...], Field(max_length=20)] = ()


class Evidence(_Part):
    """A picture, a clip or a person's photo on the host's disk or in the centre.

    Attributes:
        kind: ``photo`` came with a command of a person; the others are the camera's.
        path: Relative to the host's evidence folder.
        url: Where it can be fetched, if it can.
        start: First moment shown; `end` the last.
    """

    kind: Literal["picture", "clip", "photo"]
    path: str
    sha256: str
    size_bytes: int
    media_type: str
    start: Instant
    end: Instant
    url: str | None = None


class Ticket(_Part):
    """One alarm from capture to disposal. `version` grows by one with each stored change."""

    schema_: Literal["gridwatch.ticket/1"] = Field(default="gridwatch.ticket/1", alias="schema")
    id: str
    version: int = Field(ge=1)
    site: str
    host: str
    camera: CameraRef
    grid: str
    scenario: str
    subject: str
    severity: Severity
    title: Title
    state: TicketState = TicketState.WARNED
    condition: TicketCondition = TicketCondition.HOLDING
    capture: Captured
    analyse: Analysed
    warn: Warned
    dispose: Disposed = Disposed()
    thumbnail: Annotated[str, Field(max_length=THUMBNAIL_CHARACTERS)] | None = Field(
        default=None, description="JPEG in base64, 64 KB at most"
    )
    evidence: tuple[Evidence, ...] = ()
    created: Instant
    updated: Instant
    simulated: bool = False

    @property
    def is_open(self) -> bool:
        """Whether nobody has disposed of it."""
        return self.state is not TicketState.DISPOSED

    def to_json(self) -> str:
        """The document as it is stored and published."""
        return self.model_dump_json(by_alias=True)

    def next(self, t: float, **changes: Any) -> Ticket:  # noqa: ANN401 - any of its fields
        """The next version at `t`: the changed fields, `version`, `updated` and the time of publication."""
        now = instant(t)
        warn: Warned = changes.pop("warn", self.warn)
        age_s = max(0.0, round((now - self.capture.time).total_seconds(), 3))
        changes["warn"] = warn.model_copy(update={"published": now, "age_s": age_s})
        return self.model_copy(update={**changes, "version": self.version + 1, "updated": now})


class Command(BaseModel):
    """A person's command on a ticket.

    Attributes:
        command_id: Chosen by the sender; a repeat is answered as the first was and changes nothing.
        expected_version: The version on which the person decided; refused if a person has acted since. None to skip
            the check.
        expires: After this it is refused.
        user: Who; taken from the topic, which the broker's ACL guards.
        source: From where; ``from`` in JSON.
        outcome: Required for dispose.
        to: Whom to dispatch to.
        grid: Required for reassign: path of the grid that has it from now on.
        photos: For dispose and note: JPEGs in base64, 256 KB each at most before that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    command_id: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:\-]+$")
    ticket_id: str = Field(min_length=1, max_length=64)
    action: Action
    user: str = Field(min_length=1, max_length=64, pattern=r"^[^/+#\x00]+$")
    source: str = Field(default="", max_length=64, alias="from")
    expected_version: int | None = Field(default=None, ge=1)
    expires: Instant | None = None
    note: str = Field(default="", max_length=2000)
    outcome: Outcome | None = None
    to: str | None = Field(default=None, max_length=128)
    grid: str | None = Field(default=None, min_length=1, max_length=256)
    photos: tuple[Annotated[str, Field(max_length=PHOTO_CHARACTERS)], ...] = Field(
        default=(), max_length=MAX_PHOTOS, repr=False
    )

    @classmethod
    def parse(cls, payload: bytes | str, *, user: str, ticket_id: str) -> Command:
        """The command in a message; user and ticket come from its topic and win over the payload.

        Raises:
            CommandError: code ``malformed``, naming the field and what was expected.
        """
        try:
            document = _PAYLOAD.model_validate_json(payload).model_extra or {}
            return cls.model_validate({**document, "user": user, "ticket_id": ticket_id})
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            place = ".".join(map(str, first["loc"])) or "payload"
            raise CommandError(f"command: {place}: {first['msg']}", code="malformed") from error


class _PAYLOAD(BaseModel):
    model_config = ConfigDict(extra="allow")


class Reply(BaseModel):
    """The answer to a command.

    Attributes:
        code: ``ok`` or the refusal's reason.
        message: One line for the person.
        version: Of the ticket afterwards; None when it is not known here.
    """

    model_config = ConfigDict(frozen=True)

    command_id: str
    ticket_id: str
    ok: bool
    code: str
    message: str
    version: int | None
    state: TicketState | None
    time: Instant


def ticket_id(
    *, site: str, host: str, camera_id: str, scenario: str, subject: str, since: float, t: float
) -> str:
    """The id of the ticket raised at `t` for the alarm that began at `since`; 26 characters, sorted by `t`.

    Laid out as a ULID (48 bits of milliseconds, 80 bits), but the 80 bits are a hash of what the alarm is: a repeat
    after a crash is the same ticket, and a replay of the same clip gives the same bytes.
    """
    named = "\x1f".join((site, host, camera_id, scenario, subject, str(round(since * 1000))))
    digest = hashlib.sha256(named.encode()).digest()[:10]
    number = (max(0, round(t * 1000)) & (1 << 48) - 1) << 80 | int.from_bytes(digest, "big")
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def last_act(ticket: Ticket) -> tuple[Action, Act] | None:
    """What a person did last to a ticket; None if nobody has done anything since it was raised."""
    disposal = ticket.dispose
    acts = [
        (Action.ACKNOWLEDGE, disposal.acknowledged),
        (Action.DISPATCH, disposal.dispatched),
        (Action.DISPOSE, disposal.disposed),
        (Action.REOPEN, disposal.reopened),
        (Action.REASSIGN, disposal.reassigned),
        *((Action.NOTE, note) for note in disposal.notes[-1:]),
    ]
    done = [(action, act) for action, act in acts if act is not None]
    return max(done, key=lambda one: (one[1].version or 0, one[1].time), default=None)


def apply(ticket: Ticket, command: Command, t: float) -> Ticket:
    """The ticket's next version after the command at `t`, without its photos.

    A version that the analysis made (a clip, a cleared condition) does not stand against a command that was decided
    before it; what a person did does.

    Raises:
        CommandError: ``version_conflict``, ``expired``, ``illegal_transition`` or ``malformed``.
    """
    place = f"ticket {ticket.id}"
    if command.expires is not None and instant(t) > command.expires:
        raise CommandError(f"{place}: the command expired before it arrived", code="expired")
    if not _is_current(ticket, command.expected_version):
        raise CommandError(
            f"{place}: is at version {ticket.version}, expected {command.expected_version}"
            f"{_who_did_what(ticket)}",
            code="version_conflict",
        )
    allowed = TRANSITIONS[command.action]
    if ticket.state not in allowed:
        raise CommandError(
            f"{place}: cannot {command.action} while {ticket.state}, "
            f"expected {' or '.join(sorted(allowed))}{_who_did_what(ticket)}",
            code="illegal_transition",
        )
    _check_fields(place, command)
    if command.grid == ticket.grid:
        raise CommandError(f"{place}: is with grid {ticket.grid} already", code="malformed")
    act = Act(
        by=command.user,
        time=instant(t),
        source=command.source,
        note=command.note,
        to=command.grid or command.to,
        version=ticket.version + 1,
    )
    changes: dict[str, Any] = {}
    if command.action in (Action.REASSIGN, Action.REOPEN):  # everybody is called anew
        changes["warn"] = ticket.warn.model_copy(update={"escalations": ()})
    return ticket.next(
        t,
        state=allowed[ticket.state],
        grid=command.grid or ticket.grid,
        dispose=_disposal(ticket.dispose, command, act),
        **changes,
    )


def _is_current(ticket: Ticket, expected: int | None) -> bool:
    if expected in (None, ticket.version):
        return True
    last = last_act(ticket)
    changed = 1 if last is None else last[1].version
    return changed is not None and changed <= expected < ticket.version


def _who_did_what(ticket: Ticket) -> str:
    last = last_act(ticket)
    if last is None:
        return ""
    action, act = last
    outcome = f" as {ticket.dispose.outcome}" if action is Action.DISPOSE else ""
    to = f" to {act.to}" if act.to else ""
    where = f" from {act.source}" if act.source else ""
    return f"; {act.by} did {action}{outcome}{to}{where} at {_rfc3339(act.time)}"


def _check_fields(place: str, command: Command) -> None:
    """Each action's own fields are there, and no others'."""
    if (command.outcome is not None) != (command.action is Action.DISPOSE):
        raise CommandError(
            f"{place}: an outcome belongs to dispose and to it alone, expected one of "
            f"{', '.join(Outcome)}",
            code="malformed",
        )
    if (command.grid is not None) != (command.action is Action.REASSIGN):
        raise CommandError(
            f"{place}: a grid belongs to reassign and to it alone, expected its path",
            code="malformed",
        )
    if command.photos and command.action not in (Action.DISPOSE, Action.NOTE):
        raise CommandError(
            f"{place}: photos belong to dispose and note, found them with {command.action}",
            code="malformed",
        )


def _disposal(before: Disposed, command: Command, act: Act) -> Disposed:
    match command.action:
        case Action.ACKNOWLEDGE:
            return before.model_copy(update={"acknowledged": act})
        case Action.DISPATCH:
            return before.model_copy(update={"dispatched": act})
        case Action.DISPOSE:
            return before.model_copy(update={"disposed": act, "outcome": command.outcome})
        case Action.REOPEN:
            return Disposed(reopened=act, reassigned=before.reassigned, notes=before.notes)
        case Action.REASSIGN:
            return Disposed(reopened=before.reopened, reassigned=act, notes=before.notes)
        case Action.NOTE:
            return before.model_copy(update={"notes": (*before.notes, act)[-20:]})


def with_photos(disposal: Disposed, action: Action, paths: Sequence[str]) -> Disposed:
    """What people did, with the paths of the photos that came with the newest disposal or note."""
    if action is Action.DISPOSE and disposal.disposed is not None:
        act = disposal.disposed.model_copy(update={"photos": tuple(paths)})
        return disposal.model_copy(update={"disposed": act})
    act = disposal.notes[-1].model_copy(update={"photos": tuple(paths)})
    return disposal.model_copy(update={"notes": (*disposal.notes[:-1], act)})


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a ticket as it is published."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:{TICKET_SCHEMA.replace('.', ':').replace('/', ':')}",
        **Ticket.model_json_schema(mode="serialization", by_alias=True),
    }
