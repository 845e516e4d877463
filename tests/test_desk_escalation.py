"""The desk climbs ladders from the store: no restart, failure or burst loses a call or repeats one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alerts.desk import TicketDesk
from alerts.dispatch import Dispatch, DispatchSettings
from alerts.escalation import CATCH_UP_S
from alerts.store import Batch, Store
from alerts.storm import StormControl, StormSettings
from alerts.tickets import Action, Ticket, TicketState, instant, seconds
from alerts.topics import Topics
from pipeline.exceptions import StoreError
from tests.test_desk import CAMERAS, T0, Camera, command, describe, messages

SETTINGS: dict[str, Any] = {
    "grids": {"town": {"grids": {"12": {"grids": {"3": {}, "4": {}}}}}},
    "people": [
        {"id": "wang", "grids": ["town/12/3"], "contacts": ["json://h/wang"]},
        {"id": "li", "grids": ["town/12"], "contacts": ["json://h/li"]},
        {"id": "zhao", "grids": ["town"], "contacts": ["json://h/zhao"]},
        {"id": "mute", "grids": ["town"]},
        {"id": "119", "roles": ["fire"], "contacts": ["json://h/119"]},
    ],
    "ladders": {
        "illegal_parking": {
            "unacknowledged": [
                {"to": ["micro"]},
                {"after": "10m", "to": ["general"]},
                {"after": "30m", "to": ["total"]},
            ],
            "undisposed": [{"after": "4h", "to": ["general"]}],
        }
    },
}


def make_desk(store: Store, **more: object) -> TicketDesk:
    storm = StormControl(StormSettings(group_window=0, budget=10_000), UTC)
    dispatch = Dispatch(DispatchSettings.model_validate({**SETTINGS, **more}))
    return TicketDesk(store, Topics("town"), "host1", CAMERAS, describe, storm, dispatch)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "tickets.sqlite") as opened:
        yield opened


def parking(desk: TicketDesk) -> Ticket:
    return Camera(desk, camera="lane", scenario="illegal_parking", subject="stay:1").alarm()


def called(store: Store, ticket: Ticket) -> list[tuple[str, str, float]]:
    return [
        (call.person, call.reason, call.created_t - seconds(ticket.created))
        for call in store.calls(ticket.id)
    ]


def test_a_parked_car_is_called_up_level_by_level_and_each_hears_once(store: Store) -> None:
    desk = make_desk(store)
    ticket = parking(desk)
    for n in range(0, 4000, 20):
        desk.climb(seconds(ticket.created) + n)
    assert called(store, ticket) == [
        ("wang", "raised", 0.0),
        ("li", "unacknowledged", 600.0),
        ("zhao", "unacknowledged", 1800.0),
    ]
    after = store.ticket(ticket.id)
    assert after is not None
    assert [(e.grid, e.reason, e.after_s) for e in after.warn.escalations] == [
        ("town/12", "unacknowledged", 600.0),
        ("town", "unacknowledged", 1800.0),
    ]
    assert [e.kind for e in store.events(ticket.id)] == ["raised", "escalated", "escalated"]
    (row,) = messages(store, "gridwatch/town/grids/town/inbox")
    assert Ticket.model_validate_json(row.message.payload).version == 3
    told = json.loads(
        messages(store, "gridwatch/town/events/illegal_parking/warned")[-1].message.payload
    )
    assert told["detail"]["calls"] == ["zhao"]


def test_fire_calls_everybody_and_its_department_at_once_and_again(store: Store) -> None:
    desk = make_desk(store)
    ticket = Camera(desk).alarm()
    assert {person for person, _, _ in called(store, ticket)} == {"wang", "li", "zhao", "119"}
    assert desk.climb(seconds(ticket.created) + 119) == []
    (again,) = desk.climb(seconds(ticket.created) + 120)
    assert len(called(store, ticket)) == 8
    assert again.warn.escalations[0].grid == "town/12/3"


def test_who_takes_it_stops_the_calls_until_it_stays_undone(store: Store) -> None:
    desk = make_desk(store)
    ticket = parking(desk)
    t = seconds(ticket.created)
    desk.handle(command(ticket, Action.ACKNOWLEDGE), t + 60)
    for n in range(0, 4 * 3600 + 60, 600):
        assert desk.climb(t + n) == []
    (undone,) = desk.climb(t + 60 + 4 * 3600)
    assert undone.warn.escalations[-1].reason == "undisposed"
    assert undone.state is TicketState.ACKNOWLEDGED
    desk.handle(command(ticket, Action.DISPOSE, "c2", outcome="confirmed"), t + 20_000)
    assert store.waits() == []
    assert desk.climb(t + 1e6) == []


def test_a_ticket_handed_to_another_grid_calls_there_from_the_beginning(store: Store) -> None:
    desk = make_desk(store)
    ticket = parking(desk)
    t = seconds(ticket.created)
    desk.climb(t + 600)
    desk.handle(command(ticket, Action.REASSIGN, grid="town/12/4"), t + 700)
    assert called(store, ticket)[-1] == ("li", "reassigned", 700.0), "4 has nobody of its own"
    moved = store.ticket(ticket.id)
    assert moved is not None
    assert moved.warn.escalations == ()
    assert desk.climb(t + 1299) == []
    assert len(desk.climb(t + 1300)) == 1


def test_dispatching_to_a_person_calls_that_person(store: Store) -> None:
    desk = make_desk(store)
    ticket = parking(desk)
    desk.handle(command(ticket, Action.DISPATCH, to="zhao"), T0 + 60)
    assert called(store, ticket)[-1][:2] == ("zhao", "dispatched")
    desk.handle(command(ticket, Action.DISPATCH, "c2", to="somebody else"), T0 + 61)
    assert len(called(store, ticket)) == 2


def test_where_another_program_calls_nothing_is_climbed(store: Store) -> None:
    desk = make_desk(store, escalation={"run": False})
    ticket = parking(desk)
    assert desk.climb(T0 + 1e6) == []
    assert (store.calls(ticket.id), store.waits()) == ([], [])


def test_a_ladder_edited_between_two_runs_goes_on_from_what_was_called(store: Store) -> None:
    ticket = parking(desk := make_desk(store))
    t = seconds(ticket.created)
    assert len(desk.climb(t + 600)) == 1
    rungs = [
        {"to": ["micro"]},
        {"after": "10m", "to": ["general"]},
        {"after": "15m", "to": ["total"]},
    ]
    desk = make_desk(store, ladders={"illegal_parking": {"unacknowledged": rungs}})
    assert desk.climb(t + 899) == []
    (last,) = desk.climb(t + 900)
    assert last.warn.escalations[-1].grid == "town"


def test_tickets_of_an_older_gridwatch_begin_to_wait(store: Store) -> None:
    ticket = parking(make_desk(store, escalation={"run": False}))
    desk = make_desk(store)
    (after,) = desk.climb(seconds(ticket.updated) + 600)
    assert after.id == ticket.id


def test_what_could_not_be_stored_is_called_at_the_next_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = make_desk(store)
    ticket = parking(desk)
    commit = store.commit

    def fail(batch: Batch) -> object:
        batch.rule_states["x"] = {"cannot": object()}  # type: ignore[dict-item]
        return commit(batch)

    with monkeypatch.context() as patch:
        patch.setattr(store, "commit", fail)
        with pytest.raises((StoreError, TypeError)):
            desk.climb(T0 + 700)
    assert len(called(store, ticket)) == 1
    assert len(desk.climb(T0 + 701)) == 1
    assert [person for person, _, _ in called(store, ticket)] == ["wang", "li"]


@given(
    st.lists(
        st.one_of(st.floats(1, 3000).map(lambda s: ("run", s)), st.just(("restart", 0.0))),
        max_size=12,
    )
)
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_schedule_of_restarts_gives_the_same_calls(
    tmp_path_factory: pytest.TempPathFactory, schedule: list[tuple[str, float]]
) -> None:
    file = tmp_path_factory.mktemp("restarts") / "t.sqlite"
    store = Store(file)
    try:
        desk = make_desk(store)
        ticket = parking(desk)
        t = seconds(ticket.created)
        for what, pause in [*schedule, ("run", 4000.0), ("run", CATCH_UP_S), ("run", CATCH_UP_S)]:
            t += pause
            if what == "restart":
                store.close()
                store = Store(file)
                desk = make_desk(store)
            else:
                desk.climb(t)
        calls = store.calls(ticket.id)
        assert [call.person for call in calls] == ["wang", "li", "zhao"]
        assert len({call.key for call in calls}) == 3
        assert [e.kind for e in store.events(ticket.id)] == ["raised", "escalated", "escalated"]
    finally:
        store.close()


def test_a_burst_is_climbed_in_parts_the_longest_due_first(store: Store) -> None:
    desk = make_desk(store)
    cameras = [
        Camera(desk, camera="lane", scenario="illegal_parking", subject=f"stay:{n}")
        for n in range(30)
    ]
    tickets = []
    for n, camera in enumerate(cameras):
        camera.t = T0 + 5 * n
        tickets.append(camera.alarm())
    t = T0 + 5000
    order: list[str] = []
    while made := desk.climb(t, limit=8):
        order += [ticket.id for ticket in made]
    assert order == [ticket.id for ticket in tickets]
    assert instant(t) == store.tickets()[0].updated
