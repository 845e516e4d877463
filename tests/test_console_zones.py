"""Polygons redrawn: byte for byte in cameras.yaml, on the page, and in the running daemon."""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import httpx
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.connection import BrokerSettings
from console.config_edit import Region, draft, fields_of, regions_of
from console.database import Database
from console.mirror import Mirror
from console.settings import ConsoleSettings
from gridwatch.config import load_config
from gridwatch.reload import Revision
from pipeline.exceptions import ConfigError, StaleConfigError
from tests.broker import mosquitto, wait_for
from tests.conftest import REPOSITORY
from tests.console_page import PASSWORD, chromium, console_app, log_in, picture, serve, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SHIPPED = REPOSITORY / "cameras.yaml"
TRIANGLE = ((0.1, 0.1), (0.5, 0.12345), (1.0, 1.0))
FLOW = "[[0.1, 0.1], [0.5, 0.1235], [1, 1]]"  # what a triangle becomes: four decimals


def region(scenario: str, field: str, name: str = "", points: tuple[tuple[float, float], ...] = TRIANGLE) -> Region:  # fmt: skip
    return Region(scenario=scenario, field=field, name=name, points=points)


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    file = tmp_path / "cameras.yaml"
    shutil.copy(SHIPPED, file)
    return file


def changed_lines(diff: str) -> list[str]:
    return [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]  # fmt: skip


def sha256(file: Path) -> str:
    return Revision.of(file.read_bytes()).sha256


def test_every_kind_of_polygon_is_found(shipped: Path) -> None:
    config = load_config(shipped)
    found = {c.id: [(f.scenario, f.name, f.shape) for f in fields_of(c)] for c in config.cameras}
    assert found["elevator-3"] == [("ebike_in_elevator", "cabin", "one"), ("privacy", "masks", "list")]  # fmt: skip
    assert ("illegal_parking", "zones", "named") in found["gate-east"]
    assert ("river_discoloration", "water", "one") in found["river-1"]
    assert ("river_discoloration", "reference", "list") in found["river-1"]
    (cabin,) = regions_of(config.camera("elevator-3"))
    assert cabin.points[0] == (0.23, 0.8)


# Behind the value that is replaced; it must stay.
REMARK = "                    # what `defaults` above says, else gridwatch's own values"


@pytest.mark.parametrize(
    ("camera", "regions", "expected"),
    [
        pytest.param("gate-east", [region("illegal_parking", "zones", "fire-lane")],
            ["-          fire-lane: [[0.47, 0.87], [0.28, 0.76], [0.575, 0.375], [0.7, 0.41]]", f"+          fire-lane: {FLOW}"], id="redrawn"),
        pytest.param("gate-east", [region("illegal_parking", "zones", "消防: 1")],
            ["-          fire-lane: [[0.47, 0.87], [0.28, 0.76], [0.575, 0.375], [0.7, 0.41]]", f'+          "消防: 1": {FLOW}'], id="another name"),
        pytest.param("yard-2", [region("fire", "ignore"), region("fire", "ignore")],
            ["-      fire: {}" + REMARK, f"+      fire: {{ignore: [{FLOW}, {FLOW}]}}" + REMARK], id="the first key of a scenario"),
        pytest.param("yard-2", [region("privacy", "masks")], [f"+    privacy: {{masks: [{FLOW}]}}"], id="a mask"),
        pytest.param("elevator-3", [],
            ["-        cabin: [[0.23, 0.8], [0.38, 0.57], [0.5, 0.38], [0.61, 0.5], [0.74, 0.64], [0.65, 0.91], [0.5, 1], [0.35, 1]]   # its floor"], id="back to the default"),
    ],
)  # fmt: skip
def test_only_the_lines_of_the_polygon_change(
    shipped: Path, camera: str, regions: list[Region], expected: list[str]
) -> None:
    made = draft(shipped, sha256(shipped), camera, regions)
    assert changed_lines(made.diff) == expected
    before = shipped.read_text().splitlines()
    kept = [line for line in made.revision.text.decode().splitlines() if f"+{line}" not in expected]
    assert kept == [line for line in before if f"-{line}" not in expected]


OTHER_STYLES = """\
site: {id: town}
defaults: &d
  scenarios: {fire: {raise_after: 3s}}
cameras:
- id: block
  url: rtsp://h/1
  scenarios:
    fire:
      ignore:
        - - [0, 0]
          - [0.5, 0]
          - [0, 0.5]
        # the stove's
        - [[0.5, 0.5], [1, 0.5], [1, 1]]   # and the lamp's

      severity: major   # stays
- {id: flow, url: 'rtsp://h/2', scenarios: [fire]}
- id: null-value
  url: rtsp://h/3
  scenarios:
    fire:
    illegal_parking: {"zones": {kerb: [[0, 0], [1, 0], [1, 1]], 'gate way': [[0, 0], [1, 0], [1, 1]]}}
- id: shared
  url: rtsp://h/4
  scenarios: {illegal_parking: &lane {zones: {a: [[0, 0], [1, 0], [1, 1]]}}}
- id: sharing
  url: rtsp://h/5
  scenarios: {illegal_parking: *lane}
"""


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("camera", "regions"),
    [
        ("block", [region("fire", "ignore")]),
        ("block", []),
        ("block", [region("fire", "zones", "yard")]),
        ("flow", [region("fire", "zones", "yard"), region("fire", "ignore"), region("privacy", "masks")]),
        ("null-value", [region("fire", "zones", "yard"), region("illegal_parking", "zones", "kerb")]),
        ("null-value", [region("illegal_parking", "zones", "gate way")]),
        ("null-value", [region("illegal_parking", "zones", "true"), region("illegal_parking", "zones", "12")]),
    ],
)  # fmt: skip
def test_other_ways_to_write_yaml_are_kept(
    tmp_path: Path, camera: str, regions: list[Region], line_end: str
) -> None:
    file = tmp_path / "cameras.yaml"
    file.write_bytes(OTHER_STYLES.replace("\n", line_end).encode())
    made = draft(file, sha256(file), camera, regions)
    found = regions_of(made.config.camera(camera))
    wanted = [(r.field, r.name, tuple((round(x, 4), round(y, 4)) for x, y in r.points)) for r in regions]  # fmt: skip
    assert sorted((r.field, r.name, r.points) for r in found) == sorted(wanted)
    assert "severity: major   # stays" in made.revision.text.decode()
    assert made.revision.text.count(b"\r\n") == (made.revision.text.count(b"\n") if line_end == "\r\n" else 0)  # fmt: skip


@pytest.mark.parametrize("camera", ["shared", "sharing"])
def test_a_polygon_of_two_cameras_is_not_changed_for_one(tmp_path: Path, camera: str) -> None:
    file = tmp_path / "cameras.yaml"
    file.write_text(OTHER_STYLES)
    with pytest.raises(ConfigError, match="the change would reach"):
        draft(file, sha256(file), camera, [region("illegal_parking", "zones", "a")])


def test_what_is_not_valid_is_said_with_its_line_and_not_written(shipped: Path) -> None:
    bow = ((0.1, 0.1), (0.9, 0.9), (0.9, 0.1), (0.1, 0.9))
    before = shipped.read_bytes()
    with pytest.raises(ConfigError, match=r"cameras.yaml:\d+: .*zones.fire-lane.*do not cross"):
        draft(shipped, sha256(shipped), "gate-east", [region("illegal_parking", "zones", "fire-lane", bow)])  # fmt: skip
    with pytest.raises(ConfigError, match="zones"):
        draft(shipped, sha256(shipped), "gate-east", [])  # illegal parking needs a zone
    with pytest.raises(ConfigError, match="there is no camera"):
        draft(shipped, sha256(shipped), "nobody", [])
    assert shipped.read_bytes() == before


def test_writing_keeps_rights_and_a_copy_and_refuses_a_file_that_changed(shipped: Path) -> None:
    shipped.chmod(0o640)
    before = shipped.read_bytes()
    made = draft(shipped, sha256(shipped), "yard-2", [region("privacy", "masks")])
    backup = made.write()
    assert backup.read_bytes() == before
    assert shipped.read_bytes() == made.revision.text
    assert shipped.stat().st_mode & 0o777 == 0o640
    with pytest.raises(StaleConfigError):
        made.write()
    with pytest.raises(StaleConfigError):
        draft(shipped, made.base.sha256, "yard-2", [])
    for _ in range(12):
        regions = [] if regions_of(load_config(shipped).camera("yard-2")) else [region("privacy", "masks")]  # fmt: skip
        draft(shipped, sha256(shipped), "yard-2", regions).write()
    assert len(list(shipped.parent.glob("*.bak"))) == 10
    assert not list(shipped.parent.glob(".*.tmp"))


corners = st.tuples(st.floats(0, 1), st.floats(0, 1))


@settings(max_examples=25, deadline=None)
@given(st.lists(corners, min_size=3, max_size=6), st.text(min_size=1, max_size=12))
def test_whatever_is_drawn_comes_back_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, points: list[tuple[float, float]], name: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    shutil.copy(SHIPPED, file)
    drawn = region("illegal_parking", "zones", name, tuple(points))
    try:
        made = draft(file, sha256(file), "gate-east", [drawn])
    except ConfigError:
        return
    (found,) = regions_of(made.config.camera("gate-east"))
    assert found.name == name
    for came_back, point in itertools.zip_longest(found.points, points):
        assert came_back == pytest.approx(point, abs=1e-4)
    others = [c for c in made.config.cameras if c.id != "gate-east"]
    assert others == [c for c in load_config(SHIPPED).cameras if c.id != "gate-east"]


# The page


@pytest.fixture
def console(shipped: Path) -> Iterator[str]:
    config = load_config(shipped)
    own = ConsoleSettings("demo", shipped.parent, config_file=shipped, config=config)
    database = Database(own.database_url)
    with serve(console_app(own, database)) as address:
        yield address
    database.close()


def session(address: str, user: str) -> tuple[httpx.Client, dict[str, str]]:
    """A logged-in client and its CSRF header."""
    client = httpx.Client(base_url=address, headers={"Accept-Language": "en"}, timeout=30)

    def token() -> str:
        return client.get("/login").text.partition('name="csrf" content="')[2].partition('"')[0]

    form = {"name": user, "password": PASSWORD, "csrf": token()}
    assert client.post("/login", data=form).status_code == 303
    page = client.get("/wall").text
    return client, {"X-CSRF-Token": page.partition('name="csrf" content="')[2].partition('"')[0]}


def drawing(file: Path, *regions: Region) -> dict[str, object]:
    return {"sha256": sha256(file), "regions": [r.model_dump() for r in regions]}


def test_an_administrator_sees_the_diff_and_applies_it_and_nobody_else_may(
    console: str, shipped: Path
) -> None:
    mask = drawing(shipped, region("privacy", "masks"))
    operator, csrf = session(console, "operator")
    assert operator.post("/zones/yard-2/apply", json=mask, headers=csrf).status_code == 403
    assert operator.get("/zones").status_code == 403
    admin, csrf = session(console, "admin")
    assert admin.post("/zones/yard-2/apply", json=mask).status_code == 403, "without CSRF token"
    assert shipped.read_bytes() == SHIPPED.read_bytes()
    found = admin.post("/zones/yard-2/diff", json=mask, headers=csrf).json()
    assert changed_lines(found["diff"]) == [f"+    privacy: {{masks: [{FLOW}]}}"]
    assert shipped.read_bytes() == SHIPPED.read_bytes()
    applied = admin.post("/zones/yard-2/apply", json=mask, headers=csrf).json()
    assert applied == {"sha256": sha256(shipped), "problems": []}
    assert "privacy: {masks:" in shipped.read_text()
    assert admin.post("/zones/yard-2/apply", json=mask, headers=csrf).status_code == 409
    with sqlite3.connect(shipped.parent / "console.sqlite") as database:
        row = database.execute("SELECT who, subject, detail FROM audit WHERE kind = 'zones.apply'").fetchone()  # fmt: skip
    database.close()
    assert row[:2] == ("admin", "yard-2")
    assert json.loads(row[2])["sha256"] == sha256(shipped)
    operator.close()
    admin.close()


def test_the_picture_comes_from_the_camera_with_its_masks(console: str, shipped: Path) -> None:
    import cv2
    import numpy as np

    admin, csrf = session(console, "admin")

    def corner(camera: str) -> float:
        answer = admin.get(f"/zones/{camera}/picture")
        assert answer.headers["content-type"] == "image/jpeg"
        image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        return float(image[: image.shape[0] // 8, : image.shape[1] // 8].mean())

    assert corner("yard-2") > 8
    whole = ((0.0, 0.0), (0.3, 0.0), (0.3, 0.3), (0.0, 0.3))
    mask = drawing(shipped, region("privacy", "masks", points=whole))
    admin.post("/zones/yard-2/apply", json=mask, headers=csrf)
    assert corner("yard-2") < 3
    assert admin.get("/zones/nobody/picture").status_code == 404
    assert admin.get("/zones/yard-2/picture?source=ticket").status_code == 404
    admin.close()


def editor(browser: Browser, address: str, *, touch: bool = False) -> Page:
    """The editor on a camera without polygons; its picture is there."""
    size = (820, 1180) if touch else (1440, 900)
    page = log_in(browser, address, size=size, touch=touch)
    page.goto(f"{address}/zones?camera=yard-2")
    until(page, "document.getElementById('z-image').naturalWidth > 0")
    return page


def focused(page: Page) -> str:
    script = "(document.activeElement.dataset.point ?? document.activeElement.id)"
    return str(page.evaluate(script))


def applied(page: Page, file: Path) -> tuple[tuple[float, float], ...]:
    """The only polygon in the file, once the editor has written it."""
    before = file.read_bytes()
    page.locator("#z-apply:not([disabled])").focus()
    page.keyboard.press("Enter")
    wait_for(lambda: file.read_bytes() != before, 20, "the file is written")
    (found,) = regions_of(load_config(file).camera("yard-2"))
    return found.points


@pytest.mark.real
@pytest.mark.timeout(120)
def test_a_polygon_is_drawn_and_mended_by_keys_alone(console: str, shipped: Path) -> None:
    with chromium() as browser:
        page = editor(browser, console)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        keys = page.keyboard

        def press(*names: str) -> None:
            for name in names:
                keys.press(name)

        def says(count: int) -> None:
            page.locator("#z-valid", has_text=f"{count} 个点").wait_for()

        page.locator("#z-refresh").focus()
        press("Tab")
        assert focused(page) == "z-svg"
        # N draws; the cross begins in the middle of the picture. Esc gives up.
        press("n", "Space")
        says(1)
        press("Escape")
        page.locator("#z-valid", has_text="有效").wait_for()
        press("n", *["Shift+ArrowLeft"] * 5, *["Shift+ArrowUp"] * 5, "Space")  # 0.3, 0.3
        press(*["Shift+ArrowRight"] * 10, "Space")  # 0.7, 0.3
        says(2)
        press("Enter")  # two points are no polygon, and not thrown away either
        says(2)
        press(*["Shift+ArrowDown"] * 10, "Space", "ArrowRight", "Space", "Backspace")  # 0.7, 0.7
        says(3)
        press("ArrowLeft", *["Shift+ArrowLeft"] * 10, "Space", "Enter")  # 0.3, 0.7
        page.locator("#z-diff .plus").first.wait_for()
        # Tab walks through the points, arrows move one, Shift in ten steps.
        press("Tab")
        assert focused(page) == "0"
        press("Tab", "ArrowRight", "Shift+ArrowUp")
        assert focused(page) == "1"
        press("Control+z", "Control+z", "Control+y")
        press("Tab", "Tab", "Delete")  # the last point
        assert focused(page) == "z-svg", "the focus stays in the picture"
        press("Control+z")
        assert applied(page, shipped) == ((0.3, 0.3), (0.702, 0.3), (0.7, 0.7), (0.3, 0.7))
        # From the list: choosing keeps the place, and all goes with Delete.
        pick = page.locator(".z-item input")
        pick.focus()
        press("Tab")
        assert page.evaluate("document.activeElement.dataset.key") == "remove-0"
        page.locator("[data-add='privacy.masks']").focus()
        press("Enter", "Escape")
        assert focused(page) == "z-svg"
        assert faults == []


@pytest.mark.real
@pytest.mark.timeout(120)
def test_a_polygon_is_drawn_and_mended_by_touch(console: str, shipped: Path) -> None:
    with chromium() as browser:
        page = editor(browser, console, touch=True)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.locator("[data-add='fire.zones']").tap()
        stage = page.locator("#z-svg")
        stage.scroll_into_view_if_needed()
        box = stage.bounding_box()
        assert box is not None

        def at(x: float, y: float, off_px: float = 0.0) -> tuple[float, float]:
            return box["x"] + x * box["width"] + off_px, box["y"] + y * box["height"] + off_px

        def tap(x: float, y: float, off_px: float = 0.0) -> None:
            page.touchscreen.tap(*at(x, y, off_px))

        def drag(start: tuple[float, float], end: tuple[float, float]) -> None:
            """A finger that goes over the picture; Playwright has taps alone."""
            devtools = page.context.new_cdp_session(page)
            steps = [(start[0] + (end[0] - start[0]) * n / 6, start[1] + (end[1] - start[1]) * n / 6) for n in range(7)]  # fmt: skip
            kinds = ["touchStart", *["touchMove"] * 6]
            for kind, (x, y) in zip(kinds, (at(*step) for step in steps), strict=True):
                devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})  # fmt: skip
            devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

        tap(0.2, 0.3)
        tap(0.2, 0.3, off_px=9)  # a finger that trembles sets no second point
        tap(0.5, 0.5)
        page.locator("#z-delete").tap()  # taken back
        for x, y in ((0.8, 0.3), (0.8, 0.9), (0.2, 0.9)):
            tap(x, y)
        tap(0.2, 0.3, off_px=15)  # closes, though a finger is never exact
        page.locator("#z-diff .plus").first.wait_for()
        drag((0.8, 0.9), (0.6, 0.8))  # a point
        drag((0.5, 0.3), (0.5, 0.2))  # the middle of a side makes one
        drag((0.4, 0.5), (0.45, 0.5))  # the polygon
        scrolled = page.evaluate("window.scrollY")
        tap(0.85, 0.3)
        page.locator("#z-delete:not([disabled])").tap()
        page.locator("#z-undo").tap()
        assert page.evaluate("window.scrollY") == scrolled, "the page stays where it is"
        corners = applied(page, shipped)
        expected = ((0.25, 0.3), (0.55, 0.2), (0.85, 0.3), (0.65, 0.8), (0.25, 0.9))
        assert len(corners) == len(expected)
        for found, wanted in zip(corners, expected, strict=True):
            assert found == pytest.approx(wanted, abs=0.006)
        assert faults == []


@pytest.mark.real
@pytest.mark.timeout(400)
def test_a_polygon_drawn_in_chromium_is_used_by_the_running_daemon(tmp_path: Path) -> None:
    """The whole way: pointer, diff, file, daemon, status on the broker, word on the page."""
    from tests.site import Daemon

    if shutil.which("mosquitto") is None:
        pytest.skip("NOT TESTED with a daemon: there is no mosquitto")
    with mosquitto(tmp_path / "broker") as broker:
        document = yaml.safe_load(SHIPPED.read_text())
        document["site"]["id"] = "demo"
        document["broker"] = {"host": "127.0.0.1", "port": broker.port, "retry_min": "200ms"}
        document["cameras"] = [
            {"loop": True, **camera} for camera in document["cameras"] if camera["id"] == "yard-2"
        ]
        document["evidence"] = {"clip": False}
        with chromium() as browser, Daemon(tmp_path, document) as daemon:
            config = load_config(daemon.file)
            own = ConsoleSettings(
                "demo", tmp_path / "console", BrokerSettings(host="127.0.0.1", port=broker.port),
                timezone=ZoneInfo("Asia/Shanghai"), config_file=daemon.file, config=config,
            )  # fmt: skip
            database = Database(own.database_url)
            mirror = Mirror(own, database)
            app = console_app(own, database, mirror)
            mirror.start()
            engines = daemon.engines()
            with serve(app) as address:
                page = log_in(browser, address)
                faults: list[str] = []
                page.on("pageerror", lambda error: faults.append(str(error)))
                page.goto(f"{address}/zones?camera=yard-2")
                until(page, "document.getElementById('z-image').naturalWidth > 0")
                page.click("[data-add='fire.zones']")
                box = page.locator("#z-svg").bounding_box()
                assert box is not None

                def at(x: float, y: float) -> tuple[float, float]:
                    return box["x"] + x * box["width"], box["y"] + y * box["height"]

                corners = [(0.2, 0.3), (0.8, 0.35), (0.75, 0.9), (0.25, 0.85)]
                for x, y in corners:
                    page.mouse.click(*at(x, y))
                page.mouse.click(*at(*corners[0]))  # closes
                page.locator("#z-diff .plus").first.wait_for()
                # A corner across the others' side is told at once, and undone.
                page.mouse.move(*at(0.25, 0.85))
                page.mouse.down()
                page.mouse.move(*at(0.5, 0.1), steps=4)
                page.mouse.up()
                page.locator("#z-valid.bad").wait_for()
                assert page.locator("#z-apply").is_disabled()
                page.keyboard.press("Control+z")
                page.locator("#z-valid:not(.bad)").wait_for()
                until(page, "!document.getElementById('z-apply').disabled")
                assert page.evaluate("document.documentElement.scrollWidth") <= 1440
                picture(page, "console-zones", whole=True)
                page.click("#z-apply")
                page.locator("#z-state.ok").wait_for(timeout=60_000)
                picture(page, "console-zones-active", whole=True)
                assert faults == []
            mirror.close()
            database.close()
            (zone,) = regions_of(load_config(daemon.file).camera("yard-2"))
            assert zone.name == "zone-1"
            for found, drawn in itertools.zip_longest(zone.points, corners):
                assert found == pytest.approx(drawn, abs=0.005)
            assert daemon.engines() == engines, "applied in the running engine"
            (applied,) = daemon.events("configuration applied")
            assert applied["cameras"] == ["yard-2"]
            wait_for(lambda: daemon.stop()[0] == 0, 10, "a clean end")
