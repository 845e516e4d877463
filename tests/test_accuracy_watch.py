"""Cameras that fall under the target, in virtual time: raised when it is sure, once per stay, cleared when mended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from alerts.accuracy import AccuracySettings
from alerts.desk import CameraInfo, Description, TicketDesk
from alerts.rules import AlarmKey, Change, ChangeKind
from alerts.store import Store
from alerts.storm import ACCURACY, HEALTH, StormControl, StormSettings
from alerts.tickets import Action, Command, Outcome, Ticket, TicketCondition, Title
from alerts.topics import Topics
from gridwatch.accuracy_watch import ALL_S, AccuracyWatch
from pipeline.observation import Condition

T0 = 1_700_000_000.0
DAY = 86_400.0


class Site:
    """A desk whose alarms are raised and disposed of at will; `t` is the virtual time."""

    def __init__(self, store: Store, settings: AccuracySettings | None = None) -> None:
        self.store = store
        self.t = T0
        self.number = 0
        infos = {name: CameraInfo(name, name, "town/1/1") for name in ("lift", "lane")}
        storm = StormControl(StormSettings(group_window=0.0), ZoneInfo("Asia/Shanghai"))
        about = Description(Title(zh="甲", en="A"), "minor")
        self.desk = TicketDesk(store, Topics("town"), "h1", infos, lambda _: about, storm)
        self.watch = AccuracyWatch(
            settings or AccuracySettings(), store, self.desk, lambda: list(infos)
        )
        self.watch.tend(self.t)

    def change(self, kind: ChangeKind, camera: str, subject: str, scenario: str = "fire") -> Change:
        holds = Condition.CLEAR if kind is ChangeKind.CLEARED else Condition.HOLDS
        return Change(kind, AlarmKey(camera, scenario, subject), self.t - 3, self.t, holds, 0.9)

    def alarm(self, outcome: Outcome, camera: str = "lift") -> Ticket:
        """One alarm from beginning to end, an hour later; the watch is told, as the host does."""
        self.t += 3600
        self.number += 1
        subject = f"zone:{self.number}"
        (ticket,) = self.desk.take([self.change(ChangeKind.RAISED, camera, subject)], self.t)
        self.desk.take([self.change(ChangeKind.CLEARED, camera, subject)], self.t + 1)
        self.t += 60
        self.dispose(self.desk_ticket(ticket), outcome)
        self.watch.decided(camera)
        self.watch.tend(self.t)
        return ticket

    def desk_ticket(self, ticket: Ticket) -> Ticket:
        found = self.store.ticket(ticket.id)
        assert found is not None
        return found

    def dispose(self, ticket: Ticket, outcome: Outcome) -> None:
        self.number += 1
        command = Command(
            command_id=f"c{self.number}",
            ticket_id=ticket.id,
            action=Action.DISPOSE,
            user="wang",
            outcome=outcome,
        )
        reply = self.desk.handle(command, self.t)
        assert reply is not None
        assert reply.ok

    def fallen(self) -> list[Ticket]:
        """All tickets about accuracy, the oldest first."""
        found = self.store.tickets(scenario=HEALTH)
        return [ticket for ticket in reversed(found) if ticket.subject == ACCURACY]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "tickets.sqlite") as opened:
        yield opened


@pytest.fixture
def site(store: Store) -> Site:
    return Site(store)


def test_a_few_false_alarms_prove_nothing(site: Site) -> None:
    for outcome in [Outcome.CONFIRMED, Outcome.FALSE_ALARM, Outcome.CONFIRMED]:
        site.alarm(outcome)
    for _ in range(20):
        site.alarm(Outcome.CONFIRMED)
    for _ in range(8):
        site.alarm(Outcome.DUPLICATE)
    assert site.fallen() == []


def test_a_camera_that_is_surely_below_becomes_one_ticket_with_its_counts(site: Site) -> None:
    for _ in range(11):
        site.alarm(Outcome.FALSE_ALARM)
        site.alarm(Outcome.CONFIRMED, "lane")
    (ticket,) = site.fallen()
    assert ticket.camera.id == "lift"
    assert ticket.scenario == "camera_health"
    decision = ticket.analyse.decision
    assert decision is not None
    # At the tenth false alarm, the first moment at which it is judged at all.
    assert decision.reason.startswith("0 of 10 decided alarms of 30 days were true (0.0%)")
    assert decision.parameters["false_alarms"] == 10
    assert ticket.analyse.detail["false_alarms_by_scenario"] == {"fire": 10}
    assert [d.code for d in site.store.decisions(scenario=HEALTH)] == ["raised"]


def test_it_holds_nothing_back_that_the_camera_sees(site: Site) -> None:
    for _ in range(12):
        site.alarm(Outcome.FALSE_ALARM)
    assert len(site.fallen()) == 1
    (ticket,) = site.desk.take([site.change(ChangeKind.RAISED, "lift", "zone:new")], site.t)
    assert ticket.version == 1


def test_who_disposed_of_it_is_not_asked_again_while_it_stays_so(site: Site) -> None:
    for _ in range(10):
        site.alarm(Outcome.FALSE_ALARM)
    site.dispose(site.fallen()[0], Outcome.CONFIRMED)
    for _ in range(10):
        site.alarm(Outcome.FALSE_ALARM)
    site.t += 2 * ALL_S
    site.watch.tend(site.t)
    assert len(site.fallen()) == 1


def test_it_clears_when_the_window_has_moved_on_and_may_come_again(site: Site) -> None:
    for _ in range(10):
        site.alarm(Outcome.FALSE_ALARM)
    site.t += 31 * DAY
    site.watch.tend(site.t)
    (ticket,) = site.fallen()
    assert ticket.condition is TicketCondition.CLEARED
    assert ticket.is_open
    for _ in range(10):
        site.alarm(Outcome.FALSE_ALARM)
    assert len(site.fallen()) == 2


def test_it_clears_when_the_target_is_met_again_and_not_at_the_edge_of_proof(store: Store) -> None:
    site = Site(store, AccuracySettings(target=0.8))
    for _ in range(10):
        site.alarm(Outcome.FALSE_ALARM)
    conditions = []
    for _ in range(40):
        site.alarm(Outcome.CONFIRMED)
        conditions.append(site.fallen()[0].condition)
    # 40 of 50 are 80 %: before that it is in doubt, which clears nothing.
    assert conditions[:39] == [TicketCondition.HOLDING] * 39
    assert conditions[39] is TicketCondition.CLEARED


def test_a_restart_raises_no_second_one(store: Store) -> None:
    site = Site(store)
    for _ in range(10):
        site.alarm(Outcome.FALSE_ALARM)
    again = Site(store)
    again.t = site.t + 60
    again.watch.tend(again.t + ALL_S)
    assert len(again.fallen()) == 1
    # Even where the alarm was forgotten, because the rules of its camera were unreadable.
    again.desk.retire(lambda _camera, _scenario: False, again.t)
    anew = Site(store)
    anew.watch.tend(again.t + 2 * ALL_S)
    assert len(anew.fallen()) == 1


def test_its_ticket_is_renewed_once_a_day(site: Site) -> None:
    for _ in range(10):
        site.alarm(Outcome.FALSE_ALARM)
    site.t += ALL_S
    site.watch.tend(site.t)  # whatever was due by now
    before = site.fallen()[0].version
    site.alarm(Outcome.FALSE_ALARM)
    assert site.fallen()[0].version == before
    site.t += ALL_S
    site.watch.tend(site.t)
    after = site.fallen()[0]
    assert after.version == before + 1
    assert after.analyse.detail["false_alarms"] == 11


def test_it_can_be_switched_off(store: Store) -> None:
    site = Site(store, AccuracySettings(camera_tickets=False))
    for _ in range(15):
        site.alarm(Outcome.FALSE_ALARM)
    assert site.fallen() == []
