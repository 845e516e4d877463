"""Everything that the page says can be read: WCAG 2.2 AA contrast, in both themes and both languages, in Chromium."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from alerts.connection import Incoming
from alerts.tickets import (
    Act,
    Disposed,
    Escalation,
    Outcome,
    Ticket,
    TicketCondition,
    TicketState,
    instant,
)
from alerts.topics import Topics
from console.database import Database
from console.mirror import Mirror, _Message
from console.settings import ConsoleSettings
from gridwatch.config import load_config
from gridwatch.demo import shipped_configuration
from tests.console_feed import make_ticket
from tests.console_page import chromium, console_app, log_in, serve, until
from tests.console_year import UNWELL, add_statuses, add_year

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

# Which shades of the heat map have a number in them depends on the hour: a row with all of them.
ALL_SHADES = """() => {
  for (const body of document.querySelectorAll(".heat-table tbody"))
    body.insertAdjacentHTML("beforeend", `<tr>${[..."0123456789"].map((n) => `<td class="h${n}">1</td>`).join("")}</tr>`);
}"""
MEASURE = (Path(__file__).parent / "contrast.js").read_text("utf-8")


def desk(now: float) -> list[Ticket]:
    """A ticket in every state that a row can show."""
    act = Act(by="wang", time=instant(now - 60), note="on my way", **{"from": "console"})
    fresh = make_ticket(now - 30, severity="critical")
    called = fresh.warn.model_copy(
        update={"escalations": (Escalation(grid="jinjiang/12", time=instant(now - 10)),)}
    )
    return [
        fresh.model_copy(update={"warn": called}),
        make_ticket(now - 120, severity="minor", scenario="illegal_parking", simulated=True),
        make_ticket(now - 180, state=TicketState.ACKNOWLEDGED, condition=TicketCondition.CLEARED, dispose=Disposed(acknowledged=act)),
        make_ticket(now - 240, state=TicketState.DISPATCHED, condition=TicketCondition.UNKNOWN, severity="minor",
                    dispose=Disposed(acknowledged=act, dispatched=act.model_copy(update={"to": "li"}))),
        make_ticket(now - 300, state=TicketState.DISPOSED, dispose=Disposed(acknowledged=act, disposed=act, outcome=Outcome.FALSE_ALARM)),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Desk:
    """A console's address, and its tickets that a pane can show: those of the year are rows only."""

    address: str
    tickets: tuple[Ticket, ...]


@pytest.fixture(scope="module")
def served_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A console with a month behind it, cameras in every health, and tickets in every state."""
    folder = tmp_path_factory.mktemp("console")
    config = load_config(shipped_configuration())
    own = ConsoleSettings("demo", folder, config_file=shipped_configuration()).showing(config)
    database = Database(own.database_url)
    now = time.time()
    add_year(database, now, days=30)
    more: dict[str, dict[str, Any]] = {
        "lane-5": {"faults": {"fire": "model fire is not usable"}},
        "yard-9": {"t": now - 600},
    }
    add_statuses(database, now, UNWELL | more)
    mirror = Mirror(own, database)
    topics = Topics("demo")
    on_desk = tuple(desk(now))
    heard = [Incoming(topics.ticket(one.id), one.to_json().encode(), True, lambda: None) for one in on_desk]  # fmt: skip
    mirror._write(_Message(one, plain=False, session=0) for one in heard)
    with serve(console_app(own, database)) as served:
        yield Desk(served, on_desk)
    database.close()


def measured(page: Page, where: str) -> list[str]:
    page.evaluate("document.getAnimations().forEach(one => one.finish())")
    found = page.evaluate(MEASURE)
    assert found["looked"] > 4, f"{where}: nothing was looked at"
    return [f"{where}: {line}" for line in found["failures"]]


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("language", ["zh-CN", "en-GB"])
def test_all_text_and_controls_stand_out(served_desk: Desk, theme: str, language: str) -> None:
    address = served_desk.address
    with chromium() as browser:
        page = log_in(browser, address, language=language)
        page.evaluate(f"localStorage.setItem('gridwatch.theme', {json.dumps(theme)})")
        failures: list[str] = []

        def go(path: str, ready: str) -> None:
            page.goto(f"{address}{path}")
            until(page, ready)

        rows = "document.querySelectorAll('.row').length >= 5"
        go("/?show=all", rows)
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        failures += measured(page, "feed")
        page.locator("#keys-button").click()
        failures += measured(page, "keys")
        page.keyboard.press("Escape")
        for ticket in served_desk.tickets:
            page.locator(f".row[data-id='{ticket.id}'] .row-link").click()
            until(page, f"document.querySelector('.ticket')?.dataset.ticket === '{ticket.id}'")
            for panel in page.locator(".ticket [data-panel]").all():
                panel.click()
                failures += measured(page, f"ticket, {ticket.state}")
        page.evaluate("for (const kind of ['', 'critical', 'major']) gw.toast('said', kind)")
        failures += measured(page, "toasts")
        page.locator("details.who summary").click()
        failures += measured(page, "menu")
        # The four of the desk that are open; whether the year has left any open depends on the hour.
        go("/?wall=1", rows.replace("5", "4"))
        failures += measured(page, "feed on a wall")
        go("/cockpit?window=30d", "Chart.getChart('c-weekly') !== undefined")
        page.evaluate(ALL_SHADES)
        for summary in page.locator("#cockpit summary").all():
            summary.click()
        for tab in page.locator("[data-heat]").all():
            tab.click()
            failures += measured(page, "cockpit")
        go("/wall", "document.querySelectorAll('.wall-card').length >= 9")
        failures += measured(page, "wall")
        go("/zones?camera=gate-east", "document.querySelector('.z-item') !== null")
        failures += measured(page, "zones")
        go("/audit", "document.querySelector('td') !== null")
        failures += measured(page, "audit")
        go("/nowhere", "document.querySelector('.empty') !== null")
        failures += measured(page, "error")
        page.context.clear_cookies()
        go("/login", "document.querySelector('.login-form') !== null")
        failures += measured(page, "log-in")
        assert not failures, "\n".join(sorted(set(failures)))
