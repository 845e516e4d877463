"""A district's day in virtual time, through the real desk, store, ladders, publisher and broker.

    python -m benchmarks.district

The district has 148 total, 638 general and 8,667 micro-grids with a camera each, and 120,000 tickets a year: 329 a day
along a daily curve. In the evening a burst of 10,000 alarms comes within ten minutes; in its middle the host is
started anew, with its outbox full. People answer some tickets soon, some late and some never, so that ladders are
climbed. Afterwards the store, the audit trail and what a subscriber of the broker received are held against the plan:

* every alarm is one ticket, and every version of every ticket was heard of (its event message came);
* every ladder's rung that was due was called, once, and no other;
* every call to a person is there once.

Time is virtual, so a day takes as long as the machine needs. How long a message takes is measured apart, in real time,
at a steady rate.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import re
import shutil
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from zoneinfo import ZoneInfo

import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from alerts.connection import BrokerSettings
from alerts.desk import CameraInfo, Description, Picture, TicketDesk
from alerts.dispatch import Dispatch, DispatchSettings, Grid, Person
from alerts.escalation import CATCH_UP_S, Ladder
from alerts.mqtt import Publisher
from alerts.rules import AlarmKey, Change, ChangeKind
from alerts.store import Store
from alerts.storm import StormControl, StormSettings
from alerts.tickets import Action, Command, Outcome, Ticket, Title
from alerts.topics import Topics
from benchmarks.soak import mosquitto
from pipeline.analyse.scenario import Severity
from pipeline.observation import Condition

__all__ = ["Plan", "Result", "Size", "main", "make_plan", "run_day", "run_paced"]

DAY_S = 86_400.0
TICK_S = 2.0  # how often the host looks for ladders that are due
T0 = 1_767_196_800.0  # 2026-01-01 00:00 in Shanghai
ZONE = ZoneInfo("Asia/Shanghai")
HOST = "h1"

# Share of a day's alarms by its hours: few at night, e-bikes and parked cars when people come home.
CURVE = (1, 1, 1, 1, 1, 2, 4, 7, 7, 5, 5, 5, 6, 5, 5, 5, 6, 8, 10, 9, 8, 6, 4, 2)
# Scenario, severity and share of the alarms.
KINDS: Sequence[tuple[str, Severity, float]] = (
    ("illegal_parking", "minor", 0.50),
    ("ebike_in_elevator", "major", 0.35),
    ("river_discoloration", "minor", 0.10),
    ("fire", "critical", 0.05),
)
NEVER = 0.1  # share of tickets that nobody takes on this day
LEFT = 0.1  # share of those taken that nobody disposes of on this day


@dataclass(frozen=True, slots=True)
class Size:
    """How large the district is.

    Attributes:
        total, general, micro: Numbers of grids.
        per_day: Alarms of a usual day.
        burst: Alarms more, within `burst_s` from 18:00 on.
        thumbnail: Characters of the picture in each ticket.
    """

    total: int = 148
    general: int = 638
    micro: int = 8667
    per_day: int = 329  # 120,000 a year
    burst: int = 10_000
    burst_s: float = 600.0
    thumbnail: int = 8_000


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm of the plan, and what people will do with it; times in seconds since the epoch, None for never."""

    number: int
    camera: str
    scenario: str
    severity: Severity
    t: float
    acknowledged_t: float | None
    disposed_t: float | None

    @property
    def key(self) -> AlarmKey:
        """As the rules name it."""
        return AlarmKey(self.camera, self.scenario, f"zone:{self.number}")


_Step: TypeAlias = tuple[float, int, int, str, Alarm | None]


@dataclass(frozen=True, slots=True)
class Plan:
    """A day.

    Attributes:
        cameras: Grid by camera id.
        alarms: By time.
        restart_t: When the host is started anew.
    """

    size: Size
    settings: DispatchSettings
    cameras: Mapping[str, str]
    alarms: Sequence[Alarm]
    restart_t: float


def make_plan(size: Size, seed: int = 1) -> Plan:
    """The grids, the people and a day's alarms; the same for the same seed."""
    rng = np.random.default_rng(seed)
    paths: list[tuple[str, str, str]] = []
    for number in range(size.micro):
        general = number % size.general
        paths.append((f"t{general % size.total}", f"g{general}", f"m{number}"))
    tree: dict[str, dict[str, dict[str, Grid]]] = defaultdict(lambda: defaultdict(dict))
    for total, general_name, micro in paths:
        tree[total][general_name][micro] = Grid(households=60)
    grids = {
        total: Grid(grids={name: Grid(grids=micros) for name, micros in inner.items()})
        for total, inner in tree.items()
    }
    served = sorted({path[0] for path in paths} | {"/".join(path[:2]) for path in paths})
    contact = (SecretStr("json://localhost"),)
    people = tuple(
        Person(id=f"p-{path.replace('/', '-')}", grids=(path,), contacts=contact) for path in served
    )
    cameras = {f"c{number}": "/".join(path) for number, path in enumerate(paths)}
    hours = rng.choice(24, size.per_day, p=np.array(CURVE) / sum(CURVE))
    usual = T0 + 3600.0 * (hours + rng.random(size.per_day))
    start_t = T0 + 18 * 3600.0
    burst = start_t + size.burst_s * rng.random(size.burst)
    alarms = [
        _alarm(number, float(t), int(rng.integers(size.micro)), rng)
        for number, t in enumerate(np.sort(np.concatenate([usual, burst])))
    ]
    settings = DispatchSettings(grids=grids, people=people)
    return Plan(size, settings, cameras, alarms, start_t + size.burst_s / 2 + 0.7)


def _alarm(number: int, t: float, camera: int, rng: np.random.Generator) -> Alarm:
    scenario, severity, _ = KINDS[int(rng.choice(len(KINDS), p=[share for *_, share in KINDS]))]
    t = round(t, 3)
    acknowledged = disposed = None
    if rng.random() >= NEVER:
        # Median five minutes, one of ten later than half an hour: some rungs are climbed first.
        acknowledged = round(t + 300.0 * float(np.exp(1.4 * rng.standard_normal())), 3)
        if rng.random() >= LEFT:
            disposed = round(acknowledged + 2400.0 * float(np.exp(rng.standard_normal())), 3)
    return Alarm(number, f"c{camera}", scenario, severity, t, acknowledged, disposed)


@dataclass(slots=True)
class Subscriber:
    """A client of the broker beside the host: what it hears, and when (`time.perf_counter`)."""

    port: int
    events: Counter[tuple[str, int]] = field(default_factory=Counter)
    first_s: dict[tuple[str, int], float] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    messages: int = 0
    bytes: int = 0
    _client: paho.Client = field(init=False)

    def __post_init__(self) -> None:
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="district-subscriber", clean_session=False
        )
        ready = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe("gridwatch/#", qos=1)
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.on_message = self._take
        self._client.reconnect_delay_set(1, 1)  # the broker may be about to listen
        self._client.connect_async("127.0.0.1", self.port, keepalive=600)
        self._client.loop_start()
        if not ready.wait(10):
            raise TimeoutError("the broker did not answer within 10 s")

    def _take(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        now_s = time.perf_counter()
        self.messages += 1
        self.bytes += len(message.payload)
        kind = message.topic.split("/")[2]
        if kind == "events":
            said = json.loads(message.payload)
            name = (said["ticket_id"], said["version"])
            self.events[name] += 1
            self.first_s.setdefault(name, now_s)
        elif kind == "tickets" and message.payload:
            ticket = message.topic.rsplit("/", 1)[1]
            found = re.search(rb'"version":(\d+)', message.payload[:400])
            if found is not None:
                self.newest[ticket] = max(self.newest.get(ticket, 0), int(found[1]))

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()


class _Host:
    """Desk and publisher on one store, as the daemon wires them."""

    def __init__(self, plan: Plan, place: Path | str, port: int) -> None:
        self.store = Store(place)
        topics = Topics("district")
        infos = {name: CameraInfo(name, name, grid) for name, grid in plan.cameras.items()}
        about = {
            scenario: Description(Title(zh=scenario, en=scenario), severity)
            for scenario, severity, _ in KINDS
        }
        # Each alarm of the plan is to be a ticket: nothing is grouped, and a camera's budget is above the burst.
        storm = StormControl(
            StormSettings(group_window=0.0, budget=10_000, critical_budget=10_000), ZONE
        )
        self.desk = TicketDesk(
            self.store,
            topics,
            HOST,
            infos,
            lambda change: about[change.key.scenario],
            storm,
            Dispatch(plan.settings),
        )
        broker = BrokerSettings(host="127.0.0.1", port=port)
        self.publisher = Publisher(broker, self.store, topics, HOST)
        self.publisher.start()
        self._thumbnail = "A" * plan.size.thumbnail

    def raise_(self, alarm: Alarm) -> Ticket:
        change = Change(
            ChangeKind.RAISED,
            alarm.key,
            alarm.t - 5,
            alarm.t,
            Condition.HOLDS,
            0.9,
            (0.1, 0.1, 0.4, 0.5),
        )
        picture = Picture(alarm.t, width_px=1920, height_px=1080, thumbnail=self._thumbnail)
        (ticket,) = self.desk.take([change], alarm.t, picture=picture)
        return ticket

    def clear(self, alarm: Alarm, t: float) -> list[Ticket]:
        change = Change(ChangeKind.CLEARED, alarm.key, alarm.t - 5, t, Condition.CLEAR, 0.9)
        return self.desk.take([change], t)

    def act(self, ticket_id: str, action: Action, t: float) -> int:
        outcome = Outcome.CONFIRMED if action is Action.DISPOSE else None
        command = Command(
            command_id=f"{ticket_id}-{action}",
            ticket_id=ticket_id,
            action=action,
            user="operator",
            outcome=outcome,
        )
        reply = self.desk.handle(command, t)
        if reply is None or not reply.ok or reply.version is None:
            raise AssertionError(f"ticket {ticket_id}: {action} was refused: {reply}")
        return reply.version

    def stop(self, flush_s: float = 0.0) -> bool:
        drained = self.publisher.flush(flush_s) if flush_s else False
        self.publisher.close(1.0)
        self.store.close()
        return drained


@dataclass(slots=True)
class Result:
    """What a day came to.

    Attributes:
        problems: What is not as planned, in words; empty when all is well.
        day_s: Wall time of the whole day, until the broker had everything.
        burst_s: Wall time in which the burst's alarms were stored.
        outbox_at_restart: Messages that waited when the host was started anew.
        repeated: Event messages that came twice, the same version again, as QoS 1 may after a restart.
    """

    alarms: int = 0
    versions: int = 0
    rungs: int = 0
    calls: int = 0
    messages: int = 0
    bytes: int = 0
    repeated: int = 0
    outbox_at_restart: int = 0
    restart_s: float = 0.0
    day_s: float = 0.0
    burst: int = 0
    burst_s: float = 0.0
    drain_s: float = 0.0
    open_at_end: int = 0
    store_bytes: int = 0
    problems: list[str] = field(default_factory=list)


def run_day(plan: Plan, place: Path | str, port: int, drain_s: float = 600.0) -> Result:
    """Simulate the plan's day.

    Args:
        plan: The district and its alarms.
        place: Where the store is to be: a path or a database URL; new.
        port: Of a broker on this machine.
        drain_s: How long the last messages may take, in real time.
    """
    result = Result(alarms=len(plan.alarms))
    subscriber = Subscriber(port)
    host = _Host(plan, place, port)
    ids: dict[int, str] = {}
    began_s = time.perf_counter()
    burst_from = T0 + 18 * 3600.0
    burst_to = burst_from + plan.size.burst_s
    for t, kind, alarm in _agenda(plan):
        if kind == "raise" and alarm is not None:
            before_s = time.perf_counter()
            ids[alarm.number] = host.raise_(alarm).id
            if burst_from <= t <= burst_to:
                result.burst += 1
                result.burst_s += time.perf_counter() - before_s
        elif kind == "restart":
            before_s = time.perf_counter()
            result.outbox_at_restart = host.store.pending_count()
            host.stop()
            host = _Host(plan, place, port)
            result.restart_s = time.perf_counter() - before_s
        elif alarm is not None:
            if kind == "dispose":
                host.clear(alarm, t)
            host.act(ids[alarm.number], Action(kind), t)
        else:
            host.desk.advance(t)
            host.desk.climb(t)
    drained_from_s = time.perf_counter()
    drained = host.publisher.flush(drain_s)
    result.drain_s = time.perf_counter() - drained_from_s
    result.day_s = time.perf_counter() - began_s
    if not drained:
        result.problems.append(
            f"{host.store.pending_count()} messages waited {drain_s:g} s in vain"
        )
    _settle(subscriber)
    _check(plan, host.store, subscriber, ids, result)
    host.stop()
    subscriber.close()
    if isinstance(place, Path):
        result.store_bytes = place.stat().st_size
    return result


def _agenda(plan: Plan) -> Iterator[tuple[float, str, Alarm | None]]:
    """All that happens, in order: alarms, what people do, the host's looks at its ladders, the restart."""
    end_t = T0 + DAY_S
    steps: list[_Step] = [(plan.restart_t, 2, -1, "restart", None)]
    for alarm in plan.alarms:
        steps.append((alarm.t, 0, alarm.number, "raise", alarm))
        for t, kind in ((alarm.acknowledged_t, "acknowledge"), (alarm.disposed_t, "dispose")):
            if t is not None and t < end_t:
                steps.append((t, 1, alarm.number, kind, alarm))
    looks = range(int(DAY_S / TICK_S) + 1)
    ticks: Iterator[_Step] = ((T0 + n * TICK_S, 3, -1, "climb", None) for n in looks)
    steps.sort(key=_order)
    for t, _, _, kind, whom in heapq.merge(steps, ticks, key=_order):
        yield t, kind, whom


def _order(step: _Step) -> tuple[float, int, int]:
    return step[:3]


def _expected_rungs(alarm: Alarm, ladder: Ladder) -> list[tuple[str, float]]:
    """Rungs above the ground that are due before somebody acts: (reason, height), in the order of their calls."""
    end_t = T0 + DAY_S

    def climbed(reason: str, since_t: float, until_t: float | None) -> Iterator[tuple[str, float]]:
        part = ladder.unacknowledged if reason == "unacknowledged" else ladder.undisposed
        mine = [rung.after for rung in part if rung.is_for(alarm.severity)]
        last_t, last_after_s = (since_t, 0.0) if 0 in mine else (-math.inf, 0.0)
        for after_s in sorted({after_s for after_s in mine if after_s > 0}):
            # Who was called is given as long as the ladder says before the next is; and the host looks every other
            # second only: the call comes at the first look at or after its time.
            due_t = max(since_t + after_s, last_t + min(after_s - last_after_s, CATCH_UP_S))
            look_t = T0 + TICK_S * math.ceil((due_t - T0) / TICK_S)
            if look_t > end_t or (until_t is not None and look_t >= until_t):
                return
            yield reason, after_s
            last_t, last_after_s = look_t, after_s

    rungs = list(climbed("unacknowledged", alarm.t, alarm.acknowledged_t))
    if alarm.acknowledged_t is not None and alarm.acknowledged_t < end_t:
        rungs += climbed("undisposed", alarm.acknowledged_t, alarm.disposed_t)
    return rungs


def _settle(subscriber: Subscriber, quiet_s: float = 1.0) -> None:
    """Wait until nothing more comes."""
    seen = -1
    while seen != subscriber.messages:
        seen = subscriber.messages
        time.sleep(quiet_s)


def _check(
    plan: Plan, store: Store, subscriber: Subscriber, ids: Mapping[int, str], result: Result
) -> None:
    """Hold store, audit trail and what was heard against the plan."""
    problems = result.problems
    tickets = {ticket.id: ticket for ticket in store.tickets()}
    result.open_at_end = sum(ticket.is_open for ticket in tickets.values())
    if len(set(ids.values())) != len(plan.alarms) or set(ids.values()) != set(tickets):
        problems.append(f"{len(plan.alarms)} alarms made {len(tickets)} tickets")
    stored: set[tuple[str, int]] = set()
    wrong = 0
    for alarm in plan.alarms:
        events = store.events(ids[alarm.number])
        versions = [event.version for event in events]
        stored |= {(ids[alarm.number], version) for version in versions}
        if versions != list(range(1, len(versions) + 1)):
            problems.append(f"ticket {ids[alarm.number]}: versions {versions}")
        called = [
            (str(event.document["reason"]), float(str(event.document["after_s"])))
            for event in events
            if event.kind == "escalated"
        ]
        result.rungs += len(called)
        if called != _expected_rungs(alarm, plan.settings.ladder(alarm.scenario)):
            wrong += 1
    if wrong:
        problems.append(f"{wrong} tickets were not called up as their ladders say")
    result.versions = len(stored)
    heard = set(subscriber.events)
    if heard != stored:
        problems.append(
            f"{len(stored - heard)} versions were not heard of, {len(heard - stored)} too many"
        )
    result.repeated = sum(subscriber.events.values()) - len(heard)
    stale = sum(subscriber.newest.get(key) != ticket.version for key, ticket in tickets.items())
    if stale:
        problems.append(f"{stale} tickets are known by another than their newest version")
    calls = store.due_calls(T0 + 10 * DAY_S, limit=10_000_000)
    result.calls = len(calls)
    if len({(call.ticket_id, call.version, call.person) for call in calls}) != len(calls):
        problems.append("a call is there twice")
    result.messages, result.bytes = subscriber.messages, subscriber.bytes


@dataclass(frozen=True, slots=True)
class Paced:
    """Seconds from the stored ticket to the subscriber of the broker, at a steady rate in real time."""

    rate_hz: float
    tickets: int
    stored_p50_s: float
    stored_p95_s: float
    heard_p50_s: float
    heard_p95_s: float
    heard_max_s: float


def run_paced(
    plan: Plan, place: Path | str, port: int, rate_hz: float = 50.0, seconds: float = 20.0
) -> Paced:
    """New tickets at `rate_hz` for `seconds` of real time; a machine that cannot keep up shows it in the figures."""
    subscriber = Subscriber(port)
    host = _Host(plan, place, port)
    number = round(rate_hz * seconds)
    stored_s: list[float] = []
    at_s: dict[tuple[str, int], float] = {}
    # On its connection the host sends again what it had just sent before its restart; that is not what is measured.
    while not host.publisher.status().connected:
        time.sleep(0.05)
    _settle(subscriber)
    host.publisher.flush(120.0)
    start_s = time.perf_counter()
    for n in range(number):
        due_s = start_s + n / rate_hz
        if (wait_s := due_s - time.perf_counter()) > 0:
            time.sleep(wait_s)
        before_s = time.perf_counter()
        scenario, severity, _ = KINDS[n % len(KINDS)]
        camera = f"c{n % plan.size.micro}"
        ticket = host.raise_(
            Alarm(
                10_000_000 + n, camera, scenario, severity, T0 + 2 * DAY_S + n / rate_hz, None, None
            )
        )
        after_s = time.perf_counter()
        stored_s.append(after_s - before_s)
        at_s[ticket.id, 1] = after_s
    host.publisher.flush(120.0)
    _settle(subscriber)
    missing = set(at_s) - set(subscriber.first_s)
    if missing:
        raise AssertionError(f"{len(missing)} tickets were not heard of")
    heard_s = [max(0.0, subscriber.first_s[name] - moment) for name, moment in at_s.items()]
    host.stop()
    subscriber.close()
    return Paced(
        rate_hz,
        number,
        *(float(np.percentile(stored_s, share)) for share in (50, 95)),
        *(float(np.percentile(heard_s, share)) for share in (50, 95, 100)),
    )


def show(plan: Plan, day: Result, paced: Paced | None, console: Console) -> None:
    """Print what came of it."""
    size = plan.size
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    rows: list[tuple[str, str]] = [
        ("grids (total / general / micro)", f"{size.total} / {size.general} / {size.micro}"),
        ("alarms of the day, with the burst", f"{day.alarms:,}"),
        ("versions stored and heard of", f"{day.versions:,}"),
        ("rungs called (each once)", f"{day.rungs:,}"),
        ("calls to people queued (each once)", f"{day.calls:,}"),
        ("messages at the broker", f"{day.messages:,} ({day.bytes / 1e9:.2f} GB)"),
        ("messages that waited at the restart", f"{day.outbox_at_restart:,}"),
        ("restart", f"{day.restart_s:.1f} s"),
        ("event messages repeated after it", f"{day.repeated:,}"),
        (
            "the burst, stored",
            f"{day.burst:,} in {day.burst_s:.1f} s = {day.burst / max(day.burst_s, 1e-9):.0f}/s",
        ),
        (
            "the day, to the last message",
            f"{day.day_s:.1f} s ({DAY_S / day.day_s:.0f} × real time)",
        ),
        ("of that after the last event", f"{day.drain_s:.1f} s"),
        ("store", f"{day.store_bytes / 1e6:.0f} MB"),
    ]
    if paced is not None:
        heard_s = (paced.heard_p50_s, paced.heard_p95_s, paced.heard_max_s)
        heard_ms = [1e3 * value for value in heard_s]
        rows += [
            (
                f"raise and store, at {paced.rate_hz:g} tickets/s",
                f"p50 {paced.stored_p50_s * 1e3:.1f} ms, p95 {paced.stored_p95_s * 1e3:.1f} ms",
            ),
            (
                f"stored → subscriber of the broker, of {paced.tickets:,}",
                "p50 {:.0f} ms, p95 {:.0f} ms, at most {:.0f} ms".format(*heard_ms),
            ),
        ]
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for problem in day.problems:
        console.print(f"✗ {problem}", style="bold red", markup=False)
    if not day.problems:
        console.print("✓ nothing lost, nothing doubled, every rung called once", style="bold green")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; status 1 if anything is not as planned."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.district",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--burst", type=int, default=Size().burst, help="alarms within ten minutes")
    parser.add_argument("--per-day", type=int, default=Size().per_day, help="alarms of a usual day")
    parser.add_argument(
        "--thumbnail", type=int, default=Size().thumbnail, help="characters of each"
    )
    parser.add_argument("--rate", type=float, default=50.0, help="tickets per second in real time")
    parser.add_argument("--seconds", type=float, default=20.0, help="of that; 0 for none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--database", default="", help="URL of an empty database; a file by default"
    )
    options = parser.parse_args(arguments)
    size = Size(per_day=options.per_day, burst=options.burst, thumbnail=options.thumbnail)
    plan = make_plan(size, options.seed)
    folder = Path(tempfile.mkdtemp(prefix="gridwatch-district-"))
    console = Console(highlight=False)
    try:
        with mosquitto(folder / "broker") as (port, _):
            place = options.database or folder / "tickets.sqlite"
            day = run_day(plan, place, port)
            paced = (
                run_paced(plan, place, port, options.rate, options.seconds)
                if options.seconds > 0
                else None
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console.print(
        f"{os.cpu_count()} cores; load {os.getloadavg()[1]:.1f} over five minutes", style="dim"
    )
    show(plan, day, paced, console)
    return 1 if day.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
