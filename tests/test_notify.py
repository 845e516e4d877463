"""Calls to people: at least once, by reference, in quiet hours not, many in one, and no URL in any word of ours."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs

from alerts.dispatch import Dispatch, DispatchSettings
from alerts.notify import Notifier, contact_problems
from alerts.store import Store
from alerts.tickets import Action, Ticket, seconds
from tests.broker import wait_for
from tests.test_desk import Camera, command
from tests.test_desk_escalation import SETTINGS, make_desk

# Of apprise itself, on its import.
pytestmark = pytest.mark.filterwarnings("ignore:.*imghdr:DeprecationWarning")
ZONE = ZoneInfo("Asia/Shanghai")
# T0 of the desk's tests is 06:13 in the morning there.


class Service:
    """Takes messages, or refuses."""

    def __init__(self) -> None:
        self.refuses: set[str] = set()
        self.taken: list[tuple[str, str, str]] = []

    def __call__(self, url: str, title: str, body: str) -> bool:
        if url in self.refuses:
            raise OSError(f"cannot reach {url}")
        self.taken.append((url, title, body))
        return True

    def urls(self) -> list[str]:
        return [url for url, _, _ in self.taken]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "tickets.sqlite") as opened:
        yield opened


def notifier(store: Store, service: Service, **more: object) -> Notifier:
    dispatch = Dispatch(DispatchSettings.model_validate({**SETTINGS, **more}))
    return Notifier(store, dispatch, "host1", ZONE, send=service)


def parking(store: Store, n: int = 1, later_s: float = 0.0) -> Ticket:
    camera = Camera(make_desk(store), None, "lane", "illegal_parking", f"stay:{n}")
    camera.t += later_s
    return camera.alarm()


def test_a_call_is_delivered_once_in_words(store: Store) -> None:
    ticket, service = parking(store), Service()
    calls = notifier(store, service, calls={"console_url": "https://box/"})
    t = seconds(ticket.created)
    assert calls.step(t) == 1
    assert calls.step(t + 3600) == 0
    ((url, title, body),) = service.taken
    assert url == "json://h/wang"
    assert title == "【重要】illegal_parking（测试）"
    assert body.splitlines() == [
        "地点：town · 12 · 3 · LANE",
        f"时间：{ticket.warn.raised.astimezone(ZONE):%m-%d %H:%M:%S}",
        "事由：新告警",
        f"https://box/tickets/{ticket.id}",
        f"编号：{ticket.id}/1",
    ]
    assert [(c.state, c.done_t) for c in store.calls(ticket.id)] == [("sent", t)]


def test_what_somebody_has_taken_calls_nobody(store: Store) -> None:
    ticket, service = parking(store), Service()
    make_desk(store).handle(command(ticket, Action.ACKNOWLEDGE), seconds(ticket.created) + 1)
    assert notifier(store, service).step(seconds(ticket.created) + 2) == 0
    assert service.taken == []
    assert [c.state for c in store.calls(ticket.id)] == ["answered"]


def test_a_failed_call_is_tried_again_more_and_more_rarely_until_it_is_given_up(
    store: Store,
) -> None:
    ticket, service = parking(store), Service()
    service.refuses = {"json://h/wang"}
    calls = notifier(store, service, calls={"give_up": "1h"})
    t = seconds(ticket.created)
    tried = [
        n for n in range(0, 5000, 10) if calls.step(t + n) == 0 and _attempts(store, ticket, t + n)
    ]
    assert tried[:5] == [0, 30, 90, 210, 510]
    (call,) = store.calls(ticket.id)
    assert call.state == "failed"
    event = store.events(ticket.id)[-1]
    assert (event.kind, event.document["person"]) == ("uncalled", "wang")


_seen: dict[str, int] = {}


def _attempts(store: Store, ticket: Ticket, _t: float) -> bool:
    (call,) = store.calls(ticket.id)
    before, _seen[ticket.id] = _seen.get(ticket.id, 0), call.attempts
    return call.attempts > before


def test_the_next_contact_is_tried_where_one_fails_and_a_restart_goes_on(store: Store) -> None:
    ticket, service = parking(store), Service()
    people = [{"id": "wang", "grids": ["town/12/3"], "contacts": ["a://1", "b://2"]}]
    service.refuses = {"a://1", "b://2"}
    t = seconds(ticket.created)
    assert notifier(store, service, people=people).step(t) == 0
    service.refuses = {"a://1"}
    assert notifier(store, service, people=people).step(t + 30) == 1
    assert service.urls() == ["b://2"]


def test_many_tickets_of_one_grid_are_one_message(store: Store) -> None:
    service = Service()
    calls = notifier(store, service)
    first = parking(store)
    t = seconds(first.created)
    assert calls.step(t) == 1, "the first at once"
    others = [parking(store, n, 5.0 + n) for n in range(2, 10)]
    assert calls.step(t + 20) == 0
    assert calls.step(t + 60) == 1
    _, title, body = service.taken[-1]
    assert title == "【重要】8 起待处置事件"
    assert "另有 3 起" in body
    assert all(store.calls(ticket.id)[0].state == "sent" for ticket in others)


def test_quiet_hours_put_off_all_but_critical_tickets(store: Store) -> None:
    service = Service()
    people = [
        {
            "id": "wang",
            "grids": ["town"],
            "contacts": ["json://h/wang"],
            "quiet": ["22:00-07:00"],
            "language": "en",
        }
    ]
    calls = notifier(store, service, people=people)
    ticket = parking(store)
    t = seconds(ticket.created)
    assert calls.step(t) == 0
    (waiting,) = store.calls(ticket.id)
    morning = 1_700_000_000.0 - 1_700_000_000.0 % 86400 + 23 * 3600  # 07:00 in Shanghai
    assert waiting.due_t == morning
    fire = Camera(make_desk(store)).alarm()
    assert calls.step(seconds(fire.created)) == 1
    assert service.taken[0][1] == "[CRITICAL] fire"
    assert calls.step(morning + 60) == 1


def test_a_closed_department_is_called_when_it_opens(store: Store) -> None:
    service = Service()
    more: dict[str, Any] = {
        "departments": {"illegal_parking": ["cg"]},
        "offices": {"cg": {"name": "城管", "hours": ["mon-fri 08:30-18:00"]}},
        "people": [{"id": "zhao", "roles": ["cg"], "contacts": ["json://h/z"]}],
        "ladders": {"illegal_parking": {"unacknowledged": [{"to": ["departments"]}]}},
    }
    ticket = Camera(make_desk(store, **more), None, "lane", "illegal_parking", "s").alarm()
    calls = notifier(store, service, **more)
    assert calls.step(seconds(ticket.created)) == 0
    (waiting,) = store.calls(ticket.id)
    assert calls.step(waiting.due_t - 1) == 0
    assert calls.step(waiting.due_t) == 1
    assert waiting.due_t % 86400 == 30 * 60  # 08:30 in Shanghai is 00:30 UTC


def test_no_url_is_in_logs_or_problems(store: Store) -> None:
    ticket, service = parking(store), Service()
    secret = "wecom-secret-4711"
    people = [{"id": "wang", "grids": ["town"], "contacts": [f"nosuch://{secret}@host"]}]
    service.refuses = {f"nosuch://{secret}@host"}
    with capture_logs() as logs:
        notifier(store, service, people=people).step(seconds(ticket.created))
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"]
    assert secret not in repr(logs)
    settings = DispatchSettings.model_validate({**SETTINGS, "people": people})
    ((path, problem),) = contact_problems(settings)
    assert path == ("people", 0, "contacts", 0)
    assert "'nosuch'" in problem
    assert secret not in problem


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alerts.notify.is_installed", lambda: False)
    ((_, problem),) = contact_problems(DispatchSettings.model_validate(SETTINGS))
    assert "pip install 'gridwatch[notify]'" in problem


@pytest.mark.real
def test_a_webhook_gets_the_message_through_apprise(store: Store) -> None:
    got: list[dict[str, Any]] = []
    broken = [True]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if broken:
                broken.pop()
                self.send_response(503)
            else:
                got.append(json.loads(body))
                self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    people = [
        {
            "id": "wang",
            "grids": ["town/12/3"],
            "contacts": [f"json://127.0.0.1:{server.server_port}/x"],
        }
    ]
    ticket = parking(store)
    now = [seconds(ticket.created)]
    dispatch = Dispatch(DispatchSettings.model_validate({**SETTINGS, "people": people}))
    calls = Notifier(store, dispatch, "host1", ZONE, clock=lambda: now[0])
    try:
        calls.start()
        wait_for(lambda: store.calls(ticket.id)[0].attempts == 1)
        now[0] += 30
        wait_for(lambda: got)
        assert got[0]["title"] == "【重要】illegal_parking（测试）"
        assert f"{ticket.id}/1" in got[0]["message"]
        wait_for(lambda: store.calls(ticket.id)[0].state == "sent")
    finally:
        calls.close()
        server.shutdown()
        server.server_close()
