"""Cameras whose alarms are too often false become a ticket of their own.

A camera is judged by the outcomes of its own tickets over a sliding window, when one of them was disposed of and once
a day, for outcomes leave the window too. It has fallen when the exact *upper* bound of its accuracy lies below the
target: a few bad alarms prove nothing. It has recovered when its accuracy meets the target again, or when too few
outcomes are left to judge by; in between the ticket stands, and who disposes of it is not asked again meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

import numpy as np

from alerts.accuracy import Accuracy, AccuracySettings, Fact, accuracy, fallen
from alerts.desk import TicketDesk
from alerts.intervals import upper_bounds
from alerts.rules import AlarmKey, Change, ChangeKind, Decision
from alerts.store import AlarmRow, Store
from alerts.storm import ACCURACY, HEALTH
from alerts.tickets import OPEN_STATES, Outcome, Ticket, TicketCondition
from pipeline.observation import Condition, Json

__all__ = ["AccuracyWatch"]

ALL_S = 86_400.0  # outcomes leave a window of weeks no faster


class AccuracyWatch:
    """Judges the cameras of one host.

    Args:
        settings: Target, window and how sure it must be.
        store: Facts, and which alarms are open.
        desk: Raises and clears.
        cameras: Ids of the real cameras of this moment; simulated ones are never judged.
    """

    def __init__(
        self,
        settings: AccuracySettings,
        store: Store,
        desk: TicketDesk,
        cameras: Callable[[], Collection[str]],
    ) -> None:
        self._settings = settings
        self._store = store
        self._desk = desk
        self._cameras = cameras
        self._all_due_t = float("-inf")
        self._decided: set[str] = set()
        self._lock = threading.Lock()

    def decided(self, camera_id: str) -> None:
        """A ticket of this camera was disposed of or reopened; returns at once, from any thread."""
        with self._lock:
            self._decided.add(camera_id)

    def tend(self, t: float) -> list[Ticket]:
        """Judge whoever is due at `t` (seconds since the epoch); gives the new versions of tickets.

        Raises:
            StoreError: if the store cannot be used.
        """
        if not self._settings.camera_tickets:
            return []
        with self._lock:
            due, self._decided = self._decided, set()
        everybody = t >= self._all_due_t
        if everybody:
            self._all_due_t = t + ALL_S
            due = set(self._cameras())
        due &= set(self._cameras())
        if not due:
            return []
        only = next(iter(due)) if len(due) == 1 else None
        since_t = t - self._settings.camera_window
        facts: dict[str, list[Fact]] = {camera_id: [] for camera_id in due}
        for fact in self._store.facts(since_t, camera_id=only):
            if fact.camera in facts:
                facts[fact.camera].append(fact)
        alarms = self._store.alarms()
        changes = [
            change
            for camera_id in sorted(due)
            if (change := self._judge(camera_id, facts[camera_id], t, alarms, repeat=everybody))
        ]
        return self._desk.take(changes, t)

    def _judge(
        self,
        camera_id: str,
        facts: list[Fact],
        t: float,
        alarms: dict[AlarmKey, AlarmRow],
        *,
        repeat: bool,
    ) -> Change | None:
        counted = accuracy(facts, target=self._settings.target)
        key = AlarmKey(camera_id, HEALTH, ACCURACY)
        known = alarms.get(key)
        if known is None:
            if not fallen(counted, self._settings) or self._has_ticket(camera_id):
                return None
            return self._change(ChangeKind.RAISED, key, counted, facts, t)
        if counted.decided < self._settings.camera_decided or (
            counted.value is not None and counted.value >= self._settings.target
        ):
            return self._change(ChangeKind.CLEARED, key, counted, facts, t)
        if repeat or known.ticket_id is None:  # held back: what is not seen again is never raised
            return self._change(ChangeKind.UPDATED, key, counted, facts, t)
        return None

    def _has_ticket(self, camera_id: str) -> bool:
        """Whether there is an open ticket whose alarm was forgotten, for its camera's rules were unreadable."""
        tickets = self._store.tickets(states=OPEN_STATES, scenario=HEALTH, camera_id=camera_id)
        cleared = TicketCondition.CLEARED
        return any(one.subject == ACCURACY and one.condition is not cleared for one in tickets)

    def _change(
        self, kind: ChangeKind, key: AlarmKey, counted: Accuracy, facts: list[Fact], t: float
    ) -> Change:
        s = self._settings
        false_t = [f.raised_t for f in facts if f.outcome is Outcome.FALSE_ALARM]
        since = min(false_t, default=t)
        pair = np.array([counted.confirmed]), np.array([counted.decided])
        upper = float(upper_bounds(*pair, s.camera_confidence)[0]) if counted.decided else 1.0
        share = "none decided" if counted.value is None else f"{counted.value:.1%}"
        days = s.camera_window / 86_400.0
        reason = (
            f"{counted.confirmed} of {counted.decided} decided alarms of {days:g} days were true ({share}); with "
            f"{s.camera_confidence:.1%} confidence at most {upper:.1%}, and {s.target:.1%} are asked for"
        )
        counts: dict[str, float] = {
            "confirmed": counted.confirmed,
            "false_alarms": counted.false_alarms,
            "undecided": counted.undecided,
            "upper": round(upper, 6),
            "target": s.target,
        }
        detail: dict[str, Json] = {**counts}
        worst: dict[str, Json] = {}
        for fact in facts:
            if fact.outcome is Outcome.FALSE_ALARM:
                worst[fact.scenario] = int(str(worst.get(fact.scenario, 0))) + 1
        detail["false_alarms_by_scenario"] = worst
        raised = kind is not ChangeKind.CLEARED
        decision = Decision(
            outcome="raised" if raised else "cleared",
            code="raised" if raised else "cleared",
            reason=reason,
            camera_id=key.camera_id,
            scenario=key.scenario,
            subject=key.subject,
            since=since,
            t=t,
            held_s=t - since,
            known_s=t - since,
            ratio=1.0,
            parameters={
                **counts,
                "confidence": s.camera_confidence,
                "window": s.camera_window,
                "decided": s.camera_decided,
                "cooldown": 0.0,
            },
        )
        return Change(
            kind=kind,
            key=key,
            since=since,
            t=t,
            condition=Condition.HOLDS if raised else Condition.CLEAR,
            confidence=s.camera_confidence,
            detail=detail,
            decision=None if kind is ChangeKind.UPDATED else decision,
        )
