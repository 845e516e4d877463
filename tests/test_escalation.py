"""Ladders: each rung once, in order, on time; the same through any restart; nothing is scanned."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from alerts.escalation import (
    CATCH_UP_S,
    DEFAULT_LADDERS,
    Agenda,
    Facts,
    Ladder,
    Rung,
    Wait,
    at_once,
    begin,
    follow,
    step,
    targets,
)
from alerts.tickets import TicketState
from pipeline.analyse.scenario import Severity

T0 = 1_800_000_000.0
MICRO, GENERAL, TOTAL = ("micro",), ("general",), ("total",)
LADDER = Ladder(
    unacknowledged=(
        Rung(to=MICRO),
        Rung(to=("departments",), severity="critical"),
        Rung(after=600, to=GENERAL),
        Rung(after=1800, to=TOTAL),
    ),
    undisposed=(Rung(after=3600, to=GENERAL), Rung(after=7200, to=TOTAL)),
)


def facts(
    state: TicketState = TicketState.WARNED, severity: Severity = "major", name: str = "T1"
) -> Facts:
    return Facts(name, severity, state)


Called = list[tuple[str, float, float]]  # target, when, when it was due


def climb(
    wait: Wait | None, what: Facts, ladder: Ladder, ticks: list[float]
) -> tuple[Called, Wait | None]:
    """Every call at the given moments."""
    made: Called = []
    for t in ticks:
        while wait is not None:
            done, wait = step(wait, what, ladder, t)
            if done is None:
                break
            made += [(target, t, done.due_t) for rung in done.rungs for target in rung.to]
    return made, wait


def test_a_ticket_that_nobody_takes_is_called_upwards_level_by_level() -> None:
    assert [rung.to for rung in at_once(LADDER, "major")] == [MICRO]
    wait = begin(facts(), LADDER, T0)
    made, end = climb(wait, facts(), LADDER, [T0 + n for n in range(0, 4000, 2)])
    assert made == [("general", T0 + 600, T0 + 600), ("total", T0 + 1800, T0 + 1800)]
    assert end is not None
    assert end.due_t is None


def test_whoever_takes_it_begins_another_ladder_and_disposal_ends_it() -> None:
    wait = follow(begin(facts(), LADDER, T0), facts(TicketState.ACKNOWLEDGED), LADDER, T0 + 700)
    assert wait is not None
    assert (wait.reason, wait.since_t, wait.due_t) == ("undisposed", T0 + 700, T0 + 4300)
    # Dispatching it further gives nobody more time.
    same = follow(wait, facts(TicketState.DISPATCHED), LADDER, T0 + 3000)
    assert same == wait
    made, same = climb(same, facts(TicketState.DISPATCHED), LADDER, [T0 + 4300])
    assert [target for target, _, _ in made] == ["general"]
    assert follow(same, facts(TicketState.DISPOSED), LADDER, T0 + 5000) is None


def test_reopened_or_handed_over_it_begins_anew() -> None:
    wait = begin(facts(), LADDER, T0)
    _, wait = climb(wait, facts(), LADDER, [T0 + 600])
    again = follow(wait, facts(), LADDER, T0 + 900, anew=True)
    assert again == begin(facts(), LADDER, T0 + 900)
    assert again is not None
    assert again.due_t == T0 + 1500


def test_a_ticket_that_gets_worse_calls_at_once_whom_it_would_have_called() -> None:
    wait = begin(facts(), LADDER, T0)
    made, wait = climb(wait, facts(), LADDER, [T0 + 600])
    worse = facts(severity="critical")
    wait = follow(wait, worse, LADDER, T0 + 700)
    made, wait = climb(wait, worse, LADDER, [T0 + 700])
    assert made == [("departments", T0 + 700, T0 + 600)]
    assert wait is not None
    assert wait.due_t == T0 + 1800, "and then it goes on as before"


def test_after_a_downtime_the_missed_levels_come_in_order_with_time_to_answer() -> None:
    wait = begin(facts(), LADDER, T0)
    made, _ = climb(wait, facts(), LADDER, [T0 + 5000 + n for n in range(300)])
    assert [(target, t) for target, t, _ in made] == [
        ("general", T0 + 5000),
        ("total", T0 + 5000 + CATCH_UP_S),
    ]


def test_a_ladder_that_was_edited_goes_on_where_the_ticket_stands() -> None:
    _, wait = climb(begin(facts(), LADDER, T0), facts(), LADDER, [T0 + 600])
    edited = Ladder(
        unacknowledged=(
            Rung(to=MICRO),
            Rung(after=600, to=GENERAL),
            Rung(after=900, to=("departments/fire",)),
        )
    )
    wait = follow(wait, facts(), edited, T0 + 601)  # as on every start
    made, _ = climb(wait, facts(), edited, [T0 + 601, T0 + 900, T0 + 5000])
    assert [(target, t) for target, t, _ in made] == [("departments/fire", T0 + 900)]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"unacknowledged": [{"after": "2m", "to": MICRO}, {"to": TOTAL}]}, "by their time"),
        ({"unacknowledged": [{"to": MICRO}, {"to": MICRO}]}, "each rung once"),
        ({"undisposed": [{"to": MICRO}]}, "times above zero"),
        ({"unacknowledged": [{"to": ["everybody"]}]}, "match pattern"),
        ({"unacknowledged": [{"to": []}]}, "at least 1 item"),
        ({"unacknowledged": [{"after": n, "to": MICRO} for n in range(21)]}, "at most 20"),
    ],
)
def test_a_ladder_that_makes_no_sense_is_refused(document: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Ladder.model_validate(document)


def test_targets_are_inboxes_each_once() -> None:
    rungs = [Rung(to=("micro", "general", "departments")), Rung(to=("total", "micro"))]
    assert targets(rungs, "a/b/c", ("fire",)) == ["a/b/c", "a/b", "departments/fire", "a"]
    assert targets(rungs, "a", ()) == ["a"]
    assert targets(rungs, "", ("fire",)) == ["departments/fire"]
    assert targets([Rung(to=("departments/police",))], "", ()) == ["departments/police"]


# Any restart schedule gives the same calls

rungs = st.builds(
    Rung,
    after=st.integers(1, 200).map(lambda n: n * 10.0),
    to=st.sampled_from([MICRO, GENERAL, TOTAL, ("departments",)]),
    severity=st.sampled_from(["minor", "major", "critical"]),
)
ladders = st.lists(rungs, max_size=8, unique_by=lambda rung: rung.key).map(
    lambda found: Ladder(
        unacknowledged=(Rung(to=MICRO), *sorted(found, key=lambda rung: rung.after))
    )
)
severities: st.SearchStrategy[Severity] = st.sampled_from(["minor", "major", "critical"])


@given(ladders, severities, st.lists(st.floats(0, 4000), max_size=30))
def test_any_schedule_of_restarts_and_ticks_gives_the_same_calls_in_the_same_order(
    ladder: Ladder, severity: Severity, moments: list[float]
) -> None:
    what = facts(severity=severity)
    quiet_end = [T0 + 4000 + n * CATCH_UP_S for n in range(20)]
    wait = begin(what, ladder, T0)
    always, _ = climb(wait, what, ladder, [T0 + n for n in range(0, 5000, 10)])
    now_and_then, _ = climb(wait, what, ladder, [*sorted(T0 + m for m in moments), *quiet_end])
    assert [target for target, _, _ in now_and_then] == [target for target, _, _ in always]
    fitting = [r for r in ladder.unacknowledged[1:] if r.is_for(severity)]
    assert [target for target, _, _ in always] == [target for r in fitting for target in r.to]
    for _, t, due_t in now_and_then:
        assert t >= due_t
    for (_, first, _), (_, second, _) in pairwise(now_and_then):
        assert first <= second
    for _, t, due_t in always:
        assert t - due_t <= 10, "on time while it runs"


@given(
    ladders,
    st.lists(
        st.tuples(st.floats(1, 500), st.sampled_from(["tick", "take", "worse", "anew", "dispose"])),
        max_size=25,
    ),
)
@settings(max_examples=60)
def test_no_order_of_events_repeats_a_call_of_the_same_wait(
    ladder: Ladder, events: list[tuple[float, str]]
) -> None:
    full = ladder.model_copy(update={"undisposed": (Rung(after=300, to=GENERAL),)})
    what, wait = facts(severity="minor"), begin(facts(severity="minor"), full, T0)
    t, seen = T0, set[tuple[float, str, str]]()
    for pause, event in events:
        t += pause
        match event:
            case "take":
                what = replace(what, state=TicketState.ACKNOWLEDGED)
            case "worse":
                what = replace(what, severity="critical")
            case "anew":
                what = replace(what, state=TicketState.WARNED)
            case "dispose":
                what = replace(what, state=TicketState.DISPOSED)
        wait = follow(wait, what, full, t, anew=event == "anew")
        assert (wait is None) == (what.state is TicketState.DISPOSED)
        if event == "tick" and wait is not None:
            while wait.due_t is not None and wait.due_t <= t:
                done, wait = step(wait, what, full, t)
                assert done is not None
                for rung in done.rungs:
                    call = (wait.since_t, wait.reason, rung.key)
                    assert call not in seen
                    seen.add(call)


@given(
    st.lists(st.tuples(st.integers(0, 8), st.one_of(st.none(), st.integers(0, 50))), max_size=60)
)
def test_the_agenda_finds_what_a_scan_would(changes: list[tuple[int, int | None]]) -> None:
    agenda, model = Agenda(), dict[str, Wait]()
    for number, due in changes:
        name = f"T{number}"
        if due is None:
            agenda.put(name, None)
            model.pop(name, None)
        else:
            wait = Wait(name, "unacknowledged", T0, due_t=None if due == 50 else float(due))
            agenda.put(name, wait)
            model[name] = wait
        times = [w.due_t for w in model.values() if w.due_t is not None]
        assert agenda.next_t() == min(times, default=None)
        for t in (0.0, 20.0, 49.0):
            expected = {w.ticket_id for w in model.values() if w.due_t is not None and w.due_t <= t}
            for _ in range(2):  # looking changes nothing
                found = agenda.due(t)
                assert {w.ticket_id for w in found} == expected
                assert len(found) == len(expected)
                assert [w.due_t for w in found] == sorted(
                    w.due_t for w in found if w.due_t is not None
                )
        assert {w.ticket_id for w in Agenda(model.values()).due(49.0)} == {
            w.ticket_id for w in agenda.due(49.0)
        }
    assert len(agenda) == len(model)


def test_an_idle_tick_costs_the_same_with_ten_and_with_a_hundred_thousand_tickets() -> None:
    def cost(count: int) -> float:
        agenda = Agenda(
            Wait(f"T{n}", "unacknowledged", T0, due_t=T0 + 600 + n % 977) for n in range(count)
        )
        best = float("inf")
        for _ in range(5):
            begun = time.perf_counter()
            for tick in range(200):
                agenda.due(T0 + tick)
            best = min(best, time.perf_counter() - begun)
        return best

    assert cost(100_000) < 20 * cost(10)


def test_a_burst_that_is_due_at_once_is_taken_in_parts_and_none_twice() -> None:
    agenda, ladder = Agenda(), DEFAULT_LADDERS["default"]
    for n in range(10_000):
        agenda.put(f"T{n}", begin(facts(name=f"T{n}"), ladder, T0 + n * 0.06))
    called: list[str] = []
    t = T0 + 3600
    while found := agenda.due(t, 500):
        for wait in found:
            done, after = step(wait, facts(name=wait.ticket_id), ladder, t)
            assert done is not None
            called.append(done.ticket_id)
            agenda.put(wait.ticket_id, after)
    assert len(called) == len(set(called)) == 10_000
    assert agenda.next_t() == t + CATCH_UP_S


@pytest.mark.parametrize("name", sorted(DEFAULT_LADDERS))
def test_the_built_in_ladders_reach_the_top_and_fire_its_department_at_once(name: str) -> None:
    ladder = DEFAULT_LADDERS[name]
    assert "micro" in {target for rung in at_once(ladder, "minor") for target in rung.to}
    if name == "fire":
        first = {target for rung in at_once(ladder, "minor") for target in rung.to}
        assert first == {"micro", "general", "total", "departments"}
        assert ladder.unacknowledged[1].after == 120
    assert ladder.undisposed
