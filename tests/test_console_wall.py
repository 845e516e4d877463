"""The camera wall: health in a word, what it is judged from, who sees which camera, and that it moves by itself."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import sqlalchemy as sa

from console.database import Database, statuses, tickets
from console.settings import ConsoleSettings
from console.wall import _tickets, health_of
from gridwatch.config import load_config
from gridwatch.demo import shipped_configuration
from tests.console_page import chromium, console_app, log_in, picture, serve, until
from tests.console_year import UNWELL, add_statuses, add_year

if TYPE_CHECKING:
    from playwright.sync_api import Page

NOW = 1_790_000_000.0
FINE: dict[str, Any] = {"state": "running", "reason": "", "t": NOW - 10, "rate_wanted_hz": 4.0, "rate_hz": 4.0}  # fmt: skip


@pytest.mark.parametrize(
    ("news", "host", "trouble", "health", "level"),
    [
        ({}, {}, "", "running", "ok"),
        ({"rate_hz": 3.7}, {}, "", "running", "ok"),
        ({"rate_hz": 2.0}, {}, "", "reduced", "minor"),
        ({"unknown": {"river_discoloration": "warming_up"}}, {}, "", "warming_up", "minor"),
        ({"unknown": {"river_discoloration": "too_dark"}}, {}, "", "running", "ok"),
        ({"faults": {"fire": "model fire is not usable"}}, {}, "", "fault", "major"),
        ({}, {}, "frozen", "frozen", "major"),
        ({}, {}, "covered", "covered", "major"),
        ({}, {}, "turned", "turned", "major"),
        ({"state": "backing_off"}, {}, "", "backing_off", "critical"),
        ({"state": "backing_off"}, {}, "dead", "dead", "critical"),
        ({"state": "connecting"}, {}, "", "connecting", "minor"),
        ({"state": "stalled"}, {}, "", "stalled", "critical"),
        ({"state": "quarantined"}, {}, "dead", "quarantined", "critical"),
        ({"t": NOW - 600}, {}, "", "silent", "major"),
        ({"t": NOW - 600}, {"status": "offline", "reason": "lost"}, "", "host_away", "critical"),
    ],
)  # fmt: skip
def test_health_in_a_word(news: dict[str, Any], host: dict[str, Any], trouble: str, health: str, level: str) -> None:  # fmt: skip
    assert health_of({**FINE, **news}, host, trouble, NOW)[:2] == (health, level)


def test_a_camera_that_was_never_heard_of_is_not_called_well() -> None:
    assert health_of(None, {}, "", NOW)[:2] == ("unheard", "muted")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'console.sqlite'}")
    now = time.time()
    add_year(made, now, days=20)
    add_statuses(made, now, UNWELL)
    yield made
    made.close()


def test_false_alarms_are_no_trouble_with_the_camera_itself(
    tmp_path: Path, database: Database
) -> None:
    console = console_app(ConsoleSettings("demo", tmp_path), database).state.console
    with database.write() as connection:
        of_lane = sa.select(tickets.c.id).where(tickets.c.camera == "lane-5").order_by(tickets.c.id)
        for ticket, subject in zip(
            connection.scalars(of_lane), ("covered", "accuracy"), strict=False
        ):
            document = {"document": json.dumps({"subject": subject}), "condition": "holding"}
            connection.execute(
                sa.update(tickets)
                .where(tickets.c.id == ticket)
                .values(scenario="camera_health", is_open=True, **document)
            )
    assert _tickets(console, "")[3][("demo", "lane-5")] == "covered"


@pytest.mark.real
@pytest.mark.timeout(150)
def test_the_wall_in_chromium_shows_every_camera_and_follows_a_status(
    tmp_path: Path, database: Database
) -> None:
    app = console_app(ConsoleSettings("demo", tmp_path, title="示范社区"), database)
    with serve(app) as address, chromium() as browser:
        page = log_in(browser, address)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"{address}/wall")
        assert page.locator(".wall-card").count() == 9
        assert page.locator("#cam-demo-river-1 .wall-health").inner_text() == "预热中"
        assert page.locator("#cam-demo-elevator-11.critical").count() == 1
        assert "持续更新" in page.locator("#cam-demo-gate-east").inner_text()
        assert "持续更新" not in page.locator("#cam-demo-elevator-11").inner_text()
        until(page, "[...document.images].some(i => i.naturalWidth > 0)")
        picture(page, "console-wall", whole=True)
        page.wait_for_selector("#link-state.up")
        calm = page.locator("#cam-demo-gate-east").element_handle()
        with database.write() as connection:
            covered = {**FINE, "t": time.time(), "host": "demo-host", "state": "stalled", "reason": "no data"}  # fmt: skip
            connection.execute(
                sa.update(statuses)
                .where(statuses.c.subject == "lane-5")
                .values(document=json.dumps(covered))
            )
        app.state.console.hub.publish("camera", "lane-5")
        page.wait_for_selector("#cam-demo-lane-5.critical")
        assert calm is not None
        assert calm.evaluate("card => card.isConnected"), "the others are left alone"
        page.goto(f"{address}/wall?sort=trouble")
        first = page.locator(".wall-card").first.get_attribute("class") or ""
        assert "critical" in first
        page.emulate_media(color_scheme="dark")
        for size, name in (
            ((390, 844), "console-wall-phone"),
            ((1920, 1080), "console-wall-big"),
            ((3840, 2160), "console-wall-4k"),
        ):
            page.set_viewport_size({"width": size[0], "height": size[1]})
            page.goto(f"{address}/wall" + ("?wall=1" if size[0] > 1000 else ""))
            until(page, "[...document.images].some(i => i.naturalWidth > 0)")
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
            if size[0] > 1000:  # all nine at once, as large as that lets them be
                assert page.evaluate("document.documentElement.scrollHeight") <= size[1]
                card = page.locator(".wall-card").first.bounding_box()
                assert card is not None
                assert card["width"] > size[0] / 6
            picture(page, name)
        viewer = log_in(browser, address, "li")
        viewer.goto(f"{address}/wall")
        assert viewer.locator(".wall-card").count() == 4  # of jinjiang/12
        assert viewer.locator("[data-look]").count() == 0
        assert faults == []


@pytest.mark.real
@pytest.mark.timeout(120)
def test_the_wall_follows_a_changed_cameras_yaml(tmp_path: Path) -> None:
    file = tmp_path / "cameras.yaml"
    shutil.copy(shipped_configuration(), file)
    own = ConsoleSettings("demo", tmp_path, title="old", config_file=file, config=load_config(file))
    database = Database(own.database_url)
    app = console_app(own, database)

    def corner(page: Page) -> float:
        """How bright the picture's upper left is (0..255)."""
        page.click("#cam-demo-yard-2 [data-look]")
        page.wait_for_selector("#cam-demo-yard-2 img")
        address = page.locator("#cam-demo-yard-2 img").get_attribute("src")
        answer = page.request.get(page.url.removesuffix("/wall") + str(address))
        image = cv2.imdecode(np.frombuffer(answer.body(), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        return float(image[: image.shape[0] // 8, : image.shape[1] // 8].mean())

    with serve(app) as address, chromium() as browser:
        page = log_in(browser, address)
        page.goto(f"{address}/wall")
        assert corner(page) > 8
        text = file.read_text()
        name = "  - id: yard-2\n"
        assert name in text
        mask = "    privacy: {masks: [[[0, 0], [0.5, 0], [0.5, 0.5], [0, 0.5]]]}\n"
        document = text.replace(name, name + mask)
        file.write_text(document.replace(load_config(file).camera("yard-2").name, "Shed of yard 2"))
        until(page, "document.querySelector('#cam-demo-yard-2 h2').textContent === 'Shed of yard 2'")  # fmt: skip
        assert corner(page) < 3, "the mask is burned into the next picture"
    database.close()
