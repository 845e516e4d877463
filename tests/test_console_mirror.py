"""The mirror with a real mosquitto: newest wins, history stays, commands are answered, scopes hold, loads are shared."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from prometheus_client import CollectorRegistry

from alerts.connection import BrokerSettings
from alerts.tickets import Command, Outcome, Reply, Ticket, apply
from alerts.topics import Topics
from console.app import create_app
from console.database import Database
from console.hub import Hub, Reader
from console.mirror import COMMAND_TTL_S, Mirror
from console.queries import TicketDetail, TicketQuery, TicketReader
from console.relay import Relay
from console.settings import ConsoleSettings
from pipeline.exceptions import CommandError, ConfigError
from tests.broker import Broker, mosquitto, wait_for
from tests.console_feed import make_ticket
from tests.console_page import console_app, serve
from tests.postgres import Cluster
from tests.test_console_users import CHEAP, client_of

pytestmark = pytest.mark.real

T = 1_790_000_000.0
TOPICS = Topics("demo")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with mosquitto(tmp_path / "broker") as running:
        yield running


class Console:
    """A mirror with its database, and what it told of."""

    def __init__(
        self, folder: Path, broker: Broker, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.settings = ConsoleSettings(
            "demo", folder, broker=BrokerSettings(host="127.0.0.1", port=broker.port)
        )
        self.database = Database(self.settings.database_url)
        self.registry = CollectorRegistry()
        self.mirror = Mirror(self.settings, self.database, clock=clock, registry=self.registry)
        self.tickets = TicketReader(self.database)

    def start(self) -> None:
        self.mirror.start()
        wait_for(lambda: self.mirror.connected, 10, "the mirror connects")

    def close(self) -> None:
        self.mirror.close()
        self.database.close()

    def ticket(self, ticket_id: str) -> TicketDetail:
        found = self.tickets.get(ticket_id, "")
        assert found is not None
        return found

    def has(self, ticket: Ticket) -> bool:
        found = self.tickets.get(ticket.id, "")
        return found is not None and found.row.version >= ticket.version

    def count(self, kind: str, result: str) -> float:
        return self.registry.get_sample_value("gridwatch_console_messages_total", {"kind": kind, "result": result}) or 0.0  # fmt: skip


@pytest.fixture
def console(tmp_path: Path, broker: Broker) -> Iterator[Console]:
    made = Console(tmp_path / "console", broker)
    made.start()
    try:
        yield made
    finally:
        made.close()


def publish(broker: Broker, *tickets: Ticket) -> None:
    for ticket in tickets:
        broker.publish(TOPICS.ticket(ticket.id), ticket.to_json(), retain=True)


def acted(ticket: Ticket, action: str, t: float, user: str = "wang", **said: Any) -> Ticket:  # noqa: ANN401 - of a command
    return apply(
        ticket, Command(command_id="c", ticket_id=ticket.id, action=action, user=user, **said), t
    )


class Host:
    """Answers commands as the host of its tickets does."""

    def __init__(self, port: int, *tickets: Ticket) -> None:
        self.tickets = {ticket.id: ticket for ticket in tickets}
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(TOPICS.commands, qos=1)
        self._client.loop_start()
        assert self._ready.wait(5)
        for ticket in tickets:
            self._publish(ticket)

    def _publish(self, ticket: Ticket) -> None:
        self.tickets[ticket.id] = ticket
        self._client.publish(
            TOPICS.ticket(ticket.id), ticket.to_json(), qos=1, retain=ticket.is_open
        )

    def _on_message(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        user, ticket_id = TOPICS.parse_command(message.topic)
        command = Command.parse(bytes(message.payload), user=user, ticket_id=ticket_id)
        ticket = self.tickets[ticket_id]
        code, said = "ok", "done"
        try:
            ticket = apply(ticket, command, time.time())
            self._publish(ticket)
        except CommandError as error:
            code, said = error.code, str(error)
        reply = Reply(command_id=command.command_id, ticket_id=ticket_id, ok=code == "ok", code=code, message=said, version=ticket.version, state=ticket.state, time=ticket.updated)  # fmt: skip
        self._client.publish(TOPICS.reply(user, command.command_id), reply.model_dump_json(), qos=1)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def test_the_newest_version_wins_whatever_the_order(broker: Broker, console: Console) -> None:
    first = make_ticket(T)
    second = acted(first, "acknowledge", T + 5)
    third = acted(second, "dispatch", T + 9, to="li")
    publish(broker, second, first, third, second, third)
    wait_for(lambda: console.count("tickets", "repeated") == 3, 10, "repeats are dropped")
    detail = console.ticket(first.id)
    assert (detail.row.version, detail.row.state) == (3, "dispatched")
    assert (detail.row.acknowledged_t, detail.row.dispatched_t) == (T + 5, T + 9)


def test_history_stays_when_the_topic_is_cleared(broker: Broker, console: Console) -> None:
    ticket = make_ticket(T)
    closed = acted(ticket, "dispose", T + 60, outcome=Outcome.CONFIRMED, note="put out")
    publish(broker, ticket, closed)
    broker.publish(TOPICS.ticket(ticket.id), b"", retain=True)
    event = {"kind": "dispose", "ticket_id": ticket.id, "version": 2, "state": "disposed", "time": "2026-09-21T10:00:00Z", "outcome": "confirmed", "host": "box-1"}  # fmt: skip
    broker.publish(TOPICS.event("fire", "disposed"), json.dumps(event))
    wait_for(lambda: console.count("events", "written") == 1, 10, "the event")
    detail = console.ticket(ticket.id)
    assert (detail.row.state, detail.row.outcome, detail.row.cleared_t) == (
        "disposed",
        "confirmed",
        None,
    )
    assert [one.kind for one in detail.events] == ["dispose"]
    assert console.tickets.counts("").open == 0


def test_what_was_closed_while_the_console_was_away_is_not_open(
    tmp_path: Path, broker: Broker
) -> None:
    stays, goes, other = make_ticket(T), make_ticket(T + 1), make_ticket(T + 2, host="box-2")
    for host in ("box-1", "box-2"):
        broker.publish(TOPICS.host_status(host), json.dumps({"host": host, "status": "online", "since": "2026-09-21T10:00:00Z"}), retain=True)  # fmt: skip
    now = [time.time() - 100.0]
    before = Console(tmp_path / "console", broker, clock=lambda: now[0])
    before.start()
    publish(broker, stays, goes, other)
    wait_for(lambda: all(map(before.has, (stays, goes, other))), 10)
    with before.database.write() as connection:  # the broker forgets its session
        connection.exec_driver_sql("UPDATE meta SET value = 'other' WHERE key = 'identity'")
    before.close()
    broker.publish(TOPICS.ticket(goes.id), b"", retain=True)
    broker.publish(TOPICS.ticket(other.id), b"", retain=True)
    broker.publish(
        TOPICS.host_status("box-2"), b"", retain=True
    )  # of this host the broker knows nothing any more
    now[0] += 100.0
    after = Console(tmp_path / "console", broker, clock=lambda: now[0])
    after.start()
    try:
        wait_for(lambda: after.mirror.wait_until_synced(0.1), 20, "reconciled")
        opened = {row.id for row in after.tickets.find(TicketQuery(is_open=True))}
        assert opened == {stays.id, other.id}
        assert after.ticket(goes.id).row.cleared_t is not None
        publish(broker, acted(goes, "acknowledge", T + 9))  # it was there after all
        wait_for(lambda: after.ticket(goes.id).row.is_open, 10)
    finally:
        after.close()


def test_garbage_changes_nothing_and_is_counted(broker: Broker, console: Console) -> None:
    ticket = make_ticket(T)
    broker.publish(TOPICS.ticket(ticket.id), b"\xff not json")
    broker.publish(TOPICS.ticket("other"), ticket.to_json())
    broker.publish("gridwatch/demo/events/fire/warned", b"[]")
    broker.publish(TOPICS.camera_status("c"), b"{")
    publish(broker, ticket)
    wait_for(lambda: console.has(ticket), 10)
    assert console.count("tickets", "malformed") == 2
    assert console.count("events", "malformed") == 1
    assert console.count("cameras", "malformed") == 1
    assert [row.id for row in console.tickets.find(TicketQuery())] == [ticket.id]


def test_a_command_is_answered_and_the_slower_one_is_told(broker: Broker, console: Console) -> None:
    ticket = make_ticket(time.time())
    with closing(Host(broker.port, ticket)):
        wait_for(lambda: console.has(ticket), 10)
        row = console.ticket(ticket.id).row
        console.mirror.command(row, 1, "wang", "acknowledge", note="on my way")
        wait_for(lambda: console.ticket(ticket.id).row.state == "acknowledged", 10)
        console.mirror.command(row, 1, "li", "dispatch", to="li")
        wait_for(lambda: console.ticket(ticket.id).commands[0].state != "pending", 10)
        slower, faster = console.ticket(ticket.id).commands
        assert (slower.who, slower.state, slower.code) == ("li", "refused", "version_conflict")
        assert (faster.who, faster.state) == ("wang", "ok")
        acknowledged = console.ticket(ticket.id).ticket.dispose.acknowledged
        assert acknowledged is not None
        assert (acknowledged.by, acknowledged.source, acknowledged.note) == (
            "wang",
            "console",
            "on my way",
        )


def test_a_command_waits_for_a_host_that_is_away(broker: Broker, console: Console) -> None:
    ticket = make_ticket(time.time())
    publish(broker, ticket)
    wait_for(lambda: console.has(ticket), 10)
    sent = console.mirror.command(console.ticket(ticket.id).row, 1, "wang", "acknowledge")
    assert sent.state == "pending"
    assert sent.expires_t - sent.sent_t == COMMAND_TTL_S
    now = time.time()
    (row,) = console.tickets.find(TicketQuery(), now)
    assert [one.who for one in row.pending] == ["wang"]
    (row,) = console.tickets.find(TicketQuery(), now + COMMAND_TTL_S + 1)
    assert row.pending == ()
    assert row.state == "warned"


def test_without_a_broker_nothing_is_sent(broker: Broker, console: Console) -> None:
    ticket = make_ticket(time.time())
    publish(broker, ticket)
    wait_for(lambda: console.has(ticket), 10)
    broker.stop()
    wait_for(lambda: not console.mirror.connected, 10)
    sent = console.mirror.command(console.ticket(ticket.id).row, 1, "wang", "acknowledge")
    assert (sent.state, sent.code) == ("refused", "unsent")
    assert console.ticket(ticket.id).commands[0].state == "refused"


def test_an_operator_of_one_grid_sees_nothing_of_another(broker: Broker, tmp_path: Path) -> None:
    console = Console(tmp_path / "console", broker)
    mine, other, near = make_ticket(T), make_ticket(T + 1, grid="jinjiang/13/1", camera="river-1"), make_ticket(T + 2, grid="jinjiang/120/1")  # fmt: skip
    app = console_app(console.settings, console.database, console.mirror)
    console.start()
    try:
        publish(broker, mine, other, near)
        wait_for(lambda: console.has(mine) and console.has(other) and console.has(near), 10)
        with serve(app) as address:
            scoped, _ = client_of(address, "li")
            whole, token = client_of(address, "operator")
            with closing(scoped), closing(whole):
                page = scoped.get("/?show=all").text
                assert mine.id in page
                assert other.id not in page
                assert near.id not in page
                for path in ("", "/thumbnail", "/evidence/0"):
                    assert scoped.get(f"/tickets/{other.id}{path}").status_code == 404
                assert scoped.get(f"/tickets/{mine.id}").status_code == 200
                assert other.id in whole.get("/").text
                assert other.id not in scoped.get("/", params={"q": "river", "show": "all"}).text
                answer = whole.post(f"/tickets/{mine.id}/dispose", data={"version": "1", "outcome": "no such", "csrf": token})  # fmt: skip
                assert answer.status_code == 422
    finally:
        console.close()


def test_the_stream_tells_each_reader_of_its_own_alone(broker: Broker, tmp_path: Path) -> None:
    console = Console(tmp_path / "console", broker)
    app = console_app(console.settings, console.database, console.mirror)
    console.start()
    try:
        with serve(app) as address:
            heard: dict[str, list[str]] = {"li": [], "operator": []}
            clients = []
            for user in heard:
                client, _ = client_of(address, user)
                clients.append(client)
                threading.Thread(target=listen, args=(client, heard[user]), daemon=True).start()
            hub: Hub = app.state.console.hub
            wait_for(lambda: hub.readers == 2, 10, "both listen")
            mine, other = make_ticket(T), make_ticket(T + 1, grid="jinjiang/13/1")
            publish(broker, mine, other)
            wait_for(lambda: "".join(heard["operator"]).count("data-open-ticket") >= 2, 10)
            wait_for(lambda: mine.id in "".join(heard["li"]), 10)
            assert other.id not in "".join(heard["li"])
            publish(broker, acted(mine, "dispose", T + 9, outcome=Outcome.TEST))
            wait_for(lambda: f'data-id="{mine.id}" data-gone' in "".join(heard["li"]), 10)
            hub.close()
            for client in clients:
                client.close()
    finally:
        console.close()


def listen(client: httpx.Client, heard: list[str]) -> None:
    with (
        contextlib.suppress(httpx.HTTPError, RuntimeError),
        client.stream("GET", "/events", timeout=30) as answer,
    ):
        heard.extend(answer.iter_text())


def test_a_reader_that_sleeps_is_told_to_reload() -> None:
    reader = Reader(TicketQuery(), "zh")
    for n in range(1000):
        reader.send(f"event {n}")
    waiting = [reader.queue.get_nowait() for _ in range(reader.queue.qsize())]
    assert len(waiting) <= 64
    assert any("reload" in text for text in waiting)


def test_search_and_filters(broker: Broker, console: Console) -> None:
    a = make_ticket(T, severity="critical")
    b = make_ticket(
        T + 1,
        scenario="illegal_parking",
        camera="gate_east",
        title={"zh": "违规停车", "en": "Parking"},
    )
    publish(
        broker,
        a,
        b.model_copy(
            update={"title": a.title.model_copy(update={"zh": "违规停车", "en": "Parking"})}
        ),
    )
    wait_for(lambda: console.has(a) and console.has(b), 10)

    def ids(**query: Any) -> list[str]:  # noqa: ANN401 - of a query
        return [row.id for row in console.tickets.find(TicketQuery(**query))]

    assert ids() == [b.id, a.id]
    assert ids(text="违规") == [b.id]
    assert ids(text="GATE_east parking") == [b.id]
    assert ids(text="gateXeast") == []
    assert ids(text="%") == []
    assert ids(severities=("critical",)) == [a.id]
    assert ids(scenarios=("fire",)) == [a.id]
    assert ids(grid="jinjiang/12") == [b.id, a.id]
    assert ids(grid="jinjiang/1") == []
    assert ids(before_id=b.id) == [a.id]
    assert console.tickets.grids("jinjiang/12") == ["jinjiang/12", "jinjiang/12/3"]
    assert console.tickets.counts("jinjiang/9").open == 0


def test_a_group_needs_a_database_that_it_can_share(tmp_path: Path) -> None:
    settings = ConsoleSettings("demo", tmp_path, share="district")
    database = Database(settings.database_url)
    with pytest.raises(ConfigError, match="postgresql"):
        Mirror(settings, database)
    with pytest.raises(ConfigError, match="site"):
        Mirror(ConsoleSettings("a/b", tmp_path), database)
    database.close()


def test_two_consoles_share_the_load_and_handle_no_ticket_twice(
    tmp_path: Path, broker: Broker, cluster: Cluster
) -> None:
    url = cluster.url(cluster.database())
    early = [make_ticket(T + n) for n in range(5)]
    publish(broker, *early)  # retained, which does not come over a shared subscription
    registries, mirrors, databases, told = [], [], [], []
    for n in range(2):
        settings = ConsoleSettings("demo", tmp_path / str(n), broker=BrokerSettings(host="127.0.0.1", port=broker.port), database=url, share="district")  # fmt: skip
        databases.append(Database(url))
        registries.append(CollectorRegistry())
        mirrors.append(Mirror(settings, databases[n], registry=registries[n]))
    heard: set[str] = set()
    relay = Relay(
        databases[0],
        mirrors[0].instance,
        lambda kind, ids: heard.update(ids) if kind == "ticket" else None,
    )
    relay.start()
    reader = TicketReader(databases[1])
    try:
        for mirror in mirrors:
            mirror.start()
            assert mirror.wait_until_synced(20)
        assert {row.id for row in reader.find(TicketQuery())} == {ticket.id for ticket in early}
        told.append([written(one) for one in registries])
        repeats = [messages(one, "tickets", "repeated") for one in registries]
        late = [make_ticket(T + 100 + n) for n in range(40)]
        publish(broker, *late)
        wait_for(lambda: len(reader.find(TicketQuery(limit=100))) == 45, 20, "all came")
        time.sleep(0.5)  # what came twice would come now
        fresh = [
            now - before for now, before in zip(map(written, registries), told[0], strict=True)
        ]
        assert sum(fresh) == 40, "a ticket was handled twice, or not at all"
        assert min(fresh) > 0, "one of them did it all"
        assert [messages(one, "tickets", "repeated") for one in registries] == repeats
        wait_for(
            lambda: len(heard & {ticket.id for ticket in late}) == fresh[1],
            10,
            "the first hears of the second's",
        )
    finally:
        relay.close()
        for mirror in mirrors:
            mirror.close()
        for database in databases:
            database.close()


def messages(registry: CollectorRegistry, kind: str, result: str) -> float:
    return registry.get_sample_value("gridwatch_console_messages_total", {"kind": kind, "result": result}) or 0.0  # fmt: skip


def written(registry: CollectorRegistry) -> float:
    return messages(registry, "tickets", "written")


def test_the_application_stands_without_a_mirror(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'c.sqlite'}")
    app = create_app(ConsoleSettings("demo", tmp_path), database, hasher=CHEAP)
    with serve(app) as address:
        assert httpx.get(f"{address}/healthz").json() == {"status": "ok", "problems": {}}
    database.close()
