"""The durable store: all or nothing, in order, through kills, full disks and wrong files."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from alerts import store as store_module
from alerts.accuracy import Miss, fact_of
from alerts.rules import AlarmKey, Decision
from alerts.store import AlarmRow, Batch, Event, Message, Store, set_aside
from alerts.tickets import (
    Action,
    Analysed,
    CameraRef,
    Captured,
    Command,
    Outcome,
    Reply,
    Ticket,
    TicketState,
    Title,
    Warned,
    apply,
    instant,
    ticket_id,
)
from pipeline.exceptions import StoreError
from tests.postgres import Cluster

T0 = 1_700_000_000.0
NEWEST = len(store_module.MIGRATIONS) + 1


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tickets.sqlite"


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, file: Path) -> Path | str:
    """Where a store may be: every test that takes this (or `store`) runs on both databases."""
    if request.param == "sqlite":
        return file
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.url(cluster.database())


@pytest.fixture
def store(place: Path | str) -> Iterator[Store]:
    with Store(place) as opened:
        yield opened


@pytest.fixture
def file_store(file: Path) -> Iterator[Store]:
    with Store(file) as opened:
        yield opened


def make_ticket(number: int = 0, grid: str = "town/12/3", camera: str = "lift") -> Ticket:
    t = T0 + number
    return Ticket(
        id=ticket_id(
            site="town",
            host="h1",
            camera_id=camera,
            scenario="fire",
            subject=f"zone:{number}",
            since=t - 3,
            t=t,
        ),
        version=1,
        site="town",
        host="h1",
        camera=CameraRef(id=camera, name=camera),
        grid=grid,
        scenario="fire",
        subject=f"zone:{number}",
        severity="critical",
        title=Title(zh="火情", en="Fire"),
        capture=Captured(time=instant(t)),
        analyse=Analysed(confidence=0.9, since=instant(t - 3)),
        warn=Warned(raised=instant(t), rule="", published=instant(t), age_s=0),
        created=instant(t),
        updated=instant(t),
    )


def make_batch(ticket: Ticket, t: float = T0) -> Batch:
    return Batch(
        t,
        tickets=[ticket],
        events=[Event(ticket.id, ticket.version, "raised", "h1", t)],
        messages=[Message(f"tickets/{ticket.id}", ticket.to_json().encode(), True)],
        rule_states={"lift": {"version": ticket.version, "id": ticket.id}},
    )


def make_decision(t: float, code: str = "too_short") -> Decision:
    return Decision(
        outcome="suppressed",
        code=code,
        reason="held 1 s",
        camera_id="lift",
        scenario="fire",
        subject="zone:a",
        since=t - 1,
        t=t,
        held_s=1,
        known_s=1,
        ratio=1,
        parameters={"raise_after": 3.0},
    )


def dispose(ticket: Ticket, t: float) -> Ticket:
    command = Command(
        command_id="c", ticket_id=ticket.id, action=Action.DISPOSE, user="w", outcome=Outcome.TEST
    )
    return apply(ticket, command, t)


def dump(store: Store) -> dict[str, list[str]]:
    with store._engine.connect() as connection:
        return {
            name: [repr(row) for row in connection.execute(sa.select(table))]
            for name, table in store_module._metadata.tables.items()
        }


def test_what_is_committed_is_there_after_opening_again(place: Path | str) -> None:
    ticket = make_ticket()
    key = AlarmKey("lift", "fire", "zone:0")
    reply = Reply(
        command_id="c",
        ticket_id=ticket.id,
        ok=True,
        code="ok",
        message="",
        version=1,
        state=TicketState.WARNED,
        time=instant(T0),
    )
    batch = make_batch(ticket)
    batch.decisions.append(make_decision(T0))
    batch.scenario_states["lift", "fire"] = {"baseline": [1, 2]}
    batch.alarms[key] = AlarmRow(ticket.id)
    batch.commands["wang", "c"] = reply
    batch.meta["host"] = "h1"
    with Store(place) as store:
        store.commit(batch).result()
    with Store(place) as store:
        assert store.ticket(ticket.id) == ticket
        assert store.open_tickets() == [ticket]
        assert store.events(ticket.id) == batch.events
        assert [row.message for row in store.pending()] == batch.messages
        assert store.decisions() == batch.decisions
        assert store.rule_states() == batch.rule_states
        assert store.scenario_states() == batch.scenario_states
        assert store.alarms() == {key: AlarmRow(ticket.id)}
        assert store.reply("wang", "c") == reply
        assert store.meta("host") == "h1"
        assert (store.ticket("x"), store.reply("x", "c"), store.meta("x")) == (None, None, None)


def test_states_are_replaced_and_removed(store: Store) -> None:
    key = AlarmKey("lift", "fire", "a")
    for n in (1, 2):
        batch = Batch(T0, rule_states={"lift": {"n": n}}, meta={"k": str(n)})
        batch.scenario_states["lift", "fire"] = {"n": n}
        batch.alarms[key] = AlarmRow(None, {"n": n})
        store.commit(batch).result()
    assert store.rule_states() == {"lift": {"n": 2}}
    assert store.scenario_states() == {("lift", "fire"): {"n": 2}}
    assert store.alarms() == {key: AlarmRow(None, {"n": 2})}
    store.commit(Batch(T0, scenario_states={("lift", "fire"): None}, alarms={key: None})).result()
    assert (store.scenario_states(), store.alarms()) == ({}, {})


def test_a_version_that_does_not_follow_stores_nothing_of_its_batch(store: Store) -> None:
    ticket = make_ticket()
    store.commit(make_batch(ticket)).result()
    before = dump(store)
    late = ticket.next(T0 + 1).next(T0 + 2)
    for wrong, found in ((ticket, "version 1, expected None"), (late, "version 1, expected 2")):
        with pytest.raises(StoreError, match=found):
            store.commit(make_batch(wrong)).result()
        assert dump(store) == before
    with pytest.raises(StoreError, match="version None, expected 1"):
        store.commit(make_batch(make_ticket(7).next(T0))).result()
    store.commit(make_batch(ticket.next(T0 + 1))).result()


def test_a_bad_batch_does_not_take_down_those_beside_it(store: Store) -> None:
    held, release = threading.Event(), threading.Event()

    def hold(_: sa.Connection) -> None:
        held.set()
        release.wait(10)

    blocked = store._submit(hold)
    held.wait(10)
    # These three now wait together and share a transaction.
    good = store.commit(make_batch(make_ticket(1)))
    bad = store.commit(make_batch(make_ticket(2).next(T0)))
    other = store.commit(make_batch(make_ticket(3)))
    release.set()
    blocked.result()
    good.result()
    other.result()
    with pytest.raises(StoreError):
        bad.result()
    assert {t.subject for t in store.tickets()} == {"zone:1", "zone:3"}
    assert store.pending_count() == 2


@pytest.mark.parametrize(
    "statement",
    ["UPDATE events SET who = 'x'", "DELETE FROM events", "DELETE FROM events WHERE seq = 1"],
)
def test_events_are_never_rewritten(store: Store, statement: str) -> None:
    store.commit(make_batch(make_ticket())).result()
    before = dump(store)
    with pytest.raises(StoreError, match="never rewritten"):
        store._submit(lambda connection: connection.exec_driver_sql(statement)).result()
    assert dump(store) == before


def test_the_outbox_gives_its_rows_in_order_until_they_are_published(store: Store) -> None:
    for n in range(5):
        store.commit(Batch(T0 + n, messages=[Message("a", b"%d" % n), Message("b", b"")])).result()
    rows = store.pending(100)
    assert [row.message.payload for row in rows if row.message.topic == "a"] == [
        b"0",
        b"1",
        b"2",
        b"3",
        b"4",
    ]
    assert [row.seq for row in rows] == sorted(row.seq for row in rows)
    store.mark_published([row.seq for row in rows[:9]], T0 + 9).result()
    assert store.pending(100) == rows[9:]
    assert store.pending_count() == 1
    assert store.pending(100, after=rows[9].seq) == []
    # Numbers do not come back after everything was trimmed.
    store.mark_published([rows[9].seq], T0 + 9).result()
    store.trim(T0 + 1e6).result()
    store.commit(Batch(T0, messages=[Message("a", b"")])).result()
    assert store.pending(1)[0].seq > rows[9].seq


def say(store: Store, topic: str, version: int, *payloads: str, ticket: str = "t1") -> None:
    batch = Batch(T0)
    for payload in payloads:
        newest = payload != ""
        batch.messages.append(
            Message(topic, payload.encode(), True, 1, ticket, version, supersedes=newest)
        )
    store.commit(batch).result()


def waiting(store: Store, topic: str) -> list[str]:
    return [
        row.message.payload.decode() for row in store.pending(1000) if row.message.topic == topic
    ]


def test_a_version_that_nobody_has_been_told_of_makes_room_for_the_next(store: Store) -> None:
    for version in range(1, 50):
        say(store, "own", version, f"v{version}")
        say(store, "inbox", version, f"a{version}")
        say(store, "inbox", version, f"b{version}", ticket="t2")
        store.commit(
            Batch(
                T0, messages=[Message("events", b"%d" % version, ticket_id="t1", version=version)]
            )
        ).result()
    assert waiting(store, "own") == ["v49"]
    assert waiting(store, "inbox") == ["a49", "b49"]
    assert len(waiting(store, "events")) == 49
    # What is on its way may still be confirmed, and what was confirmed is no longer ours to drop.
    (row,) = (row for row in store.pending(1000) if row.message.topic == "own")
    say(store, "own", 50, "v50")
    store.mark_published([row.seq], T0).result()
    (row,) = (row for row in store.pending(1000) if row.message.topic == "own")
    store.mark_published([row.seq], T0).result()
    say(store, "own", 51, "v51")
    assert store.republish(T0, T0).result().keys() == {row.seq}
    assert waiting(store, "own") == ["v50", "v51"]


def test_a_closing_and_its_clearing_are_never_dropped(store: Store) -> None:
    say(store, "own", 1, "raised")
    say(store, "own", 2, "updated")
    say(store, "own", 3, "disposed", "")
    assert waiting(store, "own") == ["disposed", ""]
    say(store, "own", 4, "note")
    say(store, "own", 5, "reopened")
    assert waiting(store, "own") == ["disposed", "", "reopened"]
    say(store, "own", 6, "disposed again", "")
    assert waiting(store, "own") == ["disposed", "", "disposed again", ""]


def test_the_outbox_is_searched_by_its_indices(file_store: Store) -> None:
    def plan(condition: str) -> str:
        with file_store._engine.connect() as connection:
            query = f"EXPLAIN QUERY PLAN SELECT seq FROM outbox WHERE {condition}"  # noqa: S608 - ours
            return str(connection.exec_driver_sql(query).all())

    superseded = "topic = 'a' AND ticket_id = 'b' AND version < 3 AND published_t IS NULL"
    assert "outbox_superseded" in plan(superseded)
    pending = plan("published_t IS NULL AND seq > 7 ORDER BY seq LIMIT 100")
    assert "outbox_pending" in pending
    assert "TEMP B-TREE" not in pending


def test_many_rows_are_marked_at_once(store: Store) -> None:
    store.commit(Batch(T0, messages=[Message("a", b"")] * 3000)).result()
    store.mark_published([row.seq for row in store.pending(5000)], T0).result()
    assert store.pending_count() == 0


def test_whoever_publishes_is_woken_once_the_rows_are_on_the_disk(store: Store) -> None:
    counts: list[int] = []
    woken = threading.Event()

    def wake() -> None:
        counts.append(store.pending_count())
        woken.set()

    def fail() -> None:
        raise RuntimeError("a listener's own trouble")

    store.on_messages(fail)
    store.on_messages(wake)
    store.commit(Batch(T0, meta={"k": "v"})).result()
    store.commit(Batch(T0, messages=[Message("a", b"")])).result()
    assert woken.wait(10)
    assert counts == [1]


def test_tickets_are_found_by_what_they_are(store: Store) -> None:
    tickets = [
        make_ticket(0, "town/1"),
        make_ticket(1, "town/1/2"),
        make_ticket(2, "town/10"),
        make_ticket(3, "town/1", camera="lane"),
    ]
    for ticket in tickets:
        store.commit(make_batch(ticket)).result()
    store.commit(make_batch(dispose(tickets[0], T0 + 50))).result()

    def found(**query: object) -> list[int]:
        rows = store.tickets(**query)  # type: ignore[arg-type]
        return [int(ticket.subject.removeprefix("zone:")) for ticket in rows]

    assert found() == [3, 2, 1, 0]
    assert found(grid="town/1") == [3, 1, 0]
    assert found(camera_id="lane") == [3]
    assert found(states=[TicketState.DISPOSED]) == [0]
    assert found(scenario="fire", limit=2) == [3, 2]
    assert found(before_id=tickets[2].id) == [1, 0]
    assert found(raised_from=T0 + 1, raised_to=T0 + 3) == [2, 1]
    assert found(scenario="x") == []
    assert len(store.open_tickets()) == 3


def test_trimming_keeps_what_is_young_waiting_or_open(store: Store) -> None:
    old, young = make_ticket(0), make_ticket(1)
    for ticket in (old, young):
        store.commit(make_batch(ticket)).result()
    store.commit(make_batch(dispose(old, T0 + 10))).result()
    store.commit(Batch(T0, decisions=[make_decision(T0 + n) for n in range(10)])).result()
    store.mark_published([row.seq for row in store.pending(2)], T0).result()
    store.trim(T0 + 3600, published_s=3600).result()
    assert store.pending_count() == 1
    store.trim(T0 + 105, published_s=99, decisions_s=100).result()
    assert [d.t - T0 for d in store.decisions()] == [9, 8, 7, 6, 5]
    store.trim(T0, decisions_rows=2).result()
    assert [d.t - T0 for d in store.decisions()] == [9, 8]
    assert len(store.tickets()) == 2
    store.trim(T0 + 1e9, disposed_s=90 * 86400).result()
    assert store.tickets() == [young]
    assert store.events(old.id) == []
    assert len(store.events(young.id)) == 1
    assert store.pending_count() == 1


def test_of_what_waits_for_a_broker_events_and_replies_go_and_tickets_stay(store: Store) -> None:
    ticket = make_ticket()
    topics = ["tickets/1", "grids/a/events/x/inbox", "events/fire/warned", "replies/li/1"]
    messages = [Message(f"gridwatch/s/{topic}", b"{}") for topic in topics]
    store.commit(Batch(T0, tickets=[ticket], messages=messages)).result()
    store.trim(T0 + 6 * 86400).result()
    assert store.pending_count() == 4
    store.trim(T0, unsent_rows=1).result()
    assert [row.message.topic.partition("/s/")[2] for row in store.pending()] == [
        *topics[:2],
        topics[3],
    ]
    store.trim(T0 + 8 * 86400).result()
    assert [row.message.topic.partition("/s/")[2] for row in store.pending()] == topics[:2]


def test_decisions_are_found_and_counted(store: Store) -> None:
    codes = ["gap", "gap", "too_short"]
    store.commit(
        Batch(T0, decisions=[make_decision(T0 + n, code) for n, code in enumerate(codes)])
    ).result()
    assert [d.t - T0 for d in store.decisions(t_from=T0 + 1, limit=1)] == [2]
    assert [d.t - T0 for d in store.decisions(t_to=T0 + 1)] == [0]
    assert store.decisions(camera_id="x") == store.decisions(scenario="x") == []
    assert store.decision_counts() == {"gap": 2, "too_short": 1}


def test_writes_are_synchronous_and_in_wal(file_store: Store) -> None:
    with file_store._engine.connect() as connection:
        pragma = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragma == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_reading_does_not_wait_for_writing_and_sees_whole_batches(store: Store) -> None:
    stop = threading.Event()
    torn: list[tuple[int, int]] = []

    def read() -> None:
        while not stop.is_set():
            events = store.pending_count()
            tickets = len(store.tickets())
            if tickets < events:  # messages counted first: there can only be more tickets by now
                torn.append((events, tickets))

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(50):
        store.commit(make_batch(make_ticket(n))).result()
    stop.set()
    reader.join()
    assert torn == []


def test_many_threads_may_write(store: Store) -> None:
    def write(offset: int) -> None:
        for n in range(20):
            store.commit(make_batch(make_ticket(offset + n))).result()

    threads = [threading.Thread(target=write, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.tickets()) == store.pending_count() == 80


def test_closing_writes_what_waits(place: Path | str) -> None:
    store = Store(place)
    futures = [store.commit(make_batch(make_ticket(n))) for n in range(200)]
    store.close()
    store.close()
    assert all(future.done() for future in futures)
    with pytest.raises(StoreError, match="is closed"):
        store.commit(Batch(T0))
    with Store(place) as again:
        assert len(again.tickets()) == 200


def test_a_reader_beside_the_engine_may_not_write(store: Store, place: Path | str) -> None:
    store.commit(make_batch(make_ticket())).result()
    with Store(place, read_only=True) as reader:
        assert len(reader.tickets()) == 1
        store.commit(make_batch(make_ticket(1))).result()
        assert len(reader.tickets()) == 2
        with pytest.raises(StoreError, match="opened for reading"):
            reader.commit(Batch(T0))


def test_a_url_is_a_place_too(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path / 'a.sqlite'}") as store:
        store.commit(Batch(T0, meta={"k": "v"})).result()
    with Store(tmp_path / "a.sqlite") as store:
        assert store.meta("k") == "v"


# Files that cannot be used


def test_a_newer_schema_is_refused_and_left_alone(file: Path) -> None:
    Store(file).close()
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    content = file.read_bytes()
    for read_only in (False, True):
        with pytest.raises(StoreError, match=f"schema 99, expected {NEWEST} at most"):
            Store(file, read_only=read_only)
    assert file.read_bytes() == content


def test_an_older_schema_is_migrated_once(
    place: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(place) as store:
        store.commit(make_batch(make_ticket())).result()
    monkeypatch.setattr(
        store_module,
        "MIGRATIONS",
        (
            *store_module.MIGRATIONS,
            ("CREATE TABLE extra (a INTEGER)", "INSERT INTO extra VALUES (7)"),
        ),
    )
    with pytest.raises(StoreError, match=f"schema {NEWEST}, expected {NEWEST + 1}"):
        Store(place, read_only=True)
    for _ in range(2):
        with Store(place) as store, store._engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT a FROM extra").scalars().all() == [7]
            assert len(store.tickets()) == 1


SCHEMA_1 = """
DROP TABLE IF EXISTS calls; DROP TABLE IF EXISTS waits; DROP TABLE misses; DROP TABLE facts;
DROP INDEX outbox_superseded; PRAGMA user_version = 1;
"""


def test_every_migration_leads_to_what_a_new_store_has(file: Path) -> None:
    def schema() -> list[tuple[object, ...]]:
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        columns = [
            # Its number is of no account, nor is the length of a text.
            (table, name, re.sub(r"VARCHAR\(\d+\)", "TEXT", kind).partition(" ")[0], *rest)
            for (table,) in names
            for _, name, kind, *rest in connection.execute(f"PRAGMA table_info({table})")
        ]
        others = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type != 'table' AND sql IS NOT NULL"
        )
        return sorted([*columns, *((name, " ".join(sql.split())) for name, sql in others)], key=str)

    Store(file).close()
    with closing(sqlite3.connect(file)) as connection:
        new = schema()
        connection.executescript(SCHEMA_1)
        Store(file).close()
        assert schema() == new


def test_a_migration_takes_the_facts_from_the_tickets(file: Path) -> None:
    tickets = [make_ticket(n) for n in range(3)]
    with Store(file) as store:
        for ticket in tickets:
            store.commit(make_batch(ticket)).result()
        for action, t in (Action.ACKNOWLEDGE, 10.125), (Action.DISPATCH, 20.25):
            command = Command(command_id="c", ticket_id=tickets[1].id, action=action, user="w")
            tickets[1] = apply(tickets[1], command, T0 + t)
            store.commit(make_batch(tickets[1])).result()
        store.commit(make_batch(dispose(tickets[1], T0 + 30.5))).result()
        before = store.facts()
    assert (before[1].acknowledged_t, before[1].dispatched_t) == (T0 + 10.125, T0 + 20.25)
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(SCHEMA_1)
    with Store(file) as store:
        assert store.facts() == before


def test_facts_are_of_the_newest_version_and_outlive_the_ticket(store: Store) -> None:
    first, second = make_ticket(0), make_ticket(1, camera="lane")
    for ticket in (first, second):
        store.commit(make_batch(ticket)).result()
    assert store.facts() == [fact_of(first), fact_of(second)]
    disposed = dispose(first, T0 + 9.5)
    store.commit(make_batch(disposed)).result()
    (fact,) = store.facts(until_t=T0 + 1)
    assert fact == fact_of(disposed)
    assert (fact.outcome, fact.disposed_t, fact.acknowledged_t) == (Outcome.TEST, T0 + 9.5, None)
    assert store.facts(T0 + 1) == store.facts(camera_id="lane") == [fact_of(second)]
    store.trim(T0 + 1e6, disposed_s=10).result()
    assert store.ticket(first.id) is None
    assert store.facts(until_t=T0 + 1) == [fact]
    store.trim(T0 + 1e6, facts_s=10).result()
    assert store.facts() == [fact_of(second)]  # its ticket is open


def test_misses_are_kept(store: Store) -> None:
    misses = [
        Miss(f"m{n}", "town", "h1", "lift", "town/12/3", "fire", T0 + n, T0 + 9, "wang", "smoke")
        for n in range(3)
    ]
    store.commit(Batch(T0, misses=misses)).result()
    assert store.misses() == misses
    assert store.misses(T0 + 1, T0 + 2) == misses[1:2]
    store.trim(T0 + 12, facts_s=10.5).result()
    assert store.misses() == misses[2:]


def test_a_migration_that_fails_changes_nothing(
    place: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(place).close()
    with monkeypatch.context() as patch:
        broken = ("CREATE TABLE extra (a INTEGER)", "NONSENSE")
        patch.setattr(store_module, "MIGRATIONS", (*store_module.MIGRATIONS, broken))
        with pytest.raises(StoreError):
            Store(place)
    with Store(place) as store, store._engine.connect() as connection:
        assert "extra" not in sa.inspect(connection).get_table_names()


@pytest.mark.parametrize("damage", ["not sqlite", "torn page"])
def test_a_corrupt_file_is_refused_and_set_aside_only_when_told(file: Path, damage: str) -> None:
    with Store(file) as store:
        for n in range(100):
            store.commit(make_batch(make_ticket(n)))
    content = bytearray(file.read_bytes())
    start = 0 if damage == "not sqlite" else 4096
    content[start : start + 8192] = b"\x55" * 8192
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"corrupt.*set it aside"):
        Store(file)
    assert file.read_bytes() == content
    aside = set_aside(file)
    assert aside.read_bytes() == content
    with Store(file) as store:
        assert store.tickets() == []
    assert set_aside(file) != aside


def test_there_must_be_something_to_set_aside_or_to_read(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        set_aside(tmp_path / "none")
    with pytest.raises(StoreError, match="does not exist"):
        Store(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()


def test_another_programs_file_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "other.sqlite"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    with pytest.raises(StoreError, match="another program"):
        Store(file)


def test_a_folder_that_cannot_be_made_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="folder cannot be made"):
        Store(tmp_path / "file" / "a.sqlite")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    with pytest.raises(StoreError, match="expected write access"):
        Store(folder / "a.sqlite")


def test_a_full_disk_refuses_the_batch_and_the_store_goes_on(file_store: Store) -> None:
    store = file_store
    store.commit(make_batch(make_ticket(0))).result()
    before = dump(store)

    def limit(connection: sa.Connection, pages: int) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    # The limit belongs to a connection; the pool gives the writer the same one again.
    with store._engine.connect() as connection:
        limit(connection, 1)
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        assert pages > 1
    big = make_batch(make_ticket(1))
    big.messages.append(Message("a", b"x" * 1_000_000))
    with pytest.raises(StoreError, match="disk is full"):
        store.commit(big).result()
    assert dump(store) == before
    with store._engine.connect() as connection:
        limit(connection, 1_000_000)
    store.commit(big).result()
    assert len(store.tickets()) == 2


def test_an_error_shows_no_password() -> None:
    with pytest.raises(StoreError) as caught:
        Store("postgresql://grid:sEcReT@localhost:1/tickets")
    assert "sEcReT" not in str(caught.value)
    with pytest.raises(StoreError, match="no database URL"):
        Store("post gres://:sEcReT@:x:y")


# Kills

WRITING = """
import sys
sys.path[:0] = [{tests!r}]
from test_store import *
with Store({place!r}) as store:
    start = len(store.tickets())
    print("up", flush=True)
    for n in range(start, start + 2000):
        ticket = make_ticket(n)
        future = store.commit(make_batch(ticket))
        second = store.commit(make_batch(ticket.next(T0 + n)))
        if n % 3 == 0:
            second.result()
            print(ticket.id, flush=True)
"""


def test_a_kill_leaves_whole_batches_and_all_that_were_confirmed(place: Path | str) -> None:
    place_text = place if isinstance(place, str) else f"sqlite:///{place}"
    script = WRITING.format(tests=str(Path(__file__).parent), place=place_text)
    confirmed: set[str] = set()
    for after in (1, 40):
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "up\n"
            said = [child.stdout.readline() for _ in range(after)]
            child.send_signal(signal.SIGKILL)
            said += list(child.stdout)
            confirmed |= {line.strip() for line in said if len(line) == 27}
    with Store(place) as store:
        tickets = {ticket.id: ticket for ticket in store.tickets()}
        assert len(confirmed) >= 41
        assert all(tickets[name].version == 2 for name in confirmed)
        told = [(row.message.topic, row.message.payload) for row in store.pending(100_000)]
        assert len(told) == len(set(told)) == sum(ticket.version for ticket in tickets.values())
        for ticket in tickets.values():
            assert [e.version for e in store.events(ticket.id)] == [1, 2][: ticket.version]
        newest = max(tickets)
        assert store.rule_states()["lift"] == {"version": tickets[newest].version, "id": newest}
