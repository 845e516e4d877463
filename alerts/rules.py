"""One debounced rule for all scenarios: observations in, alarms and decision records out.

One state machine runs per (camera, scenario, subject)::

    idle ──holds──▶ pending ──dwell full──▶ raised ◀──holds──▶ clearing ──clear_after──▶ idle
      ▲                │
      └── given up ────┘   every give-up leaves a `suppressed` change with its decision record

**Hold.** A condition stands for the time *since the observation before it* (right hold), provided that both are known
and at most `max_gap` apart. A change of condition between two observations is thus dated to the earlier one, and
since every change waits for an observation that shows it, thinning the observations moves an alarm by less than one
of the wider gaps; with the left hold it would be two.

**Unknown.** Time that ends or begins with an unknown observation, an interruption or more than `max_gap` of silence is
unknown. It counts neither for nor against: it freezes a dwell. After more than `max_gap` of it a pending dwell starts
again, and a clearing one goes back to raised. Nothing unknown ever clears an alarm.

**Giving up.** A pending dwell ends when it has been clear for `clear_after` without a break, or clear in all for more
than ``(1 - min_ratio) * max(known time, raise_after)``. Until then going on is never slower than starting anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from pipeline.analyse.scenario import RuleParameters
from pipeline.observation import Condition, Json, Observation, RelativeBox

__all__ = [
    "SEVERITY_RANK",
    "UPDATE_INTERVAL_S",
    "AlarmKey",
    "Change",
    "ChangeKind",
    "Decision",
    "RuleBook",
    "Sample",
    "overlap",
]

SEVERITY_RANK: Mapping[str | None, int] = {None: 0, "minor": 1, "major": 2, "critical": 3}

# Stream times are floats around 1.7e9 (steps of 0.24 µs) and streams tick in milliseconds at best.
_TOLERANCE_S = 1e-3
# A responder's page is not renewed more often than a person would look at it again.
UPDATE_INTERVAL_S = 30.0
# So much surer, or moved so far, is news; less is the model's wobble.
_CONFIDENCE_STEP = 0.15
_MOVED_BELOW_IOU = 0.3
# First and last are always kept; with twenty between them a record stays under 2 KB.
_SAMPLES_BETWEEN = 20
# How often, in stream time, silent idle subjects are looked for.
_SWEEP_S = 60.0


class AlarmKey(NamedTuple):
    """What is debounced, and what at most one alarm is open for."""

    camera_id: str
    scenario: str
    subject: str


class ChangeKind(StrEnum):
    """What happened to an alarm or to a candidate."""

    RAISED = "raised"
    UPDATED = "updated"
    CLEARED = "cleared"
    SUPPRESSED = "suppressed"


class Sample(BaseModel):
    """One observation as a decision record keeps it."""

    model_config = ConfigDict(frozen=True)

    t: float
    condition: Condition
    confidence: float


class Decision(BaseModel):
    """Why an alarm was raised or cleared, or why a candidate was not.

    Attributes:
        code: ``raised``, ``cleared``; for a suppressed candidate the rule's ``too_short`` (held, then stopped),
            ``ratio_too_low`` (held on and off), ``gap``, ``cooldown``, or the storm control's ``muted``,
            ``over_budget``, ``grouped``, ``inhibited``, ``disposed_recently``.
        reason: The same in words.
        since: When the condition was first seen to hold; stream time in seconds.
        t: When it was decided; stream time in seconds.
        held_s: Known time in which it held.
        known_s: Known time in all.
        ratio: held_s / known_s; 1 when nothing is known beyond the first sight.
        parameters: The rule's parameters in force, in seconds.
        samples: The first, the last and up to 20 evenly spaced observations between them.
    """

    model_config = ConfigDict(frozen=True)

    outcome: Literal["raised", "suppressed", "cleared"]
    code: str
    reason: str
    camera_id: str
    scenario: str
    subject: str
    since: float
    t: float
    held_s: float
    known_s: float
    ratio: float
    parameters: dict[str, float]
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """Something happened to an alarm, or a candidate came to nothing.

    Attributes:
        key: Camera, scenario and subject.
        since: When the condition was first seen to hold; with `key` it names the alarm.
        t: Stream time of the change, in seconds.
        condition: Whether it holds now; ``unknown`` when nothing has been seen for more than `max_gap`.
        confidence: Of the holding observations, weighted by the time for which they stood.
        box: Where it was last seen to hold.
        severity: The scenario's hint, the highest so far; None for the scenario's default.
        detail: Of the last observation that held.
        decision: None for updates.
    """

    kind: ChangeKind
    key: AlarmKey
    since: float
    t: float
    condition: Condition
    confidence: float
    box: RelativeBox | None = None
    severity: str | None = None
    detail: Mapping[str, Json] | None = None
    decision: Decision | None = None


def overlap(a: RelativeBox | None, b: RelativeBox | None) -> float:
    """Intersection over union of two boxes; two absent ones are the same, one absent is apart."""
    if a is None or b is None:
        return 1.0 if a is b else 0.0
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


class _Samples:
    """The first, the last and evenly thinned observations between; the stride doubles when they overflow."""

    __slots__ = ("_count", "_kept", "_last", "_stride")

    def __init__(self) -> None:
        self._kept: list[tuple[float, str, float]] = []
        self._last: tuple[float, str, float] | None = None
        self._stride = 1
        self._count = 0

    def add(self, o: Observation) -> None:
        self._last = (o.t, o.condition.value, o.confidence)
        if self._count % self._stride == 0:
            self._kept.append(self._last)
            if len(self._kept) > _SAMPLES_BETWEEN + 1:
                self._kept = self._kept[::2]
                self._stride *= 2
        self._count += 1

    def __iter__(self) -> Iterator[Sample]:
        tail = [self._last] if self._last is not None and self._last is not self._kept[-1] else []
        for t, condition, confidence in (*self._kept, *tail):
            yield Sample(t=t, condition=Condition(condition), confidence=confidence)

    def state(self) -> list[Json]:
        return [
            [list(sample) for sample in self._kept],
            list(self._last) if self._last is not None else None,
            self._stride,
            self._count,
        ]

    @classmethod
    def of(cls, state: Any) -> _Samples:  # noqa: ANN401 - JSON
        samples = cls()
        kept, last, samples._stride, samples._count = state
        samples._kept = [(t, condition, confidence) for t, condition, confidence in kept]
        if last is not None:
            samples._last = (last[0], last[1], last[2])
            if samples._kept and samples._kept[-1] == samples._last:
                samples._last = samples._kept[-1]
        return samples


_IDLE, _PENDING, _RAISED, _CLEARING = "idle", "pending", "raised", "clearing"
_PLAIN = (
    "phase",
    "last_t",
    "blind",
    "since",
    "known",
    "held",
    "clear",
    "clear_run",
    "weight",
    "confidence",
    "cooldown_until",
    "cooled",
    "severity",
    "updated_t",
    "told_confidence",
    "told_severity",
    "told_unknown",
)


class _Slot:
    """State of one key. `last_t` is that of the last known observation; `blind` that something unknown came since."""

    __slots__ = (*_PLAIN, "box", "detail", "key", "parameters", "samples", "told_box", "told_words")

    def __init__(self, key: AlarmKey, parameters: RuleParameters) -> None:
        self.key = key
        self.parameters = parameters
        self.last_t = -math.inf
        self.blind = True
        self.cooldown_until = -math.inf
        self.reset()

    def reset(self) -> None:
        self.phase = _IDLE
        self.since = self.known = self.held = self.clear = self.clear_run = 0.0
        self.weight = self.confidence = 0.0
        self.cooled = False
        self.box: RelativeBox | None = None
        self.severity: str | None = None
        self.detail: Mapping[str, Json] = {}
        self.samples = _Samples()
        self.updated_t = -math.inf
        self.told_box: RelativeBox | None = None
        self.told_words: dict[str, str] = {}
        self.told_confidence = 0.0
        self.told_severity: str | None = None
        self.told_unknown = False

    def sight(self, o: Observation, dt: float) -> None:
        """Take in an observation that holds and stood for `dt` seconds."""
        weight = self.weight + dt
        if weight > 0:
            self.confidence += (o.confidence - self.confidence) * dt / weight
            self.weight = weight
        else:
            self.confidence = max(self.confidence, o.confidence)
        self.box = o.box
        self.detail = o.detail
        # A plug-in's own word for a severity is ignored.
        if SEVERITY_RANK.get(o.severity, 0) > SEVERITY_RANK[self.severity]:
            self.severity = o.severity

    def words(self) -> dict[str, str]:
        """What of the detail is said in words (class, colour); its numbers always change."""
        return {name: value for name, value in self.detail.items() if isinstance(value, str)}

    def told(self, t: float, *, unknown: bool = False) -> None:
        self.updated_t, self.told_unknown = t, unknown
        self.told_box, self.told_words = self.box, self.words()
        self.told_confidence, self.told_severity = self.confidence, self.severity

    def change(
        self, kind: ChangeKind, t: float, condition: Condition, decision: Decision | None = None
    ) -> Change:
        return Change(
            kind,
            self.key,
            self.since,
            t,
            condition,
            round(self.confidence, 4),
            self.box,
            self.severity,
            dict(self.detail),
            decision,
        )

    def decide(
        self, outcome: Literal["raised", "suppressed", "cleared"], code: str, reason: str, t: float
    ) -> Decision:
        return Decision(
            outcome=outcome,
            code=code,
            reason=reason,
            camera_id=self.key.camera_id,
            scenario=self.key.scenario,
            subject=self.key.subject,
            since=self.since,
            t=t,
            held_s=round(self.held, 3),
            known_s=round(self.known, 3),
            ratio=round(self.held / self.known, 4) if self.known else 1.0,
            parameters={
                name: float(getattr(self.parameters, name)) for name in RuleParameters.model_fields
            },
            samples=tuple(self.samples),
        )

    def state(self) -> dict[str, Json]:
        plain = {name: _finite(getattr(self, name)) for name in _PLAIN}
        return plain | {
            "scenario": self.key.scenario,
            "subject": self.key.subject,
            "box": _listed(self.box),
            "told_box": _listed(self.told_box),
            "told_words": dict(self.told_words),
            "detail": dict(self.detail),
            "samples": self.samples.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        for name in _PLAIN:
            value = state[name]
            # Only times that never were are not finite; everything else that is None is meant.
            absent = value is None and name in {"last_t", "cooldown_until", "updated_t"}
            setattr(self, name, -math.inf if absent else value)
        self.box, self.told_box = _boxed(state["box"]), _boxed(state["told_box"])
        self.told_words, self.detail = dict(state["told_words"]), dict(state["detail"])
        self.samples = _Samples.of(state["samples"])


def _finite(value: Any) -> Json:  # noqa: ANN401 - any plain field of a slot
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _listed(box: RelativeBox | None) -> list[Json] | None:
    return None if box is None else list(box)


def _boxed(box: list[float] | None) -> RelativeBox | None:
    return None if box is None else (box[0], box[1], box[2], box[3])


class RuleBook:
    """The debounced rule of every camera, scenario and subject. Used from one thread.

    Args:
        parameters_of: The rule's parameters for (camera id, scenario); asked once per subject.

    Memory is bounded: subjects that are idle, silent beyond `max_gap` and past their cooldown are forgotten.
    """

    def __init__(self, parameters_of: Callable[[str, str], RuleParameters]) -> None:
        self._parameters_of = parameters_of
        self._cameras: dict[str, dict[tuple[str, str], _Slot]] = {}
        self._swept: dict[str, float] = {}

    @property
    def subject_count(self) -> int:
        """How many subjects it keeps a state for."""
        return sum(map(len, self._cameras.values()))

    def open_alarms(self) -> list[AlarmKey]:
        """Keys of all alarms that are raised or clearing."""
        return [
            slot.key
            for slots in self._cameras.values()
            for slot in slots.values()
            if slot.phase in (_RAISED, _CLEARING)
        ]

    def update(self, o: Observation) -> list[Change]:
        """Take in one observation; per camera, observations come in order of time.

        One that is older than the last by up to `max_gap` is ignored; by more, the timeline has started anew and the
        time between is unknown.
        """
        slots = self._cameras.get(o.camera_id)
        if slots is None:
            slots = self._cameras[o.camera_id] = {}
        slot = slots.get((o.scenario, o.subject))
        if slot is None:
            if o.condition is Condition.UNKNOWN:
                return []
            slot = slots[o.scenario, o.subject] = _Slot(
                AlarmKey(o.camera_id, o.scenario, o.subject),
                self._parameters_of(o.camera_id, o.scenario),
            )
        changes: list[Change] = []
        if slot.phase == _IDLE and o.condition is Condition.CLEAR and o.t >= slot.last_t:
            slot.last_t, slot.blind = o.t, False
        else:
            changes = self._step(slot, o)
        swept = self._swept.setdefault(o.camera_id, o.t)
        if not -_SWEEP_S < o.t - swept < _SWEEP_S:
            changes += self.advance(o.t, o.camera_id)
        return changes

    def advance(self, t: float, camera_id: str | None = None) -> list[Change]:
        """Stream time has come to `t`, of one camera or of all, with or without observations.

        Dwells that have waited longer than `max_gap` are given up and silent subjects forgotten. Whether and when this
        is called changes neither raised nor cleared alarms.
        """
        changes: list[Change] = []
        for camera in [camera_id] if camera_id is not None else list(self._cameras):
            self._swept[camera] = t
            slots = self._cameras.get(camera, {})
            for name, slot in list(slots.items()):
                silence = abs(t - slot.last_t)
                if silence > slot.parameters.max_gap:
                    changes += self._unseen(slot, t)
                    if slot.phase == _IDLE and t >= slot.cooldown_until:
                        del slots[name]
            if not slots:
                self._cameras.pop(camera, None)
        return changes

    def interrupt(self, camera_id: str, t: float) -> list[Change]:
        """The camera's stream broke off: what comes before its next observation is unknown."""
        slots = self._cameras.get(camera_id, {})
        return [change for slot in slots.values() for change in self._unseen(slot, t)]

    def forget(self, key: AlarmKey) -> None:
        """Drop an alarm whose subject will not be seen again, e.g. when its ticket is disposed of while unknown."""
        self._cameras.get(key.camera_id, {}).pop((key.scenario, key.subject), None)

    def ask(self, key: AlarmKey) -> None:
        """Have an open alarm's next sight told as an update, whatever it shows, and at once."""
        slot = self._cameras.get(key.camera_id, {}).get((key.scenario, key.subject))
        if slot is not None:
            slot.told_unknown, slot.updated_t = True, -math.inf

    def snapshot(self, camera_id: str) -> dict[str, Json]:
        """Pending dwells, open alarms and cooldowns of one camera, as JSON."""
        return {"slots": [slot.state() for slot in self._cameras.get(camera_id, {}).values()]}

    def restore(self, camera_id: str, state: Mapping[str, Any]) -> None:
        """Take back a snapshot; the same as if the camera had been interrupted when it was taken.

        What belongs to a scenario that `parameters_of` no longer knows (KeyError) is left out.

        Raises:
            KeyError, TypeError or ValueError: if the state is none of `snapshot`'s.
        """
        slots: dict[tuple[str, str], _Slot] = {}
        for item in state["slots"]:
            key = AlarmKey(camera_id, item["scenario"], item["subject"])
            try:
                parameters = self._parameters_of(camera_id, key.scenario)
            except KeyError:
                continue
            slot = _Slot(key, parameters)
            slot.restore(item)
            slot.blind = True
            slots[key.scenario, key.subject] = slot
        if slots:
            self._cameras[camera_id] = slots
            self._swept[camera_id] = max(slot.last_t for slot in slots.values())

    def _step(self, slot: _Slot, o: Observation) -> list[Change]:
        gap = o.t - slot.last_t
        max_gap = slot.parameters.max_gap
        if -max_gap <= gap < 0:
            return []
        if (
            gap < 0
        ):  # the timeline has started anew; a cooldown of the former one must not last until its end
            slot.cooldown_until = min(slot.cooldown_until, o.t + slot.parameters.cooldown)
        if o.condition is Condition.UNKNOWN:
            return self._unseen(slot, o.t, o)
        changes = self._lose(slot) if abs(gap) > max_gap else []
        dt = 0.0 if slot.blind or abs(gap) > max_gap else gap
        slot.last_t, slot.blind = o.t, False
        if slot.phase == _IDLE:
            if o.condition is Condition.HOLDS:
                slot.phase, slot.since = _PENDING, o.t
                changes += self._pend(slot, o, dt)
        elif slot.phase == _PENDING:
            changes += self._pend(slot, o, dt)
        else:
            changes += self._hold_open(slot, o, dt)
        return changes

    def _pend(self, slot: _Slot, o: Observation, dt: float) -> list[Change]:
        p = slot.parameters
        slot.known += dt
        slot.samples.add(o)
        if o.condition is Condition.HOLDS:
            slot.held += dt
            slot.clear_run = 0.0
            slot.sight(o, dt)
            enough = slot.held >= p.min_ratio * slot.known - _TOLERANCE_S
            if slot.known < p.raise_after - _TOLERANCE_S or not enough:
                return []
            if o.t < slot.cooldown_until:
                slot.cooled = True
                return []
            reason = (
                f"held {slot.held:.1f} s of {slot.known:.1f} s known; "
                f"{p.raise_after:g} s and {p.min_ratio:.0%} are asked"
            )
            decision = slot.decide("raised", "raised", reason, o.t)
            slot.phase, slot.clear_run = _RAISED, 0.0
            slot.told(o.t)
            return [slot.change(ChangeKind.RAISED, o.t, Condition.HOLDS, decision)]
        slot.clear += dt
        slot.clear_run += dt
        allowed = (1 - p.min_ratio) * max(slot.known, p.raise_after)
        ended = slot.clear_run >= p.clear_after - _TOLERANCE_S
        if ended or slot.clear > allowed + _TOLERANCE_S:
            return self._give_up(slot, o.t, self._why(slot))
        return []

    @staticmethod
    def _why(slot: _Slot) -> tuple[str, str]:
        p = slot.parameters
        if slot.cooled:
            return "cooldown", f"ended within the cooldown of {p.cooldown:g} s after the last alarm"
        if slot.clear > slot.clear_run + _TOLERANCE_S:
            reason = (
                f"held on and off for {slot.held:.1f} s of {slot.known:.1f} s known; "
                f"{p.raise_after:g} s and {p.min_ratio:.0%} are asked"
            )
            return "ratio_too_low", reason
        return "too_short", f"held {slot.held:.1f} s, {p.raise_after:g} s are asked"

    @staticmethod
    def _give_up(slot: _Slot, t: float, why: tuple[str, str]) -> list[Change]:
        decision = slot.decide("suppressed", *why, t)
        change = slot.change(
            ChangeKind.SUPPRESSED,
            t,
            Condition.UNKNOWN if why[0] == "gap" else Condition.CLEAR,
            decision,
        )
        slot.reset()
        return [change]

    def _hold_open(self, slot: _Slot, o: Observation, dt: float) -> list[Change]:
        p = slot.parameters
        slot.known += dt
        if o.condition is Condition.HOLDS:
            slot.held += dt
            slot.phase, slot.clear_run = _RAISED, 0.0
            slot.sight(o, dt)
            if self._is_news(slot, o.t):
                slot.told(o.t)
                return [slot.change(ChangeKind.UPDATED, o.t, Condition.HOLDS)]
            return []
        if slot.phase != _CLEARING:
            slot.phase, slot.samples = _CLEARING, _Samples()
        slot.samples.add(o)
        slot.clear_run += dt
        if slot.clear_run < p.clear_after - _TOLERANCE_S:
            return []
        reason = f"clear for {slot.clear_run:.1f} s; {p.clear_after:g} s are asked"
        decision = slot.decide("cleared", "cleared", reason, o.t)
        change = slot.change(ChangeKind.CLEARED, o.t, Condition.CLEAR, decision)
        slot.reset()
        slot.cooldown_until = o.t + p.cooldown
        return [change]

    @staticmethod
    def _is_news(slot: _Slot, t: float) -> bool:
        # A severity only ever rises here, so that it cannot flood and need not wait.
        if SEVERITY_RANK[slot.severity] > SEVERITY_RANK[slot.told_severity]:
            return True
        if t - slot.updated_t < UPDATE_INTERVAL_S:
            return False
        return (
            slot.told_unknown
            or slot.words() != slot.told_words
            or slot.confidence >= slot.told_confidence + _CONFIDENCE_STEP
            or overlap(slot.box, slot.told_box) < _MOVED_BELOW_IOU
        )

    def _unseen(self, slot: _Slot, t: float, o: Observation | None = None) -> list[Change]:
        slot.blind = True
        if o is not None and slot.phase in (_PENDING, _CLEARING):
            slot.samples.add(o)
        if abs(t - slot.last_t) <= slot.parameters.max_gap:
            return []
        changes = self._lose(slot)
        is_open = slot.phase == _RAISED
        if is_open and not slot.told_unknown and t - slot.updated_t >= UPDATE_INTERVAL_S:
            slot.told(t, unknown=True)
            changes.append(slot.change(ChangeKind.UPDATED, t, Condition.UNKNOWN))
        return changes

    def _lose(self, slot: _Slot) -> list[Change]:
        """Nothing known for more than `max_gap`: dwells in progress start again."""
        if slot.phase == _CLEARING:
            slot.phase, slot.clear_run = _RAISED, 0.0
        if slot.phase != _PENDING:
            return []
        max_gap = slot.parameters.max_gap
        why = ("gap", f"nothing known for more than {max_gap:g} s; the dwell starts again")
        return self._give_up(slot, slot.last_t + max_gap, why)
