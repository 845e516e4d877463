"""Storm control between the rules and the tickets: mutes, inhibition, grouping and budgets.

A candidate that is held back is not lost: it leaves a decision record with its reason and is looked at again; if its
condition still holds when the reason is gone, it becomes a ticket then. In this order:

1. **quiet**: its ticket was disposed of less than a cooldown ago.
2. **muted**: an operator shelved it until some time, or a configured window says so.
3. **inhibited**: a ticket says that the camera itself is dead, covered or turned. Not for critical alarms: smoke covers
   a camera too.
4. **grouped**: a ticket of its scenario was raised moments ago at its camera or group; it is attached to that one.
5. **over budget**: its camera has raised too many of its scenario. Critical alarms have a budget of their own, so high
   that only a fault exceeds it, and exceeding it is logged as an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any, Literal

import structlog
from pydantic import Field

from alerts.rules import AlarmKey
from pipeline.observation import Json
from pipeline.units import Duration, Settings, TimeWindow

__all__ = [
    "ACCURACY",
    "HEALTH",
    "MuteSettings",
    "Shelf",
    "StormControl",
    "StormSettings",
    "Verdict",
]

log = structlog.get_logger(__name__)

HEALTH = "camera_health"
# The one trouble of a camera that does not blind it: it sees as before, and is too often wrong.
ACCURACY = "accuracy"

# Windows and inhibition end unannounced; a held alarm may wait this much longer than it must.
_RECHECK_S = 30.0


class MuteSettings(Settings):
    """When no tickets are wanted.

    Attributes:
        camera: Its id; empty for all.
        scenario: Its identifier; empty for all but ``camera_health``.
        windows: Local days and hours.
    """

    camera: str = ""
    scenario: str = ""
    windows: tuple[TimeWindow, ...] = Field(min_length=1)


class StormSettings(Settings):
    """How many tickets are let through.

    Attributes:
        budget: Tickets per scenario and camera in `budget_window`, at most twice that in the worst of windows.
        critical_budget: The same for critical ones.
        budget_window: Over which a spent budget is refilled, evenly.
        group_window: Alarms of a scenario at one camera or group within this time of a ticket are attached to it; zero
            gives each its own.
        inhibit: Whether a camera's own trouble holds back what it seems to see.
        mutes: Configured windows.
    """

    budget: int = Field(default=12, ge=1)
    critical_budget: int = Field(default=120, ge=1)
    budget_window: Duration = Field(default=3600.0, gt=0)
    # One fire seen by three zones comes within seconds; two cars at one kerb are two matters, even a minute apart.
    group_window: Duration = 10.0
    inhibit: bool = True
    mutes: tuple[MuteSettings, ...] = ()


@dataclass(frozen=True, slots=True)
class Shelf:
    """An operator's mute until `until` (seconds since the epoch); empty names mean all, as in `MuteSettings`."""

    camera: str
    scenario: str
    until: float
    by: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a candidate.

    Attributes:
        code: ``raised``, or why not: see `Decision.code`.
        ticket_id: To which it is attached.
        retry_t: When to ask again.
    """

    action: Literal["raise", "attach", "hold"]
    code: str
    reason: str
    ticket_id: str | None = None
    retry_t: float = 0.0


@dataclass(frozen=True, slots=True)
class _Head:
    ticket_id: str
    raised_t: float


class _Bucket:
    """A token bucket on stream time."""

    __slots__ = ("over", "t", "tokens")

    def __init__(self, tokens: float, t: float) -> None:
        self.tokens = tokens
        self.t = t
        self.over = False

    def wait_s(self, t: float, size: int, window_s: float) -> float:
        """Seconds until a token is there; 0 takes one."""
        rate = size / window_s
        self.tokens = min(size, self.tokens + max(0.0, t - self.t) * rate)
        self.t = t
        # Sums of floats come out a hair below one, for which nobody should wait.
        if self.tokens >= 1 - 1e-9:
            self.tokens = max(0.0, self.tokens - 1)
            # Over until half of it is there again, lest the log tell every single refusal.
            self.over = self.over and self.tokens < size / 2
            return 0.0
        return (1 - self.tokens) / rate


class StormControl:
    """Decides for each alarm whether it becomes a ticket. Used under the desk's lock.

    Args:
        settings: Limits.
        timezone: Of the mute windows.
        group_of: The group of a camera; empty for none.
    """

    def __init__(
        self,
        settings: StormSettings,
        timezone: tzinfo,
        group_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._settings = settings
        self._timezone = timezone
        self._group_of = group_of
        self._shelves: dict[tuple[str, str], Shelf] = {}
        self._quiet: dict[AlarmKey, float] = {}
        self._buckets: dict[tuple[str, str, bool], _Bucket] = {}
        self._heads: dict[tuple[str, str], _Head] = {}

    def judge(
        self, key: AlarmKey, t: float, *, critical: bool, unwell: Callable[[str], bool]
    ) -> Verdict:
        """What becomes of an alarm that is raised, or asks again, at `t`.

        Args:
            key: The alarm's.
            t: Seconds since the epoch.
            critical: Whether its severity is critical.
            unwell: Whether a camera's own health alarm is open.
        """
        s = self._settings
        quiet_until = self._quiet.get(key, 0.0)
        if t < quiet_until:
            reason = f"its ticket was disposed of; quiet for {quiet_until - t:.0f} s more"
            return Verdict("hold", "disposed_recently", reason, retry_t=quiet_until)
        if (muted := self._muted(key, t)) is not None:
            return muted
        if s.inhibit and not critical and key.scenario != HEALTH and unwell(key.camera_id):
            reason = f"camera {key.camera_id} itself is in trouble"
            return Verdict("hold", "inhibited", reason, retry_t=t + _RECHECK_S)
        for place in self._places(key):
            head = self._heads.get(place)
            if head is not None and 0 <= t - head.raised_t <= s.group_window:
                reason = (
                    f"ticket {head.ticket_id} was raised {t - head.raised_t:.0f} s ago; "
                    f"alarms within {s.group_window:g} s are one"
                )
                return Verdict("attach", "grouped", reason, ticket_id=head.ticket_id)
        return self._spend(key, t, critical=critical)

    def raised(self, key: AlarmKey, ticket_id: str, raised_t: float) -> None:
        """A ticket was made; alarms of the next moments are attached to it."""
        if self._settings.group_window > 0:
            for place in self._places(key):
                head = self._heads.get(place)
                if head is None or head.raised_t <= raised_t:
                    self._heads[place] = _Head(ticket_id, raised_t)

    def disposed(self, key: AlarmKey, ticket_id: str, quiet_until: float) -> None:
        """The ticket of this alarm was disposed of; nothing more is attached to it."""
        self._quiet[key] = quiet_until
        for place in self._places(key):
            head = self._heads.get(place)
            if head is not None and head.ticket_id == ticket_id:
                del self._heads[place]

    def reopened(self, key: AlarmKey) -> None:
        """Its ticket is open again."""
        self._quiet.pop(key, None)

    def shelve(self, shelf: Shelf) -> None:
        """Mute until a time; one that is past takes the shelf away."""
        self._shelves[shelf.camera, shelf.scenario] = shelf

    def shelves(self, t: float) -> list[Shelf]:
        """What is shelved at `t`."""
        return [shelf for shelf in self._shelves.values() if t < shelf.until]

    def expire(self, t: float) -> None:
        """Forget what no longer matters at `t`."""
        s = self._settings
        self._shelves = {k: v for k, v in self._shelves.items() if t < v.until}
        self._quiet = {k: v for k, v in self._quiet.items() if t < v}
        self._heads = {k: v for k, v in self._heads.items() if t - v.raised_t <= s.group_window}
        # A bucket is full again after one window, and then like a new one.
        self._buckets = {k: v for k, v in self._buckets.items() if t - v.t < s.budget_window}

    def state(self) -> dict[str, Json]:
        """What must survive a restart, as JSON; the groups are found again in the open tickets."""
        return {
            "shelves": [[s.camera, s.scenario, s.until, s.by] for s in self._shelves.values()],
            "quiet": [[*key, until] for key, until in self._quiet.items()],
            # It is stored with every ticket: in a storm at thousands of cameras the buckets that are nearly full would
            # be all but a few of them, and a restart that fills those up lets no storm through.
            "buckets": [
                [*key, b.tokens, b.t]
                for key, b in self._buckets.items()
                if b.tokens < self._size(critical=key[2]) / 2
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave, or begin anew from nothing; the groups are forgotten.

        Raises:
            TypeError or ValueError: if it is none.
        """
        shelves = [Shelf(*item) for item in state.get("shelves", ())]
        quiet = {AlarmKey(*item[:3]): float(item[3]) for item in state.get("quiet", ())}
        buckets = {
            (camera, scenario, bool(critical)): _Bucket(float(tokens), float(t))
            for camera, scenario, critical, tokens, t in state.get("buckets", ())
        }
        self._shelves = {(shelf.camera, shelf.scenario): shelf for shelf in shelves}
        self._quiet, self._buckets, self._heads = quiet, buckets, {}

    def _size(self, *, critical: bool) -> int:
        return self._settings.critical_budget if critical else self._settings.budget

    def _places(self, key: AlarmKey) -> list[tuple[str, str]]:
        # A camera's trouble is its own, whatever happens to its neighbours.
        group = "" if key.scenario == HEALTH else self._group_of(key.camera_id)
        own = (key.scenario, f"camera:{key.camera_id}")
        return [own, (key.scenario, f"group:{group}")] if group else [own]

    def _muted(self, key: AlarmKey, t: float) -> Verdict | None:
        names = {"", key.scenario} if key.scenario != HEALTH else {key.scenario}
        for camera in (key.camera_id, ""):
            for scenario in sorted(names):
                shelf = self._shelves.get((camera, scenario))
                if shelf is not None and t < shelf.until:
                    reason = f"shelved by {shelf.by} for {shelf.until - t:.0f} s more"
                    return Verdict("hold", "muted", reason, retry_t=shelf.until)
        moment = datetime.fromtimestamp(t, self._timezone)
        for mute in self._settings.mutes:
            if mute.camera in ("", key.camera_id) and mute.scenario in names:
                for window in mute.windows:
                    if window.contains(moment):
                        reason = f"muted at {window.text}"
                        return Verdict("hold", "muted", reason, retry_t=t + _RECHECK_S)
        return None

    def _spend(self, key: AlarmKey, t: float, *, critical: bool) -> Verdict:
        s = self._settings
        size = self._size(critical=critical)
        name = (key.camera_id, key.scenario, critical)
        bucket = self._buckets.setdefault(name, _Bucket(size, t))
        wait_s = bucket.wait_s(t, size, s.budget_window)
        if wait_s == 0:
            return Verdict("raise", "raised", "within budget")
        if critical and not bucket.over:
            log.error("critical alarms over budget", camera=key.camera_id, scenario=key.scenario)
        bucket.over = True
        reason = f"more than {size} tickets in {s.budget_window:g} s"
        return Verdict("hold", "over_budget", reason, retry_t=t + wait_s)
