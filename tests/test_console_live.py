"""The demo's tickets on the operators' page, in a real browser: they come by themselves, and end by clicks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from alerts.connection import BrokerSettings
from console.database import Database
from console.mirror import Mirror
from console.settings import ConsoleSettings
from gridwatch.config import load_config
from gridwatch.demo import shipped_configuration
from tests.broker import free_port, mosquitto, wait_for
from tests.console_feed import make_ticket
from tests.console_page import chromium, console_app, log_in, picture, serve, until
from tests.test_console_mirror import Host

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

SCENARIOS = {"ebike_in_elevator", "illegal_parking", "fire", "river_discoloration"}
RAISED_S = 150.0  # the clips take 30 s; other work may have both cores


@contextlib.contextmanager
def served_console(folder: Path, broker_port: int) -> Iterator[tuple[str, Database]]:
    """The console of the demo's site behind a real server, with its mirror."""
    config = load_config(shipped_configuration())
    settings = ConsoleSettings(
        config.site.id,
        folder / "console",
        broker=BrokerSettings(host="127.0.0.1", port=broker_port),
    ).showing(config)
    database = Database(settings.database_url)
    mirror = Mirror(settings, database)
    app = console_app(settings, database, mirror)
    mirror.start()
    try:
        with serve(app) as address:
            yield address, database
    finally:
        mirror.close()
        database.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Database, list[str]]]:
    """Broker, console and the command of a daemon that plays the demo's clips over and over."""
    evidence = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "gridwatch.cli", "run", str(shipped_configuration())]
    with mosquitto(tmp_path / "broker") as broker:
        for override in (
            "defaults.stream.loop=true",
            "broker.host=127.0.0.1",
            f"broker.port={broker.port}",
            f"storage.folder={tmp_path / 'state'}",
            f"evidence.listen={evidence}",
            f"evidence.url_base=http://{evidence}",
        ):
            command += ["--set", override]
        with served_console(tmp_path, broker.port) as (address, database):
            yield address, database, command


def titles(page: Page) -> int:
    return page.locator("#feed .row").count()


def test_the_demo_in_a_browser(site: tuple[str, Database, list[str]], tmp_path: Path) -> None:
    address, _, command = site
    with chromium() as browser:
        page = log_in(browser, address, "operator")
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)  # fmt: skip
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.evaluate("window.sameDocument = true")
        assert titles(page) == 0
        log = (tmp_path / "daemon.log").open("w")
        daemon = subprocess.Popen(command, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        try:
            raised = "new Set([...document.querySelectorAll('#feed .row-title')].map(e => e.textContent)).size >= 4"
            until(page, raised, RAISED_S)
            assert page.evaluate("window.sameDocument"), "the page was loaded again"
            rows = page.locator("#feed .row")
            count = rows.count()

            # The first with its pictures and its reasons
            fire = page.locator("#feed .row.critical").first
            fire.locator(".row-link").click()
            until(page, "document.querySelector('#pane .ticket') !== null")
            until(page, "document.querySelectorAll('#pane .media').length >= 2", 60)
            until(page, "document.querySelector('#stage img')?.naturalWidth > 300")
            assert page.locator("#pane .stage.done").count() == 3
            assert page.locator("#pane .why p").count() >= 3
            page.locator("#pane [data-media=clip]").first.wait_for(timeout=60_000)
            picture(page, "console-feed")
            page.locator("#pane [data-media=clip]").first.click()
            until(page, "document.querySelector('#stage video')?.videoWidth > 0", 30)
            page.evaluate("document.querySelector('#stage video').pause()")

            pictures(browser_page=page, address=address)

            # Acknowledge and go by one tap each, from the row
            ticket = fire.get_attribute("data-id")
            page.locator(f"#t-{ticket} [data-act=acknowledge]").click()
            until(page, f"document.getElementById('t-{ticket}').dataset.state === 'acknowledged'")
            page.locator(f"#t-{ticket} [data-act=go]").click()
            until(page, f"document.getElementById('t-{ticket}').dataset.state === 'dispatched'")
            until(page, "document.querySelector('#pane .ticket').dataset.state === 'dispatched'")

            # Dispose with a note and a photo of a phone's size
            photo = tmp_path / "photo.jpg"
            wide = np.tile(np.linspace(60, 200, 2000, dtype=np.uint8)[None, :, None], (1500, 1, 3))
            noise = np.random.default_rng(7).integers(0, 50, (1500, 2000, 3), np.uint8)
            cv2.imwrite(str(photo), wide + noise)
            page.locator("#pane [data-panel=dispose]").click()
            page.locator("#panel-dispose [name=note]").fill("车棚起火，已用灭火器扑灭")
            page.locator("#panel-dispose [name=photos]").set_input_files(str(photo))
            page.locator("#panel-dispose button.confirmed").click()
            until(page, f"document.getElementById('t-{ticket}') === null")
            until(page, "document.querySelector('#pane .ticket').dataset.state === 'disposed'")
            until(page, "document.querySelector('#pane .photos img')?.naturalWidth > 100", 30)
            history = page.locator("#pane .history").inner_text()
            assert "车棚起火" in history
            assert "前往现场" in history
            whole = log_in(browser, address, "operator", size=(1280, 800))
            whole.goto(f"{address}/tickets/{ticket}")
            until(whole, "[...document.images].every(i => i.naturalWidth > 100)")
            picture(whole, "console-ticket", whole=True)
            whole.context.close()

            # All others by keys and clicks
            while (left := titles(page)) > 0 and count > 0:
                row = page.locator("#feed .row").first
                ticket = row.get_attribute("data-id")
                row.locator(".row-link").click()
                until(
                    page, f"document.querySelector('#pane .ticket')?.dataset.ticket === '{ticket}'"
                )
                page.keyboard.press("d")
                page.locator("#panel-dispose button.test").click()
                until(page, f"document.getElementById('t-{ticket}') === null")
                count -= 1
                assert titles(page) <= left
            assert page.evaluate("window.sameDocument"), "the page was loaded again"
            assert not problems, problems
        finally:
            daemon.terminate()
            wait_for(lambda: daemon.poll() is not None, 20, "the daemon ends")
            log.close()


def pictures(browser_page: Page, address: str) -> None:
    """The same on a phone and on a wall's screen, in both languages and themes."""
    browser = browser_page.context.browser
    assert browser is not None
    phone = log_in(browser, address, "operator", size=(390, 844))
    phone.locator("#feed .row").first.wait_for()
    phone.evaluate("Promise.all([...document.images].map(i => i.decode().catch(() => 0)))")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    picture(phone, "console-phone")
    phone.locator("#feed .row .row-link").first.click()
    phone.wait_for_url("**/tickets/*")
    until(phone, "document.querySelector('#stage img')?.naturalWidth > 100")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    picture(phone, "console-phone-ticket")
    phone.context.close()
    wall = log_in(browser, address, "admin", size=(1920, 1080))
    wall.goto(f"{address}/?wall=1")
    wall.locator("#feed .row").first.wait_for()
    wall.evaluate("Promise.all([...document.images].map(i => i.decode().catch(() => 0)))")
    picture(wall, "console-wall-screen")
    wall.context.close()
    light = log_in(browser, address, "admin", language="en-GB")
    light.evaluate("document.documentElement.dataset.theme = 'light'")
    light.locator("#feed .row .row-link").first.click()
    until(light, "document.querySelector('#stage img')?.naturalWidth > 100")
    picture(light, "console-feed-light")
    light.context.close()


def test_the_slower_of_two_operators_is_told_who_was_faster(tmp_path: Path) -> None:
    ticket = make_ticket(time.time(), severity="critical")
    with (
        mosquitto(tmp_path / "broker") as broker,
        served_console(tmp_path, broker.port) as (address, _),
    ):
        host = Host(broker.port, ticket)
        try:
            with chromium() as browser:
                first = log_in(browser, address, "operator", language="en-GB")
                second = log_in(browser, address, "admin", language="en-GB")
                viewer = log_in(browser, address, "li", language="en-GB")
                for page in (first, second, viewer):
                    page.locator(f"#t-{ticket.id} .row-link").click()
                    until(page, "document.querySelector('#pane .ticket') !== null")
                assert viewer.locator("#pane .acts-bar, #pane form").count() == 0
                assert not viewer.locator(f"#t-{ticket.id} .act").first.is_visible()
                # The second decides on what it saw: its page is held still while the first acts.
                second.evaluate("document.querySelector('#panel-dispose').hidden = false")
                second.locator("#panel-dispose [name=note]").fill("nothing there")
                first.locator("#pane [data-act=acknowledge]").click()
                until(second, "!document.querySelector('.stale').hidden")
                second.locator("#panel-dispose button.false_alarm").click()
                until(second, "document.querySelector('.toast.critical') !== null")
                assert "operator was faster" in second.locator(".toast").inner_text()
                until(
                    second,
                    "document.querySelector('#pane .ticket').dataset.state === 'acknowledged'",
                )
                assert host.tickets[ticket.id].state == "acknowledged"
                # The host is away: the change is shown as waiting, and takes effect when it is back.
                host.close()
                second.locator("#pane [data-act=go]").click()
                waits = "document.querySelector('#pane .notice').textContent.includes('waiting for host')"
                until(second, waits)
                until(first, f"document.querySelector('#t-{ticket.id} .pending') !== null")
        finally:
            host.close()
