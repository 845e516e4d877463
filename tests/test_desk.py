"""The ticket desk: from changes, evidence and commands to tickets, events and messages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

import pytest

from alerts.desk import CameraInfo, Description, Picture, TicketDesk
from alerts.rules import AlarmKey, Change, ChangeKind, RuleBook
from alerts.store import Batch, OutboxRow, Store
from alerts.storm import Shelf, StormControl, StormSettings
from alerts.tickets import (
    Action,
    Command,
    Evidence,
    Outcome,
    Ticket,
    TicketCondition,
    TicketState,
    Title,
    instant,
    seconds,
)
from alerts.topics import Topics
from pipeline.analyse.scenario import RuleParameters, Severity
from pipeline.exceptions import CommandError, StoreError
from pipeline.observation import Condition, Observation

T0 = 1_700_000_000.0
RULE = RuleParameters(raise_after=2, min_ratio=0.6, clear_after=3, cooldown=60, max_gap=5)
CAMERAS = {name: CameraInfo(name, name.upper(), "town/12/3") for name in ("lift", "lane", "gate")}


def describe(change: Change) -> Description:
    severity: Severity = "critical" if change.key.scenario == "fire" else "major"
    title = Title(zh=f"{change.key.scenario}（测试）", en=change.key.scenario)
    return Description(title, severity, "fire", "ab" * 32)


def make_desk(store: Store, settings: StormSettings | None = None) -> TicketDesk:
    storm = StormControl(settings or StormSettings(group_window=0), UTC)
    return TicketDesk(store, Topics("town"), "host1", CAMERAS, describe, storm)


def make_rules() -> RuleBook:
    return RuleBook(lambda _camera, _scenario: RULE)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "tickets.sqlite") as opened:
        yield opened


class Camera:
    """Feeds one subject at 2 Hz through the rules into the desk."""

    def __init__(
        self,
        desk: TicketDesk,
        rules: RuleBook | None = None,
        camera: str = "lift",
        scenario: str = "fire",
        subject: str = "zone:a",
    ) -> None:
        self.desk = desk
        self.rules = rules or make_rules()
        self.key = AlarmKey(camera, scenario, subject)
        self.t = T0

    def see(
        self, condition: Condition, seconds_: float, picture: Picture | None = None
    ) -> list[Ticket]:
        made: list[Ticket] = []
        for _ in range(round(seconds_ * 2)):
            o = Observation(
                self.key.scenario, self.key.camera_id, self.key.subject, self.t, condition, 0.9
            )
            made += self.desk.take(self.rules.update(o), self.t, rules=self.rules, picture=picture)
            self.t += 0.5
        return made

    def alarm(self) -> Ticket:
        (ticket,) = self.see(Condition.HOLDS, 3)
        return ticket

    def ends(self) -> list[Ticket]:
        return self.see(Condition.CLEAR, 4)


def command(ticket: Ticket, action: Action, command_id: str = "c1", **more: object) -> Command:
    return Command.model_validate(
        {
            "command_id": command_id,
            "ticket_id": ticket.id,
            "action": action,
            "user": "wang",
            "from": "cli",
            **more,
        }
    )


def messages(store: Store, topic: str) -> list[OutboxRow]:
    return [row for row in store.pending(10_000) if row.message.topic == topic]


def test_an_alarm_becomes_a_stored_ticket_and_its_messages(store: Store) -> None:
    desk = make_desk(store)
    camera = Camera(desk)
    picture = Picture(T0 + 2, width_px=640, height_px=360, thumbnail="aGVsbG8=")
    camera.see(Condition.HOLDS, 2, picture)
    (ticket,) = camera.see(Condition.HOLDS, 1, picture)

    assert store.ticket(ticket.id) == ticket
    assert ticket.version == 1
    assert ticket.state is TicketState.WARNED
    assert ticket.condition is TicketCondition.HOLDING
    assert ticket.severity == "critical"
    assert seconds(ticket.warn.raised) == T0 + 2
    assert seconds(ticket.analyse.since) == T0
    assert ticket.analyse.decision is not None
    assert ticket.analyse.decision.code == "raised"
    assert ticket.thumbnail == "aGVsbG8="
    rows = store.pending(100)
    assert [row.message.topic for row in rows] == [
        f"gridwatch/town/tickets/{ticket.id}",
        "gridwatch/town/events/fire/warned",
        "gridwatch/town/grids/town/12/3/inbox",
    ]
    assert [row.message.retain for row in rows] == [True, False, False]
    assert Ticket.model_validate_json(rows[0].message.payload) == ticket
    event = json.loads(rows[1].message.payload)
    assert (event["ticket_id"], event["version"], event["kind"]) == (ticket.id, 1, "raised")
    assert [e.kind for e in store.events(ticket.id)] == ["raised"]
    assert [d.code for d in store.decisions()] == ["raised"]


def test_the_end_of_the_condition_is_a_version_and_leaves_the_ticket_open(store: Store) -> None:
    desk = make_desk(store)
    camera = Camera(desk)
    ticket = camera.alarm()
    (cleared,) = camera.ends()
    assert (cleared.id, cleared.version) == (ticket.id, 2)
    assert cleared.condition is TicketCondition.CLEARED
    assert cleared.is_open
    assert [d.code for d in store.decisions()] == ["cleared", "raised"]


def test_a_candidate_that_comes_to_nothing_leaves_its_record_alone(store: Store) -> None:
    camera = Camera(make_desk(store))
    camera.see(Condition.HOLDS, 0.5)
    camera.see(Condition.CLEAR, 4)
    store.trim(T0).result()  # waits for what is queued before it
    assert store.tickets() == []
    (decision,) = store.decisions()
    assert (decision.outcome, decision.code) == ("suppressed", "too_short")


def test_evidence_that_comes_later_is_the_next_version_once(store: Store) -> None:
    desk = make_desk(store)
    ticket = Camera(desk).alarm()
    clip = Evidence(
        kind="clip",
        path="2023/a.mp4",
        sha256="00" * 32,
        size_bytes=10,
        media_type="video/mp4",
        start=instant(T0 - 5),
        end=instant(T0 + 5),
    )
    again = [desk.attach_evidence(ticket.id, [clip], T0 + 9) for _ in range(2)]
    assert [t.version for t in again if t is not None] == [2, 2]
    stored = store.ticket(ticket.id)
    assert stored is not None
    assert stored.evidence == (clip,)
    assert desk.attach_evidence("0" * 26, [clip], T0 + 9) is None


def test_a_command_changes_the_ticket_and_is_answered(store: Store) -> None:
    desk = make_desk(store)
    ticket = Camera(desk).alarm()
    reply = desk.handle(command(ticket, Action.ACKNOWLEDGE, expected_version=1), T0 + 10)
    assert reply is not None
    assert (reply.ok, reply.code, reply.version) == (True, "ok", 2)
    stored = store.ticket(ticket.id)
    assert stored is not None
    assert stored.state is TicketState.ACKNOWLEDGED
    assert stored.dispose.acknowledged is not None
    assert stored.dispose.acknowledged.by == "wang"
    (answer,) = messages(store, "gridwatch/town/replies/wang/c1")
    assert json.loads(answer.message.payload)["ok"] is True
    assert not answer.message.retain
    event = store.events(ticket.id)[-1]
    assert (event.kind, event.who, event.source) == ("acknowledge", "wang", "cli")


def test_a_repeated_command_is_answered_alike_and_changes_nothing(store: Store) -> None:
    desk = make_desk(store)
    ticket = Camera(desk).alarm()
    first = desk.handle(command(ticket, Action.ACKNOWLEDGE), T0 + 10)
    second = desk.handle(command(ticket, Action.ACKNOWLEDGE), T0 + 20)
    assert first == second
    assert [e.kind for e in store.events(ticket.id)] == ["raised", "acknowledge"]
    answers = messages(store, "gridwatch/town/replies/wang/c1")
    assert len({a.message.payload for a in answers}) == 1
    assert len(answers) == 2


def test_a_refused_command_is_answered_and_changes_nothing(store: Store) -> None:
    desk = make_desk(store)
    ticket = Camera(desk).alarm()
    refused = {
        "version_conflict": command(ticket, Action.NOTE, "c1", expected_version=7),
        "illegal_transition": command(ticket, Action.REOPEN, "c2"),
        "expired": command(ticket, Action.NOTE, "c3", expires=instant(T0 + 1)),
        "malformed": command(ticket, Action.DISPOSE, "c4"),
    }
    for code, sent in refused.items():
        reply = desk.handle(sent, T0 + 10)
        assert reply is not None
        assert (reply.ok, reply.code, reply.version) == (False, code, 1)
    assert store.ticket(ticket.id) == ticket
    # The answer to a repeat does not depend on what has happened since.
    desk.handle(command(ticket, Action.ACKNOWLEDGE, "c5"), T0 + 11)
    again = desk.handle(refused["illegal_transition"], T0 + 12)
    assert again is not None
    assert again.version == 1


def test_another_hosts_ticket_is_left_to_it(store: Store) -> None:
    desk = make_desk(store)
    ticket = Camera(desk).alarm()
    before = store.pending_count()
    foreign = command(ticket, Action.NOTE).model_copy(update={"ticket_id": "0" * 26})
    assert desk.handle(foreign, T0) is None
    desk.refuse("wang", "0" * 26, "c", CommandError("no", code="malformed"), T0)
    assert store.pending_count() == before
    desk.refuse("wang", ticket.id, "c", CommandError("no", code="malformed"), T0)
    (answer,) = messages(store, "gridwatch/town/replies/wang/c")
    assert json.loads(answer.message.payload)["code"] == "malformed"


def test_disposal_publishes_the_closing_state_and_then_clears_the_topic(store: Store) -> None:
    desk = make_desk(store)
    ticket = Camera(desk).alarm()
    desk.handle(command(ticket, Action.DISPOSE, outcome=Outcome.CONFIRMED), T0 + 10)
    own = messages(store, f"gridwatch/town/tickets/{ticket.id}")
    closing = Ticket.model_validate_json(own[-2].message.payload)
    assert closing.state is TicketState.DISPOSED
    assert closing.dispose.outcome is Outcome.CONFIRMED
    assert (own[-2].message.retain, own[-1].message.retain) == (True, True)
    assert own[-1].message.payload == b""
    # A note afterwards is told, but not retained: the topic stays clear.
    desk.handle(command(ticket, Action.NOTE, "c2", note="seen"), T0 + 11)
    assert not messages(store, f"gridwatch/town/tickets/{ticket.id}")[-1].message.retain
    # Reopened, it is retained again.
    desk.handle(command(ticket, Action.REOPEN, "c3"), T0 + 12)
    last = messages(store, f"gridwatch/town/tickets/{ticket.id}")[-1].message
    assert last.retain
    assert Ticket.model_validate_json(last.payload).state is TicketState.WARNED


def test_while_the_broker_is_away_only_the_newest_version_waits(store: Store) -> None:
    desk = make_desk(store)
    ticket = Camera(desk).alarm()
    for n in range(30):
        desk.handle(command(ticket, Action.NOTE, f"c{n}", note="still burning"), T0 + 10 + n)
    for topic in (f"gridwatch/town/tickets/{ticket.id}", "gridwatch/town/grids/town/12/3/inbox"):
        (row,) = messages(store, topic)
        assert Ticket.model_validate_json(row.message.payload).version == 31
    assert len(messages(store, "gridwatch/town/events/fire/warned")) == 31


def test_a_disposed_ticket_whose_condition_holds_raises_nothing_new(store: Store) -> None:
    desk = make_desk(store)
    camera = Camera(desk)
    ticket = camera.alarm()
    desk.handle(command(ticket, Action.DISPOSE, outcome=Outcome.CONFIRMED), camera.t)
    assert camera.see(Condition.HOLDS, 200) == []
    assert desk.advance(camera.t) == []
    assert len(store.tickets()) == 1


def test_a_retrigger_after_disposal_is_quiet_for_the_cooldown_and_then_new(store: Store) -> None:
    desk = make_desk(store)
    camera = Camera(desk)
    ticket = camera.alarm()
    camera.ends()
    # The rule's own cooldown ends 60 s after the clearing; the disposal comes later and begins another.
    camera.see(Condition.CLEAR, 50)
    desk.handle(command(ticket, Action.DISPOSE, outcome=Outcome.FALSE_ALARM), camera.t)
    disposed_t = camera.t
    camera.see(Condition.CLEAR, 20)
    assert camera.see(Condition.HOLDS, 10) == []
    assert store.decisions()[0].code == "disposed_recently"
    assert desk.advance(disposed_t + 59) == []
    camera.see(Condition.HOLDS, disposed_t + 60 - camera.t)
    (later,) = desk.advance(disposed_t + 60)
    assert later.id != ticket.id
    assert later.is_open


def test_alarms_held_back_become_tickets_when_the_reason_is_gone(store: Store) -> None:
    desk = make_desk(store)
    desk.shelve(Shelf("lift", "", T0 + 100, "li"), T0)
    camera = Camera(desk)
    assert camera.see(Condition.HOLDS, 100) == []
    assert [d.code for d in store.decisions()] == ["muted"]
    # A restart between does not lose it.
    desk = make_desk(store)
    assert [s.by for s in desk.shelves(T0)] == ["li"]
    assert desk.advance(T0 + 99) == []
    (ticket,) = desk.advance(T0 + 100)
    assert seconds(ticket.warn.raised) == T0 + 100
    assert seconds(ticket.analyse.since) == T0
    assert [d.code for d in store.decisions()] == ["raised", "muted"]
    assert desk.advance(T0 + 200) == []


def test_an_alarm_that_ends_while_held_back_makes_no_ticket(store: Store) -> None:
    desk = make_desk(store)
    desk.shelve(Shelf("", "fire", T0 + 100, "li"), T0)
    camera = Camera(desk)
    camera.see(Condition.HOLDS, 10)
    camera.ends()
    assert desk.advance(T0 + 1000) == []
    assert [d.code for d in store.decisions()] == ["cleared", "muted"]


def test_a_shelf_can_be_taken_away(store: Store) -> None:
    desk = make_desk(store)
    desk.shelve(Shelf("lift", "", T0 + 1000, "li"), T0)
    camera = Camera(desk)
    camera.see(Condition.HOLDS, 10)
    desk.shelve(Shelf("lift", "", T0, "li"), camera.t)
    (ticket,) = desk.advance(camera.t)
    assert ticket.version == 1


def test_grouped_alarms_share_a_ticket_until_the_last_has_cleared(store: Store) -> None:
    desk = make_desk(store, StormSettings(group_window=60))
    rules = make_rules()
    first = Camera(desk, rules, "lane", "illegal_parking", "stay:1")
    second = Camera(desk, rules, "lane", "illegal_parking", "stay:2")
    ticket = first.alarm()
    (attached,) = second.see(Condition.HOLDS, 3)
    assert attached.id == ticket.id
    assert attached.warn.attached == 1
    assert [d.code for d in store.decisions()] == ["grouped", "raised"]
    assert first.ends() == []
    (cleared,) = second.ends()
    assert cleared.condition is TicketCondition.CLEARED
    assert len(store.tickets()) == 1


def test_a_camera_in_trouble_holds_back_its_alarms_but_never_fire(store: Store) -> None:
    desk = make_desk(store)
    Camera(desk, camera="lane", scenario="camera_health", subject="camera").alarm()
    parking = Camera(desk, camera="lane", scenario="illegal_parking")
    assert parking.see(Condition.HOLDS, 3) == []
    assert store.decisions()[0].code == "inhibited"
    assert Camera(desk, camera="lane", scenario="fire").alarm().version == 1
    assert Camera(desk, camera="gate", scenario="illegal_parking").alarm().version == 1


def test_a_storm_makes_few_tickets_and_leaves_a_record_for_each_candidate(store: Store) -> None:
    desk = make_desk(store, StormSettings(budget=10, group_window=5))
    rules = make_rules()
    raised: list[Change] = []
    for n in range(10_000):
        t = T0 + n * 0.1
        for dt in (0.0, 2.0):
            raised += rules.update(
                Observation("illegal_parking", "lane", f"stay:{n}", t + dt, Condition.HOLDS, 0.9)
            )
            raised += rules.update(
                Observation(
                    "illegal_parking", "lane", f"stay:{n}", t + dt + 1, Condition.HOLDS, 0.9
                )
            )
    raised = [change for change in raised if change.kind is ChangeKind.RAISED]
    assert len(raised) == 10_000
    for start in range(0, len(raised), 500):
        desk.take(raised[start : start + 500], raised[start].t)
    # 1000 s at ten an hour and a full bucket to begin with.
    assert len(store.tickets()) == 10 + int(1000 * 10 / 3600)
    counts = store.decision_counts()
    assert sum(counts.values()) == 10_000
    assert counts["raised"] == len(store.tickets())
    assert set(counts) == {"raised", "grouped", "over_budget"}
    assert store.pending_count() < 500


def test_a_restart_updates_the_ticket_and_raises_no_second_one(store: Store) -> None:
    camera = Camera(make_desk(store))
    ticket = camera.alarm()
    for _ in range(3):
        desk = make_desk(store)
        rules = make_rules()
        desk.restore(rules, camera.t)
        camera.desk, camera.rules = desk, rules
        assert camera.see(Condition.HOLDS, 40) == []
    (cleared,) = camera.ends()
    assert (cleared.id, cleared.version) == (ticket.id, 2)


def test_alarms_that_are_no_longer_configured_end_and_hold_nothing_back(store: Store) -> None:
    desk = make_desk(store)
    desk.shelve(Shelf("gate", "", T0 + 1000, "wang"), T0)
    covered = Camera(desk, scenario="camera_health", subject="covered").alarm()
    assert Camera(desk, camera="gate").see(Condition.HOLDS, 3) == []  # held back

    desk = make_desk(store)
    watched = {("lift", "illegal_parking")}
    (left,) = desk.retire(lambda *key: key in watched, T0 + 20)
    assert (left.id, left.condition) == (covered.id, TicketCondition.UNKNOWN)
    assert left.is_open
    assert store.alarms() == {}
    assert desk.advance(T0 + 2000) == []
    assert desk.retire(lambda *key: key in watched, T0 + 2001) == []
    # The camera's own trouble is no longer looked at: it must not silence the camera for ever.
    parked = Camera(desk, scenario="illegal_parking", subject="stay:1")
    parked.t = T0 + 2010
    assert parked.alarm().version == 1


def test_what_was_held_back_before_a_restart_is_raised_only_when_seen_again(store: Store) -> None:
    desk = make_desk(store)
    desk.shelve(Shelf("lift", "", T0 + 60, "wang"), T0)
    camera = Camera(desk)
    assert camera.see(Condition.HOLDS, 10) == []  # held back
    desk, rules = make_desk(store), make_rules()
    desk.restore(rules, T0 + 3600)
    assert desk.advance(T0 + 3600) == [], "nobody knows whether it still burns"
    again = Camera(desk, rules)
    again.t = T0 + 3600
    assert again.see(Condition.HOLDS, 1) == []
    (raised,) = desk.advance(T0 + 3601)
    assert raised.version == 1


def test_what_was_held_back_and_is_gone_after_a_restart_makes_no_ticket(store: Store) -> None:
    desk = make_desk(store)
    desk.shelve(Shelf("lift", "", T0 + 60, "wang"), T0)
    assert Camera(desk).see(Condition.HOLDS, 10) == []
    desk, rules = make_desk(store), make_rules()
    desk.restore(rules, T0 + 3600)
    again = Camera(desk, rules)
    again.t = T0 + 3600
    assert again.see(Condition.CLEAR, 1) == []
    assert desk.advance(T0 + 3601) == []
    assert again.see(Condition.CLEAR, 4) == []
    assert store.alarms() == {}
    assert store.tickets() == []


def test_rules_that_cannot_be_restored_leave_no_alarm_that_nothing_would_clear(
    store: Store,
) -> None:
    covered = Camera(make_desk(store), scenario="camera_health", subject="covered").alarm()
    other = Camera(make_desk(store), camera="lane").alarm()
    store.commit(Batch(T0, rule_states={"lift": {"slots": [{"scenario": 1}]}})).result()
    desk, rules = make_desk(store), make_rules()
    (left,) = desk.restore(rules, T0 + 20)
    assert (left.id, left.condition) == (covered.id, TicketCondition.UNKNOWN)
    assert [row.ticket_id for row in store.alarms().values()] == [other.id]
    parked = Camera(desk, rules, scenario="illegal_parking", subject="stay:1")
    parked.t = T0 + 30
    assert parked.alarm().version == 1, "its camera is not thought covered for ever"
    still = Camera(desk, rules, scenario="camera_health", subject="covered")
    still.t = T0 + 30
    assert still.alarm().id != covered.id


def test_rules_that_lost_their_memory_find_the_open_ticket(store: Store) -> None:
    camera = Camera(make_desk(store))
    ticket = camera.alarm()
    camera.rules = make_rules()
    (again,) = camera.see(Condition.HOLDS, 10)
    assert (again.id, again.version) == (ticket.id, 2)


def test_a_pending_dwell_survives_by_its_checkpoint(store: Store) -> None:
    camera = Camera(make_desk(store))
    camera.see(Condition.HOLDS, 2)
    camera.desk.checkpoint(camera.t, camera.rules, ["lift"]).result()
    camera.rules = make_rules()
    camera.desk.restore(camera.rules, camera.t)
    camera.t += 3  # unknown, and less than max_gap
    (ticket,) = camera.see(Condition.HOLDS, 1.5)
    assert seconds(ticket.analyse.since) == T0


def test_a_failed_write_leaves_store_and_desk_as_they_were(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = make_desk(store, StormSettings(group_window=60))
    camera = Camera(desk)
    commit = store.commit

    def fail(batch: Batch) -> object:
        batch.rule_states["x"] = {"cannot": object()}  # type: ignore[dict-item]
        return commit(batch)

    with monkeypatch.context() as patch:
        patch.setattr(store, "commit", fail)
        with pytest.raises((StoreError, TypeError)):
            camera.alarm()
    assert store.tickets() == []
    # The same alarm, told again, is a whole ticket and not an attachment to one that never was.
    camera.rules, camera.t = make_rules(), T0
    assert camera.alarm().version == 1


def test_an_oversized_thumbnail_is_left_out(store: Store) -> None:
    camera = Camera(make_desk(store))
    camera.see(Condition.HOLDS, 2)
    (ticket,) = camera.see(Condition.HOLDS, 1, Picture(T0, thumbnail="A" * 100_000))
    assert ticket.thumbnail is None


CRASHING = """
import sys
sys.path[:0] = [{tests!r}]
from test_desk import *
with Store(Path({file!r})) as store:
    desk, rules = make_desk(store, StormSettings(group_window=0, budget=1000)), make_rules()
    desk.restore(rules, T0)
    print("up", flush=True)
    cameras = [Camera(desk, rules, "lane", "illegal_parking", f"stay:{{n}}") for n in range(30)]
    for camera in cameras:
        camera.t = T0 + 5
        for ticket in camera.see(Condition.HOLDS, 3):
            print(ticket.id, flush=True)
"""


@pytest.mark.parametrize("after", [9])
def test_a_kill_loses_no_confirmed_ticket_and_doubles_none(tmp_path: Path, after: int) -> None:
    file = tmp_path / "tickets.sqlite"
    script = CRASHING.format(tests=str(Path(__file__).parent), file=str(file))
    confirmed: set[str] = set()
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "up\n"
            confirmed |= {line.strip() for line, _ in zip(child.stdout, range(after), strict=False)}
            child.send_signal(signal.SIGKILL)
            # What it had said before it died counts as confirmed as well.
            confirmed |= {line.strip() for line in child.stdout if len(line) == 27}
    assert len(confirmed) >= after
    with Store(file) as store:
        tickets = store.tickets()
        assert confirmed <= {ticket.id for ticket in tickets}
        assert len({ticket.subject for ticket in tickets}) == len(tickets)
        for ticket in tickets:
            assert [e.kind for e in store.events(ticket.id)] == ["raised"]
        told = [row.message.ticket_id for row in store.pending(10_000) if row.message.retain]
        assert sorted(filter(None, told)) == sorted(ticket.id for ticket in tickets)
