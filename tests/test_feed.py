"""The feed mirrors what hosts publish and carries commands to them, through a real mosquitto."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from pydantic import SecretStr

from alerts.connection import BrokerSettings
from alerts.desk import TicketDesk
from alerts.dispatch import Dispatch, DispatchSettings
from alerts.feed import Feed
from alerts.mqtt import CommandReceiver, Publisher
from alerts.store import Batch, Message, Store
from alerts.storm import StormControl, StormSettings
from alerts.tickets import Action, Outcome, Ticket, TicketState
from alerts.topics import Topics
from pipeline.exceptions import BrokerError, CommandError
from tests.broker import Broker, free_port, mosquitto, wait_for
from tests.test_dispatch import ticket as make_ticket

pytestmark = pytest.mark.real

TOPICS = Topics("s")
IDS = ("01JAAAAAAAAAAAAAAAAAAAAAAA", "01JBBBBBBBBBBBBBBBBBBBBBBB")


def settings(port: int, **changes: object) -> BrokerSettings:
    return BrokerSettings.model_validate(
        {"host": "127.0.0.1", "port": port, "retry_min": 0.1, "retry_max": 0.3, **changes}
    )


def ticket(ticket_id: str, version: int = 1, state: TicketState = TicketState.WARNED) -> Ticket:
    return make_ticket("fire").model_copy(
        update={"id": ticket_id, "version": version, "state": state}
    )


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with mosquitto(tmp_path / "broker") as running:
        yield running


class Host:
    """The real store, desk and publisher of one host."""

    def __init__(self, folder: Path, broker: BrokerSettings) -> None:
        self.store = Store(folder / "host.db")
        dispatch = Dispatch(DispatchSettings())
        storm = StormControl(StormSettings(), ZoneInfo("UTC"), lambda camera_id: camera_id)
        desk = TicketDesk(
            self.store,
            TOPICS,
            "h",
            {},
            lambda _change: pytest.fail("no change"),
            storm,
            dispatch,
        )
        commands = CommandReceiver(TOPICS, desk.handle, desk.refuse)
        self.publisher = Publisher(broker, self.store, TOPICS, "h", commands=commands)

    def raise_ticket(self, new: Ticket) -> None:
        message = Message(TOPICS.ticket(new.id), new.to_json().encode(), retain=True)
        batch = Batch(time.time(), tickets=[new], messages=[message])
        self.store.commit(batch).result()

    def close(self) -> None:
        self.publisher.close()
        self.store.close()


def test_the_mirror_follows_from_raise_to_disposal(broker: Broker, tmp_path: Path) -> None:
    host = Host(tmp_path, settings(broker.port))
    host.raise_ticket(ticket(IDS[0]))
    host.publisher.publish_status("lift-1", {"state": "running"})
    host.publisher.start()
    assert host.publisher.flush(5)
    with Feed(settings(broker.port), TOPICS, "wang") as feed:
        feed.wait_until_synced()
        assert list(feed.tickets) == [IDS[0]]
        news = {}
        while item := feed.news(0.2):
            news[item.kind, item.subject] = item
        assert news["ticket", IDS[0]].old
        status = news["camera", "lift-1"].status
        assert status is not None
        assert status["state"] == "running"
        host.raise_ticket(ticket(IDS[1]))
        wait_for(lambda: len(feed.tickets) == 2)
        found = feed.find("bbb")
        reply = feed.command(found, Action.ACKNOWLEDGE, note="on my way")
        assert reply is not None
        assert (reply.ok, reply.version, reply.state) == (True, 2, TicketState.ACKNOWLEDGED)
        wait_for(lambda: feed.tickets[IDS[1]].version == 2)
        acknowledged = feed.tickets[IDS[1]].dispose.acknowledged
        assert acknowledged is not None
        assert acknowledged.by == "wang"
        stale = feed.command(found, Action.ACKNOWLEDGE)
        assert stale is not None
        assert (stale.ok, stale.code) == (False, "version_conflict")
        done = feed.command(feed.tickets[IDS[1]], Action.DISPOSE, outcome=Outcome.CONFIRMED)
        assert done is not None
        assert done.ok
        wait_for(lambda: list(feed.tickets) == [IDS[0]])
        assert host.publisher.flush(5)
        assert list(broker.retained("gridwatch/s/tickets/#")) == [TOPICS.ticket(IDS[0])]
    host.close()


def test_a_late_repeat_opens_no_closed_ticket_again(broker: Broker) -> None:
    with Feed(settings(broker.port), TOPICS) as feed:
        feed.wait_until_synced()
        topic = TOPICS.ticket(IDS[0])
        closed = ticket(IDS[0], 2, TicketState.DISPOSED).to_json()
        for payload in (ticket(IDS[0]).to_json(), closed, "", ticket(IDS[0]).to_json()):
            broker.publish(topic, payload)
        broker.publish(TOPICS.ticket(IDS[1]), ticket(IDS[1]).to_json())
        wait_for(lambda: IDS[1] in feed.tickets)
        assert list(feed.tickets) == [IDS[1]]


def test_what_was_cleared_while_we_were_away_is_dropped(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alerts.feed.RESENT_S", 0.3)
    for ticket_id in IDS:
        broker.publish(TOPICS.ticket(ticket_id), ticket(ticket_id).to_json(), retain=True)
    with Feed(settings(broker.port), TOPICS) as feed:
        feed.wait_until_synced()
        assert set(feed.tickets) == set(IDS)
        broker.stop()
        wait_for(lambda: not feed.connected)
        away = Broker(broker.config.parent, port=free_port())
        away.start()
        away.publish(TOPICS.ticket(IDS[0]), "", retain=True)
        away.stop()
        broker.write_config()
        broker.start()
        wait_for(lambda: feed.connected)
        time.sleep(0.4)
        broker.publish(TOPICS.camera_status("lift-1"), '{"state": "running"}')
        wait_for(lambda: list(feed.tickets) == [IDS[1]])


def test_what_is_no_ticket_is_passed_over(broker: Broker) -> None:
    with Feed(settings(broker.port), TOPICS) as feed:
        feed.wait_until_synced()
        for payload in ("{", "[]", '{"id": "x"}', "\x00"):
            broker.publish(TOPICS.ticket("x"), payload)
            broker.publish(TOPICS.host_status("x"), payload)
        broker.publish(TOPICS.ticket(IDS[0]), ticket(IDS[0]).to_json())
        wait_for(lambda: list(feed.tickets) == [IDS[0]])


def test_a_host_that_is_away_does_not_answer(broker: Broker) -> None:
    with Feed(settings(broker.port), TOPICS, "wang") as feed:
        feed.wait_until_synced()
        assert feed.command(ticket(IDS[0]), Action.ACKNOWLEDGE, timeout_s=0.3) is None


def test_no_broker_is_said_in_words() -> None:
    port = free_port()
    with Feed(settings(port), TOPICS) as feed:
        with pytest.raises(BrokerError, match=f"refused: nothing listens at 127.0.0.1:{port}"):
            feed.wait_until_synced(0.5)
        with pytest.raises(BrokerError, match="nothing was sent"):
            feed.command(ticket(IDS[0]), Action.ACKNOWLEDGE)


def test_a_command_in_anothers_name_is_refused_by_the_broker(tmp_path: Path) -> None:
    acl = "user wang\ntopic read gridwatch/#\npattern write gridwatch/+/commands/%u/#\n"
    with mosquitto(tmp_path / "broker", users={"wang": "w"}, acl=acl) as broker:
        own = settings(broker.port, username="wang", password=SecretStr("w"))
        with Feed(own, TOPICS, "li") as feed:
            feed.wait_until_synced()
            with pytest.raises(BrokerError, match="refuses commands of user 'li'"):
                feed.command(ticket(IDS[0]), Action.ACKNOWLEDGE, timeout_s=0.5)


def test_an_unknown_or_ambiguous_id_is_told() -> None:
    feed = Feed(settings(1), TOPICS)
    feed.tickets = {ticket_id: ticket(ticket_id) for ticket_id in ("01JXA", "01JYA")}
    with pytest.raises(CommandError, match="found none among 2"):
        feed.find("ZZ")
    with pytest.raises(CommandError, match="found 2"):
        feed.find("a")
    assert feed.find("xa").id == "01JXA"
