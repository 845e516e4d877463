"""The ticket's schema, identity and transitions, and the topics it travels on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from itertools import product

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from alerts.tickets import (
    TRANSITIONS,
    Action,
    Analysed,
    CameraRef,
    Captured,
    Command,
    Outcome,
    Ticket,
    TicketState,
    Title,
    Warned,
    apply,
    instant,
    json_schema,
    seconds,
    ticket_id,
)
from alerts.topics import Topics
from pipeline.exceptions import CommandError, ConfigError

T0 = 1_700_000_000.0


def identity(**changed: object) -> str:
    base = {
        "site": "town",
        "host": "h1",
        "camera_id": "lift",
        "scenario": "fire",
        "subject": "zone:a",
        "since": T0,
        "t": T0 + 3,
    }
    return ticket_id(**{**base, **changed})  # type: ignore[arg-type]


def make_ticket(state: TicketState = TicketState.WARNED) -> Ticket:
    return Ticket(
        id=identity(),
        version=1,
        site="town",
        host="h1",
        camera=CameraRef(id="lift", name="电梯 1"),
        grid="town/12/3",
        scenario="fire",
        subject="zone:a",
        severity="critical",
        title=Title(zh="火情", en="Fire"),
        state=state,
        capture=Captured(time=instant(T0 + 2.9)),
        analyse=Analysed(confidence=0.9, since=instant(T0)),
        warn=Warned(
            raised=instant(T0 + 3), rule="held 3 s", published=instant(T0 + 3.2), age_s=0.3
        ),
        created=instant(T0 + 3.2),
        updated=instant(T0 + 3.2),
    )


def make_command(action: Action, **more: object) -> Command:
    if action is Action.DISPOSE:
        more.setdefault("outcome", Outcome.CONFIRMED)
    if action is Action.REASSIGN:
        more.setdefault("grid", "town/12/4")
    base = {"command_id": "c1", "ticket_id": identity(), "action": action, "user": "wang"}
    return Command.model_validate({**base, **more})


EXPECTED = {
    (Action.ACKNOWLEDGE, TicketState.WARNED): TicketState.ACKNOWLEDGED,
    (Action.DISPATCH, TicketState.WARNED): TicketState.DISPATCHED,
    (Action.DISPATCH, TicketState.ACKNOWLEDGED): TicketState.DISPATCHED,
    (Action.DISPATCH, TicketState.DISPATCHED): TicketState.DISPATCHED,
    (Action.DISPOSE, TicketState.WARNED): TicketState.DISPOSED,
    (Action.DISPOSE, TicketState.ACKNOWLEDGED): TicketState.DISPOSED,
    (Action.DISPOSE, TicketState.DISPATCHED): TicketState.DISPOSED,
    (Action.REOPEN, TicketState.DISPOSED): TicketState.WARNED,
    (Action.REASSIGN, TicketState.WARNED): TicketState.WARNED,
    (Action.REASSIGN, TicketState.ACKNOWLEDGED): TicketState.WARNED,
    (Action.REASSIGN, TicketState.DISPATCHED): TicketState.WARNED,
    **{(Action.NOTE, state): state for state in TicketState},
}


@pytest.mark.parametrize(("action", "state"), list(product(Action, TicketState)))
def test_every_pair_of_action_and_state_is_allowed_or_refused(
    action: Action, state: TicketState
) -> None:
    ticket = make_ticket(state)
    if (after := EXPECTED.get((action, state))) is not None:
        changed = apply(ticket, make_command(action), T0 + 60)
        assert (changed.state, changed.version) == (after, 2)
        assert changed.updated == instant(T0 + 60)
    else:
        with pytest.raises(CommandError, match=f"cannot {action} while {state}") as caught:
            apply(ticket, make_command(action), T0 + 60)
        assert caught.value.code == "illegal_transition"


def test_every_open_state_can_be_left_and_every_action_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(Action)
    for state in TicketState:
        assert any(to is not state for row in TRANSITIONS.values() if (to := row.get(state)))


def test_what_people_did_is_written_on_the_ticket_and_reopening_starts_it_again() -> None:
    ticket = make_ticket()
    ticket = apply(ticket, make_command(Action.ACKNOWLEDGE, **{"from": "console"}), T0 + 10)
    ticket = apply(ticket, make_command(Action.DISPATCH, to="fire brigade"), T0 + 20)
    ticket = apply(ticket, make_command(Action.NOTE, note="on the way"), T0 + 25)
    ticket = apply(ticket, make_command(Action.DISPOSE, outcome="false_alarm"), T0 + 30)
    done = ticket.dispose
    assert done.acknowledged is not None
    assert (done.acknowledged.by, done.acknowledged.source) == ("wang", "console")
    assert done.dispatched is not None
    assert done.dispatched.to == "fire brigade"
    assert done.outcome is Outcome.FALSE_ALARM
    assert [note.note for note in done.notes] == ["on the way"]
    again = apply(ticket, make_command(Action.REOPEN), T0 + 40).dispose
    assert (again.acknowledged, again.disposed, again.outcome) == (None, None, None)
    assert again.reopened is not None
    assert len(again.notes) == 1


def test_notes_on_a_ticket_are_bounded() -> None:
    ticket = make_ticket()
    for n in range(50):
        ticket = apply(ticket, make_command(Action.NOTE, note=str(n)), T0 + n)
    assert [note.note for note in ticket.dispose.notes] == [str(n) for n in range(30, 50)]
    assert Ticket.model_validate_json(ticket.to_json()) == ticket


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"expected_version": 2}, "version_conflict"),
        ({"expires": instant(T0 + 59)}, "expired"),
        ({"outcome": Outcome.TEST}, "malformed"),
    ],
)
def test_a_command_that_does_not_fit_is_refused(more: dict[str, object], code: str) -> None:
    with pytest.raises(CommandError) as caught:
        apply(make_ticket(), make_command(Action.ACKNOWLEDGE, **more), T0 + 60)
    assert caught.value.code == code


def test_disposal_needs_an_outcome() -> None:
    with pytest.raises(CommandError, match="confirmed, false_alarm, duplicate, test"):
        apply(make_ticket(), make_command(Action.DISPOSE, outcome=None), T0)


def test_json_is_read_back_alike_and_carries_rfc_3339_times() -> None:
    ticket = make_ticket()
    document = json.loads(ticket.to_json())
    assert Ticket.model_validate(document) == ticket
    assert document["schema"] == "gridwatch.ticket/1"
    assert document["capture"]["time"] == "2023-11-14T22:13:22.900Z"
    assert set(document) >= {"capture", "analyse", "warn", "dispose"}


def test_fields_of_a_later_gridwatch_are_ignored() -> None:
    document = {**json.loads(make_ticket().to_json()), "wind": "north"}
    assert Ticket.model_validate(document) == make_ticket()


def test_a_thumbnail_larger_than_64_kb_is_no_ticket() -> None:
    document = {**json.loads(make_ticket().to_json()), "thumbnail": "A" * 87_385}
    with pytest.raises(ValidationError, match="at most 87384"):
        Ticket.model_validate(document)


def test_tickets_keep_to_the_generated_schema() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    ticket = apply(make_ticket(), make_command(Action.DISPOSE), T0 + 60)
    validator.validate(json.loads(ticket.to_json()))
    broken = {**json.loads(ticket.to_json()), "state": "asleep"}
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(broken)


@given(st.floats(min_value=0, max_value=4e9, allow_nan=False))
def test_a_moment_is_its_milliseconds(t: float) -> None:
    assert abs(seconds(instant(t)) - t) <= 0.000_501
    assert instant(seconds(instant(t))) == instant(t)


def test_moments_of_other_zones_are_told_in_utc() -> None:
    shanghai = timezone(timedelta(hours=8))
    command = make_command(
        Action.NOTE, expires=datetime(2026, 5, 1, 8, 0, 0, 123_987, tzinfo=shanghai)
    )
    assert command.expires == datetime(2026, 5, 1, 0, 0, 0, 124_000, tzinfo=UTC)
    with pytest.raises(ValidationError):
        make_command(Action.NOTE, expires="2026-05-01T08:00:00")


def test_an_identity_is_the_same_for_the_same_alarm_only() -> None:
    assert identity() == identity()
    assert len(identity()) == 26
    changes: list[dict[str, object]] = [
        {"site": "x"},
        {"host": "x"},
        {"camera_id": "x"},
        {"scenario": "x"},
        {"subject": "x"},
        {"since": T0 + 1},
        {"t": T0 + 4},
        {"site": "townh", "host": "1"},
    ]
    assert len({identity(), *(identity(**change) for change in changes)}) == len(changes) + 1


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.text(max_size=5))
def test_identities_sort_by_the_time_of_the_raise(a: int, b: int, subject: str) -> None:
    first, second = sorted((a, b))
    if first != second:
        assert identity(t=first / 1000, subject=subject) < identity(t=second / 1000)


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (b"", "payload"),
        (b"[1]", "payload"),
        (b"\xff", "payload"),
        (b'{"action": "note"}', "command_id"),
        (b'{"command_id": "a/b", "action": "note"}', "command_id"),
        (b'{"command_id": "c", "action": "explode"}', "action"),
        (b'{"command_id": "c", "action": "note", "user": "root", "extra": 1}', "extra"),
        (b'{"command_id": "c", "action": "note", "expected_version": 0}', "expected_version"),
        (b'{"command_id": "c", "action": "note", "expires": "soon"}', "expires"),
    ],
)
def test_a_malformed_command_names_what_is_wrong(payload: bytes, named: str) -> None:
    with pytest.raises(CommandError, match=f"command: {named}") as caught:
        Command.parse(payload, user="wang", ticket_id="t1")
    assert caught.value.code == "malformed"
    assert "\n" not in str(caught.value)


def test_user_and_ticket_of_a_command_come_from_its_topic() -> None:
    payload = b'{"command_id": "c", "action": "note", "user": "root", "ticket_id": "other"}'
    command = Command.parse(payload, user="wang", ticket_id="t1")
    assert (command.user, command.ticket_id) == ("wang", "t1")


@given(st.binary(max_size=200))
def test_no_payload_gets_past_the_parser_as_another_error(payload: bytes) -> None:
    with pytest.raises(CommandError):
        Command.parse(payload, user="wang", ticket_id="t1")


def test_topics_are_where_the_design_says() -> None:
    topics = Topics("town")
    assert topics.ticket("01A") == "gridwatch/town/tickets/01A"
    assert topics.event("fire", "warned") == "gridwatch/town/events/fire/warned"
    assert topics.inbox("town/12/3") == "gridwatch/town/grids/town/12/3/inbox"
    assert topics.camera_status("lift") == "gridwatch/town/cameras/lift/status"
    assert topics.host_status("h1") == "gridwatch/town/hosts/h1/status"
    assert topics.command("wang", "01A") == "gridwatch/town/commands/wang/tickets/01A"
    assert topics.reply("wang", "c1") == "gridwatch/town/replies/wang/c1"
    assert topics.parse_command(topics.command("wang", "01A")) == ("wang", "01A")


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "a\x00", "$SYS"])
def test_names_that_would_break_a_topic_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        Topics(name)
    with pytest.raises(ConfigError):
        Topics("town").ticket(name)


@pytest.mark.parametrize("grid", ["", "/a", "a//b", "a/", "a/#", "+/b"])
def test_grid_paths_have_no_gaps(grid: str) -> None:
    with pytest.raises(ConfigError):
        Topics("town").inbox(grid)


@pytest.mark.parametrize(
    "topic", ["gridwatch/other/commands/w/tickets/1", "gridwatch/town/commands/w/x/1", "a"]
)
def test_other_topics_are_no_commands(topic: str) -> None:
    with pytest.raises(CommandError):
        Topics("town").parse_command(topic)
