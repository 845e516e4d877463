"""The publisher, the command receiver and the feed against a real mosquitto (and the embedded amqtt)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError
from structlog.testing import capture_logs

from alerts import mqtt
from alerts.connection import BrokerSettings, TlsSettings
from alerts.mqtt import CommandReceiver, Publisher
from alerts.store import Batch, Message, OutboxRow, Store
from alerts.tickets import Command
from alerts.topics import Topics
from pipeline.exceptions import CommandError, ConfigError, StoreError
from tests.broker import Broker, Certificates, free_port, mosquitto, wait_for
from tests.conftest import REPOSITORY
from tests.test_store import make_ticket

pytestmark = pytest.mark.real

TOPICS = Topics("jinling")
HOST = "box-1"
STATUS = TOPICS.host_status(HOST)


def settings(port: int, **changes: object) -> BrokerSettings:
    return BrokerSettings.model_validate(
        {"host": "127.0.0.1", "port": port, "retry_min": 0.1, "retry_max": 0.5, **changes}
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.db") as opened:
        yield opened


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with mosquitto(tmp_path / "broker") as running:
        yield running


def put(store: Store, *messages: tuple[str, str] | tuple[str, str, bool]) -> None:
    batch = Batch(time.time())
    for topic, payload, *retain in messages:
        batch.messages.append(Message(topic, payload.encode(), bool(retain and retain[0])))
    store.commit(batch).result()


def event(n: int) -> tuple[str, str]:
    return (TOPICS.event("fire", "warned"), str(n))


def numbers(payloads: list[bytes]) -> list[int]:
    return [int(payload) for payload in payloads]


def test_starts_without_a_broker_and_delivers_in_order_when_it_comes(
    store: Store, tmp_path: Path
) -> None:
    port = free_port()
    put(store, *[event(n) for n in range(130)])
    publisher = Publisher(settings(port), store, TOPICS, HOST)
    with capture_logs() as logs:
        publisher.start()
        wait_for(lambda: publisher.status().failures >= 3)
        assert publisher.status().reason == f"refused: nothing listens at 127.0.0.1:{port}"
        with mosquitto(tmp_path / "broker", port=port) as broker:
            collector = broker.collect("gridwatch/+/events/#")
            put(store, *[event(n) for n in range(130, 200)])
            collector.wait(lambda messages: len(messages) >= 200)
            assert publisher.flush(5)
            assert numbers(collector.payloads()) == list(range(200))
            assert store.pending_count() == 0
            publisher.close()
    assert [entry["event"] for entry in logs if "broker" in entry["event"]] == [
        "broker away, retrying",
        "broker connected",
    ]


def test_broker_restarts_in_mid_run_and_nothing_is_lost(
    store: Store, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "BROKER_SAVES_S", 0.0)  # one that stops in order forgets nothing
    collector = broker.collect("gridwatch/+/events/#")
    publisher = Publisher(settings(broker.port), store, TOPICS, HOST)
    publisher.start()
    for n in range(600):
        put(store, event(n))
        if n in {150, 350}:
            broker.stop()
        if n in {200, 400}:
            broker.start()
    collector.wait(lambda messages: {int(m.payload) for m in messages} >= set(range(600)), 20)
    assert publisher.flush(5)
    publisher.close()
    got = numbers(collector.payloads())
    assert set(got) == set(range(600)), "no ids but ours"
    first_seen = list(dict.fromkeys(got))
    assert first_seen == list(range(600)), "in order"
    window = settings(broker.port).max_inflight
    assert len(got) - 600 <= 2 * window, "only what was in flight comes twice"
    assert store.pending_count() == 0


def test_broker_killed_hard_takes_the_rest_when_it_is_back(store: Store, broker: Broker) -> None:
    publisher = Publisher(settings(broker.port), store, TOPICS, HOST)
    publisher.start()
    put(store, *[event(n) for n in range(100)])
    assert publisher.flush(5)
    broker.kill()
    put(store, *[event(n) for n in range(100, 150)])
    broker.start()
    collector = broker.collect("gridwatch/+/events/#")
    assert publisher.flush(10)
    publisher.close()
    assert store.pending_count() == 0
    assert set(numbers(collector.payloads())) <= set(range(150))


def test_retained_ticket_is_cleared_after_disposal(store: Store, broker: Broker) -> None:
    topic = TOPICS.ticket("01J")
    publisher = Publisher(settings(broker.port), store, TOPICS, HOST)
    publisher.start()
    put(store, (topic, "open", True))
    assert publisher.flush(5)
    assert broker.retained("gridwatch/+/tickets/#") == {topic: b"open"}
    collector = broker.collect("gridwatch/+/tickets/#")
    put(store, (topic, "disposed", True), (topic, "", True))
    assert publisher.flush(5)
    got = collector.wait(lambda messages: len(messages) >= 3)
    assert [m.payload for m in got] == [b"open", b"disposed", b""]
    assert broker.retained("gridwatch/+/tickets/#") == {}
    publisher.close()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_wrong_password_is_one_clear_line_without_the_password(
    store: Store, tmp_path: Path, protocol: str
) -> None:
    with mosquitto(tmp_path / "broker", users={"box": "right"}) as broker:
        wrong = settings(
            broker.port, protocol=protocol, username="box", password=SecretStr("hunter2")
        )
        publisher = Publisher(wrong, store, TOPICS, HOST)
        with capture_logs() as logs:
            publisher.start()
            wait_for(lambda: publisher.status().failures >= 3)
            publisher.close()
    lines = [entry for entry in logs if entry["event"] == "broker away, retrying"]
    assert len(lines) == 1
    assert "refuses user 'box': wrong user name or password" in lines[0]["reason"]
    assert "hunter2" not in str(logs)
    assert "hunter2" not in repr(wrong)


def test_a_wrong_certificate_is_one_clear_line(store: Store, tmp_path: Path) -> None:
    ours, theirs = Certificates.make(tmp_path / "ours"), Certificates.make(tmp_path / "theirs")
    with mosquitto(tmp_path / "broker", certificates=theirs) as broker:
        tls = TlsSettings(ca=ours.ca)
        publisher = Publisher(settings(broker.port, host="localhost", tls=tls), store, TOPICS, HOST)
        with capture_logs() as logs:
            publisher.start()
            wait_for(lambda: publisher.status().failures >= 2)
            publisher.close()
    lines = [entry for entry in logs if entry["event"] == "broker away, retrying"]
    assert [line["reason"].split(":")[:2] for line in lines] == [["TLS", " wrong certificate"]]


def test_a_certificate_for_another_host_is_refused(store: Store, tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path / "certificates", host="broker.example")
    with mosquitto(tmp_path / "broker", certificates=certificates) as broker:
        tls = TlsSettings(ca=certificates.ca)
        publisher = Publisher(settings(broker.port, host="localhost", tls=tls), store, TOPICS, HOST)
        publisher.start()
        wait_for(lambda: publisher.status().failures >= 1)
        reason = publisher.status().reason
        publisher.close()
    assert reason is not None
    assert "not valid for 'localhost'" in reason


def test_tls_with_a_client_certificate(store: Store, tmp_path: Path) -> None:
    made = Certificates.make(tmp_path / "certificates")
    with mosquitto(tmp_path / "broker", certificates=made, client_certificates=True) as broker:
        tls = TlsSettings(ca=made.ca, cert=made.client_cert, key=made.client_key)
        publisher = Publisher(settings(broker.port, host="localhost", tls=tls), store, TOPICS, HOST)
        put(store, event(1))
        publisher.start()
        assert publisher.flush(5)
        publisher.close()


def test_missing_tls_files_are_the_operators_to_mend(store: Store, tmp_path: Path) -> None:
    tls = TlsSettings(ca=tmp_path / "missing.pem")
    with pytest.raises(ConfigError, match=r"broker.tls.ca: .*missing.pem is not a file"):
        Publisher(settings(1, tls=tls), store, TOPICS, HOST)


def test_a_name_without_address_is_said_to_be_dns(store: Store) -> None:
    publisher = Publisher(settings(1883, host="nowhere.invalid"), store, TOPICS, HOST)
    publisher.start()
    wait_for(lambda: publisher.status().failures >= 1)
    reason = publisher.status().reason
    publisher.close()
    assert reason == "DNS: the name nowhere.invalid cannot be resolved"


def test_unknown_settings_and_protocols_are_refused() -> None:
    with pytest.raises(ValidationError):
        BrokerSettings.model_validate({"protocol": "4"})
    with pytest.raises(ValidationError):
        BrokerSettings.model_validate({"hots": "x"})
    assert BrokerSettings.model_validate({"protocol": 5}).protocol == "5"


EMBEDDED = """
    import asyncio, sys
    from amqtt.broker import Broker
    config = {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{sys.argv[1]}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    async def serve():
        await Broker(config).start()
        await asyncio.Event().wait()
    asyncio.run(serve())
"""


def test_falls_back_to_3_1_1_with_the_embedded_broker(store: Store) -> None:
    port = free_port()
    embedded = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(EMBEDDED), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        put(store, *[event(n) for n in range(20)])
        publisher = Publisher(settings(port), store, TOPICS, HOST)
        publisher.start()
        assert publisher.flush(15)
        assert publisher.status().protocol == "3.1.1"
        assert store.pending_count() == 0
        publisher.close()
    finally:
        embedded.kill()
        embedded.wait()


ACL = "topic readwrite gridwatch/#\ntopic deny gridwatch/jinling/events/secret/#\n"


def test_a_refused_topic_is_kept_and_blocks_no_other(store: Store, tmp_path: Path) -> None:
    refused = TOPICS.event("secret", "warned")
    with mosquitto(tmp_path / "broker", acl=ACL) as broker:
        collector = broker.collect("gridwatch/+/events/#")
        publisher = Publisher(settings(broker.port), store, TOPICS, HOST)
        put(store, *[(refused, f"s{n}") for n in range(250)], *[event(n) for n in range(50)])
        with capture_logs() as logs:
            publisher.start()
            collector.wait(lambda messages: len(messages) >= 50)
            wait_for(lambda: store.pending_count() == 250)
            wait_for(lambda: publisher.status().refused > 20, what="tried again")
        assert numbers(collector.payloads()) == list(range(50))
        said = [entry for entry in logs if entry["event"].startswith("broker refuses message")]
        assert len(said) == 1
        assert said[0]["topic"] == refused
        (tmp_path / "broker" / "acl").write_text("topic readwrite gridwatch/#\n")
        broker.reload()
        collector.wait(lambda messages: len(messages) >= 300, 20)
        assert publisher.flush(5)
        publisher.close()
        secret = [m.payload.decode() for m in collector.messages if m.topic == refused]
        assert secret == [f"s{n}" for n in range(250)]


def test_refused_tickets_are_one_line_and_no_busy_loop(store: Store, tmp_path: Path) -> None:
    acl = "topic readwrite gridwatch/#\ntopic deny gridwatch/jinling/tickets/#\n"
    with mosquitto(tmp_path / "broker", acl=acl) as broker:
        publisher = Publisher(settings(broker.port), store, TOPICS, HOST)
        put(store, *[(TOPICS.ticket(f"T{n}"), "x", True) for n in range(300)], event(1))
        with capture_logs() as logs:
            publisher.start()
            wait_for(lambda: publisher.status().refused >= 300)
            wait_for(lambda: store.pending_count() == 300, what="the event passes")
            broker.stop()
            wait_for(lambda: not publisher.status().connected)
            began_s = time.process_time()
            time.sleep(1.5)
            assert time.process_time() - began_s < 0.5, "waits for the broker, does not spin"
            publisher.close()
        said = [entry for entry in logs if entry["event"].startswith("broker refuses message")]
        assert len(said) == 1


def test_a_message_that_is_too_large_is_parked(store: Store, broker: Broker) -> None:
    collector = broker.collect("gridwatch/+/events/#")
    publisher = Publisher(settings(broker.port, max_message=10_000), store, TOPICS, HOST)
    put(store, event(1), (TOPICS.event("fire", "warned"), "9" * 20_000), event(2))
    publisher.start()
    assert publisher.flush(5)
    collector.wait_count(2)
    publisher.close()
    assert numbers(collector.payloads()) == [1, 2]
    assert publisher.status().parked == 1
    assert store.pending_count() == 0


def test_a_message_on_which_the_broker_hangs_up_is_kept_and_the_others_pass(
    store: Store, tmp_path: Path
) -> None:
    # mosquitto answers with a reason that a PUBACK cannot have; others just close the connection
    with mosquitto(tmp_path / "broker", extra=["message_size_limit 5000"]) as broker:
        collector = broker.collect("gridwatch/+/events/#")
        publisher = Publisher(settings(broker.port), store, TOPICS, HOST)
        put(store, event(1), (TOPICS.event("river_discoloration", "warned"), "9" * 20_000))
        put(store, *[event(n) for n in range(2, 40)])
        publisher.start()
        wait_for(lambda: store.pending_count() == 1, 20)
        publisher.close()
        collector.wait(lambda messages: {int(m.payload) for m in messages} == set(range(1, 40)))
        assert len(store.pending()[0].message.payload) == 20_000


def test_host_status_online_stopped_and_lost(store: Store, broker: Broker, tmp_path: Path) -> None:
    publisher = Publisher(settings(broker.port), store, TOPICS, HOST, clock=lambda: 1000.0)
    publisher.start()
    wait_for(lambda: STATUS in broker.retained(STATUS))
    assert json.loads(broker.retained(STATUS)[STATUS]) == {
        "host": HOST,
        "status": "online",
        "reason": None,
        "since": 1000.0,
    }
    publisher.close()
    assert json.loads(broker.retained(STATUS)[STATUS]) == {
        "host": HOST,
        "status": "offline",
        "reason": "stopped",
        "since": 1000.0,
    }
    victim = run_publisher(tmp_path / "victim.db", broker.port)
    wait_for(lambda: json.loads(broker.retained(STATUS)[STATUS])["status"] == "online")
    victim.kill()
    victim.wait()
    wait_for(lambda: json.loads(broker.retained(STATUS)[STATUS])["status"] == "offline")
    assert json.loads(broker.retained(STATUS)[STATUS])["reason"] == "lost"


def test_camera_status_latest_wins_and_comes_again_after_a_reconnect(
    store: Store, broker: Broker
) -> None:
    topic = TOPICS.camera_status("lift-1")
    publisher = Publisher(settings(broker.port), store, TOPICS, HOST)
    publisher.publish_status("lift-1", {"state": "connecting"})
    publisher.publish_status("lift-1", {"state": "live"})
    publisher.start()
    wait_for(lambda: topic in broker.retained(topic))
    assert json.loads(broker.retained(topic)[topic]) == {"camera": "lift-1", "state": "live"}
    broker.kill()
    for database in (broker.config.parent).glob("*.db"):
        database.unlink()
    publisher.publish_status("lift-1", {"state": "frozen"})
    broker.start()
    wait_for(lambda: topic in broker.retained(topic))
    assert json.loads(broker.retained(topic)[topic])["state"] == "frozen"
    assert json.loads(broker.retained(STATUS)[STATUS])["status"] == "online"
    assert store.pending_count() == 0, "statuses are not durable"
    publisher.close()


def test_what_a_crashed_broker_had_not_saved_comes_again(store: Store, broker: Broker) -> None:
    publisher = Publisher(settings(broker.port), store, TOPICS, HOST)
    publisher.start()
    topics = [TOPICS.ticket(f"T{n}") for n in range(4)]
    put(store, (topics[0], "saved", True), (topics[1], "closing", True))
    assert publisher.flush(10)
    broker.restart()  # ends in order, and so saves
    put(store, (topics[1], "", True), (topics[2], "old", True), (topics[2], "new", True))
    assert publisher.flush(10)
    confirmed_t = store.confirmed_t()
    broker.kill()
    broker.start()
    expected = {topics[0]: b"saved", topics[2]: b"new"}
    wait_for(lambda: broker.retained("gridwatch/+/tickets/+") == expected, 20)
    assert publisher.flush(10)
    publisher.close()
    assert confirmed_t is not None
    assert store.confirmed_t() == confirmed_t, "what comes again keeps its first time"


def test_a_new_broker_learns_of_every_open_ticket(store: Store, broker: Broker) -> None:
    told, waiting = make_ticket(1), make_ticket(2)
    store.commit(Batch(1000.0, tickets=[told, waiting])).result()
    put(store, (TOPICS.ticket(waiting.id), waiting.to_json(), True))
    collector = broker.collect("gridwatch/+/tickets/+")
    publisher = Publisher(settings(broker.port), store, TOPICS, HOST)
    publisher.start()
    collector.wait_count(2)
    assert publisher.flush(10)
    expected = {TOPICS.ticket(t.id): t.to_json().encode() for t in (told, waiting)}
    assert broker.retained("gridwatch/+/tickets/+") == expected
    publisher.close()
    assert len(collector.messages) == 2, "what waits anyway is not doubled"


def test_versions_that_were_superseded_while_they_waited_or_flew_do_no_harm(
    store: Store, broker: Broker
) -> None:
    topic, inbox = TOPICS.ticket("T1"), TOPICS.inbox("town/12/3")
    collector = broker.collect(inbox)
    publisher = Publisher(settings(broker.port), store, TOPICS, HOST)
    publisher.start()
    for version in range(1, 301):
        payload = str(version).encode()
        rows = [
            Message(name, payload, name == topic, 1, "T1", version, supersedes=True)
            for name in (topic, inbox)
        ]
        store.commit(Batch(time.time(), messages=rows)).result()
    assert publisher.flush(20)
    assert store.pending_count() == 0
    assert broker.retained(topic) == {topic: b"300"}
    told = numbers(collector.payloads())
    assert told[-1] == 300
    assert told == sorted(set(told))
    publisher.close()


class NarrowConnection:
    """Takes everything, and counts what it has not acknowledged yet."""

    receive_maximum, maximum_packet, number = 10, 1 << 20, 1

    def __init__(self) -> None:
        self.connected = threading.Event()
        self.connected.set()
        self.waiting: list[tuple[int, int]] = []
        self.topics: list[str] = []

    def publish(self, topic: str, *_: object, **__: object) -> tuple[int, int]:
        token = (1, len(self.topics))
        self.topics.append(topic)
        self.waiting.append(token)
        return token


def test_statuses_and_rows_together_stay_within_the_brokers_window(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = Publisher(settings(1), store, TOPICS, HOST)
    connection = NarrowConnection()
    monkeypatch.setattr(publisher, "_connection", connection)
    put(store, *[event(n) for n in range(30)])
    for n in range(30):
        publisher.publish_status(f"cam-{n}", {"state": "running"})
    for _ in range(200):
        publisher._step()
        assert len(connection.waiting) <= connection.receive_maximum
        if not connection.waiting:
            break
        publisher._on_acknowledged(connection.waiting.pop(0), None)
    assert len(connection.topics) == len({*connection.topics}) + 29, "30 statuses, 30 events"
    assert store.pending_count() == 0


def test_an_actuation_goes_now_or_never(store: Store, broker: Broker) -> None:
    collector = broker.collect("gridwatch/+/actuators/#")
    publisher = Publisher(settings(broker.port), store, TOPICS, HOST, clock=lambda: 50.0)
    assert not publisher.actuate("lift-1", "hold_door", {"seconds": 5}, expires_s=3)
    publisher.start()
    wait_for(lambda: publisher.status().connected)
    assert publisher.actuate("lift-1", "hold_door", {"seconds": 8}, expires_s=3)
    got = collector.wait(lambda messages: messages)
    assert [(m.topic, json.loads(m.payload), m.qos, m.retain) for m in got] == [
        (TOPICS.actuator("lift-1", "hold_door"), {"seconds": 8, "expires": 53.0}, 0, False)
    ]
    broker.stop()
    wait_for(lambda: not publisher.status().connected)
    assert not publisher.actuate("lift-1", "hold_door", {"seconds": 9}, expires_s=3)
    broker.start()
    wait_for(lambda: publisher.status().connected)
    put(store, event(1))
    assert publisher.flush(5)
    publisher.close()
    assert len(collector.messages) == 1
    assert store.pending_count() == 0


@pytest.mark.parametrize("state", ["up", "away", "frozen"])
def test_closes_within_three_seconds(store: Store, broker: Broker, state: str) -> None:
    publisher = Publisher(settings(broker.port), store, TOPICS, HOST)
    if state == "away":
        broker.stop()
    publisher.start()
    if state != "away":
        wait_for(lambda: publisher.status().connected)
    if state == "frozen":
        broker.freeze()
    put(store, *[event(n) for n in range(100)])
    began = time.monotonic()
    publisher.close(3.0)
    took_s = time.monotonic() - began
    if state == "frozen":
        broker.thaw()
    assert took_s < 3.2


def test_a_failing_store_is_said_once_and_outlived(
    store: Store, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alerts.mqtt.STORE_RETRY_S", 0.05)
    original, failures = store.pending, iter(range(3))

    def pending(limit: int = 100, after: int = 0) -> list[OutboxRow]:
        if next(failures, None) is not None:
            raise StoreError("store x: the disk is full")
        return original(limit, after)

    monkeypatch.setattr(store, "pending", pending)
    collector = broker.collect("gridwatch/+/events/#")
    publisher = Publisher(settings(broker.port), store, TOPICS, HOST)
    put(store, *[event(n) for n in range(10)])
    with capture_logs() as logs:
        publisher.start()
        assert publisher.flush(5)
    publisher.close()
    assert numbers(collector.payloads()) == list(range(10))
    said = [entry["event"] for entry in logs if "outbox" in entry["event"]]
    assert said == ["outbox cannot be used, retrying", "outbox is back"]


# -- killed in mid-drain

VICTIM = """
    import sys, time
    from alerts.connection import BrokerSettings
    from alerts.mqtt import Publisher
    from alerts.store import Store
    from alerts.topics import Topics
    publisher = Publisher(
        BrokerSettings(host="127.0.0.1", port=int(sys.argv[2]), retry_min=0.1, max_inflight=5),
        Store(sys.argv[1]), Topics("jinling"), "box-1",
    )
    publisher.start()
    time.sleep(60)
"""


def run_publisher(database: Path, port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(VICTIM), str(database), str(port)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
    )


def test_sigkill_in_mid_drain_loses_nothing(tmp_path: Path, broker: Broker) -> None:
    database, total = tmp_path / "store.db", 1500
    with Store(database) as store:
        put(store, *[event(n) for n in range(total)])
    collector = broker.collect("gridwatch/+/events/#")
    for goal in (200, 800):
        victim = run_publisher(database, broker.port)
        collector.wait_count(goal)
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
    with Store(database) as store:
        assert 0 < store.pending_count() < total, "killed in mid-drain"
        publisher = Publisher(settings(broker.port), store, TOPICS, HOST)
        publisher.start()
        assert publisher.flush(20)
        publisher.close()
        assert store.pending_count() == 0
    collector.wait(lambda messages: {int(m.payload) for m in messages} >= set(range(total)))
    got = numbers(collector.payloads())
    assert set(got) == set(range(total))
    assert list(dict.fromkeys(got)) == list(range(total)), "in order"


# -- commands


class Desk:
    """Takes commands down."""

    def __init__(self) -> None:
        self.commands: list[tuple[Command, float]] = []
        self.refusals: list[tuple[str, str, str, str]] = []

    def handle(self, command: Command, t: float) -> None:
        if command.note == "boom":
            raise RuntimeError("boom")
        self.commands.append((command, t))

    def refuse(
        self, user: str, ticket: str, command_id: str, error: CommandError, _t: float
    ) -> None:
        self.refusals.append((user, ticket, command_id, error.code))


def receiver(desk: Desk) -> CommandReceiver:
    return CommandReceiver(TOPICS, desk.handle, desk.refuse)


GOOD = {"command_id": "c1", "action": "acknowledge", "note": "on my way"}


def test_a_command_takes_its_user_from_the_topic() -> None:
    desk = Desk()
    payload = {**GOOD, "user": "somebody-else", "ticket_id": "T9"}
    receiver(desk).receive(TOPICS.command("wang", "T1"), json.dumps(payload).encode(), False, 7.0)
    [(command, t)] = desk.commands
    assert (command.user, command.ticket_id, command.note, t) == ("wang", "T1", "on my way", 7.0)


@pytest.mark.parametrize(
    ("payload", "retain", "code", "answered"),
    [
        pytest.param(json.dumps(GOOD), True, "retained", True, id="retained"),
        pytest.param("{", False, "malformed", False, id="no JSON"),
        pytest.param("[1]", False, "malformed", False, id="no object"),
        pytest.param("[" * 5000, False, "malformed", False, id="nested"),
        pytest.param("\xff\xfe", False, "malformed", False, id="no text"),
        pytest.param("", False, "malformed", False, id="empty"),
        pytest.param('{"command_id": "c1"}', False, "malformed", True, id="no action"),
        pytest.param(json.dumps({**GOOD, "action": "x"}), False, "malformed", True, id="action"),
        pytest.param(json.dumps({**GOOD, "sudo": 1}), False, "malformed", True, id="unknown key"),
        pytest.param(json.dumps({**GOOD, "command_id": "a/b"}), False, "malformed", False, id="id"),
        pytest.param(
            json.dumps({**GOOD, "note": "x" * 2_000_000}), False, "too_large", False, id="large"
        ),
    ],
)
def test_what_is_no_command_changes_nothing_and_is_recorded(
    payload: str, retain: bool, code: str, answered: bool
) -> None:
    desk = Desk()
    checked = receiver(desk)
    with capture_logs() as logs:
        checked.receive(TOPICS.command("wang", "T1"), payload.encode("latin-1"), retain, 7.0)
    assert desk.commands == []
    assert checked.refused == 1
    assert [entry["code"] for entry in logs] == [code]
    assert desk.refusals == ([("wang", "T1", "c1", code)] if answered else [])


def test_a_strange_topic_is_no_command() -> None:
    desk = Desk()
    receiver(desk).receive(
        "gridwatch/elsewhere/commands/w/tickets/T", json.dumps(GOOD).encode(), False, 0
    )
    assert desk.commands == []


def test_a_poisonous_command_does_not_stop_the_next() -> None:
    desk = Desk()
    checked = receiver(desk)
    with capture_logs() as logs:
        bad = json.dumps({**GOOD, "note": "boom"}).encode()
        checked.receive(TOPICS.command("wang", "T1"), bad, False, 0)
    checked.receive(TOPICS.command("wang", "T1"), json.dumps(GOOD).encode(), False, 0)
    assert len(desk.commands) == 1
    assert [entry["event"] for entry in logs] == ["command failed"]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_commands_come_from_the_broker_and_wait_for_a_host_that_is_away(
    store: Store, broker: Broker, protocol: str
) -> None:
    desk = Desk()
    topic = TOPICS.command("wang", "T1")

    def start() -> Publisher:
        publisher = Publisher(
            settings(broker.port, protocol=protocol), store, TOPICS, HOST, commands=receiver(desk)
        )
        publisher.start()
        wait_for(lambda: publisher.status().connected)
        wait_for(
            lambda: (
                f"Sending SUBACK to gridwatch-jinling-{HOST}" in broker.log() or publisher.flush(1)
            )
        )
        return publisher

    broker.publish(topic, json.dumps({**GOOD, "command_id": "old"}), retain=True)
    publisher = start()
    broker.publish(topic, json.dumps({**GOOD, "command_id": "live"}))
    wait_for(lambda: desk.commands)
    assert desk.refusals == [("wang", "T1", "old", "retained")]
    publisher.close()
    broker.publish(topic, json.dumps({**GOOD, "command_id": "while-away"}))
    publisher = start()
    wait_for(lambda: len(desk.commands) == 2)
    assert [command.command_id for command, _ in desk.commands] == ["live", "while-away"]
    publisher.close()


def test_a_command_is_acknowledged_only_when_it_is_stored(
    store: Store, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alerts.mqtt.STORE_RETRY_S", 0.05)
    handled: list[str] = []
    failures = iter(range(2))

    def handle(command: Command, _t: float) -> None:
        if next(failures, None) is not None:
            raise StoreError("store x: the disk is full")
        handled.append(command.command_id)

    publisher = Publisher(
        settings(broker.port), store, TOPICS, HOST, commands=CommandReceiver(TOPICS, handle)
    )
    publisher.start()
    wait_for(lambda: publisher.flush(1))
    broker.publish(TOPICS.command("wang", "T1"), json.dumps(GOOD))
    wait_for(lambda: handled == ["c1"])
    publisher.close()
